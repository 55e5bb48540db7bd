"""How jobs get in: submitted whole by a surface, or inserted by plain SQL and completed by the worker that claims."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from imagen.core.errors import Conflict, ImagenError, RequestError, UnknownModel
from imagen.core.events import Failed, Warning
from imagen.core.ids import new_id
from imagen.core.job import State
from imagen.core.model import Model
from imagen.core.request import Draft, PreviewPolicy, Request, preview_policy
from imagen.store import journal
from imagen.store.tables import idempotency, jobs, slots

UNKNOWN_MODEL_S = 60.0  # how long a row may name a model that no live catalog knows


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A resolved request on its way into the queue, with everything it will ever need."""

    request: Request
    model: Model
    id: str | None = None
    preview: PreviewPolicy | None = None
    warnings: Sequence[tuple[str, str]] = ()
    priority: int = 0
    owner: str = "local"
    series: str | None = None
    cell: int | None = None
    retry_of: str | None = None
    webhook: str | None = None


Resolve = Callable[[Draft], NewJob]


def submit(connection: Connection, new: Iterable[NewJob]) -> list[str]:
    """Insert jobs; the database itself records `queued`. Returns their ids in order."""
    ids = []
    for job in new:
        job_id = job.id or new_id()
        _ensure_slots(connection, job.model)
        if job.retry_of is not None and job.series is not None:
            connection.execute(
                update(jobs).where(jobs.c.series_id == job.series, jobs.c.cell == job.cell).values(superseded=True)
            )
        connection.execute(insert(jobs).values(id=job_id, created_at=datetime.now(UTC), **_columns(job)))
        for code, message in job.warnings:
            journal.append(connection, Warning(job=job_id, code=code, message=message, at=datetime.now(UTC)))
        ids.append(job_id)
    return ids


def submit_once(
    connection: Connection, new: Iterable[NewJob], *, owner: str, route: str, key: str, body_hash: str
) -> list[str]:
    """Submit under an idempotency key: the same key and body give the same job, another body is a Conflict."""
    where = and_(idempotency.c.owner == owner, idempotency.c.route == route, idempotency.c.key == key)
    found = connection.execute(select(idempotency).where(where)).one_or_none()
    if found is None:
        ids = submit(connection, new)
        connection.execute(
            insert(idempotency).values(
                owner=owner,
                route=route,
                key=key,
                body_hash=body_hash,
                target=",".join(ids),
                created_at=datetime.now(UTC),
            )
        )
        return ids
    if found.body_hash != body_hash:
        raise Conflict(
            f"the idempotency key {key!r} was used for another request",
            hint="use a new key for a new request",
            param="idempotency_key",
        )
    return str(found.target).split(",")


def adopt(
    connection: Connection, resolve: Resolve, knows: Sequence[str], only: Sequence[str] | None, now: datetime
) -> None:
    """Resolve rows that came by SQL, or end them with the reason why they cannot be."""
    raw = select(jobs).where(
        jobs.c.state == State.QUEUED,
        jobs.c.record.is_(None),
        or_(jobs.c.model.is_(None), jobs.c.model.in_(knows)),  # another worker may know the others
    )
    if only is not None:
        raw = raw.where(jobs.c.id.in_(only))
    for row in connection.execute(raw.order_by(jobs.c.priority.desc(), jobs.c.created_at).limit(16)).all():
        try:
            new = resolve(replace(draft_of(row), preview=preview_policy(row.preview)))
        except RequestError as error:
            _refuse(connection, row.id, error, now)
            continue
        except (TypeError, ValueError, AttributeError) as exc:
            unreadable = RequestError(f"the row cannot be read: {exc}", hint="see the table's description in the docs")
            _refuse(connection, row.id, unreadable, now)
            continue
        _ensure_slots(connection, new.model)
        kept = {"owner", "series_id", "cell", "retry_of", "webhook", "priority"}
        values = {key: value for key, value in _columns(new).items() if key not in kept}
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(**values))
        for code, message in new.warnings:
            journal.append(connection, Warning(job=row.id, code=code, message=message, at=now))


def fail_unknown_models(connection: Connection, now: datetime, known: Iterable[str]) -> int:
    """End rows that came by SQL and name a model that is in no live catalog: neither in ours nor in a worker's."""
    old = now - timedelta(seconds=UNKNOWN_MODEL_S)
    rows = connection.execute(
        select(jobs)
        .where(
            jobs.c.state == State.QUEUED,
            jobs.c.record.is_(None),
            jobs.c.created_at < old,
            jobs.c.model.is_not(None),
            jobs.c.model.not_in(list(known)),
        )
        .limit(100)
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
        webhook=row.webhook,
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
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(state=State.FAILED, finished_at=now, error=error.as_dict(), failures=jobs.c.failures + 1)
    )
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
        "webhook": job.webhook,
        "record": job.model.as_dict(),
        "device": job.model.device,
    }


def _ensure_slots(connection: Connection, model: Model) -> None:
    rows = [{"device": model.device, "slot": number} for number in range(model.slots)]
    connection.execute(upsert(slots).values(rows).on_conflict_do_nothing())
