"""Events: appended in the transaction of the state they tell of, read again in order by anybody who follows."""

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Insert,
    RowMapping,
    Select,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from imagen.core.events import Event, Phase, Preview, Progress, Warning, body_of, from_body
from imagen.core.job import State, StoredImage, Warned
from imagen.store.bell import touch
from imagen.store.columns import upsert
from imagen.store.postgresql import driver
from imagen.store.tables import events, images, is_running, jobs, live, previews, watchers

WATCH_S = 10.0  # how long a watcher who died is still drawn previews for
FOLLOW_S = 60.0  # how long a follower who died is still told of each step
KEEP_S = 60.0  # how long the last progress and promised previews outlive the job, for a slow follower

LOOKED_AT = 1  # by somebody who wants previews, and not only steps


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a follower has not seen yet, in the order to tell it."""

    events: tuple[Event, ...]
    seq: int
    tick: int
    ended: bool
    promised: bool  # a count of previews was asked for: none of them is dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Is the job's end asked for, does anybody look, and which attempt has it now (-1: none)."""

    cancel_requested: bool
    attempt: int
    watched: bool  # somebody wants previews
    followed: bool  # somebody waits for progress


def append(connection: Connection, event: Event) -> int:
    """Record a durable event under the job's next number. The caller moves the state in the same transaction."""
    seq = connection.execute(
        update(jobs).where(jobs.c.id == event.job).values(seq=jobs.c.seq + 1).returning(jobs.c.seq)
    ).scalar_one()
    record(connection, event, int(seq))
    return int(seq)


def record(connection: Connection, event: Event, seq: int) -> None:
    """Record it under a number that the job was given with the change of its state."""
    touch(connection, event.job)
    said = {"job_id": event.job, "seq": seq, "type": event.type, "at": event.at, "attempt": event.attempt}
    body = body_of(event)
    if connection.dialect.name == "postgresql":
        driver.run(connection, driver.spoken(connection, _insert_event), said | {"body": json.dumps(body)})
    else:
        connection.execute(_insert_event(), said | {"body": body})


@functools.cache
def _insert_event() -> Insert:
    return insert(events).values({name: bindparam(name) for name in ("job_id", "seq", "type", "at", "attempt", "body")})


def stored_images(connection: Connection, job_id: str) -> tuple[StoredImage, ...]:
    """The pictures of a job so far."""
    return tuple(pictures_of(connection, [job_id]).get(job_id, ()))


def pictures_of(connection: Connection, job_ids: Sequence[str]) -> dict[str, list[StoredImage]]:
    """The pictures of several jobs so far."""
    found: dict[str, list[StoredImage]] = {}
    rows = connection.execute(_pictures(), {"of": list(job_ids)}).mappings()
    for row in rows:
        found.setdefault(row["job_id"], []).append(StoredImage.from_dict({**row, "index": row["idx"]}))
    return found


@functools.cache  # putting it together takes longer than asking
def _pictures() -> Select[Any]:
    return select(images).where(images.c.job_id.in_(bindparam("of", expanding=True))).order_by(images.c.idx)


def warned_of(connection: Connection, job_ids: Sequence[str]) -> dict[str, dict[Warned, None]]:
    """What several jobs warned of, in order; each warning once, however many attempts said it."""
    said = (
        select(events.c.job_id, events.c.body)
        .where(events.c.job_id.in_(job_ids), events.c.type == Warning.type)
        .order_by(events.c.job_id, events.c.seq)
    )
    found: dict[str, dict[Warned, None]] = {}
    for job_id, body in connection.execute(said):
        warned = Warned(code=body.get("code", ""), message=body.get("message", ""))
        found.setdefault(job_id, {})[warned] = None
    return found


def set_live(
    connection: Connection, job_id: str, attempt: int, tick: int, phase: Phase | None, progress: Progress | None
) -> Attention:
    """Overwrite the one live row of a running job, and tell those who follow it, where there are any."""
    row = {
        "attempt": attempt,
        "tick": tick,
        "phase": _ephemeral_body(phase),
        "progress": _ephemeral_body(progress),
        "updated_at": datetime.now(UTC),
    }
    statement = upsert(connection, live).values(job_id=job_id, **row)
    # A worker that was paused and lost the job must not paint over its successor's progress.
    connection.execute(
        statement.on_conflict_do_update(index_elements=[live.c.job_id], set_=row, where=live.c.attempt <= attempt)
    )
    told = attention(connection, job_id, datetime.now(UTC))
    if told.followed:
        touch(connection, job_id)
    return told


