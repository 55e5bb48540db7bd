"""Rows that nobody asks for any more: jobs that ended long ago, and devices that no worker has.

A comparison goes as a whole, once its last job is old, and stays for ever where somebody's vote rests on it.
"""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, false, func, or_, select

from imagen.core.job import State
from imagen.store.tables import jobs, series, slots, votes, workers

MANY = 500  # jobs in one transaction: with their events some ten thousand rows

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


def _past(before: datetime) -> ColumnElement[bool]:
    old = and_(jobs.c.created_at < before, jobs.c.state.in_(_ENDED), jobs.c.finished_at < before)
    other = jobs.alias("other")
    younger = or_(other.c.state.not_in(_ENDED), func.coalesce(other.c.finished_at >= before, false()))
    going_on = exists().where(other.c.series_id == jobs.c.series_id, younger)
    return and_(old, or_(jobs.c.series_id.is_(None), and_(~going_on, ~_voted(jobs.c.series_id))))


def _voted(series_id: ColumnElement[str]) -> ColumnElement[bool]:
    return exists().where(votes.c.series_id == series_id)
