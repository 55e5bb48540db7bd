"""What a server says about its nodes: `/object_info`, read into plain values.

Pure, and it never raises on an answer it does not understand: a custom node may say anything, and one odd
node must not stop a workflow that does not use it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COMBO = "COMBO"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # its choice decides which other inputs there are
AUTOGROW = "COMFY_AUTOGROW_V3"  # as many inputs as are connected
MATCH = "COMFY_MATCHTYPE_V3"  # any of several types, the same one wherever the node says so
ANYTHING = frozenset({"*", MATCH})

# Kinds that hold a value. Others are widgets too when they say `socketless` or `widgetType`.
_VALUES = frozenset(
    {"INT", "FLOAT", "STRING", "BOOLEAN", COMBO, DYNAMIC_COMBO, "COLOR", "COLORS", "CURVE", "BOUNDING_BOX"}
    | {"BOUNDING_BOXES", "LOAD_3D", "WEBCAM", "AUDIO_RECORD"}
)
_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")


def node_types(raw: Any) -> dict[str, "NodeType"]:
    """A whole answer of `/object_info`."""
    return {str(name): node_type(str(name), item) for name, item in _mapping(raw).items()}


def node_type(name: str, raw: Any) -> "NodeType":
    """One node class as the server describes it."""
    raw = _mapping(raw)
    outputs = tuple(COMBO if isinstance(kind, list) else str(kind) for kind in _sequence(raw.get("output")))
    names = tuple(str(item) for item in _sequence(raw.get("output_name")))
    return NodeType(
        name=name,
        title=str(raw.get("display_name") or name),
        inputs={item.name: item for item in _declared(raw.get("input"), raw.get("input_order"))},
        outputs=outputs,
        output_names=names if len(names) == len(outputs) else outputs,
        output_node=raw.get("output_node") is True,
        module=str(raw.get("python_module") or ""),
        category=str(raw.get("category") or ""),
        deprecated=raw.get("deprecated") is True,
        # Nodes that call a paid service of somebody else ask for an account of it in a hidden input.
        api=raw.get("api_node") is True
        or any("AUTH_TOKEN" in str(kind) for kind in _mapping(_mapping(raw.get("input")).get("hidden")).values()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a node class."""

    name: str
    kind: str  # INT FLOAT STRING BOOLEAN COMBO, or the type of a link: MODEL; a union as it is: "FLOAT,INT"
    required: bool = True
    default: Any = None
    choices: tuple[Any, ...] | None = None  # of a COMBO; None where anything goes
    min: float | None = None
    max: float | None = None
    step: float | None = None
    multiline: bool = False
    control_after_generate: bool = False  # a second widget follows it that says how the value changes afterwards
    upload: bool = False  # a file that people choose and upload; a widget with a button follows it
    force_input: bool = False  # a value that can only come through a link
    multiple: bool = False  # a COMBO that takes several choices
    value: bool = False  # kept in the node itself, unless it is linked
    branches: Mapping[Any, tuple["Input", ...]] = field(default_factory=dict)  # of a dynamic combo, by choice
    grown: tuple["Input", ...] = ()  # of an autogrow input: all that could be there, their names dotted

    @property
    def widget(self) -> bool:
        """True for a value, false for what can only be a link."""
        return self.value and not self.force_input


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """One node class of a server."""

    name: str
    title: str = ""
    inputs: Mapping[str, Input] = field(default_factory=dict)  # as declared: required, then optional; no hidden ones
    outputs: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    output_node: bool = False  # it keeps or shows something; without one nothing runs
    module: str = ""  # "nodes", "comfy_extras.nodes_flux", "custom_nodes.x"
    category: str = ""
    deprecated: bool = False
    api: bool = False  # calls a paid service

    def expanded(self, values: Mapping[str, Any]) -> dict[str, Input]:
        """The inputs that a node with these values has: `resize_type.width`, `images.image0`."""
        return {item.name: item for item in self.walk(values)}

    def walk(self, values: Mapping[str, Any]) -> Iterator[Input]:
        """The same, one by one: a value may be put in `values` as late as when its input is reached."""
        return _expanded(tuple(self.inputs.values()), values)


def _expanded(inputs: Sequence[Input], values: Mapping[str, Any]) -> Iterator[Input]:
    for item in inputs:
        if item.kind == AUTOGROW:
            yield from item.grown
            continue
        yield item
        if item.branches:
            chosen = values.get(item.name, item.default)
            yield from _expanded(item.branches.get(chosen, ()) if isinstance(chosen, str | int) else (), values)


def _declared(groups: Any, order: Any = None, prefix: str = "") -> Iterator[Input]:
    groups = _mapping(groups)
    for group in ("required", "optional"):
        inputs = _mapping(groups.get(group))
        names = [name for name in _sequence(_mapping(order).get(group)) if name in inputs]
        for name in [*names, *(name for name in inputs if name not in names)]:
            yield _input(f"{prefix}{name}", inputs[name], required=group == "required")


def _input(name: str, raw: Any, *, required: bool) -> Input:
    spec = _sequence(raw) or (raw,)
    kind, told = spec[0], _mapping(spec[1] if len(spec) > 1 else None)
    choices: tuple[Any, ...] | None = None
    if isinstance(kind, list):
        kind, choices = COMBO, tuple(kind)
    elif kind == COMBO:
        options = told.get("options")
        # Without a list, or with one that a browser fetches elsewhere, the server itself checks nothing here.
        choices = tuple(options) if isinstance(options, list) and "remote" not in told else None
    kind = str(kind)
    branches = _branches(name, told) if kind == DYNAMIC_COMBO else {}
    if branches:
        choices = tuple(branches)
    default = told.get("default")
    return Input(
        name=name,
        kind=str(told["widgetType"]) if told.get("widgetType") in _VALUES else kind,
        required=required,
        default=choices[0] if default is None and choices else default,
        choices=choices,
        min=_number(told.get("min")),
        max=_number(told.get("max")),
        step=_number(told.get("step")),
        multiline=told.get("multiline") is True,
        control_after_generate=bool(told.get("control_after_generate")),
        upload=any(told.get(key) for key in _UPLOADS),
        force_input=told.get("forceInput") is True,
        multiple=told.get("multiselect") is True,
        value=kind in _VALUES or "socketless" in told or "widgetType" in told,
        branches=branches,
        grown=_grown(name, told) if kind == AUTOGROW else (),
    )


def _branches(name: str, told: Mapping[str, Any]) -> dict[Any, tuple[Input, ...]]:
    options = [_mapping(option) for option in _sequence(told.get("options"))]
    return {
        option["key"]: tuple(_declared(option.get("inputs"), prefix=f"{name}."))
        for option in options
        if isinstance(option.get("key"), str | int)
    }


def _grown(name: str, told: Mapping[str, Any]) -> tuple[Input, ...]:
    template = _mapping(told.get("template"))
    like = next(_declared(template.get("input")), None)
    if like is None:
        return ()
    fewest, most = _number(template.get("min")) or 0, _number(template.get("max")) or 0
    names = _sequence(template.get("names")) or [f"{template.get('prefix', '')}{k}" for k in range(int(most))]
    return tuple(
        Input(
            name=f"{name}.{item}",
            kind=like.kind,
            required=like.required and number < fewest,
            default=like.default,
            min=like.min,
            max=like.max,
            force_input=True,  # a grown input is always a socket
            value=like.value,
        )
        for number, item in enumerate(names)
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
