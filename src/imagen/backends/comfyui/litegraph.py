"""The file that ComfyUI's editor saves: boxes, wires and subgraphs, read into plain values.

Pure. It knows both spellings of a wire (a list, or a mapping in files of schema 1), and nothing of what a
node does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imagen.core.errors import RequestError

INPUT_NODE, OUTPUT_NODE = "-10", "-20"  # the two ends of a subgraph, unless it says otherwise
MUTED, BYPASSED = 2, 4
NOT_OURS = "save it again in ComfyUI with `Workflow > Save`, or export it with `Workflow > Export (API)`"


def read_litegraph(document: Mapping[str, Any]) -> "Graph":
    """The outermost graph of a file, with its subgraphs by their ids."""
    definitions: dict[str, Graph] = {}
    waiting: list[Any] = [document]
    while waiting:
        for raw in _items(_mapping(_mapping(waiting.pop()).get("definitions")).get("subgraphs")):
            if isinstance(raw, Mapping) and str(raw.get("id")) not in definitions:
                definitions[str(raw.get("id"))] = _graph(raw)
                waiting.append(raw)
    groups = _mapping(_mapping(document.get("extra")).get("groupNodes"))
    top = _graph(document)
    old = sorted({node.kind for node in top.nodes.values() if node.kind.startswith(("workflow/", "workflow>"))})
    if groups and old:
        raise RequestError(
            f"this file holds group nodes, which ComfyUI no longer makes: {', '.join(old)}",
            hint="open it in a current ComfyUI, which turns them into subgraphs, and save it again",
        )
    return Graph(nodes=top.nodes, links=top.links, definitions=definitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One wire."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """One input or output of a box."""

    name: str
    kind: str
    link: Any = None  # of an input: the id of its wire
    widget: bool = False  # it stands for a value of the box
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One node as it was drawn."""

    id: str
    kind: str
    title: str = ""
    mode: int = 0
    inputs: tuple[Socket, ...] = ()
    outputs: tuple[Socket, ...] = ()
    values: Any = None  # of its widgets: a list in their order, or a mapping
    named: Mapping[str, Any] = field(default_factory=dict)  # the same by name, in newer files
    properties: Mapping[str, Any] = field(default_factory=dict)

    def input(self, name: str) -> Socket | None:
        """The input of this name, if it is drawn."""
        return next((item for item in self.inputs if item.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One sheet of boxes and wires."""

    nodes: Mapping[str, Box]
    links: Mapping[Any, Link]
    inputs: tuple[Socket, ...] = ()  # of a subgraph, as they are seen from outside
    outputs: tuple[Socket, ...] = ()
    input_node: str = INPUT_NODE
    output_node: str = OUTPUT_NODE
    title: str = ""
    definitions: Mapping[str, "Graph"] = field(default_factory=dict)

    def into(self, target: str, slot: int) -> Link | None:
        """The wire that ends there."""
        return next((link for link in self.links.values() if (link.target, link.target_slot) == (target, slot)), None)

    def from_(self, origin: str, slot: int) -> Iterator[Link]:
        """The wires that begin there."""
        return (link for link in self.links.values() if (link.origin, link.origin_slot) == (origin, slot))


def _graph(raw: Mapping[str, Any]) -> Graph:
    nodes = [_box(item) for item in _items(raw.get("nodes")) if isinstance(item, Mapping)]
    return Graph(
        nodes={box.id: box for box in nodes},
        links=dict(_links(raw.get("links"))),
        inputs=_sockets(raw.get("inputs")),
        outputs=_sockets(raw.get("outputs")),
        input_node=str(_mapping(raw.get("inputNode")).get("id", INPUT_NODE)),
        output_node=str(_mapping(raw.get("outputNode")).get("id", OUTPUT_NODE)),
        title=str(raw.get("name") or ""),
    )


def _box(raw: Mapping[str, Any]) -> Box:
    if "id" not in raw or not isinstance(raw.get("type"), str):
        raise RequestError("a node of this file has no id or no type", hint=NOT_OURS)
    mode = raw.get("mode")
    return Box(
        id=str(raw["id"]),
        kind=raw["type"],
        title=str(raw.get("title") or ""),
        mode=mode if isinstance(mode, int) else 0,
        inputs=_sockets(raw.get("inputs")),
        outputs=_sockets(raw.get("outputs")),
        values=raw.get("widgets_values"),
        named=_mapping(raw.get("widgets_values_named")),
        properties=_mapping(raw.get("properties")),
    )


def _sockets(raw: Any) -> tuple[Socket, ...]:
    return tuple(
        Socket(
            name=str(item.get("name") or ""),
            kind=str(item.get("type")),
            link=item.get("link") if isinstance(item.get("link"), int | str) else None,
            widget=isinstance(item.get("widget"), Mapping),
            label=str(item.get("label") or ""),
        )
        for item in map(_mapping, _items(raw))
    )


def _links(raw: Any) -> Iterator[tuple[Any, Link]]:
    for item in raw.values() if isinstance(raw, Mapping) else _items(raw):
        match item:
            case [int() | str() as key, origin, int() as origin_slot, target, int() as target_slot, *_]:
                pass
            case {
                "id": int() | str() as key,
                "origin_id": origin,
                "origin_slot": int() as origin_slot,
                "target_id": target,
                "target_slot": int() as target_slot,
            }:
                pass
            case _:
                continue
        yield key, Link(origin=str(origin), origin_slot=origin_slot, target=str(target), target_slot=target_slot)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
