"""An ordinary workflow file, as the editor saves it, turned into the graph that the server takes.

Pure, from the public shape of both and from what the server says of its nodes. Subgraphs are unfolded; nodes in them
are named as ComfyUI names them, `75:68`. Reroutes, primitives, getters and setters become plain links and values;
what is muted or bypassed goes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from imagen.backends.comfyui.litegraph import BYPASSED, MUTED, NOT_OURS, Box, Graph, Link, read_litegraph
from imagen.backends.comfyui.nodes import NodeType
from imagen.backends.comfyui.widgets import fits, misfits, widget_values
from imagen.core.errors import RequestError

MAX_NESTED = 20  # subgraphs in subgraphs; ComfyUI's own examples have three
MAX_NODES = 5_000  # subgraphs used many times over multiply
# Boxes of the editor alone, by what they do; the server never hears of them.
REROUTES = frozenset({"Reroute", "Reroute (rgthree)"})
PRIMITIVES = frozenset({"PrimitiveNode"})
SETTERS = frozenset({"SetNode", "easy setNode"})
GETTERS = frozenset({"GetNode", "easy getNode"})
_EDITOR = REROUTES | PRIMITIVES | SETTERS | GETTERS | {"Note", "MarkdownNote", "Label (rgthree)"}


def is_litegraph(document: Mapping[str, Any]) -> bool:
    """True for what the editor saves."""
    return isinstance(document.get("nodes"), list) and isinstance(document.get("links", []), list | dict)


def convert(document: Mapping[str, Any], types: Mapping[str, NodeType]) -> "Converted":
    """The graph of a workflow file, whatever in it is switched on."""
    graph = read_litegraph(document)
    work = _Work(types=types)
    work.emit(_Scope(graph=graph, definitions=graph.definitions))
    return Converted(
        graph=work.made,
        shown=frozenset(work.shown),
        shared=work.shared,
        files=tuple(_files([graph, *graph.definitions.values()])),
        packages=work.packages,
        notes=tuple(work.notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A graph in the server's own form, and what the file said beyond it."""

    graph: Mapping[str, dict[str, Any]]
    shown: frozenset[str] = frozenset()  # values deep in a subgraph that its outside shows: "75:74.text"
    shared: Mapping[str, str] = field(default_factory=dict)  # places that get their value from one widget, by its name
    files: tuple[Mapping[str, str], ...] = ()  # weights by name, url and directory, where the author gave them
    packages: Mapping[str, str] = field(default_factory=dict)  # node class -> the package that brings it
    notes: tuple[tuple[str, str], ...] = ()  # what to say of which node


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Scope:
    """A sheet in its place: the outermost one, or a subgraph where it is used."""

    graph: Graph
    definitions: Mapping[str, Graph]
    prefix: str = ""
    parent: "_Scope | None" = None
    box: Box | None = None  # which stands for this sheet in its parent
    values: Mapping[str, Any] = field(default_factory=dict)  # given on that box, by the name of the input
    shown: frozenset[str] = frozenset()  # inputs that people see on the outermost sheet
    exposed: frozenset[tuple[str, str]] = frozenset()  # (node, input) in here that people see there
    depth: int = 0


@dataclass(frozen=True, slots=True)
class _Wire:
    node: str
    slot: int


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any
    widget: str  # the name of the one widget it stands in
    shown: bool = False


@dataclass(frozen=True, slots=True)
class _Own:
    """Nothing comes from outside: the node's own value counts."""

    widget: str
    shown: bool = False


_Source = _Wire | _Value | _Own | None  # None: cut off


