"""A model out of somebody's own workflow file: what it is, what can be asked of it, and the template that follows."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from imagen.backends.base import Adopted, Question, Site
from imagen.backends.comfyui import FROM_BACKEND, FROM_REQUEST, ComfyKeys
from imagen.backends.comfyui.convert import Converted, convert, is_litegraph
from imagen.backends.comfyui.nodes import COMBO, Input, NodeType
from imagen.backends.comfyui.refusals import no_picture, refusal, saves
from imagen.backends.comfyui.slots import GUIDANCE, Found, find
from imagen.backends.comfyui.sums import number
from imagen.backends.comfyui.trail import Spot, Trail
from imagen.backends.comfyui.weights import Weight, spelled, weights
from imagen.backends.comfyui.workflow import is_link
from imagen.core.errors import RequestError
from imagen.core.model import Limits, Model
from imagen.core.template import Template

OUTPUT = "output"
_FALLBACK = 1024  # pixels of a side, where a workflow computes it in a way that cannot be followed
_SIDES = ("width", "height")
_DIGITS = 6  # the editor writes 3.1 as 3.1000000000000005
_NODE = ("class_type", "inputs", "_meta")  # all that the server takes; in a picture it adds notes of its own
_NAME = re.compile(r"[A-Za-z_]\w{0,49}", re.ASCII)
_HELP = {
    "sampler": "how a step is taken",
    "scheduler": "how the steps are spread over the noise",
    "shift": "more of the steps for the composition",
    "dtype": "how the weights are held on the card",
}
# Keys of a model file with a meaning of their own: no slot can have their name.
_RESERVED = frozenset(
    {item.name for item in (*fields(Model), *fields(ComfyKeys))} | {"workflow_template", "clip_t5"} | FROM_BACKEND
)


class Knows(Protocol):
    """What is needed of a server."""

    async def nodes(self) -> Mapping[str, NodeType]:
        """Every node class it has."""


async def adopt(server: Knows, document: Mapping[str, Any], answers: Mapping[str, str]) -> Adopted:
    """Find the slots of a workflow, as this server understands it."""
    return adopted(document, await server.nodes(), answers)


def adopted(document: Mapping[str, Any], types: Mapping[str, NodeType], answers: Mapping[str, str]) -> Adopted:
    """The same, with the server's node classes at hand."""
    for name in answers:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise RequestError(
                f"{name!r} cannot be the name of a slot",
                hint="use letters, digits and `_`, and no name that a model file already has a meaning for",
                param=name,
            )
    source = _read(document, types)
    trail = Trail(
        nodes={name: {**node, "inputs": dict(node["inputs"])} for name, node in source.graph.items()},
        types=types,
        shown=source.shown,
        shared=source.shared,
    )
    said = [*source.notes, *trail.folded()]
    output, asked = _output(trail, answers.get(OUTPUT), source.packages)
    behind = Trail(nodes=dict(source.graph), types=types).upstream(output)
    notes = [*(note for node, note in said if node in behind), *_only(trail, output)]
    found = find(trail, output, {name: answer for name, answer in answers.items() if name != OUTPUT})
    files = weights(trail, output, source.files, {*found.slots, *_RESERVED})
    keys = _keys(trail, found, files, notes)
    places = _fill(trail, found, files, output)
    notes += found.notes
    needed = trail.upstream(output)
    gone = [node for node in trail.nodes if node not in needed]
    if gone:
        titles = ", ".join(f"{trail.place(Spot(node, '')).title or node} ({node})" for node in gone)
        notes.append(f"no longer needed, because the request says what they computed: {titles}")
    trail.keep(needed)
    return Adopted(
        graph=trail.nodes,
        found=places,
        keys=keys,
        questions=(*asked, *found.questions),
        notes=tuple(dict.fromkeys(notes)),
    )


def _read(document: Any, types: Mapping[str, NodeType]) -> Converted:
    """Whatever form the file has."""
    if isinstance(document, Mapping):
        for key in ("prompt", "output", "workflow"):
            # What is sent to the server, or what it writes into a picture, has the graph one level down.
            inner = document.get(key)
            if isinstance(inner, Mapping) and "class_type" not in inner and (_is_graph(inner) or is_litegraph(inner)):
                return _read(inner, types)
        if is_litegraph(document):
            return convert(document, types)
        if _is_graph(document):
            graph = {str(name): {key: node[key] for key in _NODE if key in node} for name, node in document.items()}
            if slots := Template(graph).slots:
                raise RequestError(
                    f"this file is a template of imagen already: it has the slots {', '.join(sorted(slots))}",
                    hint="put it as workflow.json beside a model.yaml; see docs/howto/add-a-model.md",
                )
            return Converted(graph=graph)
    raise RequestError(
        "this is no workflow of ComfyUI",
        hint="give the file of `Workflow > Save` or of `Workflow > Export (API)`",
    )


