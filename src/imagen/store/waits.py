"""What a job that waits is waiting for, in words."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from imagen.core.errors import ImagenError
from imagen.store import devices
from imagen.store.lacking import lacking
from imagen.store.tables import events, jobs, slots, workers

SPANS = (("d", 86_400), ("h", 3600), ("min", 60))

_crew = select(workers.c.host, workers.c.solo, workers.c.models, workers.c.places, workers.c.troubled, workers.c.lacks)


def waits_for(connection: Connection, row: Row[Any]) -> str | None:
    """Somebody who draws it, a device that is taken or paused, or its time; None when it is about to be taken."""
    now = datetime.now(UTC)
    if row.record is None:
        return _unresolved(connection, row.model)
    if row.run_after is not None and row.run_after > now:
        in_s = (row.run_after - now).total_seconds()
        return _next_try(connection, row, in_s) if row.attempt else f"its time, in {_span(in_s)}"
    crew = connection.execute(_crew).all()
    drawn_on = devices.drawn_on(crew, row.model) or {row.device}
    paused = {device: why for device, why in devices.paused(connection, now).items() if device in drawn_on}
    if paused.keys() == drawn_on:
        return "; ".join(f"{device}: {why}" for device, why in sorted(paused.items()))
    drawers = [one for one in crew if not one.solo and row.model in one.models]
    if drawers and all(one.troubled for one in drawers):
        return "a worker that can store pictures: " + "; ".join(sorted({one.troubled for one in drawers}))
    # A one-shot command may draw it too: whose jobs it works nobody can tell.
    if not drawers and not any(one.solo for one in crew) and (why := _lacking(crew, row.model)):
        return _able(row.model, why)
    open_ = drawn_on - paused.keys()
    held = connection.execute(
        select(jobs.c.id, jobs.c.model, jobs.c.worker, slots.c.device, slots.c.vram_mib)
        .join(slots, slots.c.job_id == jobs.c.id)
        .where(slots.c.device.in_(open_))
        .order_by(slots.c.device, slots.c.slot)
    ).all()
    if not held and not any(one.solo or row.model in one.models for one in crew):
        return f"a worker that draws {row.model}"
    free = connection.execute(
        select(func.count()).where(slots.c.device.in_(open_), slots.c.job_id.is_(None))
    ).scalar_one()
    shared = any(one.vram_mib is not None for one in held)  # then a free slot is not yet enough room
    if not held or (free and not shared):
        return None
    drawing = ", ".join(f"job {one.id[-8:]} ({one.model})" for one in held)
    return f"{', '.join(sorted({one.device for one in held}))}: held by {drawing}"


def _unresolved(connection: Connection, model: str | None) -> str:
    """A row by SQL is completed by whoever may take something."""
    if model is None:
        return "somebody who draws"
    crew = connection.execute(_crew).all()
    drawn = any(not one.solo and model in one.models for one in crew)
    why = None if drawn else _lacking(crew, model)
    return _able(model, why) if why is not None else f"somebody who knows the model {model!r}"


def _lacking(crew: Iterable[Any], model: str) -> ImagenError | None:
    return lacking(((one.host, one.lacks) for one in crew), model)


def _able(model: str, why: ImagenError) -> str:
    return f"a worker that can draw {model}; {why.message}; hint: {why.hint}"


def _next_try(connection: Connection, row: Row[Any], in_s: float) -> str:
    last = (
        select(events.c.body)
        .where(events.c.job_id == row.id, events.c.type == "requeued")
        .order_by(events.c.seq.desc())
        .limit(1)
    )
    body = connection.execute(last).scalar_one_or_none() or {}
    return f"its next try in {_span(in_s)}" + (f", after: {body['reason']}" if body.get("reason") else "")


def _span(seconds: float) -> str:
    """`12 s`, or as many minutes, hours or days as there are two of."""
    name, size_s = next((one for one in SPANS if seconds >= 2 * one[1]), ("s", 1))
    return f"{max(1, round(seconds / size_s))} {name}"
