"""How the queue is doing, and what happened since somebody last looked: for whoever watches over a server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from imagen.store import webhooks
from imagen.store.devices import paused
from imagen.store.tables import events, is_queued, is_running, jobs, slots

PAGE = 2000  # what is read at a time
COUNTED = ("started", "warning", "requeued", "completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """This moment."""

    queued: Mapping[str, tuple[int, float]]  # model -> how many wait, and for how many seconds the oldest
    running: Mapping[str, int]
    slots: Mapping[str, tuple[int, int]]  # device -> how many it has, and how many are taken
    vram_mib: Mapping[str, int]  # device that is shared -> what the jobs there hold of it
    paused: frozenset[str]  # devices on which nothing is begun
    webhooks: Mapping[str, tuple[int, float]]  # waiting or failed -> how many, and for how many seconds the oldest

    @property
    def busy(self) -> dict[str, int]:
        """How many jobs of each model wait or run."""
        models = {*self.queued, *self.running}
        return {name: self.queued.get(name, (0, 0.0))[0] + self.running.get(name, 0) for name in models}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One recorded event, as much of it as is counted and told."""

    pos: int
    type: str
    at: datetime
    job: str
    attempt: int
    model: str
    owner: str
    body: Mapping[str, Any]


def numbers(connection: Connection, now: datetime) -> Numbers:
    """Read with the small indexes over what is queued and running; the history is not touched."""
    queued = connection.execute(
        select(jobs.c.model, func.count(), func.min(jobs.c.created_at)).where(is_queued).group_by(jobs.c.model)
    )
    running = connection.execute(select(jobs.c.model, func.count()).where(is_running).group_by(jobs.c.model))
    taken = connection.execute(
        select(slots.c.device, func.count(), func.count(slots.c.job_id), func.sum(slots.c.vram_mib)).group_by(
            slots.c.device
        )
    ).all()
    return Numbers(
        queued={model or "": (count, max(0.0, (now - oldest).total_seconds())) for model, count, oldest in queued},
        running={model or "": count for model, count in running},
        slots={device: (count, busy) for device, count, busy, _ in taken},
        vram_mib={device: int(mib) for device, _, _, mib in taken if mib is not None},
        paused=frozenset(paused(connection, now)),
        webhooks={
            state: (count, max(0.0, (now - oldest).total_seconds()))
            for state, (count, oldest) in webhooks.counts(connection).items()
        },
    )


def happened(connection: Connection, after: int) -> Sequence[Happening]:
    """Starts, warnings, requeues and ends after a position, oldest first, at most a page of them."""
    return _happenings(connection, events.c.pos > after)


def happened_to(connection: Connection, attempts: Mapping[str, int]) -> Sequence[Happening]:
    """The same of these attempts of jobs, however many others there are."""
    found = _happenings(connection, events.c.job_id.in_(attempts))
    return [one for one in found if one.attempt == attempts[one.job]]


def _happenings(connection: Connection, which: ColumnElement[bool]) -> Sequence[Happening]:
    rows = connection.execute(
        select(
            events.c.pos,
            events.c.type,
            events.c.at,
            events.c.job_id,
            events.c.attempt,
            jobs.c.model,
            jobs.c.owner,
            events.c.body,
        )
        .join(jobs, jobs.c.id == events.c.job_id)
        .where(which, events.c.type.in_(COUNTED))
        .order_by(events.c.pos)
        .limit(PAGE)
    )
    return [
        Happening(
            pos=row.pos,
            type=row.type,
            at=row.at,
            job=row.job_id,
            attempt=row.attempt,
            model=row.model or "",
            owner=row.owner,
            body=row.body,
        )
        for row in rows
    ]
