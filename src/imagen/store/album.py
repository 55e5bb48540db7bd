"""Statements about pictures after they are drawn: who may see one, what was deleted, what nobody needs any more."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, exists, func, or_, select, tuple_, update

from imagen.core.job import State
from imagen.store.journal import KEEP_S
from imagen.store.tables import idempotency, images, jobs, live, previews, watchers

STORED, DELETED = "stored", "deleted"
MANY = 500  # ids in one statement; both databases take more, but neither gains by it

_ENDED = tuple(state for state in State if state.terminal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the tables say about one picture."""

    id: str
    job_id: str
    path: str
    state: str
    finished_at: datetime | None  # of its job; None while that runs


def image(connection: Connection, image_id: str, owner: str | None) -> RowMapping | None:
    """One picture and whether its job has ended; None when there is none, or when it is another owner's."""
    query = select(*images.c, jobs.c.state.label("job_state")).join(jobs, jobs.c.id == images.c.job_id)
    query = query.where(images.c.id == image_id)
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    return connection.execute(query).mappings().one_or_none()


def job_state(connection: Connection, job_id: str, owner: str | None) -> State | None:
    """How a job stands; None when there is none, or when it is another owner's."""
    query = select(jobs.c.state).where(jobs.c.id == job_id)
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    found = connection.execute(query).scalar_one_or_none()
    return State(found) if found is not None else None


def paths(connection: Connection, job_ids: Iterable[str]) -> dict[str, str]:
    """Where the stored pictures of these jobs lie, by their ids."""
    wanted = list(job_ids)
    found: dict[str, str] = {}
    for first in range(0, len(wanted), MANY):
        rows = connection.execute(
            select(images.c.id, images.c.path).where(
                images.c.job_id.in_(wanted[first : first + MANY]), images.c.state == STORED
            )
        )
        found |= {row.id: row.path for row in rows}
    return found


def forget_one(connection: Connection, image_id: str, owner: str | None) -> str | None:
    """Say that a picture is deleted, before its bytes are; where it lies, or None when there is none."""
    row = image(connection, image_id, owner)
    if row is None:
        return None
    if row["state"] == STORED:
        forget(connection, [image_id])
    if State(row["job_state"]).terminal:
        drop_forming(connection, row["job_id"])
    return str(row["path"])


def forget(connection: Connection, image_ids: Sequence[str]) -> None:
    """Say that these pictures are deleted, before their bytes are."""
    connection.execute(update(images).where(images.c.id.in_(image_ids)).values(state=DELETED))


def forget_job(connection: Connection, job_id: str) -> list[str]:
    """Say that all pictures of a job that ended are deleted; where they lie."""
    rows = connection.execute(
        update(images).where(images.c.job_id == job_id).values(state=DELETED).returning(images.c.path)
    )
    found = list(rows.scalars())
    drop_forming(connection, job_id)
    return found


def drop_forming(connection: Connection, job_id: str) -> None:
    """Drop what was kept of a picture forming: a preview shows what the picture showed."""
    connection.execute(delete(previews).where(previews.c.job_id == job_id))
    connection.execute(delete(live).where(live.c.job_id == job_id))


def known(connection: Connection, image_ids: Iterable[str]) -> dict[str, Known]:
    """What the tables say about these pictures."""
    rows = connection.execute(
        select(images.c.id, images.c.job_id, images.c.path, images.c.state, jobs.c.finished_at)
        .join(jobs, jobs.c.id == images.c.job_id)
        .where(images.c.id.in_(list(image_ids)))
    )
    return {row.id: Known(**row._mapping) for row in rows}


def stored_after(connection: Connection, image_id: str) -> list[Known]:
    """A page of the pictures that should be there, by id; the last one's id asks for the next page."""
    rows = connection.execute(
        select(images.c.id, images.c.job_id, images.c.path, images.c.state, jobs.c.finished_at)
        .join(jobs, jobs.c.id == images.c.job_id)
        .where(images.c.id > image_id, images.c.state == STORED)
        .order_by(images.c.id)
        .limit(MANY)
    )
    return [Known(**row._mapping) for row in rows]


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
    return connection.execute(query.order_by(*key).limit(MANY)).mappings().all()


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


def _stale(now: datetime) -> list[tuple[Any, ColumnElement[bool]]]:
    # The sweep of a worker does the same; here it happens where no worker runs for long.
    ended = now - timedelta(seconds=KEEP_S)
    going = select(jobs.c.id).where(or_(jobs.c.state == State.RUNNING, jobs.c.finished_at > ended))
    return [
        (live, and_(live.c.updated_at < ended, live.c.job_id.not_in(going))),
        (previews, previews.c.job_id.not_in(going)),
        (watchers, watchers.c.expires_at < now),
    ]
