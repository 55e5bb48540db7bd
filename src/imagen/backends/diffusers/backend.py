"""The methods: check, generate, close. It runs inside the child process, where torch may be loaded."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from imagen.backends.aside import Say, Stopped, aside
from imagen.backends.base import Previews
from imagen.backends.diffusers import finding
from imagen.backends.diffusers.errors import translated
from imagen.core.errors import Check, OutOfMemory
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice, Phase, Signal


class Diffusers:
    """Keeps the pipeline it drew with last; a model with other files puts its own in that place."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._open: tuple[str, Any, Any] | None = None  # its key, the pipeline, its previews
        # One for all of a pipeline's work, because torch keeps much for each thread; one for pixels of previews.
        self._drawing: ThreadPoolExecutor | None = None
        self._projecting: ThreadPoolExecutor | None = None

    async def check(self, model: Model) -> Sequence[Check]:
        """Are the packages and the files there?"""
        return await asyncio.to_thread(finding.look, model)

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Draw one picture after the other in a thread; closing it stops that before its next step."""
        if self._drawing is None:
            self._drawing, self._projecting = ThreadPoolExecutor(1, "draw"), ThreadPoolExecutor(1, "project")
        work = partial(self._draw, request, model, previews)
        async with aclosing(aside(work, self._drawing)) as said:
            async for signal in said:
                yield signal

    async def aclose(self) -> None:
        """Let go of the pipeline; really given back is its memory only with the process."""
        threads, self._drawing, self._projecting = (self._drawing, self._projecting), None, None
        for thread in threads:
            if thread is not None:
                await asyncio.to_thread(thread.shutdown)
        if self._open is not None:
            from imagen.backends.diffusers.loading import unload

            self._open = None
            await asyncio.to_thread(unload)

    def _draw(self, request: Request, model: Model, previews: Previews, say: Say) -> None:
        """All of it, in the thread that draws."""
        doing = "load"
        try:
            begun = perf_counter()
            loaded, showing = self._loaded(model, request, say)
            say.listening()
            from imagen.backends.diffusers.drawing import Drawing

            doing = "draw"
            assert self._projecting is not None
            Drawing(
                loaded,
                request,
                model,
                previews,
                showing=showing,
                projecting=self._projecting,
                say=say,
                load_s=perf_counter() - begun,
            ).draw()
        except Stopped:
            raise
        except BaseException as exc:  # diffusers raises one that is no Exception for a package it lacks
            error = translated(exc, doing, name=model.name)
            if isinstance(error, OutOfMemory):
                self._tidy()
            if error is exc:
                raise
            raise error from exc

    def _tidy(self) -> None:
        """Give back what a failed job held, so that a smaller one fits."""
        with suppress(Exception):  # what is broken is told already
            from imagen.backends.diffusers.loading import unload

            unload()

    def _loaded(self, model: Model, request: Request, say: Say) -> tuple[Any, Any]:
        """The pipeline of this model, with the LoRA of this request; loaded if it is not the one of last time."""
        finding.installed()
        from imagen.backends.diffusers import loading
        from imagen.backends.diffusers.showing import Showing

        key = loading.key(model, self._settings)
        if self._open is None or self._open[0] != key:
            say(Phase(name="loading"))
            if self._open is not None:
                self._open = None  # the old one first: there may not be room for two
                loading.unload()
            loaded = loading.load(model, self._settings)
            self._open = key, loaded, Showing(loaded.pipe, model, loaded.device, _kept())
        _, loaded, showing = self._open
        name = str(request.options.get("lora") or "")
        path = finding.lora(name, model, self._settings) if name else None
        loading.put_lora(loaded, path, float(request.options.get("lora_scale", 1.0) or 0.0))
        if loaded.lora_unused:
            say(Notice(code="lora_in_part", message=loaded.lora_unused))
        return loaded, showing


def _kept() -> Path:
    """Where fitted maps of previews are kept: the folder that everything of this program is cached in."""
    if home := os.environ.get("IMAGEN_HOME"):
        return Path(home).expanduser() / "cache" / "previews"
    from platformdirs import user_cache_path

    return user_cache_path("imagen") / "previews"
