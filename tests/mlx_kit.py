"""Real pipelines of mflux around networks that can be worked out: they go straight to a picture that the words decide.

Their loops, schedulers, latents and callbacks are mflux's own; what would be gigabytes of weights is a few lines here.
"""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import yaml
from mflux.callbacks.callback_registry import CallbackRegistry
from mflux.models.common.compute_precision import ComputePrecision
from mflux.models.flux.variants.txt2img.flux import Flux1
from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein
from mflux.models.qwen.variants.txt2img.qwen_image import QwenImage
from mflux.models.z_image.variants.z_image import ZImage
from mlx.nn.layers.base import Module

from imagen.previews.factors import FLUX, FLUX2, WAN21
from imagen.previews.latents import Factors

FAMILIES = ("flux", "flux2-klein", "z-image", "qwen-image")
mx.disable_compile()  # on a processor MLX would call the machine's C++ compiler, which need not be there

TOKENS = 4
BROKEN = "trouble"  # a word at which the network breaks
EMPTY = "a file of weights that nobody reads"


def model(home: Path, family: str, **keys: Any) -> Path:
    """A folder of models with one of this family in it, named by it."""
    folder = home / family
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "model.safetensors").write_text(EMPTY)
    named = {"flux": "TinyFlux", "flux2-klein": "TinyKlein", "z-image": "TinyZImage", "qwen-image": "TinyQwen"}
    usual = {
        "backend": "mlx",
        "family": family,
        "weights": f"{family}/weights",
        "draws": f"tests.mlx_kit:{named[family]}",
        "defaults": {"width": 64, "height": 64, "steps": 5, "guidance": 1.0},
        "limits": {"multiple_of": 16},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(usual | keys))
    return home


def words(text: str, channels: int) -> mx.array:
    """What the text encoders here make of a text: the latents of one place of its picture, once for each token."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    place = np.random.default_rng(seed).standard_normal(channels).astype(np.float32)
    if BROKEN in text:
        place[:] = np.nan
    return mx.broadcast_to(mx.array(place), (1, TOKENS, channels))


def velocity(latents: mx.array, sigma: mx.array, told: mx.array, axis: int) -> mx.array:
    """From the latents away from the picture; the nearer it is, the better the picture is known."""
    channels = told.reshape(TOKENS, -1)[0]
    repeats = latents.shape[axis] // channels.size  # a patch of places, as further channels
    shape = [1] * latents.ndim
    shape[axis] = -1
    aim = mx.repeat(channels, repeats).reshape(shape)
    guess = aim + 0.3 * sigma * mx.tanh(latents)
    moved: mx.array = (latents - guess) / sigma
    return moved


class Decoder(Module):
    """Eight pixels a side for each place, in the colours of a published map."""

    latent_channels = 16
    supports_implicit_tiling = True

    def __init__(self, factors: Factors) -> None:
        super().__init__()
        self.rows, self.offset = mx.array(factors.rows), mx.array(factors.bias)

    def decode(self, latents: mx.array) -> mx.array:
        flat = latents[:, :, 0] if latents.ndim == 5 else latents
        colours = mx.moveaxis(mx.moveaxis(flat, 1, -1) @ self.rows + self.offset, -1, 1)
        return mx.repeat(mx.repeat(colours, 8, axis=2), 8, axis=3)


class PatchDecoder(Decoder):
    """FLUX.2's latents come to it in patches."""

    def decode_packed_latents(self, packed: mx.array, tiling_config: Any = None) -> mx.array:
        pictures, depth, rows, columns = packed.shape
        apart = packed.reshape(pictures, depth // 4, 2, 2, rows, columns).transpose(0, 1, 4, 2, 5, 3)
        return self.decode(apart.reshape(pictures, depth // 4, rows * 2, columns * 2))


class Words(dict[str, Any]):
    """A cache of prompts that has them all, so that no text encoder is asked."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.read = read

    def __contains__(self, text: object) -> bool:
        return True

    def __getitem__(self, text: str) -> Any:
        return self.read(text)


def _prepared(pipe: Any, model_config: Any, factors: Factors, decoder: type[Decoder] = Decoder) -> None:
    Module.__init__(pipe)
    pipe.model_config, pipe.callbacks, pipe.tiling_config = model_config, CallbackRegistry(), None
    pipe.bits, pipe.lora_paths, pipe.lora_scales = None, None, None
    pipe.vae, pipe.compute_precision = decoder(factors), ComputePrecision()
    pipe.tokenizers, pipe.prompt_cache = {}, {}


class TinyFlux(Flux1):
    def __init__(self, *, model_config: Any, **_: Any) -> None:
        _prepared(self, model_config, FLUX)
        self.prompt_cache = Words(lambda text: (words(text, 16), mx.zeros((1, 4))))
        self.tokenizers = {"t5": None, "clip": None}
        self.t5_text_encoder = self.clip_text_encoder = None
        self.transformer = _indexed


class TinyQwen(QwenImage):
    def __init__(self, *, model_config: Any, **_: Any) -> None:
        _prepared(self, model_config, WAN21)
        self.prompt_cache = Words(self._read)
        self.tokenizers = {"qwen": None}
        self.text_encoder = None
        self.transformer = _indexed

    @staticmethod
    def _read(text: str) -> Any:
        wanted, _, unwanted = text.partition("|NEG|")
        mask = mx.ones((1, TOKENS))
        return words(wanted, 16), mask, words(unwanted, 16), mask


class TinyKlein(Flux2Klein):
    def __init__(self, *, model_config: Any, **_: Any) -> None:
        _prepared(self, model_config, FLUX2, PatchDecoder)
        self.small_decoder = self.small_text_encoder = False
        self.tokenizers = {"qwen3": SimpleNamespace(tokenize=lambda prompt, **_: _read(prompt))}
        self.text_encoder = SimpleNamespace(get_prompt_embeds=lambda input_ids, **_: words(input_ids, 32))
        self.transformer = lambda hidden_states, encoder_hidden_states, timestep, **_: velocity(
            hidden_states, timestep / 1000, encoder_hidden_states, axis=2
        )


class TinyZImage(ZImage):
    def __init__(self, *, model_config: Any, **_: Any) -> None:
        _prepared(self, model_config, FLUX)
        self.float32 = False
        self.tokenizers = {"z_image": SimpleNamespace(tokenize=_read, max_length=None)}
        self.text_encoder = lambda text, mask: words(text, 16)
        self.transformer = lambda timestep, x, cap_feats, **_: velocity(x, 1 - timestep, cap_feats, axis=0)


def _indexed(
    t: int,
    config: Any,
    hidden_states: mx.array,
    prompt_embeds: mx.array | None = None,
    encoder_hidden_states: mx.array | None = None,
    **_: Any,
) -> mx.array:
    told = encoder_hidden_states if prompt_embeds is None else prompt_embeds
    assert told is not None
    return velocity(hidden_states, config.scheduler.sigmas[t], told, axis=2)


def _read(text: str) -> Any:
    return SimpleNamespace(input_ids=text, attention_mask=mx.ones((1, TOKENS)))
