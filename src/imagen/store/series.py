"""Series as they are made: recorded with their jobs, tried again, cancelled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from imagen.core.job import State
from imagen.core.webhook import Webhook
from imagen.store import intake, queue, webhooks
from imagen.store.tables import jobs, series

LOST = (State.FAILED, State.CANCELLED)  # cells of a series that may be tried again


def new_series(
    connection: Connection,
    series_id: str,
    *,
    prompts: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    owner: str,
    new: Sequence[intake.NewJob],
    webhook: Webhook | None = None,
    once: intake.Once | None = None,
    queue_limit: int | None = None,
) -> tuple[str, list[str]]:
    """Record a series and submit its jobs, in one transaction; a series that exists gains the jobs and models.

    Returns its id, which under an idempotency key may be that of an earlier one, and the ids of the new jobs.
    """
    before = intake.submitted_before(connection, once) if once else None
    if before is not None:
        return before[0], []
    found = connection.execute(select(series).where(series.c.id == series_id).with_for_update()).one_or_none()
    row: dict[str, Any] = {
        "prompts": list(prompts),
        "models": list(models),
        "seeds": list(seeds),
        "settings": dict(settings),
    }
    if found is None:
        hook = webhook.as_text() if webhook else None
        values = {"created_at": datetime.now(UTC), "owner": owner, "webhook": hook}
        connection.execute(insert(series).values(id=series_id, **values, **row))
    else:
        merged = {
            name: [*found._mapping[name], *(value for value in row[name] if value not in found._mapping[name])]
            for name in ("prompts", "models", "seeds")
        }
        connection.execute(update(series).where(series.c.id == series_id).values(cancelled=False, **merged))
        webhook = webhooks.wish_of(found.webhook)
        # Whoever lost the answer says it again: a cell that is filled is not filled twice.
        at = select(jobs.c.model, jobs.c.prompt, jobs.c.seed).where(jobs.c.series_id == series_id, ~jobs.c.superseded)
        filled = {tuple(place) for place in connection.execute(at)}
        new = [job for job in new if (job.request.model, job.request.prompt, job.request.seed) not in filled]
    intake.make_room(connection, new, queue_limit)
    if once:
        intake.remember(connection, once, [series_id])
    # Each cell carries it: what the database does at the end of a job looks at the job alone.
    return series_id, intake.submit(connection, [replace(job, webhook=webhook) for job in new] if webhook else new)


def retry_cells(
    connection: Connection, series_id: str, new: Sequence[intake.NewJob], *, queue_limit: int | None = None
) -> list[str]:
    """New jobs for cells of a series, which goes on with them."""
    connection.execute(update(series).where(series.c.id == series_id).values(cancelled=False))
    # Somebody may have tried one again meanwhile.
    lost = select(jobs.c.cell).where(jobs.c.series_id == series_id, ~jobs.c.superseded, jobs.c.state.in_(LOST))
    cells = set(connection.execute(lost).scalars())
    return intake.submit_once(connection, [job for job in new if job.cell in cells], once=None, queue_limit=queue_limit)


def cancel_series(connection: Connection, series_id: str, *, by: str) -> None:
    """Cancel what has not ended yet."""
    connection.execute(update(series).where(series.c.id == series_id).values(cancelled=True))
    ids = connection.execute(select(jobs.c.id).where(jobs.c.series_id == series_id)).scalars().all()
    for job_id in ids:
        queue.cancel(connection, job_id, by=by)
