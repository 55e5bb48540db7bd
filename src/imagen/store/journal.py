"""Events: appended in the transaction of the state they tell of, read again in order by anybody who follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, exists, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from imagen.core.events import Event, Phase, Preview, Progress, body_of, from_body
from imagen.core.job import State, StoredImage
from imagen.store.tables import events, images, jobs, live, previews, watchers

WATCH_S = 10.0  # how long a watcher who died is still drawn previews for
KEEP_S = 60.0  # how long the last progress and promised previews outlive the job, for a slow follower


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a follower has not seen yet, in the order to tell it."""

    events: tuple[Event, ...]
    seq: int
    tick: int
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Is the job's end asked for, does anybody look, and which attempt has it now (-1: none)."""

    cancel_requested: bool
    attempt: int
    watched: bool


def append(connection: Connection, event: Event) -> int:
    """Record a durable event under the job's next number. The caller moves the state in the same transaction."""
    seq = connection.execute(
        update(jobs).where(jobs.c.id == event.job).values(seq=jobs.c.seq + 1).returning(jobs.c.seq)
    ).scalar_one()
    connection.execute(
        insert(events).values(
            job_id=event.job,
            seq=seq,
            type=event.type,
            at=event.at,
            attempt=event.attempt,
            body=body_of(event),
        )
    )
    return int(seq)


def stored_images(connection: Connection, job_id: str) -> tuple[StoredImage, ...]:
    """The pictures of a job so far."""
    rows = connection.execute(select(images).where(images.c.job_id == job_id).order_by(images.c.idx)).mappings()
    return tuple(StoredImage.from_dict({**row, "index": row["idx"]}) for row in rows)


def set_live(
    connection: Connection, job_id: str, attempt: int, tick: int, phase: Phase | None, progress: Progress | None
) -> None:
    """Overwrite the one live row of a running job."""
    row = {
        "attempt": attempt,
        "tick": tick,
        "phase": _told(phase),
        "progress": _told(progress),
        "updated_at": datetime.now(UTC),
    }
    statement = upsert(live).values(job_id=job_id, **row)
    # A worker that was paused and lost the job must not paint over its successor's progress.
    connection.execute(
        statement.on_conflict_do_update(index_elements=[live.c.job_id], set_=row, where=live.c.attempt <= attempt)
    )


def set_preview(connection: Connection, preview: Preview, *, keep: bool) -> None:
    """Overwrite the latest preview, or with `keep` (a promised count) add one."""
    row = {"tick": preview.tick, "body": _told(preview), "data": preview.data}
    statement = upsert(previews).values(job_id=preview.job, idx=preview.index if keep else 0, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=[previews.c.job_id, previews.c.idx], set_=row))


def drop_previews(connection: Connection, job_id: str) -> None:
    """A new attempt starts with a clean screen."""
    connection.execute(delete(previews).where(previews.c.job_id == job_id))


def watch(connection: Connection, watcher: str, job_id: str, now: datetime) -> None:
    """Say that somebody wants to see previews of this job, for the next WATCH_S."""
    row = {"expires_at": now + timedelta(seconds=WATCH_S)}
    statement = upsert(watchers).values(id=watcher, job_id=job_id, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=[watchers.c.id], set_=row))


def unwatch(connection: Connection, watcher: str) -> None:
    """Nobody behind this name looks any more."""
    connection.execute(delete(watchers).where(watchers.c.id == watcher))


def watched(connection: Connection, job_id: str, now: datetime) -> bool:
    """Does anybody want previews of this job?"""
    return bool(
        connection.execute(
            select(exists().where(watchers.c.job_id == job_id, watchers.c.expires_at > now))
        ).scalar_one()
    )


def attention(connection: Connection, job_id: str, now: datetime) -> Attention:
    """What a running attempt has to know while it draws."""
    row = connection.execute(
        select(jobs.c.cancel_requested, jobs.c.attempt, jobs.c.state).where(jobs.c.id == job_id)
    ).one()
    return Attention(
        cancel_requested=row.cancel_requested,
        attempt=row.attempt if row.state == State.RUNNING else -1,
        watched=watched(connection, job_id, now),
    )


def cancelled_by(connection: Connection, job_id: str) -> str:
    """Who asked for the end."""
    by = connection.execute(select(jobs.c.cancelled_by).where(jobs.c.id == job_id)).scalar_one()
    return by or "sql"


def news(connection: Connection, job_id: str, after: int, tick: int, *, with_previews: bool) -> News:
    """Everything after event `after` and tick `tick`: durable events, then what is live, in order."""
    state = connection.execute(select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one()
    told: list[tuple[int, int, Event]] = []
    rows = connection.execute(
        select(events).where(events.c.job_id == job_id, events.c.seq > after).order_by(events.c.seq)
    ).mappings()
    for row in rows:
        after = max(after, row["seq"])
        body = row["body"]
        if (
            row["type"] == "cancelled" and "images" not in body
        ):  # written by the database's trigger, which keeps it short
            body = body | {"images": [image.as_dict() for image in stored_images(connection, job_id)]}
        event = from_body(row["type"], body, job=job_id, seq=row["seq"], at=row["at"], attempt=row["attempt"])
        if event is not None:
            told.append((row["seq"], 0, event))
    newest = tick
    lively = (
        connection.execute(select(live).where(live.c.job_id == job_id, live.c.tick > tick)).mappings().one_or_none()
    )
    if lively:
        newest = max(newest, lively["tick"])
        for type_ in ("phase", "progress"):
            body = lively[type_]
            if body and body["tick"] > tick:
                told.append((body["seq"], body["tick"], _ephemeral(type_, job_id, body)))
    if with_previews:
        shown = select(previews).where(previews.c.job_id == job_id, previews.c.tick > tick)
        for row in connection.execute(shown.order_by(previews.c.tick)).mappings():
            newest = max(newest, row["tick"])
            told.append((row["body"]["seq"], row["tick"], _preview(job_id, row)))
    told.sort(key=lambda item: item[:2])
    ended = State(state).terminal
    last = next((seq for seq, _, event in told if event.terminal), None)
    # Whatever was live when the end was written belongs before the end.
    order = tuple(event for seq, _, event in told if last is None or event.durable or seq < last)
    return News(events=order, seq=after, tick=newest, ended=ended)


def _told(event: Event | None) -> dict[str, Any] | None:
    if event is None:
        return None
    return body_of(event) | {"seq": event.seq, "at": event.at.isoformat(), "attempt": event.attempt}


def _ephemeral(type_: str, job_id: str, body: Mapping[str, Any], **more: Any) -> Event:
    event = from_body(
        type_,
        dict(body) | more,
        job=job_id,
        seq=body["seq"],
        at=datetime.fromisoformat(body["at"]),
        attempt=body["attempt"],
    )
    assert event is not None
    return event


def _preview(job_id: str, row: RowMapping) -> Preview:
    event = _ephemeral("preview", job_id, row["body"], data=row["data"])
    assert isinstance(event, Preview)
    return event
