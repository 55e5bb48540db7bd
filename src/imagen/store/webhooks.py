"""Webhooks: the ends that somebody wants to be told of, each taken by one courier at a time, until it arrived.

All moments here are those of the database's clock, so that machines whose clocks differ agree on what is due. A
message that is taken is due again after LEASE_S; who took it may still say what became of it while nobody took it anew.
"""

import random
import secrets as chance
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, exists, func, or_, select, update

from imagen.core.errors import Conflict, RequestError
from imagen.core.ids import first_id
from imagen.core.job import State, state_of
from imagen.core.webhook import Delivery, Webhook
from imagen.store.bell import touch
from imagen.store.columns import later, now, upsert
from imagen.store.tables import deliveries, is_open, jobs, secrets, series

TOPIC = "webhooks:"  # somebody may have something to tell
SEED = "webhooks"
LEASE_S = 30.0  # three times what one try may take: a courier that dies holds a message up for no longer
FIRST_S, LONGEST_S = 1.0, 3600.0  # between two tries
GROWTH = 3.0  # each wait is three times what was waited in all: 1 s, 3 s, 12 s, 48 s … an hour
GIVE_UP_S = 86_400.0
FORGOTTEN = 500  # ends forgotten at a time, for the same reason as FRESH
FRESH = 25  # ends looked through at a time: SQLite has one writer, which draws too

