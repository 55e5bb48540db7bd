"""The switches for speed that diffusers has, each over none: the same pipeline, the same noise, by turns."""

import copy
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np

from imagen.core.request import Request

STEPS = 20  # caches reuse what hardly changes between two steps; in four steps all of it does


def _first_block(denoiser: Any) -> None:
    from diffusers import FirstBlockCacheConfig

    denoiser.enable_cache(FirstBlockCacheConfig(threshold=0.08))


def _taylorseer(denoiser: Any) -> None:
    from diffusers import TaylorSeerCacheConfig

    denoiser.enable_cache(TaylorSeerCacheConfig())


SWITCHES: Mapping[str, Callable[[Any], Any]] = {
    "attention: _native_flash": lambda denoiser: denoiser.set_attention_backend("_native_flash"),
    "attention: _native_cudnn": lambda denoiser: denoiser.set_attention_backend("_native_cudnn"),
    "attention: flash": lambda denoiser: denoiser.set_attention_backend("flash"),
    "attention: sage": lambda denoiser: denoiser.set_attention_backend("sage"),
    "compile: true": lambda denoiser: denoiser.compile_repeated_blocks(),
    "cache: first_block": _first_block,
    "cache: taylorseer": _taylorseer,
}


def compared(pipe: Any, request: Request, device: str, rounds: int) -> dict[str, str]:
    """Each switch: how long its first run took, how long the next ones over those without, and how far off it draws."""
    told = {}
    # Said for each, because diffusers keeps the last one that was set for whoever names none.
    pipe.transformer.set_attention_backend("native")
    for name, switch in SWITCHES.items():
        other = _copied(pipe)
        try:
            switch(other.transformer)
            begun = time.perf_counter()
            drawn = _latents(other, request, device)
            first_s = time.perf_counter() - begun
            ratios = []
            for _ in range(rounds):
                ratios.append(_timed(other, request, device) / _timed(pipe, request, device))
            away = np.abs(drawn - _latents(pipe, request, device)).mean() / np.abs(drawn).mean()
            told[name] = f"{median(ratios):.3f} x, first {first_s:.1f} s, away {away:.1%}"
        except Exception as exc:  # what one of them needs may not be here; that is an answer too
            told[name] = f"not here: {type(exc).__name__}: {' '.join(str(exc).split())[:100]}"
            pipe.transformer.set_attention_backend("native")
    return told


def _copied(pipe: Any) -> Any:
    other = copy.copy(pipe)
    other.transformer = copy.deepcopy(pipe.transformer)
    other.register_modules(transformer=other.transformer)
    return other


def _timed(pipe: Any, request: Request, device: str) -> float:
    # On a processor its own time: what else runs on the machine then matters little.
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    _latents(pipe, request, device)
    return clock() - begun


def _latents(pipe: Any, request: Request, device: str) -> Any:
    import torch

    told: dict[str, Any] = {"text_encoder_out_layers": (1, 2, 3)} if "Klein" in type(pipe).__name__ else {}
    latents = pipe(
        prompt=request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=STEPS,
        generator=[torch.Generator("cpu").manual_seed(7)],
        output_type="latent",
        **told,
    ).images
    return latents.float().cpu().numpy()  # waits until the card is done
