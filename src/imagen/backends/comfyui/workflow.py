"""What is sent to the server: a template with its slots filled, made ready to be drawn once and watched.

Pure. A graph is `{"id": {"class_type": …, "inputs": {name: value or ["id", slot]}}}`; what its nodes are comes from
the server's own description of them, never from a list of names here, so that nodes nobody has heard of work too.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from imagen.backends.comfyui import FROM_REQUEST
from imagen.backends.comfyui.nodes import NodeType
from imagen.core.errors import BadConfig
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice, PhaseName
from imagen.core.template import Template

MARK = "imagen"  # an input no node has: it is ignored, but makes the server draw instead of remembering
SAVERS = frozenset({"SaveImage", "SaveImageWebsocket"})  # their output becomes one that leaves no litter
_DEEP = 50  # links followed to find a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A graph ready to be submitted, and what to expect of it."""

    graph: Mapping[str, Any] = field(repr=False)
    phases: Mapping[str, PhaseName]  # what each node that matters does, by id
    planned: Mapping[str, int]  # the steps of each sampler, by id
    outputs: tuple[str, ...]  # the nodes that give the picture, the likeliest first
    weights: str  # what it loads: the same words, the same files
    notices: tuple[Notice, ...] = ()

    @property
    def steps(self) -> int:
        """The steps of one picture."""
        return max(1, sum(self.planned.values()))


def fault(document: Any) -> tuple[str, str] | None:
    """Why a document is no graph for the server, and what to do about it; None when it is one."""
    if isinstance(document, Mapping) and isinstance(document.get("nodes"), list):
        return (
            "this is a workflow as ComfyUI saves it for its own editor",
            "let `imagen models add FILE` convert it, or export it with `Workflow > Export (API)`",
        )
    if not isinstance(document, Mapping) or not document:
        return "this is no workflow", "export one in ComfyUI with `Workflow > Export (API)`"
    for name, node in document.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("class_type"), str):
            return f"the node {name!r} has no class_type", "export it in ComfyUI with `Workflow > Export (API)`"
        if not isinstance(node.get("inputs"), Mapping):
            return f"the node {name!r} has no inputs", "export it in ComfyUI with `Workflow > Export (API)`"
        for key, value in node["inputs"].items():
            if is_link(value) and value[0] not in document:
                return f"the input {key!r} of node {name!r} comes from a node that is not there", "export it again"
    return None


def values(model: Model, request: Request, prompt_id: str) -> dict[str, Any]:
    """What fills the slots: the request, else its options, else the model's own keys, else what its options have."""
    defaults = {name: option.default for name, option in model.options.items() if option.default is not None}
    told = {**defaults, **model.keys, **request.options}
    told |= {name: getattr(request, name) for name in FROM_REQUEST}
    told["filename_prefix"] = f"{MARK}/{prompt_id}"
    guidance = request.guidance
    if guidance is None:
        guidance = next((told[name] for name in ("cfg", "guidance") if told.get(name) is not None), 1.0)
    told["cfg"] = guidance
    if "cfg" in Template(model.graph or {}).slots:
        told.setdefault("guidance", guidance)
    else:
        told["guidance"] = guidance
    # A list would be taken for a link.
    return {name: {"__value__": list(v)} if isinstance(v, list | tuple) else v for name, v in told.items()}


def fill(model: Model, request: Request, prompt_id: str) -> dict[str, Any]:
    """The graph with every slot filled; an error for one that nobody fills, before anything is sent."""
    template = Template(model.graph or {})
    if said := fault(template.graph):
        raise BadConfig(f"the workflow of {model.name}: {said[0]}", hint=said[1])
    told = values(model, request, prompt_id)
    if absent := sorted(name for name in template.slots if told.get(name) is None):
        raise BadConfig(
            f"the workflow of {model.name} has a slot ${{{absent[0]}}}, and nothing fills it",
            hint=f"add `{absent[0]}: …` to the model, or an option of that name with a default",
        )
    return template.fill(told)


def prepare(
    graph: Mapping[str, Any], types: Mapping[str, NodeType], *, prompt_id: str, steps: int, keep: bool = False
) -> Drawing:
    """Make a filled graph ready: always drawn anew, nothing left lying about, and known what each node does.

    `steps` stands for those of a sampler whose number cannot be found in the graph. With `keep` the pictures stay
    in the server's output folder.
    """
    nodes = {name: {**node, "inputs": dict(node["inputs"])} for name, node in graph.items()}
    notices = list(_complete(nodes, types))
    kinds = {name: types.get(node["class_type"]) for name, node in nodes.items()}
    samplers = [name for name, kind in kinds.items() if kind is not None and samples(kind)]
    for name in samplers:
        nodes[name]["inputs"][MARK] = prompt_id
    savers = [name for name, node in nodes.items() if node["class_type"] in SAVERS]
    for name in savers:
        inputs = nodes[name]["inputs"]
        images = {"images": inputs.get("images"), MARK: prompt_id}
        if keep:
            prefix = f"{MARK}/{prompt_id}" if len(savers) == 1 else f"{MARK}/{prompt_id}_{name}"
            nodes[name] |= {"class_type": "SaveImage", "inputs": {**images, "filename_prefix": prefix}}
        else:
            nodes[name] |= {"class_type": "PreviewImage", "inputs": images}
    others = [name for name, kind in kinds.items() if kind is not None and kind.output_node and name not in savers]
    phases = {name: phase for name, kind in kinds.items() if kind is not None and (phase := phase_of(kind))}
    loaders = [nodes[name] for name, phase in phases.items() if phase == "loading"]
    return Drawing(
        graph=nodes,
        phases=phases,
        weights=json.dumps([[node["class_type"], node["inputs"]] for node in loaders], sort_keys=True, default=str),
        planned={name: planned(nodes, name) or steps for name in samplers},
        outputs=(*savers, *sorted(others, key=lambda name: nodes[name]["class_type"] == "PreviewImage")),
        notices=tuple(notices),
    )


