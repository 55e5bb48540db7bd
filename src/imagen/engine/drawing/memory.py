"""Whose weights lie on a device: given back when nobody draws there, and before one model is measured after another.

The owner's hooks stand around it: `before` when a device is used that was given back, `after` when it is.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from imagen.backends.base import Backend, Releases
from imagen.core.device import Hook, Sharing
from imagen.core.errors import HookFailed, ImagenError
from imagen.core.model import Model
from imagen.engine.drawing import hooks
from imagen.store.queue import Claim

RELEASE_S = 3.0  # the worker's heartbeat waits for it
IDLE_S = 60  # where there are hooks, and neither the settings nor the backend say when a device is given back
LEAVE_S = 5.0  # for `after` when the program ends; whoever stopped it does not wait much longer
REST_S = (5.0, 10.0, 20.0, 40.0, 60.0)  # that a device is left alone after each failure of `before`


@dataclass(slots=True)
class _Device:
    model: Model | None = None  # drawn last, if its memory was not given back since
    idle_since: float = 0.0
    jobs: dict[tuple[str, int], asyncio.Event] = field(default_factory=dict)  # that are not done; set when they are
    ours: bool = False  # `before` was run, and `after` not since
    failures: int = 0  # of `before`, one after the other
    one_hook: asyncio.Lock = field(default_factory=asyncio.Lock)
    leaving: asyncio.Task[None] | None = None


async def _nobody(_device: str) -> bool:
    return False


class Memory:
    """What one worker left loaded on each of its devices."""

    def __init__(
        self,
        backend_for: Callable[[Model], Backend],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        sharing: Callable[[], Mapping[str, Sharing]] = dict,
        others: Callable[[str], Awaitable[bool]] = _nobody,
        log: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """`others` says whether anybody draws on a device at this moment."""
        self._backend_for = backend_for
        self._monotonic = monotonic
        self._sharing = sharing
        self._others = others
        self._log = log
        self._devices: dict[str, _Device] = {}

    async def begin(self, claim: Claim) -> None:
        """A job is about to be drawn; HookFailed when its device is not to be had.

        One of a series is measured, and starts with nobody else's weights around.
        """
        device = self._devices.setdefault(claim.model.device, _Device())
        busy = tuple(device.jobs.values())
        device.jobs[claim.key] = asyncio.Event()
        await self._make_ours(device, claim.model)
        before, device.model = device.model, claim.model
        if claim.series is not None and (before is None or before.name != claim.model.name):
            for ended in busy:  # what is only being saved any more, or decoded: it must not be measured with this one
                await ended.wait()
            await self._release(claim.model)

    def end(self, claim: Claim) -> None:
        """It is done."""
        device = self._devices[claim.model.device]
        device.idle_since = self._monotonic()
        if ended := device.jobs.pop(claim.key, None):
            ended.set()

    def rest_s(self, name: str) -> float:
        """How long a device is left alone now that its hook failed."""
        return REST_S[min(self._devices[name].failures, len(REST_S)) - 1]

    async def tidy(self) -> None:
        """Give back what has not been used for as long as its backend or the settings say."""
        for name, device in [*self._devices.items()]:  # a job may begin on a new one meanwhile
            if device.model is None or device.jobs:
                continue
            after_s = self._after_s(name, device.model)
            if after_s is not None and self._monotonic() - device.idle_since >= after_s:
                model, device.model = device.model, None
                if self._unloads(name, model):
                    await self._release(model)
                # Not here: a heartbeat waits for us.
                device.leaving = asyncio.create_task(self._leave(name, device, model), name=f"after-{name}")

    async def close(self) -> None:
        """Give back the devices that somebody waits for by a hook; the others are left as they are."""
        for name, device in [*self._devices.items()]:
            if device.leaving is not None and not device.leaving.done():
                await asyncio.wait({device.leaving}, timeout=LEAVE_S)
            elif device.ours and device.model is not None and not device.jobs:
                model, device.model = device.model, None
                if self._hooks(name).after is not None:
                    await self._release(model)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LEAVE_S):
                            await self._leave(name, device, model)

    async def _make_ours(self, device: _Device, model: Model) -> None:
        hook = self._hooks(model.device).before
        async with device.one_hook:
            if hook is not None and not device.ours:
                try:
                    await self._run(hook, "before", model)
                except HookFailed:
                    device.failures += 1
                    raise
            device.ours, device.failures = True, 0

    async def _leave(self, name: str, device: _Device, model: Model) -> None:
        hook = self._hooks(name).after
        async with device.one_hook:
            if device.jobs:
                return
            try:
                if hook is not None and await self._others(name):
                    device.model, device.idle_since = model, self._monotonic()  # later, when they are done too
                    return
                if hook is not None:
                    await self._run(hook, "after", model)
            except ImagenError as error:
                self._log(f"{error.message}; hint: {error.hint}")
            device.ours = False

    async def _run(self, hook: Hook, which: str, model: Model) -> None:
        timeout_s = self._hooks(model.device).hook_timeout_s
        await hooks.run(hook, which, device=model.device, model=model.name, timeout_s=timeout_s)

    def _hooks(self, name: str) -> Sharing:
        return self._sharing().get(name) or Sharing()

    def _after_s(self, name: str, model: Model) -> float | None:
        said = self._hooks(name)
        if said.idle_s is not None:
            return said.idle_s
        own = self._unload_after_s(model)
        return IDLE_S if own is None and (said.before or said.after) else own

    def _unloads(self, name: str, model: Model) -> bool:
        return self._hooks(name).idle_s is not None or self._unload_after_s(model) is not None

    def _unload_after_s(self, model: Model) -> float | None:
        with suppress(Exception):  # a backend may come from anywhere; a job of it says what is wrong
            backend = self._backend_for(model)
            return backend.unload_after_s if isinstance(backend, Releases) else None
        return None

    async def _release(self, model: Model) -> None:
        """A server that is away has nothing loaded; whatever else is wrong, the next job will say it better."""
        with suppress(Exception):  # a backend may come from anywhere, and this is a courtesy
            backend = self._backend_for(model)
            if isinstance(backend, Releases):
                async with asyncio.timeout(RELEASE_S):
                    await backend.release(model)