@dataclass(slots=True, kw_only=True)
class _Work:
    """What has been made so far."""

    types: Mapping[str, NodeType]
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    shared: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def emit(self, scope: _Scope) -> None:
        """Every node that is switched on, subgraphs unfolded."""
        for box in scope.graph.nodes.values():
            if box.mode in (MUTED, BYPASSED) or _editor(box, self.types):
                continue
            if box.kind in scope.definitions:
                self.emit(_inside(scope, box))
                continue
            self.made[scope.prefix + box.id] = self._node(scope, box)
            if len(self.made) > MAX_NODES:
                raise RequestError(f"this workflow has more than {MAX_NODES:,} nodes", hint="give a smaller one")

    def _node(self, scope: _Scope, box: Box) -> dict[str, Any]:
        name, kind = scope.prefix + box.id, self.types.get(box.kind)
        package = box.properties.get("cnr_id") or box.properties.get("aux_id")
        if isinstance(package, str):
            self.packages.setdefault(box.kind, package)
        own = widget_values(box, kind) if kind else dict(box.named)
        inputs: dict[str, Any] = {}
        for socket in box.inputs:
            if socket.link is None:
                continue
            source = _resolve(scope, scope.graph.links.get(socket.link), ())
            if isinstance(source, _Own) and socket.name not in own:
                source = self._beside(scope, source, scope.graph.links[socket.link])
            match source:
                case _Wire(node, slot):
                    inputs[socket.name] = [node, slot]
                case _Value(value):
                    inputs[socket.name] = _plain(value)
                case _:
                    pass
            if isinstance(source, _Value | _Own):
                self.shared[f"{name}.{socket.name}"] = source.widget
                if source.shown:
                    self.shown.add(f"{name}.{socket.name}")
        for input_name in own:
            if (box.id, input_name) in scope.exposed:
                self.shown.add(f"{name}.{input_name}")
        if kind is None:
            inputs = {key: _plain(value) for key, value in own.items()} | inputs
        else:
            self._mend(name, kind, own)
            # What a dynamic combo is set to decides which other inputs there are, also where that is linked.
            known = own | {key: value for key, value in inputs.items() if not isinstance(value, list)}
            for item in kind.walk(known):
                if item.name in inputs or not item.widget:
                    continue
                if item.name in own:
                    inputs[item.name] = _plain(own[item.name])
                elif item.required and item.default is not None:
                    inputs[item.name] = _plain(item.default)
                    if not item.upload:
                        said = f"{item.name} is newer than this file, and is {item.default!r}"
                        self.notes.append((name, f"{box.kind} {name}: {said}"))
        title = box.title or (kind.title if kind else box.kind)
        return {"class_type": box.kind, "inputs": inputs, "_meta": {"title": title}}

    def _mend(self, name: str, kind: NodeType, own: dict[str, Any]) -> None:
        """Values that cannot be those of their inputs: the node had others when the file was saved."""
        for item in misfits(own, kind):
            said = f"{kind.name} {name}: the file has {own[item.name]!r} for {item.name}"
            if fits(own[item.name], item) or item.default is None:
                self.notes.append((name, f"{said}, which this server does not know"))
            else:
                self.notes.append((name, f"{said}, which cannot be; it is {item.default!r}"))
                own[item.name] = item.default

    def _beside(self, scope: _Scope, source: _Own, link: Link) -> _Source:
        """An input without a value of its own, at an input of a subgraph that another node's widget gives its value."""
        for other in scope.graph.from_(link.origin, link.origin_slot):
            box = scope.graph.nodes.get(other.target)
            kind = self.types.get(box.kind) if box else None
            if box and kind and other.target_slot < len(box.inputs):
                values = widget_values(box, kind)
                if (name := box.inputs[other.target_slot].name) in values:
                    return _Value(values[name], source.widget, source.shown)
        return source


def _inside(scope: _Scope, box: Box) -> _Scope:
    """The sheet of a subgraph, with what is given to it here."""
    if scope.depth >= MAX_NESTED:
        raise RequestError("its subgraphs hold each other without end", hint=NOT_OURS)
    graph = scope.definitions[box.kind]
    proxies = [
        (str(item[0]), str(item[1]))
        for item in _list(box.properties.get("proxyWidgets"))
        if isinstance(item, list) and len(item) >= 2
    ]
    if scope.depth == 0:
        # What is linked outside has its value out there.
        shown = {item.name for item in graph.inputs if (there := box.input(item.name)) is None or there.link is None}
        exposed = {item for item in proxies if item[0] != "-1"}
    else:
        shown = {name for node, name in scope.exposed if node == box.id}
        for socket in box.inputs:
            link = scope.graph.links.get(socket.link) if socket.link is not None else None
            if link and link.origin == scope.graph.input_node and link.origin_slot < len(scope.graph.inputs):
                shown |= {socket.name} if scope.graph.inputs[link.origin_slot].name in scope.shown else set()
        exposed = {(node, name) for node, name in proxies if name in {n for b, n in scope.exposed if b == box.id}}
    return _Scope(
        graph=graph,
        definitions=scope.definitions,
        prefix=f"{scope.prefix}{box.id}:",
        parent=scope,
        box=box,
        values=_given(graph, box, proxies),
        shown=frozenset(shown),
        exposed=frozenset(exposed),
        depth=scope.depth + 1,
    )


