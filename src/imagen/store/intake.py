"""How jobs get in: submitted whole by a surface, or inserted by plain SQL and completed by the worker that claims."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from imagen.core.errors import Conflict, ImagenError, RequestError, TooMany, UnknownModel
from imagen.core.events import Failed, Warning
from imagen.core.ids import new_id
from imagen.core.job import LOCAL, State, Warned
from imagen.core.model import Model
from imagen.core.request import Draft, PreviewPolicy, Request, preview_policy
from imagen.core.webhook import Webhook
from imagen.store import journal, templates
from imagen.store.bell import queue_of, touch
from imagen.store.columns import upsert
from imagen.store.order import unresolved
from imagen.store.tables import idempotency, is_queued, jobs, series
from imagen.store.webhooks import TOPIC

UNKNOWN_MODEL_S = 60.0  # how long a row may name a model that no live catalog knows


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A resolved request on its way into the queue, with everything it will ever need."""

    request: Request
    model: Model
    id: str | None = None
    preview: PreviewPolicy | None = None
    warnings: Sequence[Warned] = ()
    priority: int = 0
    owner: str = LOCAL
    series: str | None = None
    cell: int | None = None
    retry_of: str | None = None
    webhook: Webhook | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """An idempotency key: the same one brings the same jobs, whoever lost the answer."""

    route: str
    key: str
    body_hash: str
    owner: str = LOCAL


Resolve = Callable[[Draft], NewJob]


def submit(connection: Connection, new: Iterable[NewJob]) -> list[str]:
    """Insert jobs; the database itself records `queued`. Returns their ids in order."""
    ids = []
    new = list(new)
    templates.keep(connection, (job.model for job in new))
    for job in new:
        job_id = job.id or new_id()
        touch(connection, queue_of(job.model.name), job_id)
        if job.retry_of is not None and job.series is not None:
            # Two retries at once would both fill the cell: the second waits for the first.
            connection.execute(select(series.c.id).where(series.c.id == job.series).with_for_update())
            connection.execute(
                update(jobs).where(jobs.c.series_id == job.series, jobs.c.cell == job.cell).values(superseded=True)
            )
        connection.execute(insert(jobs).values(id=job_id, created_at=datetime.now(UTC), **_columns(job)))
        _warn(connection, job_id, job)
        ids.append(job_id)
    return ids


def submitted_before(connection: Connection, once: Once) -> list[str] | None:
    """What this key brought already; None when it is new. Another body under the same key is a Conflict.

    The key is taken by asking: whoever asks second waits for the first one's transaction.
    """
    taken = connection.execute(
        upsert(connection, idempotency)
        .values(
            owner=once.owner,
            route=once.route,
            key=once.key,
            body_hash=once.body_hash,
            target="",
            created_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing()
        .returning(idempotency.c.key)
    )
    if taken.first() is not None:
        return None
    found = connection.execute(select(idempotency).where(_is(once))).one_or_none()
    if found is None:  # what it had brought was turned away this very moment
        return submitted_before(connection, once)
    if found.body_hash != once.body_hash:
        raise Conflict(
            f"the idempotency key {once.key!r} was used for another request",
            hint="use a new key for a new request",
            param="idempotency_key",
        )
    return str(found.target).split(",")


def key_of_its_own(body_hash: str) -> str:
    """A key for a request that brings none: found again by the body, in the index of the keys."""
    return f"{body_hash}{new_id()}"


def submitted_alike(
    connection: Connection, *, owner: str, route: str, body_hash: str, since: datetime, limit: int = 20
) -> list[str]:
    """The jobs that this very body brought since then under keys of its own, newest first."""
    low, high = (body_hash + letter * len(new_id()) for letter in "0Z")  # every id lies between them
    own = and_(idempotency.c.owner == owner, idempotency.c.route == route, idempotency.c.key.between(low, high))
    rows = connection.execute(
        select(idempotency.c.target)
        .where(own, idempotency.c.created_at >= since)
        .order_by(idempotency.c.key.desc())
        .limit(limit)
    )
    return [job_id for (target,) in rows for job_id in str(target).split(",")]


def remember(connection: Connection, once: Once, target: Sequence[str]) -> None:
    """What the key brought."""
    connection.execute(update(idempotency).where(_is(once)).values(target=",".join(target)))


def submit_once(
    connection: Connection,
    new: Sequence[NewJob],
    *,
    once: Once | None,
    queue_limit: int | None = None,
    check: Callable[[Connection, Model], None] | None = None,
) -> list[str]:
    """Submit under an idempotency key, and only while the owner has not too many jobs waiting.

    `check` may refuse what is really new; what the key brought before is brought again.
    """
    before = submitted_before(connection, once) if once else None
    if before is not None:
        return before
    make_room(connection, new, queue_limit)
    if check is not None:
        for job in new:
            check(connection, job.model)
    ids = submit(connection, new)
    if once:
        remember(connection, once, ids)
    return ids


def make_room(connection: Connection, new: Sequence[NewJob], queue_limit: int | None) -> None:
    """Refuse what would make an owner's queue longer than it may be."""
    if queue_limit is None or not new:
        return
    waiting = select(jobs.c.id).where(is_queued, jobs.c.owner == new[0].owner).limit(queue_limit + 1).subquery()
    count = connection.execute(select(func.count()).select_from(waiting)).scalar_one()
    if count + len(new) > queue_limit:
        raise TooMany(
            f"{count} jobs wait already; at most {queue_limit} may (limits.queued)",
            hint="wait until some are drawn, or cancel some",
            retry_after_s=10.0,
        )


def _is(once: Once) -> Any:
    return and_(idempotency.c.owner == once.owner, idempotency.c.route == once.route, idempotency.c.key == once.key)


def complete_rows(
    connection: Connection, resolve: Resolve, knows: Sequence[str], only: Sequence[str] | None, now: datetime
) -> None:
    """Resolve rows that came by SQL, or end them with the reason why they cannot be."""
    raw = select(jobs).where(unresolved(jobs.c.model.in_(knows)))
    if only is not None:
        raw = raw.where(jobs.c.id.in_(only))
    first = raw.order_by(jobs.c.priority.desc(), jobs.c.created_at).limit(16).with_for_update(skip_locked=True)
    for row in connection.execute(first).all():
        try:
            new = resolve(replace(draft_of(row), preview=preview_policy(row.preview)))
            if row.webhook is not None:
                Webhook.from_text(row.webhook)
        except RequestError as error:
            _refuse(connection, row.id, error, now)
            continue
        except (TypeError, ValueError, AttributeError) as exc:
            unreadable = RequestError(f"the row cannot be read: {exc}", hint="see the table's description in the docs")
            _refuse(connection, row.id, unreadable, now)
            continue
        touch(connection, row.id, queue_of(new.model.name))
        templates.keep(connection, [new.model])
        kept = {"owner", "series_id", "cell", "retry_of", "webhook", "priority"}
        values = {key: value for key, value in _columns(new).items() if key not in kept}
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(**values))
        _warn(connection, row.id, new)


