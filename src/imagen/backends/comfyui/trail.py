"""Where the values of a graph come from: links followed back to the place where a value really stands.

Pure. What a node does is told from its inputs and outputs as the server declares them, not from a list of names, so
that custom nodes are followed like ComfyUI's own.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from imagen.backends.base import Site
from imagen.backends.comfyui.nodes import ANYTHING, Input, NodeType
from imagen.backends.comfyui.workflow import is_link

_DEEP = 200  # links followed to find one value


@dataclass(frozen=True, slots=True)
class Spot:
    """One input of one node."""

    node: str
    input: str

    def __str__(self) -> str:
        return f"{self.node}.{self.input}"


@dataclass(slots=True, kw_only=True)
class Trail:
    """A graph that can be followed backwards."""

    nodes: dict[str, dict[str, Any]]
    types: Mapping[str, NodeType]
    shown: frozenset[str] = frozenset()  # places that people see although they lie in a subgraph
    shared: Mapping[str, str] = field(default_factory=dict)  # places that get their value from one widget

    def kind(self, node: str) -> NodeType:
        """The class of a node; one the server does not know has neither inputs nor outputs."""
        name = self.nodes[node]["class_type"]
        return self.types.get(name) or NodeType(name=name)

    def value(self, spot: Spot) -> Any:
        """What stands there: a value, a link, or None."""
        return self.nodes[spot.node]["inputs"].get(spot.input)

    def link(self, spot: Spot) -> tuple[str, int] | None:
        """The node and the output that an input is linked to."""
        value = self.value(spot)
        return (value[0], value[1]) if is_link(value) and value[0] in self.nodes else None

    def inputs(self, node: str) -> dict[str, Input]:
        """The inputs that a node has, with the values it has."""
        return self.kind(node).expanded(self.nodes[node]["inputs"])

    def links(self, node: str) -> Iterator[tuple[str, str, int]]:
        """Every linked input of a node: its name, and where it comes from."""
        for name in self.nodes[node]["inputs"]:
            if there := self.link(Spot(node, name)):
                yield name, *there

    def output(self, node: str, slot: int) -> tuple[str, str]:
        """Kind and name of an output."""
        kind = self.kind(node)
        if slot >= len(kind.outputs):
            return "", ""
        return kind.outputs[slot], kind.output_names[slot]

    def upstream(self, node: str) -> dict[str, int]:
        """A node and all that it needs, the nearest first, and over how many links each is reached."""
        found = {node: 0}
        waiting = [node]
        while waiting:
            node = waiting.pop(0)
            for _, source, _ in self.links(node):
                if source not in found:
                    found[source] = found[node] + 1
                    waiting.append(source)
        return found

    def origin(self, spot: Spot) -> Spot:
        """The place where the value of an input stands, or the last one before it is computed."""
        for _ in range(_DEEP):
            there = self.link(spot)
            if there is None:
                return spot
            repeated = self.repeats(*there)
            if repeated is None:
                return spot
            spot = Spot(there[0], repeated)
        return spot

    def repeats(self, node: str, slot: int) -> str | None:
        """The only input of a node that does nothing but say its value again: a primitive, a reroute."""
        inputs = [item for item in self.inputs(node).values() if item.name in self.nodes[node]["inputs"]]
        if len(inputs) != 1 or (self.kind(node).output_node and inputs[0].kind not in ANYTHING):
            return None
        given, wanted = set(inputs[0].kind.split(",")), self.output(node, slot)[0]
        if wanted in given or (ANYTHING & given and self.link(Spot(node, inputs[0].name))):
            return inputs[0].name
        return None

    def standing(self, spot: Spot) -> bool:
        """True where a value stands, rather than a link."""
        return spot.input in self.nodes[spot.node]["inputs"] and self.link(spot) is None

    def seen(self, spot: Spot) -> bool:
        """True where people see the value without opening a subgraph."""
        return ":" not in spot.node or str(spot) in self.shown

    def place(self, spot: Spot) -> Site:
        """As it is told to people."""
        node = self.nodes[spot.node]
        value = self.value(spot)
        title = node.get("_meta", {}).get("title") if isinstance(node.get("_meta"), Mapping) else None
        return Site(
            node=spot.node,
            input=spot.input,
            kind=node["class_type"],
            title=str(title or ""),
            value=None if is_link(value) else value,
        )

    def together(self, spot: Spot) -> list[Spot]:
        """This place and all others that get the same value: from one widget, or over the same link."""
        widget, link = self.shared.get(str(spot)), self.link(spot)
        found = [spot]
        for node, raw in self.nodes.items():
            for name in raw["inputs"]:
                other = Spot(node, name)
                alike = link is not None and self.link(other) == link
                if other != spot and (alike or (widget and self.shared.get(str(other)) == widget)):
                    found.append(other)
        return found

    def folded(self) -> list[tuple[str, str]]:
        """Put what a switch is set to in its place; says of each switch how it stands."""
        said = []
        for node in list(self.nodes):
            inputs = self.nodes[node]["inputs"]
            # An older server may not have the switch; it is told by its inputs all the same.
            if not {"switch", "on_true", "on_false"} <= {*self.kind(node).inputs, *inputs}:
                continue
            at = self.origin(Spot(node, "switch"))
            on = self.value(at)
            chosen = inputs.get("on_true" if on else "on_false")
            if not isinstance(on, bool) or chosen is None:
                continue
            title = self.place(at).title or node
            for other in self.nodes.values():
                for name, value in other["inputs"].items():
                    if is_link(value) and value[0] == node:
                        other["inputs"][name] = chosen
            del self.nodes[node]
            said.append((node, f"the switch {title!r} ({at}) stays {'on' if on else 'off'}"))
        return said

    def keep(self, nodes: Iterable[str]) -> None:
        """Leave out every other node."""
        wanted = set(nodes)
        for node in list(self.nodes):
            if node not in wanted:
                del self.nodes[node]