def samples(kind: NodeType) -> bool:
    """True for a node that draws in steps: it takes a model to give latents or a picture."""
    taken = {part for item in kind.inputs.values() for part in item.kind.split(",")}
    gives = {"LATENT", "IMAGE"} & set(kind.outputs)
    return bool(gives) and bool({"GUIDER", "SAMPLER"} & taken or ("MODEL" in taken and "steps" in kind.inputs))


def phase_of(kind: NodeType) -> PhaseName | None:
    """What the program is doing while this node runs; None for one that does nothing worth a word."""
    taken = {part for item in kind.inputs.values() for part in item.kind.split(",")}
    given = set(kind.outputs)
    if samples(kind):
        return "sampling"
    if "LATENT" in taken and "IMAGE" in given:
        return "decoding"
    if "CONDITIONING" in given and "CLIP" in taken:
        return "encoding"
    if given & {"MODEL", "CLIP", "VAE"} and not taken & {"MODEL", "CLIP", "VAE", "LATENT", "IMAGE"}:
        return "loading"
    return None


def planned(graph: Mapping[str, Any], sampler: str) -> int | None:
    """How many steps a sampler takes, as far as the graph says."""
    inputs = graph[sampler]["inputs"]
    steps = _number(graph, inputs.get("steps"))
    if steps is not None:
        first, last = (_number(graph, inputs.get(key)) for key in ("start_at_step", "end_at_step"))
        steps = min(steps, steps if last is None else last) - (first or 0)
    else:
        steps = _sigmas(graph, inputs.get("sigmas"))
    return steps if steps is not None and steps > 0 else None


def check_values(graph: Mapping[str, Any], types: Mapping[str, NodeType]) -> Iterator[tuple[str, str, Any, Any]]:
    """Every value of the graph that the server has not: node, input, the value, what there is instead."""
    for name, node in graph.items():
        kind = types.get(node["class_type"])
        for key, item in kind.expanded(node["inputs"]).items() if kind is not None else ():
            value = node["inputs"].get(key)
            if item.choices is None or item.multiple or not isinstance(value, str | int | float):
                continue
            if value not in item.choices and _there(value, item.choices) is None:
                yield name, key, value, item.choices


def classes(graph: Mapping[str, Any]) -> set[str]:
    """The node classes of a graph."""
    return {node["class_type"] for node in graph.values()}


def is_link(value: Any) -> bool:
    """True for `["id", slot]`."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def _complete(nodes: Mapping[str, Any], types: Mapping[str, NodeType]) -> Iterator[Notice]:
    """Fill inputs that came with a newer server, and spell files as this server does."""
    for name, node in nodes.items():
        kind, inputs = types.get(node["class_type"]), node["inputs"]
        for key, item in kind.expanded(inputs).items() if kind is not None else ():
            if key in inputs:
                if item.choices is not None and (spelled := _there(inputs[key], item.choices)) is not None:
                    inputs[key] = spelled
            elif item.required and item.widget and item.default is not None:
                inputs[key] = item.default
                yield Notice(
                    code="workflow_outdated",
                    message=f"{node['class_type']} (node {name}) has a new input {key!r} that the workflow does not "
                    f"set; it gets {item.default!r}",
                )


def _there(value: Any, choices: Iterable[Any]) -> Any:
    """The choice that means the same file, where Windows writes its folders otherwise."""
    if not isinstance(value, str) or not {"/", "\\"} & set(value):
        return None
    return next((c for c in choices if isinstance(c, str) and c.replace("\\", "/") == value.replace("\\", "/")), None)


def _number(graph: Mapping[str, Any], value: Any, depth: int = 0) -> int | None:
    """A whole number, or the one in the node it comes from."""
    if type(value) is int:
        return value
    if not is_link(value) or depth > _DEEP:
        return None
    found = [_number(graph, item, depth + 1) for item in graph[value[0]]["inputs"].values()]
    numbers = [number for number in found if number is not None]
    return numbers[0] if len(numbers) == 1 else None


def _sigmas(graph: Mapping[str, Any], link: Any, depth: int = 0) -> int | None:
    """How many steps a schedule has."""
    if not is_link(link) or depth > _DEEP:
        return None
    node, slot = graph[link[0]], link[1]
    inputs = node["inputs"]
    if "sigmas" not in inputs:
        return _number(graph, inputs.get("steps"))
    if isinstance(inputs["sigmas"], str):
        return len(inputs["sigmas"].replace(",", " ").split()) - 1
    whole = _sigmas(graph, inputs["sigmas"], depth + 1)
    cut = _number(graph, inputs.get("step"))
    if whole is None or cut is None:
        return whole  # something that bends a schedule without making it longer
    return min(cut, whole) if slot == 0 else max(whole - cut, 0)
