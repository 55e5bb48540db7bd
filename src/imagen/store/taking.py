"""The next job in one statement: for PostgreSQL, where each statement is a way to another machine and back.

It is put together from what the long way asks one after the other (`slots.py`, `order.py`), and leaves to the long way
whatever has a question in it: a row that came by SQL and is not resolved yet, a card that models share, a loaded model
that might pass, a slot or a worker that is not in its list.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    column,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)

from imagen.store import driver, slots
from imagen.store.columns import Instant
from imagen.store.order import ONE, Place, by_turn, first_of, unresolved
from imagen.store.tables import jobs, watchers, workers
from imagen.store.tables import slots as slots_table

# A plan made once for all: for each worker and device anew it takes longer than the claim. Made while the queue was
# empty, it is to serve a full one, so nothing in it goes through a whole table.
PLANNED_ONCE = """
    select set_config('plan_cache_mode', 'force_generic_plan', true) as plans,
           set_config('enable_seqscan', 'off', true) as scans
"""
# What is read of the row. All of it would be longer than what psycopg remembers, and then it parses it each time.
TOLD = (
    *("id", "prompt", "model", "negative", "width", "height", "steps", "seed", "guidance", "n", "options", "preview"),
    *("priority", "series_id", "attempt", "failures", "created_at", "seq", "record", "device", "worker", "handle"),
    "webhook",
)


def possible(connection: Connection, places: Mapping[str, Place]) -> bool:
    """Can it be asked here? A card that models share is looked at as a whole, and that is another way."""
    return connection.dialect.name == "postgresql" and all(place.budget_mib is None for place in places.values())


def take(
    connection: Connection,
    *,
    worker: str,
    places: Mapping[str, Place],
    knows: Sequence[str],
    loaded: Sequence[str],
    now: datetime,
) -> tuple[Any, bool]:
    """The job that was taken, as its row and whether it is `watched`; and whether the long way would find no other."""
    driver.run(connection, PLANNED_ONCE, {})
    given = {
        "worker": worker,
        "names": list(places),
        "places": [place.device for place in places.values()],
        "counts": [place.slots for place in places.values()],
        "devices": list({place.device for place in places.values()}),
        "knows": list(knows),
        "loaded": list(loaded),
        "now": now,
    }
    found = driver.run(connection, driver.spoken(connection, _put_together), given, brings=True)
    return (None, found.nothing) if found.id is None else (found, True)


def changes(job: FromClause, worker: Any, device: Any, now: Any) -> dict[str, Any]:
    """What becomes of the row of a job that is taken."""
    return {
        "state": literal_column("'running'"),
        "attempt": job.c.attempt + ONE,
        "worker": worker,
        "device": device,
        "started_at": now,
        "run_after": null(),
        "seq": job.c.seq + ONE,
    }


def _put_together() -> Select[Any]:
    place = (
        func.unnest(_texts("names"), _texts("places"), bindparam("counts", type_=ARRAY(Integer)))
        .table_valued(column("model", Text), column("device", Text), column("slots", Integer), name="place")
        .render_derived()
    )
    listed = select(workers.c.id).where(workers.c.id == bindparam("worker", type_=Text))
    here = exists(select(listed.with_for_update(read=True, key_share=True).cte("listed").c.id))
    raw = exists(select(jobs.c.id).where(unresolved(jobs.c.model == any_(_texts("knows")))))
    room = slots.looking(slots_table.c.device == any_(_texts("devices")), slots_table.c.job_id.is_(None)).cte("room")
    # A device that was given fewer slots keeps its rows; they are not used any more.
    free = (
        select(place.c.model, place.c.device, func.min(room.c.slot).label("slot"))
        .join_from(place, room, and_(room.c.device == place.c.device, room.c.slot < place.c.slots))
        .where(here, ~raw)
        .group_by(place.c.model, place.c.device)
        .cte("free")
    )
    heads = _heads(free)
    chosen = _chosen(heads)
    now, worker = bindparam("now", type_=Instant), bindparam("worker", type_=Text)
    job: Any = jobs.alias("job")
    taken = (
        update(job)
        .where(job.c.id == chosen.c.id, job.c.state == literal_column("'queued'"))
        .values(**changes(job, worker, chosen.c.device, now))
        .returning(*(job.c[name] for name in TOLD))
        .cte("taken")
    )
    seat = (
        update(slots_table)
        .where(slots_table.c.device == taken.c.device, slots_table.c.slot == chosen.c.slot)
        .values(job_id=taken.c.id, attempt=taken.c.attempt, vram_mib=null())
        .returning(slots_table.c.slot)
        .cte("seat")
    )
    nothing = and_(
        ~exists(select(heads.c.id)),
        select(func.count()).select_from(free).scalar_subquery() == func.cardinality(_texts("names")),
    )
    watched = exists().where(watchers.c.job_id == taken.c.id, watchers.c.expires_at > now)
    said = select(nothing.label("nothing")).subquery("said")
    told = select(taken, said.c.nothing, watched.label("watched"))
    return told.select_from(said.outerjoin(taken, true())).add_cte(seat)


def _heads(free: CTE) -> CTE:
    """The first job of each model that has room."""
    first = first_of(free.c.model).with_for_update(skip_locked=True).scalar_subquery()
    best = select(free.c.device, free.c.slot, first.label("id")).cte("best")
    return (
        select(jobs.c.id, jobs.c.model, jobs.c.priority, jobs.c.created_at, best.c.device, best.c.slot)
        .join(best, best.c.id == jobs.c.id)
        .cte("heads")
    )


def _chosen(heads: CTE) -> CTE:
    """The oldest of the highest priority; none where one of a loaded model waits that might pass it."""
    oldest = select(heads).order_by(*by_turn(heads.c)).limit(ONE).cte("oldest")
    other = heads.alias("other")
    might = exists().where(
        other.c.priority == oldest.c.priority, other.c.device == oldest.c.device, _is_loaded(other.c.model)
    )
    return select(oldest).where(or_(_is_loaded(oldest.c.model), ~might)).cte("chosen")


def _is_loaded(model: ColumnElement[str]) -> ColumnElement[bool]:
    return model == any_(_texts("loaded"))


def _texts(name: str) -> Any:
    return bindparam(name, type_=ARRAY(Text))
