"""Where a ComfyUI looks for weights, as folders of this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen.core.errors import ImagenError, NotConfigured

if TYPE_CHECKING:
    from imagen.backends.comfyui.server import Server

ROUTE = "/internal/folder_paths"  # for ComfyUI's own page, and the only one that tells paths

# What every ComfyUI has below its models folder; the second name of a pair is the one of before 2024.
USUAL = (
    *("checkpoints", "clip_vision", "controlnet", "diffusion_models", "embeddings", "loras"),
    *("style_models", "text_encoders", "upscale_models", "vae", "vae_approx"),
)
FORMER = {"diffusion_models": "unet", "text_encoders": "clip"}

REMEDY = (
    "name its folder: `backends: {comfyui: {models_folder: /path/to/ComfyUI/models}}`, or give --to with a folder "
    "and copy the files yourself"
)


async def folders(server: "Server", models_folder: str | None = None) -> Mapping[str, Sequence[Path]]:
    """Kind of file -> the folders that are searched for it, the best one to write to first.

    What `models_folder` of the settings names goes before what the server says.
    """
    if models_folder:
        return below(Path(models_folder).expanduser())
    if not server.address.here:
        raise NotConfigured(
            f"ComfyUI runs on another machine ({server.url}), so its folders cannot be written to from here",
            hint=f"run `imagen models pull` there; or, where they are mounted, {REMEDY}",
            param="models_folder",
        )
    try:
        told = await server.get_json(ROUTE)
    except ImagenError as error:
        raise NotConfigured(
            f"ComfyUI at {server.url} does not say where its files lie: {error.message}",
            hint=f"start it, or {REMEDY}",
            param="models_folder",
        ) from error
    found = read(told)
    if not any(path.is_dir() for paths in found.values() for path in paths):
        raise NotConfigured(
            f"none of the folders of ComfyUI at {server.url} is on this machine: it may run in a container",
            hint=REMEDY,
            param="models_folder",
        )
    return found


def below(root: Path) -> Mapping[str, Sequence[Path]]:
    """The folders below a `models` folder, those that are there and those that every ComfyUI has."""
    if not root.is_dir():
        raise NotConfigured(
            f"the models folder {root} is not there",
            hint="correct `models_folder` under `backends: {comfyui: …}`, or make the folder",
            param="models_folder",
        )
    names = {*USUAL, *(path.name for path in root.iterdir() if path.is_dir())}
    return {
        name: tuple(root / one for one in (name, FORMER.get(name)) if one and (one == name or (root / one).is_dir()))
        for name in sorted(names)
    }


def read(told: Mapping[str, Any]) -> Mapping[str, Sequence[Path]]:
    """The server's answer; what is not a list of paths in it is left out."""
    found = {}
    for name, paths in told.items():
        kept = [Path(path) for path in paths if isinstance(path, str)] if isinstance(paths, list) else []
        # The former name of a folder comes first in some versions; people look in the one called like the kind.
        found[name] = tuple(sorted(kept, key=lambda path: path.name != name))
    return found