def _is_graph(document: Mapping[str, Any]) -> bool:
    return bool(document) and all(
        isinstance(node, Mapping)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), Mapping)
        for node in document.values()
    )


def _output(trail: Trail, answer: str | None, packages: Mapping[str, str]) -> tuple[str, list[Question]]:
    """The node whose picture is meant, and the question when several are as good."""
    ranks = {
        node: rank for node in trail.nodes if (rank := saves(trail.kind(node))) is not None and _image(trail, node)
    }
    ordered = sorted(ranks, key=lambda node: ranks[node])
    if answer is not None:
        node = answer.split(".")[0].strip()
        if node not in ranks:
            raise RequestError(
                f"--slot output={answer}: no picture comes out there",
                hint=f"pictures come out at: {', '.join(ordered) or 'nowhere'}",
                param=OUTPUT,
            )
        ordered = [node]
    if not ordered:
        raise no_picture(trail, packages)
    wrong = {node: refusal(trail, node, packages) for node in ordered}
    good = [node for node in ordered if wrong[node] is None]
    if not good:
        error = wrong[ordered[0]]
        assert error is not None
        raise error
    best = [node for node in good if ranks[node] == ranks[good[0]]]
    different = {trail.link(_image(trail, node) or Spot(node, "")): node for node in reversed(best)}
    if len(different) == 1:
        return best[0], []
    places = tuple(trail.place(spot) for node in best if (spot := _image(trail, node)))
    return best[0], [Question(slot=OUTPUT, why="several pictures come out of it", candidates=places)]


def _image(trail: Trail, node: str) -> Spot | None:
    """The linked input through which a picture comes in."""
    linked = (Spot(node, name) for name, item in trail.inputs(node).items() if "IMAGE" in item.kind.split(","))
    return next((spot for spot in linked if trail.link(spot)), None)


def _only(trail: Trail, output: str) -> list[str]:
    """Leave out what this picture does not need, and make its end a plain SaveImage."""
    image = _image(trail, output)
    assert image is not None
    notes = []
    if (kind := trail.nodes[output]["class_type"]) != "SaveImage":
        notes.append(f"{kind} ({output}) became SaveImage: the picture is fetched from the server as PNG")
    trail.nodes[output] = {
        **trail.nodes[output],
        "class_type": "SaveImage",
        "inputs": {"images": trail.value(image), "filename_prefix": "${filename_prefix}"},
    }
    trail.keep(trail.upstream(output))
    changed = [node for node in _between(trail, output) if "IMAGE" in trail.kind(node).outputs]
    if changed:
        titles = ", ".join(f"{trail.nodes[node]['class_type']} ({node})" for node in changed)
        notes.append(f"the picture is changed after it was drawn, and may get another size: {titles}")
    return notes


def _between(trail: Trail, output: str) -> list[str]:
    """The nodes from a picture to a picture, behind the decoder."""
    found: dict[str, None] = {}
    waiting = [output]
    while waiting:
        for _, source, slot in trail.links(waiting.pop()):
            pictures = [s for _, s, k in trail.links(source) if trail.output(s, k)[0] == "IMAGE"]
            if trail.output(source, slot)[0] == "IMAGE" and pictures and source not in found:
                found[source] = None
                waiting.append(source)
    return list(found)


def _fill(trail: Trail, found: Found, files: Sequence[Weight], output: str) -> dict[str, tuple[Site, ...]]:
    """Put the slots into the graph; what stood there is told."""
    slots = found.slots | {weight.key: list(weight.spots) for weight in files}
    places = {name: tuple(map(trail.place, spots)) for name, spots in slots.items()}
    places[OUTPUT] = (trail.place(Spot(output, "images")),)
    owner = {spot: name for name, spots in slots.items() for spot in spots}
    more: dict[Spot, set[str]] = {}
    for spot, name in owner.items():
        for other in trail.together(spot):
            more.setdefault(other, set()).add(name)
    for spot, names in more.items():
        mine = owner.get(spot) or (names.pop() if len(names) == 1 else None)
        if mine:
            trail.nodes[spot.node]["inputs"][spot.input] = f"${{{mine}}}"
    return places


