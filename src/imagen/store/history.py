"""Reading jobs and series back: what the lists and the single views show."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from imagen.core.errors import ImagenError, RequestError, UnknownJob, UnknownSeries
from imagen.core.job import Cell, Job, Series, State
from imagen.store import intake, journal, queue
from imagen.store.tables import images, jobs, live, series, slots

MAX_PAGE = 1000
PREFIX = 6  # characters of an id that are enough to mean it, if it is the only one


def job(connection: Connection, job_id: str) -> Job:
    """One job by its id or a unique beginning or end of it."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    return _job(connection, row or _one(connection, jobs, job_id, UnknownJob, "job"), whole=True)


def jobs_list(
    connection: Connection,
    *,
    state: str | None = None,
    model: str | None = None,
    series_id: str | None = None,
    q: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[Job]:
    """Newest first, a page at a time: `before` is the id of the last one seen."""
    if not 1 <= limit <= MAX_PAGE:
        raise RequestError(f"a page of {limit} jobs is not possible", hint=f"ask for 1 to {MAX_PAGE}", param="limit")
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
    if before:
        last = connection.execute(select(jobs.c.created_at).where(jobs.c.id == before)).scalar_one_or_none()
        if last is not None:
            older = jobs.c.created_at < last
            query = query.where(older | and_(jobs.c.created_at == last, jobs.c.id < before))
    rows = connection.execute(query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)).all()
    return [_job(connection, row, whole=False) for row in rows]


def waiting(connection: Connection) -> list[Job]:
    """All jobs that have not ended, oldest first."""
    rows = connection.execute(
        select(jobs).where(jobs.c.state.in_((State.QUEUED, State.RUNNING))).order_by(jobs.c.created_at, jobs.c.id)
    ).all()
    return [_job(connection, row, whole=True) for row in rows]


def queued(connection: Connection, ids: Iterable[str]) -> list[Job]:
    """Those of these jobs that wait to be drawn."""
    rows = connection.execute(select(jobs).where(jobs.c.state == State.QUEUED, jobs.c.id.in_(list(ids)))).all()
    return [_job(connection, row, whole=False) for row in rows]


def image_path(connection: Connection, image_id: str) -> str | None:
    """Where a picture lies in the image store; None when there is no such picture."""
    found = connection.execute(select(images.c.path).where(images.c.id == image_id)).scalar_one_or_none()
    return found


def record(connection: Connection, job_id: str) -> Mapping[str, Any] | None:
    """The model as it was when the job was resolved."""
    found: Mapping[str, Any] | None = connection.execute(select(jobs.c.record).where(jobs.c.id == job_id)).scalar_one()
    return found


def new_series(
    connection: Connection,
    series_id: str,
    *,
    prompts: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    new: Sequence[intake.NewJob],
) -> list[str]:
    """Record a series and submit its jobs, in one transaction; a series that exists gains the jobs and models."""
    found = connection.execute(select(series).where(series.c.id == series_id)).one_or_none()
    row: dict[str, Any] = {
        "prompts": list(prompts),
        "models": list(models),
        "seeds": list(seeds),
        "settings": dict(settings),
    }
    if found is None:
        connection.execute(insert(series).values(id=series_id, created_at=datetime.now(UTC), **row))
    else:
        merged = {
            name: [*found._mapping[name], *(value for value in row[name] if value not in found._mapping[name])]
            for name in ("prompts", "models", "seeds")
        }
        connection.execute(update(series).where(series.c.id == series_id).values(cancelled=False, **merged))
    return intake.submit(connection, new)


def series_one(connection: Connection, series_id: str) -> Series:
    """One series with its cells, each with the job that fills it now."""
    row = connection.execute(select(series).where(series.c.id == series_id)).one_or_none()
    return _series(connection, row or _one(connection, series, series_id, UnknownSeries, "series"))


def series_list(connection: Connection, *, limit: int = 50) -> list[Series]:
    """Newest first."""
    rows = connection.execute(select(series).order_by(series.c.created_at.desc(), series.c.id.desc()).limit(limit))
    return [_series(connection, row) for row in rows.all()]


def cancel_series(connection: Connection, series_id: str, *, by: str) -> None:
    """Cancel what has not ended yet."""
    connection.execute(update(series).where(series.c.id == series_id).values(cancelled=True))
    ids = connection.execute(select(jobs.c.id).where(jobs.c.series_id == series_id)).scalars().all()
    for job_id in ids:
        queue.cancel(connection, job_id, by=by)


def _one(connection: Connection, table: Any, part: str, error: type[ImagenError], noun: str) -> Row[Any]:
    rows: Sequence[Row[Any]] = ()
    if len(part) >= PREFIX:
        for pattern in (table.c.id.istartswith(part, autoescape=True), table.c.id.iendswith(part, autoescape=True)):
            rows = rows or connection.execute(select(table).where(pattern).limit(2)).all()
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise error(f"more than one {noun} is meant by {part!r}", hint="give more of its id", param=noun)
    listing = "jobs" if noun == "job" else "series"
    raise error(f"there is no {noun} {part!r}", hint=f"see `imagen {listing} list`", param=noun)


def _job(connection: Connection, row: Row[Any], *, whole: bool) -> Job:
    state = State(row.state)
    lively = None
    if state is State.RUNNING:
        lively = connection.execute(select(live).where(live.c.job_id == row.id)).one_or_none()
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
        waits_for=_holder(connection, row) if whole and state is State.QUEUED else None,
        images=journal.stored_images(connection, row.id),
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
    )


def _position(connection: Connection, row: Row[Any]) -> int:
    """How many jobs of the same device go before this one; counted to 1,000 at most."""
    ahead = (
        select(jobs.c.id)
        .where(
            jobs.c.state == State.QUEUED,
            jobs.c.device == row.device,
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


def _holder(connection: Connection, row: Row[Any]) -> str | None:
    """In words: what a job that waits is waiting for."""
    if row.record is None:
        return f"somebody who knows the model {row.model!r}" if row.model else "somebody who draws"
    held = connection.execute(
        select(jobs.c.id, jobs.c.model, jobs.c.worker)
        .join(slots, slots.c.job_id == jobs.c.id)
        .where(slots.c.device == row.device)
    ).all()
    free = connection.execute(
        select(func.count()).where(slots.c.device == row.device, slots.c.job_id.is_(None))
    ).scalar_one()
    if free or not held:
        return None
    drawing = ", ".join(f"job {one.id[-8:]} ({one.model})" for one in held)
    return f"{row.device}: held by {drawing}"


def _series(connection: Connection, row: Row[Any]) -> Series:
    rows = connection.execute(
        select(jobs).where(jobs.c.series_id == row.id, ~jobs.c.superseded).order_by(jobs.c.cell)
    ).all()
    cells = []
    for one in rows:
        filled = _job(connection, one, whole=False)
        cells.append(Cell(index=one.cell, prompt=one.prompt, model=one.model, seed=one.seed, job=filled))
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
    )
