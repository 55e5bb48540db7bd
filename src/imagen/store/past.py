"""Rows that nobody asks for any more: old jobs, used keys, pictures forming, devices that no worker has.

A comparison goes as a whole, once its last job is old, and stays for ever where somebody's vote rests on it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, exists, false, func, or_, select, tuple_

from imagen.core.job import State
from imagen.store.album import STORED
from imagen.store.journal import KEEP_S
from imagen.store.tables import idempotency, images, jobs, live, previews, series, slots, votes, watchers, workers

MANY = 500  # jobs in one transaction: with their events some ten thousand rows
KEYS = 500  # idempotency keys in a page

_ENDED = tuple(state for state in State if state.terminal)


def count(connection: Connection, before: datetime) -> int:
    """How many jobs ended before this moment and may go."""
    return int(connection.execute(select(func.count()).select_from(jobs).where(_past(before))).scalar_one())


def among(connection: Connection, job_ids: Iterable[str], before: datetime) -> set[str]:
    """Those of these jobs that ended before this moment and may go."""
    return set(connection.execute(select(jobs.c.id).where(jobs.c.id.in_(set(job_ids)), _past(before))).scalars())


def drop(connection: Connection, before: datetime) -> int:
    """Drop some of them, the oldest first, with their events and pictures; how many there were."""
    some = select(jobs.c.id).where(_past(before)).order_by(jobs.c.created_at, jobs.c.id).limit(MANY)
    gone = connection.execute(delete(jobs).where(jobs.c.id.in_(some))).rowcount
    left = exists().where(jobs.c.series_id == series.c.id)
    connection.execute(delete(series).where(series.c.created_at < before, ~left, ~_voted(series.c.id)))
    return gone


def drop_devices(connection: Connection) -> None:
    """Drop what is kept of devices that no worker has any more; a pause is an order and stays."""
    rows = connection.execute(select(workers.c.places)).scalars()
    here = {device for places in rows for device in places or ()}
    unused = (slots.c.device.not_in(here), slots.c.job_id.is_(None), slots.c.paused.is_(None))
    connection.execute(delete(slots).where(*unused))


def began(connection: Connection) -> datetime | None:
    """When the first job came in: a picture from before was drawn with another database."""
    first = select(jobs.c.created_at).order_by(jobs.c.created_at).limit(1)
    return connection.execute(first).scalar_one_or_none()


def keys_before(connection: Connection, before: datetime, after: Sequence[str]) -> Sequence[RowMapping]:
    """A page of the idempotency keys used before this moment, in their order, behind the last one seen."""
    key = (idempotency.c.owner, idempotency.c.route, idempotency.c.key)
    query = select(*key, idempotency.c.target).where(idempotency.c.created_at < before)
    if after:
        query = query.where(tuple_(*key) > tuple_(*after))
    return connection.execute(query.order_by(*key).limit(KEYS)).mappings().all()


def needed(connection: Connection, targets: Iterable[str]) -> set[str]:
    """Those of these jobs and series of which anything is left: one that was deleted answers no repeated request."""
    wanted = list(targets)
    drawn = exists().where(images.c.job_id == jobs.c.id)
    kept = exists().where(images.c.job_id == jobs.c.id, images.c.state == STORED)
    left: ColumnElement[bool] = or_(jobs.c.state.not_in(_ENDED), ~drawn, kept)
    rows = connection.execute(
        select(jobs.c.id, jobs.c.series_id).where(or_(jobs.c.id.in_(wanted), jobs.c.series_id.in_(wanted)), left)
    )
    return {name for row in rows for name in (row.id, row.series_id) if name}


def drop_keys(connection: Connection, keys: Sequence[RowMapping]) -> None:
    """Forget these idempotency keys."""
    for one in keys:
        connection.execute(
            delete(idempotency).where(
                idempotency.c.owner == one["owner"],
                idempotency.c.route == one["route"],
                idempotency.c.key == one["key"],
            )
        )


def stale(connection: Connection, now: datetime) -> int:
    """How many rows of pictures forming, and of who watched them, are of no use any more."""
    counts = [
        connection.execute(select(func.count()).select_from(table).where(where)).scalar_one()
        for table, where in _stale(now)
    ]
    return int(sum(counts))


def drop_stale(connection: Connection, now: datetime) -> int:
    """Drop them; how many they were."""
    return sum(connection.execute(delete(table).where(where)).rowcount for table, where in _stale(now))


def _past(before: datetime) -> ColumnElement[bool]:
    old = and_(jobs.c.created_at < before, jobs.c.state.in_(_ENDED), jobs.c.finished_at < before)
    other = jobs.alias("other")
    younger = or_(other.c.state.not_in(_ENDED), func.coalesce(other.c.finished_at >= before, false()))
    going_on = exists().where(other.c.series_id == jobs.c.series_id, younger)
    return and_(old, or_(jobs.c.series_id.is_(None), and_(~going_on, ~_voted(jobs.c.series_id))))


def _voted(series_id: ColumnElement[str]) -> ColumnElement[bool]:
    return exists().where(votes.c.series_id == series_id)


def _stale(now: datetime) -> list[tuple[Any, ColumnElement[bool]]]:
    # The sweep of a worker drops nearly the same, and does not go through all jobs for it; here it happens where no
    # worker runs for long.
    ended = now - timedelta(seconds=KEEP_S)
    going = select(jobs.c.id).where(or_(jobs.c.state == State.RUNNING, jobs.c.finished_at > ended))
    return [
        (live, and_(live.c.updated_at < ended, live.c.job_id.not_in(going))),
        (previews, previews.c.job_id.not_in(going)),
        (watchers, watchers.c.expires_at < now),
    ]
