"""One request on a loaded pipeline: what mflux calls between two steps becomes steps, previews and the end of them."""

import inspect
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from imagen.backends.aside import Say
from imagen.backends.base import Previews
from imagen.backends.mlx.loading import Loaded
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice, Output, Phase, Preview, Step
from imagen.previews.latents import layout_of, project

MIB = 2**20
PROMPTS = 32  # mflux keeps the numbers of every prompt it ever read: a few MB each


def draw(loaded: Loaded, request: Request, model: Model, previews: Previews, say: Say) -> None:
    """Draw one picture after the other: on one device that takes no longer than all at once, and less memory."""
    pipe = loaded.pipe
    for index in range(request.n):
        part = request.part(index, 1)
        watching = _Watching(loaded, part, index, request.n, previews, say)
        say(Phase(name="encoding"))
        mx.reset_peak_memory()
        lists = pipe.callbacks.before_loop, pipe.callbacks.in_loop, pipe.callbacks.after_loop
        before = [list(one) for one in lists]
        pipe.callbacks.register(watching)
        try:
            image = pipe.generate_image(**arguments(pipe.generate_image, part, model.keys["arguments"])).image
        finally:
            for one, was in zip(lists, before, strict=True):
                one[:] = was
        if (image.width, image.height) != (part.width, part.height):
            told = f"{model.name} draws multiples of 16: {image.width}x{image.height}"
            say(Notice(code="size_adjusted", message=told))
        say(
            Output(
                data=image.convert("RGB").tobytes(),
                width=image.width,
                height=image.height,
                index=index,
                seed=part.seed,
                facts={
                    "drawn": loaded.drawn,
                    "files": loaded.files,
                    "vram_peak_mib": round(mx.get_peak_memory() / MIB),
                    "vram_method": "mlx.core.get_peak_memory",
                },
            )
        )
    if len(getattr(pipe, "prompt_cache", ())) > PROMPTS:
        pipe.prompt_cache.clear()


def arguments(call: Any, request: Request, more: Mapping[str, Any]) -> dict[str, Any]:
    """What this pipeline's call takes of the request; a later class of mflux may take less."""
    wanted: dict[str, Any] = {
        "seed": request.seed,
        "prompt": request.prompt,
        "num_inference_steps": request.steps,
        "width": request.width,
        "height": request.height,
    }
    if request.guidance is not None:
        wanted["guidance"] = request.guidance
    if request.negative:
        wanted["negative_prompt"] = request.negative
    taken = inspect.signature(call).parameters
    return {name: value for name, value in {**wanted, **more}.items() if name in taken}


class _Watching:
    """Registered with mflux for one picture."""

    def __init__(
        self, loaded: Loaded, request: Request, index: int, pictures: int, previews: Previews, say: Say
    ) -> None:
        self._family, self._request, self._index = loaded.family, request, index
        self._total, self._previews, self._say = request.steps * pictures, previews, say
        self._last: Any = None  # the latents before this step
        self._silent = False

    def call_before_loop(self, latents: Any, **_: Any) -> None:
        """The words are read; from here on it is drawn."""
        self._last = latents
        self._say(Phase(name="sampling"))

    def call_in_loop(self, t: int, latents: Any, config: Any, **_: Any) -> None:
        """A step is done. Raising leaves mflux at once, and the pipeline is as good as before."""
        mx.eval(latents)  # only now is it computed; mflux would do so right after this
        step = self._index * self._request.steps + t + 1
        self._say(Step(step=step, total=self._total, image=self._index))
        last, self._last = self._last, latents
        if t + 1 < self._request.steps and not self._silent and self._previews.wants(step, self._total):
            sigmas = config.scheduler.sigmas
            self._show(clean(last, latents, sigmas[t], sigmas[t + 1]), step)

    def call_after_loop(self, **_: Any) -> None:
        """All steps are done."""
        self._say(Phase(name="decoding"))

    def _show(self, latents: Any, step: int) -> None:
        """A preview; whatever is wrong with one costs a word and never the picture."""
        began = perf_counter()
        try:
            data, width, height = project(*self._laid(latents), self._family.factors, self._previews.max_size)
        except Exception as exc:  # whatever it is: the picture does not depend on it
            self._silent = True
            self._say(Notice(code="preview_failed", message=f"no previews of this picture: {exc}"))
            return
        self._say(
            Preview(
                step=step,
                total=self._total,
                data=data,
                width=width,
                height=height,
                image=self._index,
                method="latent_rgb",
                decode_ms=(perf_counter() - began) * 1000,
            )
        )

    def _laid(self, latents: Any) -> tuple[npt.NDArray[np.float32], Any]:
        array = np.array(latents.astype(mx.float32))
        whole = array if self._family.picture_axis else array[None]
        layout = layout_of(whole.shape, self._family.factors.channels, self._request.width, self._request.height)
        if layout is None:
            raise ValueError(f"latents of the shape {array.shape} are not known")
        return whole, layout


def clean(before: Any, after: Any, sigma_before: Any, sigma_after: Any) -> Any:
    """The picture that a step of a flow aims at: on the straight line through both, where no noise is left."""
    speed = (after - before) / (sigma_after - sigma_before)
    return after - sigma_after * speed
