"""The devices of all workers: what they are, and the flag by which somebody has one for himself for a while."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row

from imagen.core.device import Device, Pause
from imagen.core.errors import DevicePaused, NobodyDraws, UnknownDevice
from imagen.core.model import Model
from imagen.models.catalog import Catalog
from imagen.reading import maybe
from imagen.store import devices, history, presence, queue
from imagen.store.db import Database
from imagen.store.lacking import lacking

LATER_S = 120.0  # when to ask again about a pause that somebody has to end
# How long somebody waits for a worker that can draw his model. Where workers come by themselves, they come because jobs
# wait; a client that is no stream is answered in words only as long as nothing was sent (`openai: hold_s`).
PATIENCE_S = 30.0


class Devices:
    """List, pause and resume devices."""

    def __init__(
        self,
        db: Database,
        *,
        catalog: Callable[[], Catalog],
        alive: Callable[[Connection], Sequence[Row[Any]]],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._db = db
        self._patience_s = patience_s
        self._catalog = catalog
        self._alive = alive

    @property
    def here(self) -> list[str]:
        """Those on which the models of these settings are drawn."""
        return sorted({model.device for model in self._catalog().models.values() if model.enabled})

    async def all(self) -> list[Device]:
        """Every device, by name: those that drew, those of live workers, and for a command those of these settings."""

        def look(connection: Connection) -> tuple[list[Device], bool]:
            crew = [row for row in self._alive(connection) if not row.solo]
            # A daemon has told where it draws, if it does: servers that share a database all tell the same devices.
            told = any(row.host == presence.host() and row.pid == os.getpid() for row in crew)
            return devices.listed(connection, crew, datetime.now(UTC)), told

        known, told = await self._db.read(look)
        found = {device.name: device for device in known}
        found |= {name: Device(name=name) for name in self.here if name not in found and not told}
        shared = self._catalog().sharing
        return [
            replace(device, vram_mib=shared[name].vram_mib) if name in shared else device
            for name, device in sorted(found.items())
        ]

    async def paused(self) -> dict[str, Pause]:
        """Those on which nothing is begun now, and why."""
        return await self._db.read(devices.paused, datetime.now(UTC))

    async def pause(self, names: Iterable[str] = (), *, by: str, reason: str = "", now: bool = False) -> list[Device]:
        """Begin nothing on these devices (none named: those listed that are `here`) until they are resumed.

        `now` also gives back what runs there.
        """
        wanted = await self._known(names)
        why = Pause(reason=" ".join(reason.split()), by=by, since=datetime.now(UTC))
        for name in wanted:
            await self._db.write(devices.pause, name, why)
            if now:
                await self._db.write(devices.give_back, name, why)
        return await self._named(wanted)

    async def resume(self, names: Iterable[str] = ()) -> list[Device]:
        """Let jobs begin on these devices again."""
        wanted = await self._known(names)
        for name in wanted:
            await self._db.write(devices.resume, name)
        return await self._named(wanted)

    def check_open(self, connection: Connection, model: Model) -> None:
        """DevicePaused when nothing is begun on any device that draws this model: for whoever would wait for it."""
        self._check(connection, model.name, model.device)

    async def turn_away(self, job_id: str, *, owner: str, route: str, key: str | None = None) -> None:
        """DevicePaused, and the job cancelled, when it waits and nothing is begun on any device that draws it.

        NobodyDraws when it has waited for a while, and every worker that knows its model lacks something. One that runs
        is left alone. The `key` under which it came at this `route` may bring a new job after that.
        """

        def look(connection: Connection) -> None:
            if (waits := history.waiting(connection, job_id)) is not None:
                model, device, since = waits
                self._check(connection, model, device)
                if (datetime.now(UTC) - since).total_seconds() >= self._patience_s:
                    self._check_able(connection, model)

        try:
            await self._db.read(look)
        except (DevicePaused, NobodyDraws):
            if await self._db.write(queue.withdraw, job_id, owner=owner, route=route, key=key):
                raise

    def _check(self, connection: Connection, model: str, device: str) -> None:
        now = datetime.now(UTC)
        asleep = devices.paused(connection, now)
        if not asleep:  # nearly always, and then nothing more is asked
            return
        crew = [row for row in self._alive(connection) if not row.solo]
        there = devices.drawn_on(crew, model) or {device}
        if not there <= asleep.keys():
            return
        ends = [until for name in there if (until := asleep[name].until) is not None]
        raise DevicePaused(
            f"{model} is not drawn now: " + "; ".join(f"{name} is {asleep[name]}" for name in sorted(there)),
            hint="ask again later, or for another model; a job sent to POST /v1/jobs waits until then",
            param="model",
            retry_after_s=max(1.0, (min(ends) - now).total_seconds()) if ends else LATER_S,
        )

    def _check_able(self, connection: Connection, model: str) -> None:
        crew = [row for row in self._alive(connection) if not row.solo]
        if any(model in row.models for row in crew):
            return
        why = lacking(((row.host, row.lacks) for row in crew), model)
        if why is not None:
            raise NobodyDraws(
                f"{model} cannot be drawn now; {why.message}",
                hint=f"ask again later, or for another model; its owner: {why.hint}",
                param="model",
                retry_after_s=LATER_S,
            )

    async def _known(self, names: Iterable[str]) -> list[str]:
        there = [device.name for device in await self.all()]
        wanted = list(dict.fromkeys(names)) or [name for name in self.here if name in there]
        for name in wanted:
            if name not in there:
                hint = f"devices: {', '.join(there) or 'none'}"
                raise UnknownDevice(f"there is no device {name!r}{maybe(name, there)}", hint=hint, param="device")
        return wanted

    async def _named(self, names: Sequence[str]) -> list[Device]:
        return [device for device in await self.all() if device.name in names]