def _warn(connection: Connection, job_id: str, job: NewJob) -> None:
    for warned in job.warnings:
        event = Warning(job=job_id, code=warned.code, message=warned.message, at=datetime.now(UTC))
        journal.append(connection, event)


def fail_unknown_models(connection: Connection, now: datetime, known: Iterable[str]) -> int:
    """End rows that came by SQL and name a model that is in no live catalog: neither in ours nor in a worker's."""
    old = now - timedelta(seconds=UNKNOWN_MODEL_S)
    rows = connection.execute(
        select(jobs)
        .where(
            is_queued,
            jobs.c.record.is_(None),
            jobs.c.created_at < old,
            jobs.c.model.is_not(None),
            jobs.c.model.not_in(list(known)),
        )
        .limit(100)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        error = UnknownModel(
            f"no worker knows a model named {row.model!r}",
            hint="see `imagen models` for the names",
            param="model",
        )
        _refuse(connection, row.id, error, now)
    return len(rows)


def draft_of(row: Row[Any]) -> Draft:
    """What a row that came by SQL asks for; empty columns mean "resolve"."""
    return Draft(
        prompt=row.prompt,
        model=row.model,
        negative=row.negative,
        width=row.width,
        height=row.height,
        steps=row.steps,
        seed=row.seed,
        guidance=row.guidance,
        n=row.n,
        options=row.options or {},
        priority=row.priority,
    )


def request_of(row: Row[Any]) -> Request:
    """The resolved request of a row."""
    return Request(
        prompt=row.prompt,
        model=row.model,
        negative=row.negative or "",
        width=row.width,
        height=row.height,
        steps=row.steps,
        seed=row.seed,
        guidance=row.guidance,
        n=row.n,
        options=row.options or {},
    )


def _refuse(connection: Connection, job_id: str, error: ImagenError, now: datetime) -> None:
    hook = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(state=State.FAILED, finished_at=now, error=error.as_dict(), failures=jobs.c.failures + 1)
        .returning(jobs.c.webhook)
    ).scalar_one()
    if hook is not None:
        touch(connection, TOPIC)
    journal.append(connection, Failed(job=job_id, at=now, error=error))


def _columns(job: NewJob) -> dict[str, Any]:
    return {
        **job.request.as_dict(),
        "preview": job.preview.as_dict() if job.preview else None,
        "priority": job.priority,
        "owner": job.owner,
        "series_id": job.series,
        "cell": job.cell,
        "retry_of": job.retry_of,
        "webhook": job.webhook.as_text() if job.webhook else None,
        "record": job.model.as_dict(),
        "device": job.model.device,
    }
