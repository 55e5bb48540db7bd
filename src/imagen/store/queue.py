"""The queue is the jobs table: submit, claim, renew, finish, requeue, cancel.

Every write of a worker is fenced by `attempt`, which rises with each claim: a worker that was paused
for longer than its lease and wakes up finds its number too old and records nothing.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, false, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from imagen.core.errors import Conflict, ImagenError, RequestError, UnknownModel
from imagen.core.events import Cancelled, Completed, Event, Failed, Image, Requeued, Started, Warning
from imagen.core.ids import new_id
from imagen.core.job import State, StoredImage
from imagen.core.model import Model
from imagen.core.request import Draft, PreviewPolicy, Request, preview_policy
from imagen.store import journal
from imagen.store.tables import idempotency, images, jobs, slots

MAX_FAILURES = 3
BACK_OFF_S = (1.0, 4.0)  # before the second and the third try
UNKNOWN_MODEL_S = 60.0  # how long a row may name a model that no live catalog knows


class LeaseLost(Exception):
    """This attempt is not ours any more; whatever we hold is worthless."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job in a worker's hands: the right to write about it, until somebody claims it anew."""

    job: str
    attempt: int
    worker: str
    request: Request
    model: Model
    preview: PreviewPolicy | None
    images: tuple[StoredImage, ...]
    handle: Mapping[str, Any] | None
    seq: int
    waited_s: float
    failures: int


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


def claim(
    connection: Connection,
    *,
    worker: str,
    serves: Sequence[str] | None,
    resolve: Resolve,
    knows: Sequence[str],
    started: Callable[[Claim, bool], Started],
    loaded: Sequence[str] = (),
    only: Sequence[str] | None = None,
) -> Claim | None:
    """Take the next job and a free slot of its device, in one transaction; None when there is nothing to do.

    `serves` are the models this worker draws (None: all), `knows` the names `resolve` understands,
    `only` restricts it to these jobs, and a model in `loaded` goes before others of the same priority.
    """
    now = datetime.now(UTC)
    _adopt(connection, resolve, knows, only, now)
    ready: list[ColumnElement[bool]] = [
        jobs.c.state == State.QUEUED,
        jobs.c.record.is_not(None),
        or_(jobs.c.run_after.is_(None), jobs.c.run_after <= now),
    ]
    if serves is not None:
        ready.append(jobs.c.model.in_(serves))
    if only is not None:
        ready.append(jobs.c.id.in_(only))
    order: list[ColumnElement[Any]] = [jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id]
    if loaded:
        order.insert(1, case((jobs.c.model.in_(loaded), 0), else_=1))
    next_up = connection.execute(
        select(jobs.c.id, slots.c.device, slots.c.slot)
        .join(slots, and_(slots.c.device == jobs.c.device, slots.c.job_id.is_(None)))
        .where(*ready)
        .order_by(*order)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if next_up is None:
        return None
    row = connection.execute(
        update(jobs)
        .where(jobs.c.id == next_up.id, jobs.c.state == State.QUEUED)
        .values(state=State.RUNNING, attempt=jobs.c.attempt + 1, worker=worker, started_at=now, run_after=None)
        .returning(*jobs.c)
    ).one()
    connection.execute(
        update(slots)
        .where(slots.c.device == next_up.device, slots.c.slot == next_up.slot)
        .values(job_id=row.id, attempt=row.attempt)
    )
    journal.drop_previews(connection, row.id)
    taken = _claim_of(connection, row, now)
    seq = journal.append(connection, started(taken, journal.watched(connection, row.id, now)))
    return replace(taken, seq=seq)


def say(connection: Connection, claim: Claim, event: Event) -> int:
    """Record a durable event of a running attempt (`warning`); LeaseLost when it is not ours any more."""
    _fence(connection, claim)
    return journal.append(connection, event)


def keep_handle(connection: Connection, claim: Claim, handle: Mapping[str, Any]) -> None:
    """Remember outside work, before it starts."""
    _fence(connection, claim, handle=dict(handle))


def add_image(connection: Connection, claim: Claim, event: Image, *, path: str, mime: str) -> int:
    """Record a picture that lies safely in the image store, and say so."""
    _fence(connection, claim)
    image = event.image
    connection.execute(
        insert(images).values(
            id=image.id,
            job_id=claim.job,
            idx=image.index,
            url=image.url,
            width=image.width,
            height=image.height,
            seed=image.seed,
            sha256=image.sha256,
            pixels_sha256=image.pixels_sha256,
            path=path,
            mime=mime,
            created_at=event.at,
        )
    )
    return journal.append(connection, event)


def finish(
    connection: Connection,
    claim: Claim,
    state: State,
    end: Callable[[tuple[StoredImage, ...]], Completed | Failed | Cancelled],
    *,
    timings: Mapping[str, float],
    facts: Mapping[str, Any],
) -> int:
    """The end of a job: its state, its last event (made by `end` from the stored pictures) and its slot, at once."""
    event = end(journal.stored_images(connection, claim.job))
    _fence(
        connection,
        claim,
        state=state,
        finished_at=event.at,
        error=event.error.as_dict() if isinstance(event, Failed) else None,
        handle=None,
        timings=dict(timings),
        facts=dict(facts),
        failures=claim.failures + (state is State.FAILED),
    )
    _free(connection, claim.job)
    return journal.append(connection, event)


def give_back(connection: Connection, claim: Claim, *, reason: str, error: ImagenError | None = None) -> State:
    """Put a running job back: politely (no error), or as a failure, which is counted and waits a little."""
    _fence(connection, claim)
    return requeue(connection, claim.job, reason=reason, error=error)


def requeue(connection: Connection, job_id: str, *, reason: str, error: ImagenError | None) -> State:
    """running -> queued, or -> failed after MAX_FAILURES failures, or -> cancelled if that was asked meanwhile."""
    now = datetime.now(UTC)
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one()
    failures = row.failures + (error is not None)
    values: dict[str, Any] = {"failures": failures, "worker": None}
    event: Event
    if row.cancel_requested:
        values |= {"state": State.CANCELLED, "finished_at": now, "handle": None}
        event = Cancelled(
            job=job_id,
            at=now,
            attempt=row.attempt,
            by=row.cancelled_by or "sql",
            images=journal.stored_images(connection, job_id),
        )
    elif error is not None and failures >= MAX_FAILURES:
        values |= {"state": State.FAILED, "finished_at": now, "error": error.as_dict(), "handle": None}
        event = Failed(
            job=job_id, at=now, attempt=row.attempt, error=error, images=journal.stored_images(connection, job_id)
        )
    else:
        # Jitter, so that jobs that failed together do not come back together.
        wait_s = BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1] * random.uniform(1.0, 1.25) if error else 0.0
        values |= {"state": State.QUEUED, "run_after": now + timedelta(seconds=wait_s) if wait_s else None}
        event = Requeued(job=job_id, at=now, attempt=row.attempt, reason=reason, error=error)
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
    _free(connection, job_id)
    journal.append(connection, event)
    return State(values["state"])