def _given(graph: Graph, box: Box, proxies: list[tuple[str, str]]) -> dict[str, Any]:
    """The values that stand on the box of a subgraph, by the names of its inputs.

    Older files list in `proxyWidgets` what they show; there `-1` is an input of the subgraph and any other number a
    node inside, which keeps its own value. Newer files show every input that ends in a widget, in order.
    """
    if isinstance(box.values, Mapping):
        return dict(box.values)
    values = _list(box.values)
    if proxies:
        return {name: value for (node, name), value in zip(proxies, values, strict=False) if node == "-1"}
    names = [item.name for slot, item in enumerate(graph.inputs) if _ends_in_widget(graph, slot)]
    if len(names) != len(values) and box.named:
        return dict(box.named)
    return dict(zip(names, values, strict=False))


def _ends_in_widget(graph: Graph, slot: int) -> bool:
    for link in graph.from_(graph.input_node, slot):
        there = graph.nodes.get(link.target)
        if there and link.target_slot < len(there.inputs) and there.inputs[link.target_slot].widget:
            return True
    return False


def _resolve(scope: _Scope, link: Link | None, seen: tuple[tuple[str, Link], ...]) -> _Source:
    """Where a wire really begins."""
    if link is None:
        return None
    if (scope.prefix, link) in seen:
        raise RequestError("wires of this workflow go round in a circle", hint=NOT_OURS)
    seen = (*seen, (scope.prefix, link))
    if link.origin == scope.graph.input_node and scope.parent is not None:
        return _outside(scope, link, seen)
    box = scope.graph.nodes.get(link.origin)
    if box is None or box.mode == MUTED:
        return None
    if box.mode == BYPASSED:
        return _resolve(scope, _through(scope.graph, box, link.origin_slot), seen)
    if box.kind in REROUTES or box.kind in SETTERS:
        return _resolve(scope, _first(scope.graph, box), seen)
    if box.kind in PRIMITIVES:
        values = _list(box.values)
        return _Value(values[0], scope.prefix + box.id, scope.depth == 0) if values else None
    if box.kind in GETTERS:
        found = _setter(scope, box)
        return _resolve(found[0], _first(found[0].graph, found[1]), seen) if found else None
    if box.kind in scope.definitions:
        inner = _inside(scope, box)
        return _resolve(inner, inner.graph.into(inner.graph.output_node, link.origin_slot), seen)
    return _Wire(scope.prefix + box.id, link.origin_slot)


def _outside(scope: _Scope, link: Link, seen: tuple[tuple[str, Link], ...]) -> _Source:
    """What an input of a subgraph gets where the subgraph is used."""
    assert scope.parent is not None
    assert scope.box is not None
    if link.origin_slot >= len(scope.graph.inputs):
        return None
    name = scope.graph.inputs[link.origin_slot].name
    there = scope.box.input(name)
    if there is not None and there.link is not None:
        return _resolve(scope.parent, scope.parent.graph.links.get(there.link), seen)
    widget = f"{scope.prefix}{name}"
    if name in scope.values:
        return _Value(scope.values[name], widget, name in scope.shown)
    return _Own(widget, name in scope.shown)


def _through(graph: Graph, box: Box, slot: int) -> Link | None:
    """What a bypassed node lets through: an input of the output's kind, the one beside it first."""
    if slot >= len(box.outputs):
        return None
    wanted = box.outputs[slot].kind
    beside = box.inputs[slot : slot + 1]
    fitting = [item for item in (*beside, *box.inputs) if item.kind == wanted or "*" in (item.kind, wanted)]
    linked = [item for item in fitting if item.link is not None]
    return graph.links.get(linked[0].link) if linked else None


def _setter(scope: _Scope, getter: Box) -> tuple[_Scope, Box] | None:
    name = next(iter(_list(getter.values)), None)
    at: _Scope | None = scope
    while at is not None:
        for box in at.graph.nodes.values():
            if box.kind in SETTERS and box.mode != MUTED and name in _list(box.values)[:1]:
                return at, box
        at = at.parent
    return None


def _first(graph: Graph, box: Box) -> Link | None:
    return next((graph.links.get(item.link) for item in box.inputs if item.link is not None), None)


def _editor(box: Box, types: Mapping[str, NodeType]) -> bool:
    # A server may have a node of the same name as one of the editor's; its answer goes first.
    return box.kind in _EDITOR and box.kind not in types


def _files(graphs: list[Graph]) -> Iterator[Mapping[str, str]]:
    seen = set()
    for graph in graphs:
        for box in graph.nodes.values():
            for item in _list(box.properties.get("models")):
                told = {k: v for k, v in item.items() if isinstance(v, str)} if isinstance(item, Mapping) else {}
                key = (told.get("directory"), told.get("name"))
                if told.get("name") and key not in seen:
                    seen.add(key)
                    yield told


def _plain(value: Any) -> Any:
    """A value as it stands in a graph: a list would be taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
