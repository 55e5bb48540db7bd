"""The queue is the jobs table: claim, say, finish, give back, cancel.

Every write of a worker is fenced by `attempt`, which rises with each claim: a worker that was paused
for longer than its lease and wakes up finds its number too old and records nothing.
"""

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Row,
    and_,
    bindparam,
    delete,
    false,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import ReturningUpdate

from imagen.core.device import BY_ITSELF
from imagen.core.errors import ImagenError, RequestError
from imagen.core.events import Cancelled, Completed, Event, Failed, Image, Requeued, Started
from imagen.core.job import State, StoredImage
from imagen.core.model import Model
from imagen.core.request import PreviewPolicy, Request, preview_policy
from imagen.store import journal, order, slots, templates
from imagen.store.bell import queue_of, slot_of, touch
from imagen.store.intake import Resolve, complete_rows, request_of
from imagen.store.order import MayPass, Turn, Wish
from imagen.store.postgresql import claiming, recording
from imagen.store.postgresql.recording import Change
from imagen.store.tables import idempotency, images, jobs, still_queued, still_running
from imagen.store.webhooks import TOPIC

MAX_FAILURES = 3
BACK_OFF_S = (1.0, 4.0)


class LeaseLost(Exception):
    """This attempt is not ours any more; whatever we hold is worthless."""


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
    turn: Turn
    series: str | None = None
    webhook: bool = False  # somebody is told of its end

    @property
    def key(self) -> tuple[str, int]:
        """Which attempt of which job. One that was lost may still be closing while the next one is drawn."""
        return self.job, self.attempt


def claim(
    connection: Connection,
    wish: Wish,
    *,
    resolve: Resolve,
    started: Callable[[Claim, bool], Started],
    may_pass: MayPass = lambda _device, _oldest, _younger, _waiting: True,
    only: Sequence[str] | None = None,
    enlist: Callable[[Connection], None] = lambda _connection: None,
) -> Claim | None:
    """Take the next job and a free slot of its device, in one transaction; None when there is nothing to do.

    `resolve` understands the names that the wish knows. `only` restricts it to these jobs, and a model that is loaded
    goes before others of the same priority while `may_pass` allows it. `enlist` enters the worker in the list of
    workers if it is not there.
    """
    now, places = datetime.now(UTC), wish.places
    if only is None and claiming.possible(connection, places):
        found, sure = claiming.take(connection, wish, now)
        if found is not None:
            return _held(connection, found, now, begun=True)
        if sure:
            return None
    enlist(connection)
    complete_rows(connection, resolve, wish.knows, only, now)
    free = slots.rooms(connection, places.values(), now)
    models = [model for model, place in places.items() if place.device in free]
    if not models:
        return None
    heads = slots.fitting(order.heads(connection, models, now, only), places, free)
    if not heads:
        return None
    chosen = order.loaded_first(connection, heads, places, wish.loaded, may_pass)
    device = places[chosen.model].device
    row = connection.execute(
        update(jobs)
        .where(jobs.c.id == chosen.id, still_queued)
        .values(**claiming.changes(jobs, wish.worker, device, now))
        .returning(*jobs.c)
    ).one()
    need_mib = places[chosen.model].need_mib(chosen)
    slots.take(connection, device, free[device].slot, job=row.id, attempt=row.attempt, vram_mib=need_mib)
    return _begun(connection, row, now, journal.watched(connection, row.id, now), started)


def say(connection: Connection, claim: Claim, event: Event) -> int:
    """Record a durable event of a running attempt (`warning`); LeaseLost when it is not ours any more."""
    return _write(connection, claim, event)[0]


def keep_handle(connection: Connection, claim: Claim, handle: Mapping[str, Any]) -> None:
    """Remember outside work, before it starts."""
    _write(connection, claim, handle=dict(handle))


def free_device(connection: Connection, claim: Claim, *, then: Wish | None = None) -> Claim | None:
    """This attempt needs its device no more: the next job may have it, while this one is being saved.

    That job, if `then` says what is wanted and it can be taken without another way to the database.
    """
    return _write(connection, claim, frees=True, then=then)[1]


def add_image(connection: Connection, claim: Claim, event: Image, *, path: str, mime: str) -> int:
    """Record a picture that lies safely in the image store, and say so."""
    image = event.image
    names = ("id", "url", "width", "height", "seed", "sha256", "pixels_sha256")
    row = {name: getattr(image, name) for name in names}
    row |= {"idx": image.index, "path": path, "mime": mime, "created_at": event.at}
    return _write(connection, claim, event, picture=row)[0]


