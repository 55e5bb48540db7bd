"""The next job in one statement: for PostgreSQL, where each statement is a way to another machine and back.

It is put together from what the long way asks one after the other (`slots.py`, `order.py`), writes the event `started`,
and is committed and rings with the same way. It leaves to the long way whatever has a question in it: a row that came
by SQL and is not resolved yet, a card that models share, a loaded model that might pass, a slot or a worker that is not
in its list, a job that was begun before, a model with a wish of its own for previews.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Numeric,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)

from imagen.core.events import Started
from imagen.store import slots
from imagen.store.bell import NOTIFY_FOUND, announced, found
from imagen.store.columns import Instant, Json
from imagen.store.order import ONE, Place, Wish, by_turn, first_of, unresolved
from imagen.store.postgresql import driver
from imagen.store.tables import events, jobs, watchers, workers
from imagen.store.tables import slots as slots_table

# A plan made once for all: for each worker and device anew it takes longer than the claim. Made while the queue was
# empty, it is to serve a full one, so nothing in it goes through a whole table.
PLANNED_ONCE = """
    select set_config('plan_cache_mode', 'force_generic_plan', true) as plans,
           set_config('enable_seqscan', 'off', true) as scans
"""
# What is read of the row.
ROW = (
    *("id", "prompt", "model", "negative", "width", "height", "steps", "seed", "guidance", "n", "options", "preview"),
    *("priority", "series_id", "attempt", "failures", "created_at", "seq", "record", "device", "worker", "handle"),
    "webhook",
)


def possible(connection: Connection, places: Mapping[str, Place]) -> bool:
    """Can it be asked here? A card that models share is looked at as a whole, and that is another way."""
    return (
        connection.dialect.name == "postgresql"
        and all(place.budget_mib is None for place in places.values())
        and driver.is_idle(connection)
    )


def take(connection: Connection, wish: Wish, now: datetime) -> tuple[Any, bool]:
    """The row of the job that was taken, for good; and whether the long way would find no other.

    A connection that breaks leaves it open whether a job was taken: then it is asked again, and what nobody heard of
    goes back (`Worker._reconcile`).
    """
    *_, row = driver.at_once(connection, statements(connection), given(wish, now), behind=(NOTIFY_FOUND,))
    return taken(connection, row), row.id is not None or row.nothing


def given(wish: Wish, now: datetime) -> dict[str, Any]:
    """A wish as the statement is given it."""
    places = wish.places.values()
    return {
        "worker": wish.worker,
        "names": list(wish.places),
        "places": [place.device for place in places],
        "counts": [place.slots for place in places],
        "devices": list({place.device for place in places}),
        "knows": list(wish.knows),
        "loaded": list(wish.loaded),
        "now": now,
        "previews": wish.previews,
    }


def statements(connection: Connection) -> tuple[str, str]:
    """What is said; the second brings the row."""
    return PLANNED_ONCE, driver.spoken(connection, _put_together)


def taken(connection: Connection, row: Any) -> Any:
    """The row of the job, if there is one in what was brought; the others were told."""
    if row.id is None:
        return None
    announced(connection, row.id)
    return row


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
    room = slots.open_slots(slots_table.c.device == any_(_texts("devices")), slots_table.c.job_id.is_(None)).cte("room")
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
    begun = (
        update(job)
        .where(job.c.id == chosen.c.id, (job.c.state == literal_column("'queued'")).is_(true()))
        .values(**changes(job, worker, chosen.c.device, now))
        .returning(*(job.c[name] for name in ROW))
        .cte("begun")
    )
    seat = (
        update(slots_table)
        .where(slots_table.c.device == begun.c.device, slots_table.c.slot == chosen.c.slot)
        .values(job_id=begun.c.id, attempt=begun.c.attempt, vram_mib=null())
        .returning(slots_table.c.slot)
        .cte("seat")
    )
    watched = exists().where(watchers.c.job_id == begun.c.id, watchers.c.expires_at > now)
    body = func.jsonb_build_object(
        *_named(request=_request(begun.c), worker=worker, device=begun.c.device),
        *_named(preview=func.jsonb_extract_path(chosen.c.previews, cast(watched, Text))),
    )
    event: Any = (begun.c.id, begun.c.seq, literal_column(f"'{Started.type}'"), now, begun.c.attempt, body)
    event_told = (
        insert(events)
        .from_select(["job_id", "seq", "type", "at", "attempt", "body"], select(*event).join(chosen, true()))
        .returning(events.c.seq)
        .cte("told")
    )
    nothing = and_(
        ~exists(select(heads.c.id)),
        select(func.count()).select_from(free).scalar_subquery() == func.cardinality(_texts("names")),
    )
    said = select(nothing.label("nothing")).subquery("said")
    answer = select(begun, said.c.nothing, found(select(begun.c.id).scalar_subquery()).label("found"))
    return answer.select_from(said.outerjoin(begun, true())).add_cte(seat, event_told)


def _request(job: Any) -> ColumnElement[Any]:
    """The request of a job as `intake.request_of` reads it and Python writes it."""
    # Python writes 7.0 where PostgreSQL would write 7.
    whole = and_(job.guidance == func.trunc(job.guidance), func.abs(job.guidance) < literal_column("1e15"))
    exact = func.to_jsonb(cast(job.guidance, Numeric) + literal_column("0.0"))
    guidance = case((whole, exact), else_=func.to_jsonb(job.guidance))
    same = {name: job[name] for name in ("prompt", "model", "width", "height", "steps", "seed", "n")}
    negative = func.coalesce(job.negative, literal_column("''"))
    options = func.coalesce(job.options, literal_column("'{}'::jsonb"))
    return func.jsonb_build_object(*_named(**same, negative=negative, guidance=guidance, options=options))


def _named(**values: Any) -> list[Any]:
    pairs: Any = ((literal_column(f"'{name}'"), value) for name, value in values.items())
    return list(chain.from_iterable(pairs))


def _heads(free: CTE) -> CTE:
    """The first job of each model that has room."""
    first = first_of(free.c.model).with_for_update(skip_locked=True).scalar_subquery()
    best = select(free.c.device, free.c.slot, first.label("id")).cte("best")
    wish = func.coalesce(func.jsonb_extract_path_text(jobs.c.preview, literal_column("'method'")), literal_column("''"))
    plain = and_(
        jobs.c.attempt == literal_column("0"),
        func.jsonb_extract_path_text(jobs.c.record, literal_column("'preview'")).is_(None),
    )
    previews = case((plain, func.jsonb_extract_path(bindparam("previews", type_=Json), wish)))
    turn = (jobs.c.id, jobs.c.model, jobs.c.priority, jobs.c.created_at)
    return (
        select(*turn, best.c.device, best.c.slot, previews.label("previews"))
        .join(best, best.c.id == jobs.c.id)
        .cte("heads")
    )


def _chosen(heads: CTE) -> CTE:
    """The oldest of the highest priority; none where it is not plain, or one of a loaded model might pass it."""
    oldest = select(heads).order_by(*by_turn(heads.c)).limit(ONE).cte("oldest")
    other = heads.alias("other")
    might = exists().where(
        other.c.priority == oldest.c.priority, other.c.device == oldest.c.device, _is_loaded(other.c.model)
    )
    return select(oldest).where(or_(_is_loaded(oldest.c.model), ~might), oldest.c.previews.is_not(None)).cte("chosen")


def _is_loaded(model: ColumnElement[str]) -> ColumnElement[bool]:
    return model == any_(_texts("loaded"))


def _texts(name: str) -> Any:
    return bindparam(name, type_=ARRAY(Text))