_waits = and_(is_open, deliveries.c.state == "waiting")
_due = and_(_waits, deliveries.c.due_at <= now())


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A delivery in a courier's hands."""

    id: str
    tries: int  # the fence: whoever takes it anew raises it
    type: str
    at: datetime
    webhook: Webhook
    owner: str
    age_s: float  # for how long it has been tried
    job: str | None = None
    series: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one try."""

    ok: bool
    status: int | None = None
    said: str | None = None
    final: bool = False  # trying again would change nothing
    retry_after_s: float = 0.0


def anything(connection: Connection, busy: Collection[str]) -> bool:
    """Is something due, apart from what goes to a host that is busy enough?"""
    return bool(connection.execute(select(exists().where(_due, _not_to(busy)))).scalar_one())


def take(connection: Connection, room: int, busy: Collection[str]) -> list[Message]:
    """Up to `room` messages that are due, oldest first."""
    fresh = select(deliveries).where(_due, deliveries.c.host.is_(None)).order_by(deliveries.c.due_at).limit(FRESH)
    ended = connection.execute(fresh.with_for_update(skip_locked=True)).all()
    for row in ended:
        _sort(connection, row)
    if len(ended) == FRESH:
        touch(connection, TOPIC)  # there are more, and perhaps nothing to tell among these
    due = (
        select(deliveries.c.id)
        .where(_due, deliveries.c.host.is_not(None), _not_to(busy))
        .order_by(deliveries.c.due_at)
        .limit(room)
        .with_for_update(skip_locked=True)
    )
    taken = [_taken(connection, delivery_id) for delivery_id in connection.execute(due).scalars().all()]
    return [message for message in taken if message is not None]


def finish(connection: Connection, message: Message, answer: Answer) -> Delivery | None:
    """Note what became of a try; None when somebody else has the message by now."""
    wait_s = max(back_off_s(message.age_s), min(answer.retry_after_s, LONGEST_S))
    changes: dict[str, Any] = {"status": answer.status, "said": answer.said}
    if answer.ok:
        changes |= {"state": "delivered", "ended_at": now()}
    elif answer.final or message.age_s + wait_s > GIVE_UP_S:
        changes |= {"state": "failed", "ended_at": now()}
    else:
        # Jitter, so that what failed together does not come back together.
        changes["due_at"] = later(wait_s * random.uniform(1.0, 1.25))
    mine = and_(_waits, deliveries.c.id == message.id, deliveries.c.tries == message.tries)
    row = connection.execute(update(deliveries).where(mine).values(**changes).returning(*deliveries.c)).one_or_none()
    return None if row is None else _delivery(row)


def back_off_s(age_s: float) -> float:
    """How long to wait after a try that failed, when the first one was so long ago."""
    return min(max(FIRST_S, GROWTH * age_s), LONGEST_S)


def of_jobs(connection: Connection, ids: Collection[str]) -> dict[str, Delivery]:
    """What became of telling of these jobs."""
    if not ids:
        return {}
    rows = connection.execute(select(deliveries).where(deliveries.c.id.in_(ids)))
    return {row.id: _delivery(row) for row in rows}


def of_series(connection: Connection, series_id: str) -> Delivery | None:
    """What became of telling of the last ending of a series."""
    newest = select(deliveries).where(deliveries.c.series_id == series_id).order_by(deliveries.c.at.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return None if row is None else _delivery(row)


def again(connection: Connection, delivery_id: str | None) -> None:
    """Begin anew to deliver this, with the same id: whoever saw it already knows it."""
    found = None
    if delivery_id is not None:
        found = connection.execute(_anew().where(deliveries.c.id == delivery_id)).first()
    if found is None:
        raise Conflict(
            "there is nothing that a webhook would be told",
            hint="it is told of ends, where the request named a `webhook` that wants them; what became of a message "
            "is forgotten after a while: `webhooks: keep_days:`",
            param="webhook",
        )
    touch(connection, TOPIC)


def all_again(connection: Connection) -> list[str]:
    """Begin anew with everything that was given up; its ids."""
    ids = connection.execute(_anew().where(is_open, deliveries.c.state == "failed")).scalars().all()
    touch(connection, TOPIC)
    return sorted(ids)


def forget(connection: Connection, days: int, few: int = FORGOTTEN) -> int:
    """Drop what was delivered or given up so many days ago, a few at a time; how many these were."""
    before = datetime.now(UTC) - timedelta(days=days)
    # An id begins with the moment at which its job or series was made: the primary key finds the old ones, and what
    # is left among them is little.
    old = and_(deliveries.c.id < first_id(before), deliveries.c.state != "waiting", deliveries.c.ended_at < before)
    oldest = select(deliveries.c.id).where(old).order_by(deliveries.c.id).limit(few)
    going = connection.execute(oldest.with_for_update(skip_locked=True)).scalars().all()
    return connection.execute(delete(deliveries).where(deliveries.c.id.in_(going))).rowcount if going else 0


def counts(connection: Connection) -> dict[str, tuple[int, datetime]]:
    """How many wait and how many were given up, and since when the oldest."""
    told = select(deliveries.c.state, func.count(), func.min(deliveries.c.since)).where(is_open)
    return {state: (count, oldest) for state, count, oldest in connection.execute(told.group_by(deliveries.c.state))}


def seed(connection: Connection) -> str:
    """What the secrets of this database are made from; drawn by lot when it is first needed."""
    row = {"name": SEED, "value": chance.token_urlsafe(48), "created_at": datetime.now(UTC)}
    connection.execute(upsert(connection, secrets).values(row).on_conflict_do_nothing())
    return str(connection.execute(select(secrets.c.value).where(secrets.c.name == SEED)).scalar_one())


def wish_of(text: str | None) -> Webhook | None:
    """A webhook as it is kept; None where somebody wrote one in SQL that means nothing."""
    try:
        return Webhook.from_text(text) if text else None
    except RequestError:
        return None


def _sort(connection: Connection, row: Row[Any]) -> None:
    """A job ended: keep the row if its webhook wants to be told, and look whether its series ended with it."""
    job: Any = connection.execute(
        select(jobs.c.webhook, jobs.c.state, jobs.c.series_id, series.c.webhook.label("of_series"), series.c.cancelled)
        .join(series, series.c.id == jobs.c.series_id, isouter=True)
        .where(jobs.c.id == row.job_id)
    ).one()
    wish, of_series = wish_of(job.webhook), wish_of(job.of_series)
    if of_series is not None:
        _look_at_series(connection, job, of_series)
    this = deliveries.c.id == row.id
    if wish is None:
        why = "the webhook of the row cannot be used"
        connection.execute(update(deliveries).where(this).values(state="failed", said=why, ended_at=now()))
    elif of_series.each if of_series is not None else wish.wants(job.state):
        connection.execute(update(deliveries).where(this).values(host=wish.origin))
    else:
        connection.execute(delete(deliveries).where(this))


def _look_at_series(connection: Connection, job: Any, wish: Webhook) -> None:
    """Whoever commits the last end of a series is seen here by somebody, because this runs after that commit.

    Two may see it: how many jobs the series has is the number of this ending, so there is one row for it.
    """
    cells = connection.execute(
        select(jobs.c.state, jobs.c.superseded, func.count())
        .where(jobs.c.series_id == job.series_id)
        .group_by(jobs.c.state, jobs.c.superseded)
    ).all()
    state = state_of({State(state) for state, superseded, _ in cells if not superseded}, cancelled=job.cancelled)
    if state == "running" or not wish.wants(state):
        return
    number = sum(count for *_, count in cells)
    ending = {"id": f"{job.series_id}-{number}", "series_id": job.series_id, "type": f"series.{state}"}
    connection.execute(upsert(connection, deliveries).values(host=wish.origin, **ending).on_conflict_do_nothing())


def _taken(connection: Connection, delivery_id: str) -> Message | None:
    row = connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id)
        .values(tries=deliveries.c.tries + 1, due_at=later(LEASE_S))
        .returning(*deliveries.c, now().label("clock"))
    ).one()
    about = jobs if row.series_id is None else series
    told = connection.execute(
        select(about.c.webhook, about.c.owner).where(about.c.id == (row.job_id or row.series_id))
    ).one()
    wish = wish_of(told.webhook)
    if wish is None:  # it was there when this was sorted; somebody in SQL took it away
        connection.execute(delete(deliveries).where(deliveries.c.id == delivery_id))
        return None
    return Message(
        id=row.id,
        tries=row.tries,
        type=row.type,
        at=row.at,
        webhook=wish,
        owner=told.owner,
        age_s=max(0.0, (row.clock - row.since).total_seconds()),
        job=row.job_id,
        series=row.series_id,
    )


def _anew() -> Any:
    values = {"state": "waiting", "since": now(), "due_at": now(), "ended_at": None}
    return update(deliveries).values(**values).returning(deliveries.c.id)


def _not_to(busy: Iterable[str]) -> Any:
    return or_(deliveries.c.host.is_(None), deliveries.c.host.not_in(list(busy)))


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        state=row.state,
        tries=row.tries,
        status=row.status,
        said=row.said,
        next_at=row.due_at if row.state == "waiting" else None,
        ended_at=row.ended_at,
    )