def set_preview(connection: Connection, preview: Preview, *, keep: bool) -> None:
    """Overwrite the latest preview, or with `keep` (a promised count) add one."""
    row = {"tick": preview.tick, "body": _ephemeral_body(preview), "data": preview.data}
    statement = upsert(connection, previews).values(job_id=preview.job, idx=preview.index if keep else 0, **row)
    key = [previews.c.job_id, previews.c.idx]
    # As above, also where the job was lost since its attempt was read: ticks rise over attempts.
    newer = previews.c.tick <= preview.tick
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=row, where=newer))


def drop_previews(connection: Connection, job_id: str) -> None:
    """A new attempt starts with a clean screen."""
    connection.execute(delete(previews).where(previews.c.job_id == job_id))


def watch(connection: Connection, watcher: str, job_id: str, now: datetime) -> None:
    """Say that somebody wants to see previews of this job, for the next WATCH_S."""
    watch_each(connection, {watcher: job_id}, now)


def watch_each(connection: Connection, looks: Mapping[str, str], now: datetime) -> None:
    """The same of several jobs, each under a name of its own."""
    _look(connection, looks, now + timedelta(seconds=WATCH_S))


def follow(connection: Connection, looks: Mapping[str, str], now: datetime) -> None:
    """Say, under these names, that somebody waits for the steps of some jobs, for the next FOLLOW_S.

    Of which jobs is said by `steps_of` and `steps_of_all`.
    """
    _look(connection, looks, now + timedelta(seconds=FOLLOW_S))


def unwatch(connection: Connection, *names: str) -> None:
    """Nobody behind these names looks any more."""
    connection.execute(delete(watchers).where(watchers.c.id.in_(names)))


def steps_of(job_id: str) -> str:
    """What `follow` calls the steps of one job; no id has a colon in it."""
    return f"job:{job_id}"


def steps_of_all(owner: str | None) -> str:
    """What it calls the steps of all jobs of an owner, or of everybody."""
    return "jobs:" if owner is None else f"owner:{owner}"


def _look(connection: Connection, looks: Mapping[str, str], until: datetime) -> None:
    statement = upsert(connection, watchers)
    new = {name: statement.excluded[name] for name in ("job_id", "expires_at")}
    # In one order: two that renew the same rows in different ones would wait for each other.
    rows = [{"id": name, "job_id": looks[name], "expires_at": until} for name in sorted(looks)]
    connection.execute(statement.on_conflict_do_update(index_elements=[watchers.c.id], set_=new), rows)


def watched(connection: Connection, job_id: str, now: datetime) -> bool:
    """Does anybody want previews of this job?"""
    return bool(
        connection.execute(
            select(exists().where(watchers.c.job_id == job_id, watchers.c.expires_at > now))
        ).scalar_one()
    )


def attention(connection: Connection, job_id: str, now: datetime) -> Attention:
    """What a running attempt has to know while it draws."""
    looks = {"id": job_id, "steps": steps_of(job_id), "everybodys": steps_of_all(None), "now": now}
    row = connection.execute(_attention(), looks).one()
    return Attention(
        cancel_requested=row.cancel_requested,
        attempt=row.attempt if row.state == State.RUNNING else -1,
        watched=row.looked == LOOKED_AT,
        # SQLite's processes see each write anyway, and to tell the others here costs nothing.
        followed=row.looked is not None or connection.dialect.name != "postgresql",
    )


@functools.cache  # asked five times a second by each running job
def _attention() -> Select[Any]:
    id_, owners = bindparam("id", type_=Text), literal(steps_of_all("")) + jobs.c.owner
    whom = (id_, bindparam("steps", type_=Text), bindparam("everybodys", type_=Text), owners)
    looked = (
        select(func.max(case((watchers.c.job_id == id_, LOOKED_AT), else_=0)))
        .where(watchers.c.job_id.in_(whom), watchers.c.expires_at > bindparam("now"))
        .scalar_subquery()
    )
    return select(jobs.c.cancel_requested, jobs.c.attempt, jobs.c.state, looked.label("looked")).where(jobs.c.id == id_)


def cancelled_by(connection: Connection, job_id: str) -> str:
    """Who asked for the end."""
    by = connection.execute(select(jobs.c.cancelled_by).where(jobs.c.id == job_id)).scalar_one()
    return by or "sql"


