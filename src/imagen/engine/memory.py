"""Whose weights lie on a device: given back when nobody draws there, and before one model is measured after another."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from imagen.backends.base import Backend, Releases
from imagen.core.errors import ImagenError
from imagen.core.model import Model
from imagen.store.queue import Claim

RELEASE_S = 3.0  # the worker's heartbeat waits for it


@dataclass(slots=True)
class _Device:
    model: Model | None = None  # drawn last, if its memory was not given back since
    idle_since: float = 0.0
    jobs: dict[str, asyncio.Event] = field(default_factory=dict)  # that are not done; set when they are


class Memory:
    """What one worker left loaded on each of its devices."""

    def __init__(
        self, backend_for: Callable[[Model], Backend], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend_for = backend_for
        self._monotonic = monotonic
        self._devices: dict[str, _Device] = {}

    async def begin(self, claim: Claim) -> None:
        """A job is about to be drawn. One of a series is measured, and starts with nobody else's weights around."""
        device = self._devices.setdefault(claim.model.device, _Device())
        before, device.model = device.model, claim.model
        busy = tuple(device.jobs.values())
        device.jobs[claim.job] = asyncio.Event()
        if claim.series is not None and (before is None or before.name != claim.model.name):
            for ended in busy:  # what is only being saved any more, or decoded: it must not be measured with this one
                await ended.wait()
            await self._release(claim.model)

    def end(self, claim: Claim) -> None:
        """It is done."""
        device = self._devices[claim.model.device]
        device.idle_since = self._monotonic()
        if ended := device.jobs.pop(claim.job, None):
            ended.set()

    async def tidy(self) -> None:
        """Give back what has not been used for as long as its backend says."""
        for device in self._devices.values():
            if device.model is None or device.jobs:
                continue
            after_s = self._after_s(device.model)
            if after_s is not None and self._monotonic() - device.idle_since >= after_s:
                model, device.model = device.model, None
                await self._release(model)

    def _after_s(self, model: Model) -> float | None:
        with suppress(ImagenError):
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