def finish(
    connection: Connection,
    claim: Claim,
    event: Completed | Failed | Cancelled,
    *,
    timings: Mapping[str, float],
    facts: Mapping[str, Any],
    frees: bool = True,
    then: Wish | None = None,
) -> Claim | None:
    """The end of a job: its state, its last event (to which the stored pictures are added) and its slot, at once.

    And the next job, as with `free_device`, if it was not called before; then this `frees` nothing.
    """
    return _write(
        connection,
        claim,
        event,
        frees=frees,
        then=then,
        state=State(event.type),
        finished_at=event.at,
        error=event.error.as_dict() if isinstance(event, Failed) else None,
        handle=None,
        timings=dict(timings),
        facts=dict(facts),
        failures=claim.failures + isinstance(event, Failed),
    )[1]


def give_back(
    connection: Connection, claim: Claim, *, reason: str, error: ImagenError | None = None, counted: bool = True
) -> State:
    """Put a running job back: politely (no error), or as a failure, which is counted and waits a little."""
    _fence(connection, claim)
    return requeue(connection, claim.job, reason=reason, error=error, counted=counted)


def requeue(
    connection: Connection, job_id: str, *, reason: str, error: ImagenError | None, counted: bool = True
) -> State:
    """running -> queued, or -> failed after MAX_FAILURES failures, or -> cancelled if that was asked meanwhile.

    An error that is not `counted` is told and costs the job nothing: it is the device that was not ready.
    """
    now = datetime.now(UTC)
    row = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    failed = error is not None and counted
    failures = row.failures + failed
    changes: dict[str, Any] = {"failures": failures, "worker": None}
    event: Event
    if row.cancel_requested:
        changes |= {"state": State.CANCELLED, "finished_at": now, "handle": None}
        event = Cancelled(
            job=job_id,
            at=now,
            attempt=row.attempt,
            by=row.cancelled_by or "sql",
            images=journal.stored_images(connection, job_id),
        )
    elif error is not None and failed and failures >= MAX_FAILURES:
        changes |= {"state": State.FAILED, "finished_at": now, "error": error.as_dict(), "handle": None}
        event = Failed(
            job=job_id, at=now, attempt=row.attempt, error=error, images=journal.stored_images(connection, job_id)
        )
    else:
        # Jitter, so that jobs that failed together do not come back together.
        wait_s = BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1] * random.uniform(1.0, 1.25) if failed else 0.0
        changes |= {"state": State.QUEUED, "run_after": now + timedelta(seconds=wait_s) if wait_s else None}
        event = Requeued(job=job_id, at=now, attempt=row.attempt, reason=reason, error=error)
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**changes))
    slots.free(connection, job_id, row.device)
    touch(connection, queue_of(row.model), *([TOPIC] if row.webhook else ()))
    journal.append(connection, event)
    return State(changes["state"])


def unheard(connection: Connection, job_id: str, worker: str) -> None:
    """Put back a job whose worker never heard that it has it."""
    mine = select(jobs.c.id).where(jobs.c.id == job_id, still_running, jobs.c.worker == worker).with_for_update()
    if connection.execute(mine).first():
        requeue(connection, job_id, reason="the answer to the claim was lost", error=None)


def cancel(connection: Connection, job_id: str, *, by: str) -> None:
    """Ask for the end of a job. Queued: the database ends it at once. Running: its worker sees it."""
    touch(connection, job_id)
    asked = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state.in_((State.QUEUED, State.RUNNING)), jobs.c.cancel_requested == false())
        .values(cancel_requested=True, cancelled_by=by)
        .returning(jobs.c.webhook)
    )
    if asked.scalar_one_or_none():
        touch(connection, TOPIC)


def withdraw(connection: Connection, job_id: str, *, owner: str, route: str, key: str | None) -> bool:
    """Cancel a job if it still waits, and forget the key that brought it; false when it was begun meanwhile."""
    waits = select(jobs.c.id).where(jobs.c.id == job_id, still_queued).with_for_update()
    if connection.execute(waits).first() is None:
        return False
    cancel(connection, job_id, by=BY_ITSELF)
    if key is not None:
        once = and_(idempotency.c.owner == owner, idempotency.c.route == route, idempotency.c.key == key)
        connection.execute(delete(idempotency).where(once, idempotency.c.target == job_id))
    return True


def _begun(
    connection: Connection, row: Row[Any], now: datetime, watched: bool, started: Callable[[Claim, bool], Started]
) -> Claim | None:
    if row.attempt > 1:
        journal.drop_previews(connection, row.id)
    taken = _held(connection, row, now, begun=False)
    if taken is not None:
        journal.record(connection, started(taken, watched), row.seq)
    return taken