def _keys(trail: Trail, found: Found, files: Sequence[Weight], notes: list[str]) -> dict[str, Any]:
    """The keys of its model.yaml."""
    defaults: dict[str, Any] = {}
    keys: dict[str, Any] = {"defaults": defaults, "limits": _limits(trail, found, defaults, notes)}
    if "steps" in found.slots:
        defaults["steps"] = max(1, found.values["steps"])
    guided = next((found.values[name] for name in GUIDANCE if name in found.slots), None)
    if guided is not None:
        defaults["guidance"] = round(guided, _DIGITS)
    if "negative" in found.slots:
        defaults["negative"] = str(found.values["negative"] or "")
        if guided == 1:
            notes.append("at guidance 1, the default, the negative prompt changes nothing")
    options: dict[str, Any] = {}
    asked = {*FROM_REQUEST, "cfg" if "cfg" in found.slots else "guidance"}
    for name in [name for name in found.slots if name not in asked]:
        option = _option(trail, found, name)
        if option is None:
            notes.append(f"{name} stays {found.values[name]!r}: that is none of the choices of this server")
            del found.slots[name]
        else:
            options[name] = option
    if options:
        keys["options"] = options
    for weight in files:
        item = trail.inputs(weight.spots[0].node).get(weight.spots[0].input)
        # With the slashes of Windows or of others: a server is told in its own.
        keys[weight.key] = spelled(weight.path, item.choices if item else None).replace("\\", "/")
        if keys[weight.key] != weight.path.replace("\\", "/"):
            notes.append(f"{weight.key}: this server has {weight.path!r} as {keys[weight.key]!r}")
    keys["files"] = [
        {"path": keys[weight.key]} | {name: value for name in ("folder", "hub") if (value := getattr(weight, name))}
        for weight in files
        if weight.fetchable
    ]
    _one_each(trail, notes)
    return {name: value for name, value in keys.items() if value}


def _limits(trail: Trail, found: Found, defaults: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """What sizes it draws, as the node that makes the empty picture says."""
    sides = [trail.inputs(wide.node)["width"] for wide, _ in found.sides]
    if not {*_SIDES} <= set(found.slots):
        sizes = [tuple(number(trail, spot) for spot in pair) for pair in found.sides]
        if sizes and not found.questions and None not in sizes[0]:
            defaults |= {side: int(value or 0) for side, value in zip(_SIDES, sizes[0], strict=True)}
            return {"sizes": [[int(value or 0) for value in sizes[0]]]}
        return {}
    for side in _SIDES:
        if not found.values.get(side):
            notes.append(f"the {side} is computed in a way that cannot be followed: its default is {_FALLBACK}")
        defaults[side] = found.values.get(side) or _FALLBACK
    steps = [int(item.step) if item.step and item.step > 1 else 16 for item in sides] or [16]
    multiple = next(size for size in (max(steps), 16, 8, 4, 2, 1) if all(defaults[side] % size == 0 for side in _SIDES))
    low = max((int(item.min) for item in sides if item.min), default=0)
    limits: dict[str, Any] = {"multiple_of": multiple}
    if Limits().min < low <= min(defaults[side] for side in _SIDES):
        limits["min"] = low
    if (longest := max(defaults[side] for side in _SIDES)) > Limits().max:
        limits["max"] = longest
    return limits


def _option(trail: Trail, found: Found, name: str) -> dict[str, Any] | None:
    """A setting of the model's own; None when what stands there is not possible."""
    spot = found.slots[name][0]
    item = trail.inputs(spot.node).get(spot.input) or Input(name=spot.input, kind="")
    value = found.values[name]
    told: dict[str, Any] = {}
    if item.kind == COMBO and item.choices and all(isinstance(choice, str) for choice in item.choices):
        if value not in item.choices:
            return None
        told["choices"] = list(item.choices)
    elif isinstance(value, bool):
        told["type"] = "bool"
    elif item.kind in ("INT", "FLOAT") and isinstance(value, int | float):
        told["type"] = "int" if item.kind == "INT" else "float"
        value = int(value) if item.kind == "INT" else round(float(value), _DIGITS)
        if item.min is not None and item.max is not None and item.min <= value <= item.max:
            told["range"] = [item.min, item.max]
    elif value is None or is_link(value):
        return None
    told["default"] = value
    return told | ({"help": _HELP[name]} if name in _HELP else {})


def _one_each(trail: Trail, notes: list[str]) -> None:
    """One picture at a time: several of a request are prompts of their own, each with its seed."""
    for node in trail.nodes:
        for name in trail.inputs(node):
            if name == "batch_size" and trail.value(spot := Spot(node, name)) != 1:
                notes.append(f"{spot} is 1: several pictures of one request are drawn one after another")
                trail.nodes[node]["inputs"][name] = 1
