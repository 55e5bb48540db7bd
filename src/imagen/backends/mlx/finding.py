"""Where a model's files are, without MLX: all that the parent process knows of it."""

import platform
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from imagen.backends.weights import REPOSITORY, cached, places
from imagen.core.errors import Check, ImagenError, MissingExtra, MissingFile
from imagen.core.model import Model

EXTRA = "pip install 'imagen-platform[mlx]'"


def look(model: Model) -> Sequence[Check]:
    """What would go wrong if this model were drawn now, as far as the files tell."""
    try:
        installed()
    except ImagenError as error:
        return [Check.failed("packages", error)]
    try:
        found = weights(model)
        loras(model)
        size = sum(file.stat().st_size for file in files(found))
    except ImagenError as error:
        return [Check.passed("packages", note="MLX and mflux are installed"), Check.failed("files", error)]
    return [
        Check.passed("packages", note="MLX and mflux are installed"),
        Check.passed("files", note=f"{size / 1e9:.1f} GB"),
    ]


def installed() -> None:
    """Raise unless MLX and mflux are there; says what to install, or what to use instead on another machine."""
    missing = [name for name in ("mlx", "mflux") if find_spec(name) is None]
    if missing:
        apple = sys.platform == "darwin" and platform.machine() == "arm64"
        raise MissingExtra(
            f"not installed: {', '.join(missing)}",
            hint=EXTRA if apple else "this backend is for Apple silicon; here, draw with the backend diffusers",
        )


def weights(model: Model) -> Path:
    """The folder that `weights` names."""
    said = str(model.keys["weights"])
    for place in (*places(said, model), *cached(said)):
        if place.is_dir() and files(place):
            return place
    listed = ", ".join(map(str, places(said, model)))
    raise MissingFile(
        f"the weights of {model.name} are not here: {said}",
        hint=f"hf download {said}" if REPOSITORY.fullmatch(said) else f"put the folder to one of: {listed}",
        param="weights",
    )


def loras(model: Model) -> list[Path]:
    """The files of the LoRAs it is drawn with."""
    return [_lora(said, model) for said in model.keys["loras"]]


def files(folder: Path) -> list[Path]:
    """The weights in it."""
    return sorted(folder.rglob("*.safetensors"))


def _lora(said: str, model: Model) -> Path:
    for place in places(said, model):
        if place.is_file():
            return place
    raise MissingFile(
        f"the LoRA {said} of {model.name} is not there",
        hint=f"put it to one of: {', '.join(map(str, places(said, model)))}",
        param="loras",
    )
