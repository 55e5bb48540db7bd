"""The methods: check, generate, close. It runs inside the child process, where torch may be loaded."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
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
from imagen.backends.diffusers.turn import Turn
from imagen.core.errors import Check, OutOfMemory
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice, Phase, Signal


class Diffusers:
    """Keeps the pipeline it drew with last; a model with other files puts its own in that place."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._open: tuple[str, Any, Any] | None = None  # its key, the pipeline, its previews
        self._turn = Turn()
        # The second draws only while the first decodes beside it, because torch keeps much for each thread.
        self._threads: tuple[ThreadPoolExecutor, ...] = ()
        self._idle: list[ThreadPoolExecutor] = []
        self._projecting: ThreadPoolExecutor | None = None  # for pixels of previews

    async def check(self, model: Model) -> Sequence[Check]:
        """Are the packages and the files there?"""
        return await asyncio.to_thread(finding.look, model)

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Draw one picture after the other in a thread; closing it stops that before its next step."""
        if self._projecting is None:
            self._projecting = ThreadPoolExecutor(1, "project")
            self._threads = ThreadPoolExecutor(1, "draw"), ThreadPoolExecutor(1, "draw-too")
            self._idle = [*reversed(self._threads)]
        async with self._turn.mine() as passes:
            thread = self._idle.pop()
            work = partial(self._draw, request, model, previews, thread, passes)
            async with aclosing(aside(work, thread)) as said:
                async for signal in said:
                    yield signal

    async def aclose(self) -> None:
        """Let go of the pipeline; really given back is its memory only with the process."""
        threads = (*self._threads, self._projecting)
        self._threads, self._idle, self._projecting = (), [], None
        for thread in threads:
            if thread is not None:
                await asyncio.to_thread(thread.shutdown)
        if self._open is not None:
            from imagen.backends.diffusers.loading import unload

            self._open = None
            await asyncio.to_thread(unload)

    def _draw(
        self,
        request: Request,
        model: Model,
        previews: Previews,
        thread: ThreadPoolExecutor,
        passes: Callable[[], None],
        say: Say,
    ) -> None:
        """All of it, in the thread that draws; then the next one has its turn, whoever still saves this one."""
        beside = not self._idle  # another picture is being decoded
        doing = "load"
        drawing = None
        try:
            begun = perf_counter()
            loaded, showing = self._loaded(model, request, say)
            say.listening()
            from imagen.backends.diffusers.drawing import Drawing

            doing = "draw"
            assert self._projecting is not None
            drawing = Drawing(
                loaded,
                request,
                model,
                previews,
                showing=showing,
                projecting=self._projecting,
                say=say,
                load_s=perf_counter() - begun,
                passes=passes,
            )
            drawing.draw()
        except Stopped:
            raise
        except BaseException as exc:  # diffusers raises one that is no Exception for a package it lacks
            beside = beside or (drawing is not None and drawing.passed)
            error = translated(exc, doing, name=model.name, beside=beside)
            if isinstance(error, OutOfMemory):
                self._tidy(beside)
            if error is exc:
                raise
            raise error from exc
        finally:
            self._idle.append(thread)  # first: whoever has the decoder then has let the next one begin
            try:
                if drawing is not None:
                    drawing.held.close()
            finally:
                passes()

    def _tidy(self, beside: bool) -> None:
        """Give back what a failed job held, so that a smaller one fits, or the same one alone."""
        if beside and self._open is not None:
            self._open[1].crowded = True
        with suppress(Exception):  # what is broken is told already
            from imagen.backends.diffusers.loading import unload

            unload()

    def _loaded(self, model: Model, request: Request, say: Say) -> tuple[Any, Any]:
        """The pipeline of this model, with the LoRA of this request; loaded if it is not the one of last time."""
        finding.installed()
        from imagen.backends.diffusers import loading
        from imagen.backends.diffusers.beside import held
        from imagen.backends.diffusers.showing import Showing

        key = loading.key(model, self._settings)
        if self._open is None or self._open[0] != key:
            say(Phase(name="loading"))
            if self._open is not None:
                with held(self._open[1].decoder, say.listening):  # it may still be decoding
                    self._open = None  # the old one first: there may not be room for two
                loading.unload()
            loaded = loading.load(model, self._settings)
            self._open = key, loaded, Showing(loaded.pipe, model, loaded.device, _kept(), loaded.decoder)
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
