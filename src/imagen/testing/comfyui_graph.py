"""How the fake ComfyUI reads a graph: what runs when, what was run before, how many steps, which size."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imagen.testing.comfyui_nodes import Node

Graph = Mapping[str, Any]

GRAIN = 8  # a VAE of 8 pixels to a latent one: sizes in between become smaller
GRAINS = {"EmptyFlux2LatentImage": 16}
LOADED = (64, 64)  # the size of a picture that LoadImage gives


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What a latent or a picture in the graph comes to."""

    width: int
    height: int
    batch: int = 1


def is_link(value: Any) -> bool:
    """Whether a value stands for another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def links(graph: Graph, node_id: str) -> Iterator[str]:
    """The nodes this one takes something from, in the order of its inputs."""
    for value in graph[node_id]["inputs"].values():
        if is_link(value):
            yield value[0]


def needed(graph: Graph, ends: list[str], cached: list[str]) -> list[str]:
    """Every node the ends need, in the order in which the server comes upon them; what is cached needs nothing."""
    found: list[str] = []
    for end in ends:
        waiting = [end]
        while waiting:
            node_id = waiting.pop()
            if node_id in found:
                continue
            found.append(node_id)
            if node_id not in cached:
                waiting += [one for one in links(graph, node_id) if one not in found and one not in cached]
    return found


def choose(ready: list[str], pending: list[str], graph: Graph, nodes: Mapping[str, Node]) -> str:
    """Which of the ready nodes runs next: what brings a picture to the user soonest."""
    takers = {one: [two for two in pending if one in links(graph, two)] for one in pending}

    def ends(node_id: str) -> bool:
        return nodes[graph[node_id]["class_type"]].output_node

    for node_id in ready:
        if ends(node_id):
            return node_id
    for node_id in ready:
        if any(ends(one) for one in takers[node_id]):
            return node_id
    for node_id in ready:
        if any(ends(two) for one in takers[node_id] for two in takers[one]):
            return node_id
    return ready[0]


def signature(graph: Graph, node_id: str, nodes: Mapping[str, Node], *, known_only: bool = False) -> str:
    """A name for everything a node's result comes from. Inputs that its class does not know count, as they do for
    the real server's cache; with `known_only` they do not, as they do not for the picture."""
    node = graph[node_id]
    declared = {one.name for one in nodes[node["class_type"]].inputs}
    parts: list[Any] = [node["class_type"]]
    for name in sorted(node["inputs"]):
        value = node["inputs"][name]
        if known_only and name not in declared:
            continue
        if is_link(value):
            parts.append([name, signature(graph, value[0], nodes, known_only=known_only), value[1]])
        else:
            parts.append([name, value])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def value_of(graph: Graph, node_id: str, name: str, otherwise: Any = None) -> Any:
    """An input's value, also where a primitive node says it."""
    value = graph[node_id]["inputs"].get(name, otherwise)
    while is_link(value):
        value = graph[value[0]]["inputs"].get("value", otherwise)
    return value


def steps_of(graph: Graph, node_id: str) -> int:
    """How far the progress bar of a sampler node goes."""
    inputs = graph[node_id]["inputs"]
    if "sigmas" in inputs:
        return _sigmas(graph, inputs["sigmas"])
    steps = int(value_of(graph, node_id, "steps", 1))
    first = int(value_of(graph, node_id, "start_at_step", 0))
    return max(0, min(steps, int(value_of(graph, node_id, "end_at_step", steps))) - first)


def canvas(graph: Graph, node_id: str, scale: float = 1.0) -> Canvas:
    """The size a node's picture has in the end."""
    name, inputs = graph[node_id]["class_type"], graph[node_id]["inputs"]
    if name.startswith("Empty"):
        grain = GRAINS.get(name, GRAIN)
        width, height = (int(value_of(graph, node_id, one) * scale) // grain * grain for one in ("width", "height"))
        return Canvas(width=width, height=height, batch=int(value_of(graph, node_id, "batch_size", 1)))
    if name in ("ImageScale", "LatentUpscale"):
        return Canvas(width=value_of(graph, node_id, "width"), height=value_of(graph, node_id, "height"))
    if name == "LoadImage":
        return Canvas(width=LOADED[0], height=LOADED[1])
    scale *= float(value_of(graph, node_id, "scale_by", 1.0))
    for key in ("latent_image", "samples", "images", "image", "pixels"):
        if is_link(inputs.get(key)):
            return canvas(graph, inputs[key][0], scale)
    return next((canvas(graph, one, scale) for one in links(graph, node_id)), Canvas(width=64, height=64))


def somebodys(steps: int, size: int, seed: int) -> dict[str, Any]:
    """A graph that a stranger might send; nobody validates it."""
    sampler = {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "somebody's.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "not yours", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": {**sampler, "steps": steps, "seed": seed}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "somebody"}},
    }


def _sigmas(graph: Graph, link: Any) -> int:
    if not is_link(link):
        return 1
    node_id, slot = link
    name = graph[node_id]["class_type"]
    if name == "SplitSigmas":
        whole, at = _sigmas(graph, graph[node_id]["inputs"]["sigmas"]), int(value_of(graph, node_id, "step", 0))
        return min(at, whole) if slot == 0 else max(0, whole - at)
    if name == "ManualSigmas":
        return max(0, len(str(value_of(graph, node_id, "sigmas")).split(",")) - 1)
    return int(value_of(graph, node_id, "steps", 1))