def _held(connection: Connection, row: Row[Any], now: datetime, *, begun: bool) -> Claim | None:
    """The claim of a row that was just taken. One that cannot be read is a failure of its own and holds up no other.

    `begun`: its event `started` is recorded.
    """
    try:
        return _claim_of(connection, row, now)
    except DBAPIError:
        raise
    except Exception as exc:
        why = exc.message if isinstance(exc, ImagenError) else f"{type(exc).__name__}: {exc}"
        # Somebody wrote into it by SQL, or it is of a newer imagen than this worker, and another one may know it.
        hint = "bring all servers and workers to one version, or submit it anew"
        error = RequestError(f"the job cannot be read: {why}", hint=hint)
        if not begun:  # the number of that event was taken with the row
            connection.execute(update(jobs).where(jobs.c.id == row.id).values(seq=row.seq - 1))
        requeue(connection, row.id, reason=error.message, error=error)
        return None


def _claim_of(connection: Connection, row: Row[Any], now: datetime) -> Claim:
    return Claim(
        job=row.id,
        attempt=row.attempt,
        worker=row.worker,
        request=request_of(row),
        # Where it is drawn is known only now.
        model=templates.whole(connection, replace(Model.from_dict(row.record), device=row.device)),
        preview=preview_policy(row.preview),
        images=journal.stored_images(connection, row.id) if row.attempt > 1 else (),
        handle=row.handle,
        seq=row.seq,
        waited_s=max(0.0, (now - row.created_at).total_seconds()),
        failures=row.failures,
        turn=order.turn_of(row),
        series=row.series_id,
        webhook=row.webhook is not None,
    )


def _readable(connection: Connection, row: Row[Any], now: datetime) -> Claim | None:
    """What was taken with the last word about another job, to which nothing of this one may happen."""
    try:
        return _claim_of(connection, row, now)
    except DBAPIError:
        raise
    except Exception:
        return None  # it goes back, unheard of, and a claim of its own says what is wrong


def _write(
    connection: Connection,
    claim: Claim,
    event: Event | None = None,
    *,
    picture: Mapping[str, Any] = MappingProxyType({}),
    frees: bool = False,
    then: Wish | None = None,
    **values: Any,
) -> tuple[int, Claim | None]:
    """Change the row of a running attempt, tell of it under the job's next number, and whatever goes with that.

    On PostgreSQL it is over with that, where nothing was begun before it. Otherwise it is a part of that transaction,
    and `then` is not asked for.
    """
    change = Change(event=event, values=values, picture=picture, frees=frees)
    topics = [slot_of(claim.model.device)] if frees else []
    if event is not None:
        topics += [claim.job, TOPIC] if event.terminal and claim.webhook else [claim.job]
    if recording.possible(connection):
        now = datetime.now(UTC)
        then = then if then and claiming.possible(connection, then.places) else None
        number, row = recording.tell(connection, claim, change, topics=topics, then=then, now=now)
        if number is None:
            raise LeaseLost(claim.job)  # what was taken all the same goes back (`Worker._reconcile`)
        return number, None if row is None else _readable(connection, row, now)
    seq = _fence(connection, claim, more=int(event is not None), **values)
    if isinstance(event, Completed | Failed | Cancelled):
        event = replace(event, images=journal.stored_images(connection, claim.job))
    if event is not None:
        journal.record(connection, event, seq)
    if picture:
        connection.execute(insert(images).values(job_id=claim.job, **picture))
    if frees:
        slots.free(connection, claim.job, claim.model.device)
    touch(connection, *topics)
    return seq, None


def _fence(connection: Connection, claim: Claim, *, more: int = 0, **values: Any) -> int:
    """Write only while this attempt is the current one; the number of the job's last event, with `more` of them."""
    given = {f"to_{name}": value for name, value in values.items()}
    its = {"its_id": claim.job, "its_attempt": claim.attempt, "more": more}
    seq = connection.execute(_fenced(tuple(values)), its | given).scalar_one_or_none()
    if seq is None:
        raise LeaseLost(claim.job)
    return int(seq)


@functools.lru_cache(maxsize=64)  # putting it together takes longer than asking
def _fenced(names: tuple[str, ...]) -> ReturningUpdate[Any]:
    ours = (jobs.c.id == bindparam("its_id"), still_running, jobs.c.attempt == bindparam("its_attempt"))
    values = {name: bindparam(f"to_{name}", type_=jobs.c[name].type) for name in names}
    seq = jobs.c.seq + bindparam("more", type_=Integer)
    return update(jobs).where(*ours).values(seq=seq, **values).returning(jobs.c.seq)
