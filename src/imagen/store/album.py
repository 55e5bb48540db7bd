"""Statements about pictures after they are drawn: who may see one, and what was deleted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, RowMapping, delete, select, update

from imagen.core.job import State
from imagen.store.tables import images, jobs, live, previews

STORED, DELETED = "stored", "deleted"
MANY = 500  # ids in one statement; both databases take more, but neither gains by it


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
