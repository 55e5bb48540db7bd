"""The weight files of a graph: which key of the model names each, its folder, and where it can be fetched.

Pure. A file is told by its ending, its folder by what the file's author says, else by the input it is chosen in.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from imagen.backends.comfyui.nodes import COMBO
from imagen.backends.comfyui.trail import Spot, Trail

WEIGHTS = re.compile(r"\.(safetensors|sft|ckpt|pt|pt2|pth|bin|gguf|onnx|msgpack)$", re.IGNORECASE)

# Input -> folder, and where one input name stands for several, node class and input.
_FOLDERS = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "clip_name": "text_encoders",
    "lora_name": "loras",
    "control_net_name": "controlnet",
    "style_model_name": "style_models",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "photomaker_model_name": "photomaker",
    "CLIPVisionLoader.clip_name": "clip_vision",
    "UpscaleModelLoader.model_name": "upscale_models",
    "LatentUpscaleModelLoader.model_name": "latent_upscale_models",
    "ModelPatchLoader.name": "model_patches",
}
_SAFE = re.compile(r"[\w.-]*\w")  # the name of a folder, and not a way out of it
_KEYS = {"checkpoints": "model", "diffusion_models": "model", "text_encoders": "clip", "vae": "vae"}
_HUB = "huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One file that a workflow needs."""

    key: str  # of model.yaml
    path: str
    folder: str
    hub: str  # "owner/name/path/in/it", or nothing
    spots: tuple[Spot, ...]

    @property
    def fetchable(self) -> bool:
        """False for a name that leads out of its folder: nothing shall be written there."""
        parts = self.path.replace("\\", "/").split("/")
        return all(part not in ("", ".", "..") and ":" not in part for part in parts)


def weights(trail: Trail, output: str, files: Iterable[Mapping[str, str]], taken: Iterable[str] = ()) -> list[Weight]:
    """Every weight file, each once, what is used first in front; `taken` are keys that mean something else."""
    told = {_last(item["name"]): item for item in files if item.get("name")}
    spots: dict[tuple[str, str], list[Spot]] = {}
    for spot, value in _chosen(trail, output):
        said = told.get(_last(value), {}).get("directory", "")
        folder = said if _SAFE.fullmatch(said) else _folder(trail, spot)
        spots.setdefault((folder, value), []).append(spot)
    names: set[str] = set(taken)
    found = []
    for (folder, path), places in spots.items():
        key = _key(folder, places[0], names)
        names.add(key)
        hub = hub_of(told.get(_last(path), {}).get("url", ""))
        found.append(Weight(key=key, path=path, folder=folder, hub=hub, spots=tuple(places)))
    return found


def spelled(value: str, choices: Sequence[Any] | None) -> str:
    """The file as the server names it, where only the folder above it is another."""
    if not choices or value in choices:
        return value
    alike = [item for item in choices if isinstance(item, str) and _last(item) == _last(value)]
    return alike[0] if len(alike) == 1 else value


def hub_of(url: str) -> str:
    """`https://huggingface.co/a/b/resolve/main/c/d` as `a/b/c/d`; nothing for any other address."""
    parts = urlsplit(url)
    if parts.hostname != _HUB:
        return ""
    match unquote(parts.path).strip("/").split("/"):
        case [owner, name, "resolve" | "blob", "main", *path] if path:
            return "/".join([owner, name, *path])
        case _:
            return ""


def _chosen(trail: Trail, output: str) -> Iterator[tuple[Spot, str]]:
    far = trail.upstream(output)
    for node in sorted(far, key=lambda node: -far[node]):
        for name, item in trail.inputs(node).items():
            spot = Spot(node, name)
            value = trail.value(spot)
            if item.kind == COMBO and isinstance(value, str) and WEIGHTS.search(value):
                yield spot, value


def _folder(trail: Trail, spot: Spot) -> str:
    name = spot.input.rpartition(".")[2]
    bare = name.rstrip("0123456789").rstrip("_")
    both = f"{trail.nodes[spot.node]['class_type']}.{name}"
    return _FOLDERS.get(both) or _FOLDERS.get(bare) or ""


def _key(folder: str, spot: Spot, names: set[str]) -> str:
    words = _KEYS.get(folder) or folder.removesuffix("s") or spot.input.rpartition(".")[2].removesuffix("_name")
    key = re.sub(r"\W+", "_", words.lower()).strip("_") or "file"
    key = key if key[0].isalpha() else f"file_{key}"
    numbered = (key if number == 1 else f"{key}_{number}" for number in range(1, 1000))
    return next(item for item in numbered if item not in names)


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
