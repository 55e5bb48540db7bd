"""From files to a pipeline of mflux that is ready to draw; never from the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from imagen.backends.mlx.finding import files, installed, loras, weights
from imagen.backends.weights import described
from imagen.core.errors import BadConfig
from imagen.core.model import Model, ModelFile
from imagen.previews.factors import FLUX, FLUX2, WAN21
from imagen.previews.latents import Factors


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What there is to know of a class of mflux."""

    draws: str  # MODULE:CLASS
    variant: str  # as mflux names the first of them
    factors: Factors  # of its latents
    picture_axis: bool = True  # its latents have a first dimension for pictures, of one


FAMILIES: Mapping[str, Family] = {
    "flux": Family(draws="mflux.models.flux.variants.txt2img.flux:Flux1", variant="schnell", factors=FLUX),
    "flux2-klein": Family(
        draws="mflux.models.flux2.variants.txt2img.flux2_klein:Flux2Klein", variant="flux2-klein-4b", factors=FLUX2
    ),
    "z-image": Family(
        draws="mflux.models.z_image.variants.z_image:ZImage", variant="z-image-turbo", factors=FLUX, picture_axis=False
    ),
    "qwen-image": Family(
        draws="mflux.models.qwen.variants.txt2img.qwen_image:QwenImage", variant="qwen-image", factors=WAN21
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A pipeline, and what is told of it."""

    pipe: Any
    family: Family
    files: Sequence[ModelFile]
    drawn: str


def load(model: Model) -> Loaded:
    """The pipeline of a model, its weights in memory."""
    installed()
    folder, family = weights(model), FAMILIES[model.keys["family"]]
    pipe = _class(model.keys["draws"] or family.draws)(
        quantize=model.keys["quantize"] or None,
        model_path=str(folder),
        lora_paths=[str(file) for file in loras(model)] or None,
        lora_scales=list(model.keys["loras"].values()) or None,
        model_config=_variant(model.keys["variant"] or family.variant),
    )
    if model.keys["tiling"]:
        pipe.tiling_config = _made("mflux.models.common.vae.tiling_config", "TilingConfig")
    found = files(folder)
    bits = f", {model.keys['quantize']} bits" if model.keys["quantize"] else ""
    return Loaded(
        pipe=pipe,
        family=family,
        files=described([*found, *loras(model)], folder),
        drawn=f"{type(pipe).__name__} of mflux {_version()}{bits}",
    )


def _class(said: str) -> Any:
    module, _, name = said.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise BadConfig(
            f"`draws: {said}` names no class: {exc}", hint="write MODULE:CLASS, of mflux or of a package of yours"
        ) from exc


def _variant(name: str) -> Any:
    config = import_module("mflux.models.common.config.model_config").ModelConfig
    try:
        return config.from_name(model_name=name)
    except ValueError as exc:  # ModelConfigError and its like
        raise BadConfig(f"mflux knows no model {name!r}: {exc}", hint="correct `variant`", param="variant") from exc


def _made(module: str, name: str) -> Any:
    return getattr(import_module(module), name)()


def _version() -> str:
    from importlib.metadata import version

    return version("mflux")