def news(connection: Connection, job_id: str, after: int, tick: int, *, preview_tick: int | None = None) -> News:
    """Everything after event `after` and tick `tick`: durable events, then what is live, in order.

    Previews come only with `preview_tick`, and only those after it.
    """
    job = connection.execute(select(jobs.c.state, jobs.c.preview).where(jobs.c.id == job_id)).one()
    told: list[tuple[int, int, Event]] = []
    rows = connection.execute(
        select(events).where(events.c.job_id == job_id, events.c.seq > after).order_by(events.c.seq)
    ).mappings()
    for row in rows:
        after = max(after, row["seq"])
        event = _durable(connection, row)
        if event is not None:
            told.append((row["seq"], 0, event))
    newest = tick
    lively = (
        connection.execute(select(live).where(live.c.job_id == job_id, live.c.tick > tick)).mappings().one_or_none()
    )
    if lively:
        newest = lively["tick"]
        told += [(event.seq, event.tick, event) for event in _lively(job_id, lively, tick)]
    if preview_tick is not None:
        shown = select(previews).where(previews.c.job_id == job_id, previews.c.tick > preview_tick)
        for row in connection.execute(shown.order_by(previews.c.tick)).mappings():
            told.append((row["body"]["seq"], row["tick"], _preview(job_id, row)))
    told.sort(key=lambda item: item[:2])
    last = next((seq for seq, _, event in told if event.terminal), None)
    # Whatever was live when the end was written belongs before the end.
    order = tuple(event for seq, _, event in told if last is None or event.durable or seq < last)
    promised = isinstance(job.preview, Mapping) and job.preview.get("count") is not None
    return News(events=order, seq=after, tick=newest, ended=State(job.state).terminal, promised=promised)


def position(connection: Connection) -> int:
    """The number of the newest event of all jobs."""
    return int(connection.execute(select(func.coalesce(func.max(events.c.pos), 0))).scalar_one())


def since(
    connection: Connection, pos: int, *, owner: str | None = None, only: Collection[str] | None = None, limit: int
) -> list[tuple[int, str, Event | None]]:
    """Durable events of all jobs after position `pos`, in order: position, owner, event.

    No event where its type is one of a later version: its position is none that is missing.
    """
    query = select(events, jobs.c.owner).join(jobs, jobs.c.id == events.c.job_id).where(events.c.pos > pos)
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    if only is not None:
        query = query.where(events.c.job_id.in_(only))
    rows = connection.execute(query.order_by(events.c.pos).limit(limit)).mappings()
    return [(row["pos"], row["owner"], _durable(connection, row)) for row in rows]


def lively(connection: Connection, ticks: Mapping[str, int]) -> list[tuple[str, Phase | Progress]]:
    """What is live of all running jobs and newer than the tick known of each: owner, event."""
    rows = connection.execute(select(live, jobs.c.owner).join(jobs, jobs.c.id == live.c.job_id).where(is_running))
    told = []
    for row in rows.mappings():
        for event in _lively(row["job_id"], row, ticks.get(row["job_id"], 0)):
            told.append((row["owner"], event))
    return told


def shown(connection: Connection, ticks: Mapping[str, int]) -> list[Preview]:
    """The newest preview of each of these jobs, where it is newer than its tick."""
    latest = (
        select(previews.c.job_id, func.max(previews.c.tick).label("tick"))
        .where(previews.c.job_id.in_(ticks))
        .group_by(previews.c.job_id)
    )
    newer = {row.job_id: row.tick for row in connection.execute(latest) if row.tick > ticks[row.job_id]}
    if not newer:
        return []
    rows = connection.execute(
        select(previews).where(previews.c.job_id.in_(newer), previews.c.tick.in_(newer.values()))
    ).mappings()
    return [_preview(row["job_id"], row) for row in rows if row["tick"] == newer[row["job_id"]]]


def _durable(connection: Connection, row: RowMapping) -> Event | None:
    body = row["body"]
    if row["type"] == "cancelled" and "images" not in body:  # written by the database's trigger, which keeps it short
        body = body | {"images": [image.as_dict() for image in stored_images(connection, row["job_id"])]}
    return from_body(row["type"], body, job=row["job_id"], seq=row["seq"], at=row["at"], attempt=row["attempt"])


def _lively(job_id: str, row: RowMapping, tick: int) -> list[Phase | Progress]:
    told = []
    for type_ in ("phase", "progress"):
        body = row[type_]
        if body and body["tick"] > tick:
            event = _ephemeral(type_, job_id, body)
            assert isinstance(event, Phase | Progress)
            told.append(event)
    return told


def _ephemeral_body(event: Event | None) -> dict[str, Any] | None:
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
