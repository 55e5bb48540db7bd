"""The backend that others see: which process draws what, one spare that has its imports done, and memory given back."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from imagen.backends.base import Previews, PreviewWishes
from imagen.backends.child.frames import BadFrameError, model_told
from imagen.backends.child.process import Call, Process, Told
from imagen.core.errors import BadConfig, Check, ImagenError, OutOfMemory, SetupError, TooLarge
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Phase, Signal

START_S = 180.0  # torch and its friends from a cold, slow disk take a minute
CANCEL_S = 6.0  # a step of a large model; a worker that is stopped has 8 s to give its jobs back
STALL_S = 1800.0  # loading 60 GB from a slow disk takes a third of that, and a step on a processor may take minutes
QUIT_S = 2.0  # to close a backend; a worker waits 3 s for memory to be given back
UNLOAD_AFTER_S = 600.0
SPARE_AFTER_S = 1.0  # after a call: one command that draws one picture is gone by then, and wants no spare

Key = tuple[str, str]  # a device, and what is loaded there


class Child:
    """Runs a backend in a process of its own, one for each model that is loaded; behind the same three methods.

    `factory` is where the backend is made, `package.module:Name`; it is called with the settings, in the child. `ready`
    are modules worth importing before there is a job. `look` is the check, where it is cheap and needs nothing that is
    heavy: it runs here, in a thread; without it the child is asked. `queues` as in the protocol `Queues`.
    """

    def __init__(
        self,
        factory: str,
        settings: Mapping[str, Any],
        *,
        name: str,
        ready: Sequence[str] = (),
        look: Callable[[Model], Sequence[Check]] | None = None,
        queues: bool = False,
        start_s: float = START_S,
        spare_after_s: float = SPARE_AFTER_S,
    ) -> None:
        self.queues = queues
        self.unload_after_s = _number(name, settings, "unload_after_s", UNLOAD_AFTER_S) or None
        self._who = f"the process of the backend {name}"
        self._cancel_s = _number(name, settings, "cancel_s", CANCEL_S)
        self._stall_s = _number(name, settings, "stall_s", STALL_S)
        self._environment = _environment(name, settings.get("environment"))
        # True: a spare from the beginning; None: after the first job; False: never.
        self._ready = _switch(name, settings, "ready")
        self._look = look
        self._start_s = start_s
        self._spare_after_s = spare_after_s
        self._hello = {
            "name": name,
            "factory": factory,
            "settings": json.loads(json.dumps(dict(settings), default=str)),  # YAML knows dates
            "ready": list(ready),
            "memory_limit_mib": int(_number(name, settings, "memory_limit_mib", 0)),
        }
        self._drawing: dict[Key, Process] = {}
        self._spare: Process | None = None
        self._choosing = asyncio.Lock()
        self._soon: asyncio.TimerHandle | None = None

    def prepare(self) -> None:
        """Have a process ready before there is a job, if that is wanted."""
        if self._ready:
            self._make_spare()

    async def check(self, model: Model) -> Sequence[Check]:
        """What the backend says about the model, or what keeps it from saying anything."""
        try:
            if self._look is not None:
                return await asyncio.to_thread(self._look, model)
            process = self._drawing.get(_key(model))
            if process is None or process.dead:
                process = self._make_spare()
            call = process.begin({"say": "check", "model": model_told(model)})
            try:
                await process.started(self._start_s)
                told = _raised(await call.answer())
            finally:
                await self._close(process, call)
        except ImagenError as error:
            return [Check.failed("process", error)]
        return told if isinstance(told, list) else []

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Draw in the process that has the model loaded, else in one that has nothing loaded."""
        process, call = await self._begin(request, model, previews, resume)
        unfit = False
        try:
            if not process.ready:
                yield Phase(name="loading")
                await process.started(self._start_s)
            while (told := _raised(await self._next(process, call))) is not None:
                assert not isinstance(told, list)
                yield told
        except ImagenError as error:
            unfit = isinstance(error, SetupError | OutOfMemory)
            raise
        finally:
            await self._close(process, call)
            if unfit and not process.drew:
                await self._drop(process)
            if self._ready is not False and self._soon is None:
                self._soon = asyncio.get_running_loop().call_later(self._spare_after_s, self._refill)

    async def release(self, model: Model) -> None:
        """End the processes that hold something on the model's device and draw nothing now."""
        async with self._choosing:
            await self._stop_idle(model.device)

    async def aclose(self) -> None:
        """End all processes."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        processes = [*self._drawing.values(), *([self._spare] if self._spare else [])]
        self._drawing, self._spare = {}, None
        await asyncio.gather(*(process.stop(QUIT_S) for process in processes))

    async def _begin(
        self, request: Request, model: Model, previews: Previews, resume: str | None
    ) -> tuple[Process, Call]:
        wishes = previews if isinstance(previews, PreviewWishes) else None
        told = {
            "say": "draw",
            "request": request.as_dict(),
            "model": model_told(model),
            "resume": resume,
            "previews": {
                "max_size": previews.max_size,
                "method": wishes.method if wishes else "auto",
                "promised": wishes.promised if wishes else False,
            },
        }
        key = _key(model)
        while True:
            async with self._choosing:
                process = self._drawing.get(key)
                if process is not None and process.dead:
                    process = None
                leaving = self._leaving(model.device) if process is None else None
                if leaving is None:
                    if process is None:
                        # Whatever else is loaded there goes first: there may not be room for two.
                        await self._stop_idle(model.device)
                        process = self._drawing[key] = self._fresh()
                    try:
                        return process, process.begin(told, previews)
                    except BadFrameError as exc:
                        raise TooLarge(
                            f"the request is too long for {self._who}: {exc}", hint="shorten the prompt or the options"
                        ) from exc
            await leaving.left()  # its last picture is being decoded; others choose meanwhile

    async def _next(self, process: Process, call: Call) -> Told:
        """What it says next. One that says nothing for too long holds up the whole queue of its device: it is ended."""
        if not self._stall_s:
            return await call.next()
        self._watch(process, call, asyncio.get_running_loop().time())
        try:
            return await call.next()
        finally:
            call.stalled.cancel()

    def _watch(self, process: Process, call: Call, asked_at: float) -> None:
        loop = asyncio.get_running_loop()
        # Whatever it says, and of any call: this one may be waiting for its turn.
        left_s = max(asked_at, process.heard_at) + self._stall_s - loop.time()
        if left_s > 0:
            call.stalled = loop.call_later(left_s, self._watch, process, call, asked_at)
        else:
            process.kill(f"it said nothing for {self._stall_s:g} s")

    async def _stop_idle(self, device: str) -> None:
        idle = [key for key, process in self._drawing.items() if key[0] == device and not process.busy]
        await asyncio.gather(*(self._drawing.pop(key).stop(QUIT_S) for key in idle))

    def _leaving(self, device: str) -> Process | None:
        """One that draws nothing on this device any more, and is not through yet."""
        return next((one for key, one in self._drawing.items() if key[0] == device and one.leaving), None)

    async def _drop(self, process: Process) -> None:
        """End one that never drew: what kept it from that is no reason to hold memory until somebody else comes."""
        async with self._choosing:
            for key, one in [*self._drawing.items()]:
                if one is process and not process.busy:
                    await self._drawing.pop(key).stop(QUIT_S)

    async def _close(self, process: Process, call: Call) -> None:
        """Have a call stopped, whatever that takes."""
        stopped = False
        try:
            stopped = await call.close(self._cancel_s)
        finally:
            if not stopped:
                process.kill(f"a call that was cancelled did not stop within {self._cancel_s:g} s")
        if not stopped:
            await process.stop(0)

    def _fresh(self) -> Process:
        """One that has nothing loaded: the spare if there is one."""
        process, self._spare = self._spare, None
        return process if process is not None and not process.dead else self._start()

    def _refill(self) -> None:
        self._soon = None
        with suppress(ImagenError):  # the next job says it to somebody who reads it
            self._make_spare()

    def _make_spare(self) -> Process:
        if self._spare is None or self._spare.dead:
            self._spare = self._start()
        return self._spare

    def _start(self) -> Process:
        return Process(self._who, self._hello, self._environment)


def _key(model: Model) -> Key:
    return model.device, model.digest()


def _raised(told: Told) -> Signal | list[Check] | None:
    if isinstance(told, ImagenError):
        raise told
    return told


def _number(name: str, settings: Mapping[str, Any], key: str, usual: float) -> float:
    value = settings.get(key)
    try:
        number = usual if value in (None, "") else float(str(value))
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise BadConfig(
            f"`{key}` of the backend {name} is a number of 0 or more, not {value!r}",
            hint=f"correct `backends: {{{name}: {{{key}: …}}}}` in config.yaml",
            param=key,
        )
    return number


def _switch(name: str, settings: Mapping[str, Any], key: str) -> bool | None:
    """As in YAML, or as text out of the environment."""
    value = settings.get(key)
    if value in (None, ""):
        return None
    said = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if str(value).lower() not in said:
        raise BadConfig(
            f"`{key}` of the backend {name} is true or false, not {value!r}",
            hint=f"correct `backends: {{{name}: {{{key}: …}}}}` in config.yaml",
            param=key,
        )
    return said[str(value).lower()]


def _environment(name: str, value: Any) -> Mapping[str, str]:
    if value in (None, ""):
        return {}
    if not isinstance(value, Mapping):
        raise BadConfig(
            f"`environment` of the backend {name} is a mapping of names to values, not {value!r}",
            hint="write for instance `environment: {OMP_NUM_THREADS: 4}`",
            param="environment",
        )
    return {str(key): str(item) for key, item in value.items()}