def cancel(connection: Connection, job_id: str, *, by: str) -> None:
    """Ask for the end of a job. Queued: the database ends it at once. Running: its worker sees it."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state.in_((State.QUEUED, State.RUNNING)), jobs.c.cancel_requested == false())
        .values(cancel_requested=True, cancelled_by=by)
    )


def fail_unknown_models(connection: Connection, now: datetime) -> int:
    """End rows that came by SQL and name a model nobody alive knows."""
    old = now - timedelta(seconds=UNKNOWN_MODEL_S)
    rows = connection.execute(
        select(jobs).where(jobs.c.state == State.QUEUED, jobs.c.record.is_(None), jobs.c.created_at < old).limit(100)
    ).all()
    for row in rows:
        error = UnknownModel(
            f"no worker knows a model named {row.model!r}",
            hint="see `imagen models` for the names",
            param="model",
        )
        _refuse(connection, row.id, error, now)
    return len(rows)


def _adopt(
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


def _refuse(connection: Connection, job_id: str, error: ImagenError, now: datetime) -> None:
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(state=State.FAILED, finished_at=now, error=error.as_dict(), failures=jobs.c.failures + 1)
    )
    journal.append(connection, Failed(job=job_id, at=now, error=error))


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


def _claim_of(connection: Connection, row: Row[Any], now: datetime) -> Claim:
    return Claim(
        job=row.id,
        attempt=row.attempt,
        worker=row.worker,
        request=request_of(row),
        model=Model.from_dict(row.record),
        preview=preview_policy(row.preview),
        images=journal.stored_images(connection, row.id),
        handle=row.handle,
        seq=row.seq,
        waited_s=max(0.0, (now - row.created_at).total_seconds()),
        failures=row.failures,
    )


def _fence(connection: Connection, claim: Claim, **values: Any) -> None:
    """Write only while this attempt is the current one."""
    touched = connection.execute(
        update(jobs)
        .where(jobs.c.id == claim.job, jobs.c.state == State.RUNNING, jobs.c.attempt == claim.attempt)
        .values(**(values or {"worker": claim.worker}))
    )
    if touched.rowcount != 1:
        raise LeaseLost(claim.job)


def _free(connection: Connection, job_id: str) -> None:
    connection.execute(update(slots).where(slots.c.job_id == job_id).values(job_id=None, attempt=None))


def _ensure_slots(connection: Connection, model: Model) -> None:
    rows = [{"device": model.device, "slot": number} for number in range(model.slots)]
    connection.execute(upsert(slots).values(rows).on_conflict_do_nothing())
