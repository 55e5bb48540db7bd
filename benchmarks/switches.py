"""The switches for speed that diffusers has, each over none: the same pipeline, the same noise, by turns."""

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Phase, Signal
from imagen.testing.signals import Nobody

JOBS = 4  # one after the other: of three of them the end meets the next one's beginning
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


def overlapped(loaded: Any, model: Model, request: Request, kept: Path, rounds: int) -> dict[str, str]:
    """Some jobs of other words each, begun as the worker begins them: the wall time with `overlap: on` over without."""
    told = {}
    # The second says what such a ratio is worth where other things run on the machine.
    for name, overlap in (("overlap: on", "on"), ("overlap: off, again", "off")):
        ratios, beside = [], False
        for number in range(-1, rounds):
            times: dict[bool, float] = {}
            for switched in (True, False) if number % 2 else (False, True):
                loaded.prompts.clear()
                keys = {**model.keys, "overlap": overlap if switched else "off"}
                times[switched], drawn = asyncio.run(_jobs(loaded, replace(model, keys=keys), request, kept))
                beside |= any("beside" in words for words in drawn)
            if number >= 0:  # the first was for threads, kernels and maps
                ratios.append(times[True] / times[False])
        told[name] = f"{median(ratios):.3f} x ({min(ratios):.3f}-{max(ratios):.3f})" + (", done" if beside else "")
    return told


async def _jobs(loaded: Any, model: Model, request: Request, kept: Path) -> tuple[float, list[str]]:
    from imagen.backends.diffusers import loading
    from imagen.backends.diffusers.backend import Diffusers
    from imagen.backends.diffusers.showing import Showing

    backend = Diffusers({})
    backend._open = loading.key(model, {}), loaded, Showing(loaded.pipe, model, loaded.device, kept, loaded.decoder)
    words: list[str] = []

    async def one(number: int, free: asyncio.Event) -> None:
        asked = replace(request, prompt=f"{request.prompt}, {number}", seed=request.seed + number)
        said: AsyncGenerator[Signal] = backend.generate(asked, model, Nobody())
        async with aclosing(said):
            async for signal in said:
                if isinstance(signal, Phase) and signal.device_free:
                    free.set()
                words.append(str(getattr(signal, "facts", {}).get("drawn", "")))

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as jobs:
        for number in range(JOBS):
            free = asyncio.Event()
            jobs.create_task(one(number, free))
            await free.wait()
    took_s = time.perf_counter() - begun
    await backend.aclose()
    return took_s, words


def moved(pipe: Any, request: Request, device: str, rounds: int) -> dict[str, str]:
    """Parts and layers that wait beside the card: from pinned memory over without. Moves the parts for good."""
    if not device.startswith("cuda"):
        return {"pinned: on": "not here: a processor has no second memory"}
    import torch

    from imagen.backends.diffusers.moving import pinned_parts

    def group(pinned: bool) -> Any:
        other = _copied(pipe)
        other.transformer.enable_group_offload(
            torch.device(device), offload_type="leaf_level", use_stream=pinned, low_cpu_mem_usage=False
        )
        return other

    def timed(one: Any) -> float:
        _latents(one, request, device)
        return median(_timed(one, request, device) for _ in range(rounds))

    layers = {pinned: timed(group(pinned)) for pinned in (False, True)}
    pipe.enable_model_cpu_offload(device=device)
    plain = timed(pipe)
    pipe.remove_all_hooks()
    pipe.to("cpu")
    pinned_parts(pipe)
    pipe.enable_model_cpu_offload(device=device)
    return {
        "pinned: on, a layer at a time": f"{layers[True] / layers[False]:.3f} x",
        "pinned: on, a part at a time": f"{timed(pipe) / plain:.3f} x",
    }


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
