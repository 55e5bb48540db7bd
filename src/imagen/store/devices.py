"""Devices as people see them: what each draws, and the flag that keeps everybody from beginning anything there."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, or_, select, update

from imagen.core.device import Device, Pause
from imagen.store import queue
from imagen.store import slots as slots_
from imagen.store.bell import slot_of, touch
from imagen.store.columns import iso
from imagen.store.tables import is_running, jobs, slots


def pause(connection: Connection, device: str, why: Pause) -> None:
    """Begin nothing on a device any more; what runs there goes on.

    One device to a transaction: a claim that waits for us may hold slots of others.
    """
    slots_.anchor(connection, device)  # whoever is claiming ends first, and is seen by what follows
    _set(connection, device, why)


def give_back(connection: Connection, device: str, why: Pause) -> list[str]:
    """Put what runs on a paused device back into the queue, without a failure; the ids of those jobs.

    Apart from `pause`, because the end of a job locks the job first and its slot second.
    """
    running = select(jobs.c.id).where(is_running, jobs.c.device == device).order_by(jobs.c.id).with_for_update()
    given_back = list(connection.execute(running).scalars())
    for job_id in given_back:
        queue.requeue(connection, job_id, reason=f"{device} was {why}", error=None)
    return given_back


def rest(connection: Connection, device: str, why: Pause) -> None:
    """Leave a device alone for a while, by itself. What somebody said stays said."""
    said = slots_.anchor(connection, device)
    if said.paused is None or said.paused_until is not None:
        _set(connection, device, why)


def resume(connection: Connection, device: str) -> bool:
    """Let jobs begin there again; false when it was not paused."""
    touch(connection, slot_of(device))
    paused = update(slots).where(slots.c.device == device, slots.c.paused.is_not(None))
    return connection.execute(paused.values(paused=None, paused_until=None)).rowcount > 0


def paused(connection: Connection, at: datetime) -> dict[str, Pause]:
    """The devices on which nothing is begun now, and why."""
    rows = connection.execute(
        select(slots.c.device, slots.c.paused, slots.c.paused_until).where(
            slots.c.paused.is_not(None), or_(slots.c.paused_until.is_(None), slots.c.paused_until > at)
        )
    )
    return {row.device: why for row in rows if (why := _pause(row)) is not None}


def listed(connection: Connection, crew: Iterable[Any], at: datetime) -> list[Device]:
    """Every device that has drawn, was paused, or on which one of these workers draws, or would if it could."""
    crew = list(crew)
    rows = connection.execute(select(slots)).all()
    drawn: dict[str, set[str]] = {}
    workers: dict[str, list[str]] = {}
    troubles: dict[str, set[str]] = {}
    for worker in crew:
        for device, models in (worker.places or {}).items():
            drawn.setdefault(device, set()).update(models)
            workers.setdefault(device, []).append(worker.id)
            if worker.troubled:
                troubles.setdefault(device, set()).add(worker.troubled)
    lacks = _lacks(crew, drawn)
    names = {row.device for row in rows} | drawn.keys() | lacks.keys()
    asleep = paused(connection, at)
    told = []
    for name in sorted(names):
        here = [row for row in rows if row.device == name]
        held = [row.vram_mib for row in here if row.job_id is not None]
        told.append(
            Device(
                name=name,
                slots=len(here),
                taken=len(held),
                vram_taken_mib=sum(mib for mib in held if mib is not None) if any(held) else None,
                paused=asleep.get(name),
                models=tuple(sorted(drawn.get(name, ()))),
                workers=tuple(sorted(workers.get(name, ()))),
                troubled="; ".join(sorted(troubles.get(name, ()))) or None,
                lacks=lacks.get(name, {}),
            )
        )
    return told


def taken(connection: Connection, device: str) -> bool:
    """Does anybody draw there now?"""
    held = select(slots.c.device).where(slots.c.device == device, slots.c.job_id.is_not(None))
    return connection.execute(held.limit(1)).first() is not None


def drawn_on(crew: Iterable[Any], model: str | None) -> set[str]:
    """The devices on which these workers would draw a model."""
    return {device for worker in crew for device, models in (worker.places or {}).items() if model in models}


def _lacks(crew: Iterable[Any], drawn: Mapping[str, set[str]]) -> dict[str, dict[str, str]]:
    """By device: the models that nobody can draw there, and why."""
    found: dict[str, dict[str, str]] = {}
    for worker in crew:
        for model, why in (worker.lacks or {}).items():
            if model not in drawn.get(why["device"], ()):
                found.setdefault(why["device"], {})[model] = f"{why['message']}; hint: {why['hint']}"
    return found


def _set(connection: Connection, device: str, why: Pause) -> None:
    touch(connection, slot_of(device))
    told = {"reason": why.reason, "by": why.by, "since": iso(why.since)}
    connection.execute(update(slots).where(slots.c.device == device).values(paused=told, paused_until=why.until))


def _pause(row: Any) -> Pause | None:
    if row.paused is None:
        return None
    told = row.paused
    since = datetime.fromisoformat(told["since"])
    return Pause(reason=told["reason"], by=told["by"], since=since, until=row.paused_until)
