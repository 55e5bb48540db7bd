"""Reading jobs and series back: what the lists and the single views show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, bindparam, false, func, or_, select, tuple_

from imagen.core.errors import ImagenError, RequestError, UnknownJob, UnknownSeries
from imagen.core.job import Cell, Job, Series, State, StoredImage, Warned
from imagen.core.webhook import Delivery
from imagen.store import intake, journal, webhooks
from imagen.store.columns import Instant
from imagen.store.tables import events, is_queued, is_running, jobs, live, series
from imagen.store.waits import waits_for

MAX_PAGE = 1000
RECENT = 10_000  # jobs among which a part of an id is looked for: who types a part means a recent one
PREFIX = 6  # characters of an id that are enough to mean it, if it is the only one


def job(connection: Connection, job_id: str, *, owner: str | None = None) -> Job:
    """One job by its id or a unique beginning or end of it; another owner's is as good as none."""
    row = connection.execute(_owned(select(jobs), jobs, owner).where(jobs.c.id == job_id)).one_or_none()
    found = row or _one(connection, jobs, job_id, UnknownJob, "job", owner)
    return _jobs(connection, [found], whole=True)[0]


def submitted(connection: Connection, job_id: str) -> Job:
    """A job just put in, with no question more than needed: a worker waits for this transaction to end."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one()
    if row.state != State.QUEUED or row.attempt:  # an idempotency key brought one from before
        return _jobs(connection, [row], whole=True)[0]
    said = connection.execute(select(events.c.body).where(events.c.job_id == job_id, events.c.seq == 1)).scalar_one()
    warned = journal.warned_of(connection, [job_id]).get(job_id, ()) if row.seq > 1 else ()
    return replace(_job(connection, row, None, (), warned, None, whole=False), position=said.get("position"))


def jobs_list(
    connection: Connection,
    *,
    state: str | None = None,
    model: str | None = None,
    series_id: str | None = None,
    q: str | None = None,
    before: str | None = None,
    limit: int = 50,
    owner: str | None = None,
) -> list[Job]:
    """Newest first, a page at a time: `before` is the id of the last one seen."""
    query = select(jobs)
    if state and state not in State.__members__.values():
        raise RequestError(f"there is no state {state!r}", hint=f"states: {', '.join(State)}", param="state")
    if state:
        query = query.where(jobs.c.state == state)
    if model:
        query = query.where(jobs.c.model == model)
    if series_id:
        query = query.where(jobs.c.series_id == series_id)
    if q:
        query = query.where(jobs.c.prompt.icontains(q, autoescape=True))
    return _jobs(connection, _page(connection, query, jobs, before, limit, owner), whole=False)


def unended(connection: Connection) -> list[Job]:
    """Jobs that wait or run, oldest first; the first MAX_PAGE of them."""
    query = select(jobs).where(or_(is_queued, is_running)).order_by(jobs.c.created_at, jobs.c.id).limit(MAX_PAGE)
    return _jobs(connection, connection.execute(query).all(), whole=True)


def queued(connection: Connection, ids: Iterable[str]) -> list[Job]:
    """Those of these jobs that wait to be drawn."""
    rows = connection.execute(select(jobs).where(is_queued, jobs.c.id.in_(list(ids)))).all()
    return _jobs(connection, rows, whole=False)


def waiting(connection: Connection, job_id: str) -> tuple[str, str, datetime] | None:
    """Model and device of a job that waits, and since when; None when it runs or ended."""
    told = (jobs.c.model, jobs.c.device, jobs.c.created_at)
    found = connection.execute(
        select(*told).where(jobs.c.id == job_id, is_queued, jobs.c.cancel_requested == false())
    ).first()
    return None if found is None else (found.model, found.device, found.created_at)


def record(connection: Connection, job_id: str) -> Mapping[str, Any] | None:
    """The model as it was when the job was resolved."""
    found: Mapping[str, Any] | None = connection.execute(select(jobs.c.record).where(jobs.c.id == job_id)).scalar_one()
    return found


def series_one(connection: Connection, series_id: str, *, owner: str | None = None) -> Series:
    """One series with its cells, each with the job that fills it now."""
    row = connection.execute(_owned(select(series), series, owner).where(series.c.id == series_id)).one_or_none()
    return _series(connection, row or _one(connection, series, series_id, UnknownSeries, "series", owner))


def series_list(
    connection: Connection, *, limit: int = 50, before: str | None = None, owner: str | None = None
) -> list[Series]:
    """Newest first, a page at a time: `before` is the id of the last one seen."""
    rows = _page(connection, select(series), series, before, limit, owner)
    return [_series(connection, row) for row in rows]


def _owned(query: Select[Any], table: Any, owner: str | None) -> Select[Any]:
    return query if owner is None else query.where(table.c.owner == owner)


def _page(
    connection: Connection, query: Select[Any], table: Any, before: str | None, limit: int, owner: str | None
) -> Sequence[Row[Any]]:
    if not 1 <= limit <= MAX_PAGE:
        wrong = f"a page of {limit} {table.name} is not possible"
        raise RequestError(wrong, hint=f"ask for 1 to {MAX_PAGE}", param="limit")
    if before:
        place = _owned(select(table.c.created_at), table, owner).where(table.c.id == before)
        last = connection.execute(place).scalar_one_or_none()
        if last is None:
            # The first page again would be a loop over pages that never ends.
            hint = "give `next` of the last page, or leave it out for the first one"
            raise RequestError(f"there is nothing of the id {before!r} to go on from", hint=hint, param="before")
        # As a pair, so that both databases go straight to the place in the index.
        query = query.where(tuple_(table.c.created_at, table.c.id) < tuple_(bindparam("last", last, Instant), before))
    newest = query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
    return connection.execute(_owned(newest, table, owner)).all()


def _one(
    connection: Connection, table: Any, part: str, error: type[ImagenError], noun: str, owner: str | None
) -> Row[Any]:
    rows: Sequence[Row[Any]] = ()
    if len(part) >= PREFIX:
        newest = _owned(select(table.c.id), table, owner).order_by(table.c.created_at.desc(), table.c.id.desc())
        among = newest.limit(RECENT).subquery()
        for pattern in (among.c.id.istartswith(part, autoescape=True), among.c.id.iendswith(part, autoescape=True)):
            meant = select(table).where(table.c.id.in_(select(among.c.id).where(pattern))).limit(2)
            rows = connection.execute(meant).all()
            if rows:
                break
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise error(f"more than one {noun} is meant by {part!r}", hint="give more of its id", param=noun)
    listing = "jobs" if noun == "job" else "series"
    raise error(f"there is no {noun} {part!r}", hint=f"see `imagen {listing} list`", param=noun)


def _jobs(connection: Connection, rows: Sequence[Row[Any]], *, whole: bool) -> list[Job]:
    """Rows made into jobs; what belongs to them is read for all of them at once."""
    pictures = journal.pictures_of(connection, [row.id for row in rows])
    running = [row.id for row in rows if row.state == State.RUNNING]
    now = (
        {row.job_id: row for row in connection.execute(select(live).where(live.c.job_id.in_(running)))}
        if running
        else {}
    )
    warned = journal.warned_of(connection, [row.id for row in rows])
    told = webhooks.of_jobs(connection, [row.id for row in rows if row.webhook])
    return [
        _job(
            connection,
            row,
            now.get(row.id),
            pictures.get(row.id, ()),
            warned.get(row.id, ()),
            told.get(row.id),
            whole=whole,
        )
        for row in rows
    ]


def _job(
    connection: Connection,
    row: Row[Any],
    lively: Row[Any] | None,
    pictures: Sequence[StoredImage],
    warned: Iterable[Warned],
    delivery: Delivery | None,
    *,
    whole: bool,
) -> Job:
    state = State(row.state)
    progress = dict(lively.progress) if lively and lively.progress else None
    phase = lively.phase["phase"] if lively and lively.phase else None
    if progress is not None:
        progress = {"phase": phase, **{key: progress.get(key) for key in ("step", "total", "image", "eta_s")}}
    return Job(
        id=row.id,
        state=state,
        request=intake.request_of(row) if row.record is not None else intake.draft_of(row),
        attempt=row.attempt,
        failures=row.failures,
        priority=row.priority,
        owner=row.owner,
        phase=phase,
        progress=progress,
        position=_position(connection, row) if whole and state is State.QUEUED else None,
        waits_for=waits_for(connection, row) if whole and state is State.QUEUED else None,
        images=tuple(pictures),
        warnings=tuple(warned),
        error=ImagenError.from_dict(row.error) if row.error else None,
        timings=row.timings or {},
        facts=row.facts or {},
        series=row.series_id,
        cell=row.cell,
        retry_of=row.retry_of,
        worker=row.worker,
        device=row.device,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        webhook=webhooks.wish_of(row.webhook),
        delivery=delivery,
    )


def _position(connection: Connection, row: Row[Any]) -> int:
    """How many jobs for the same model go before this one; counted to 1,000 at most."""
    ahead = (
        select(jobs.c.id)
        .where(
            is_queued,
            jobs.c.model == row.model,
            (jobs.c.priority > row.priority)
            | and_(
                jobs.c.priority == row.priority,
                (jobs.c.created_at < row.created_at) | and_(jobs.c.created_at == row.created_at, jobs.c.id < row.id),
            ),
        )
        .limit(1000)
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(ahead)).scalar_one())


def _series(connection: Connection, row: Row[Any]) -> Series:
    rows = connection.execute(
        select(jobs).where(jobs.c.series_id == row.id, ~jobs.c.superseded).order_by(jobs.c.cell)
    ).all()
    filled = _jobs(connection, rows, whole=False)
    cells = [
        Cell(index=one.cell, prompt=one.prompt, model=one.model, seed=one.seed, job=job)
        for one, job in zip(rows, filled, strict=True)
    ]
    return Series(
        id=row.id,
        prompts=tuple(row.prompts),
        models=tuple(row.models),
        seeds=tuple(row.seeds),
        cells=tuple(cells),
        settings=row.settings,
        owner=row.owner,
        cancelled=row.cancelled,
        created_at=row.created_at,
        webhook=webhooks.wish_of(row.webhook),
        delivery=webhooks.of_series(connection, row.id) if row.webhook else None,
    )
