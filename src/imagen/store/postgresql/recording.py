"""What a worker says of its job in one statement: for PostgreSQL, where each is a way to another machine and back.

Under the fence of its attempt: what becomes of the job's row, the event that tells of it, a picture, the slot that
comes free, and the job that is taken next for it. It is committed and heard of with the same way.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    bindparam,
    exists,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)

from imagen.core.events import Event, body_of
from imagen.store.bell import NOTIFY_FOUND, announced, behind, touch
from imagen.store.columns import Json
from imagen.store.order import Wish
from imagen.store.postgresql import claiming, driver
from imagen.store.tables import events, images, jobs, slots, still_running

if TYPE_CHECKING:
    from imagen.store.queue import Claim

PICTURE = ("index", "id", "url", "width", "height", "seed", "sha256", "pixels_sha256", "state")  # of a StoredImage


class Shape(NamedTuple):
    """What the words of the statement depend on, and nothing that is given with them."""

    values: tuple[str, ...]
    picture: tuple[str, ...]
    event: bool
    ends: bool
    frees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a worker says of its job: one thing, with all that goes with it."""

    event: Event | None
    values: Mapping[str, Any]  # what becomes of the job's row
    picture: Mapping[str, Any]  # a row of `images`, or nothing
    frees: bool  # the slot of its device

    @property
    def shape(self) -> Shape:
        """Equal where the same statement says it."""
        ends = self.event is not None and self.event.terminal
        return Shape(tuple(self.values), tuple(self.picture), self.event is not None, ends, self.frees)


def possible(connection: Connection) -> bool:
    """Can it be said here? It ends its transaction, so it has to be all of it."""
    return connection.dialect.name == "postgresql" and driver.is_idle(connection)


def tell(
    connection: Connection,
    claim: "Claim",
    change: Change,
    *,
    topics: Sequence[str],
    then: Wish | None,
    now: datetime,
) -> tuple[int | None, Any]:
    """Write it for good; the number of the job's last event, or None where this attempt is not the current one.

    `then` takes the next job with it; its row comes beside the number.
    """
    event = change.event
    # Without an event it may be said twice.
    if event is not None and connection.info.get("again") and (seq := _recorded(connection, claim, event)) is not None:
        touch(connection, *topics)  # nobody may have been told
        return seq, None
    given: dict[str, Any] = {"job": claim.job, "its_attempt": claim.attempt, "device": claim.model.device}
    given |= {f"to_{name}": _plain(jobs.c[name], value) for name, value in change.values.items()}
    given |= {f"its_{name}": value for name, value in change.picture.items()}
    if event is not None:
        given |= {"type": event.type, "at": event.at, "body": json.dumps(body_of(event))}
    words, topics_given = behind(topics)
    statements, news = [driver.spoken(connection, _making(change.shape))], [words]
    if then is not None:
        statements += claiming.statements(connection)
        news.append(NOTIFY_FOUND)
        given |= claiming.given(then, now)
    brought = driver.at_once(connection, statements, given | topics_given, behind=news)
    announced(connection, *topics)
    seq = None if brought[0] is None else int(brought[0].seq)
    return seq, None if then is None else claiming.taken(connection, brought[-1])


def _recorded(connection: Connection, claim: "Claim", event: Event) -> int | None:
    """Its number if it was recorded, and only the answer was lost: nothing else has its moment and its kind."""
    # The server may still be at it, on the connection that broke.
    connection.execute(select(jobs.c.id).where(jobs.c.id == claim.job).with_for_update())
    ours = (events.c.job_id == claim.job, events.c.attempt == claim.attempt)
    said = select(events.c.seq).where(*ours, events.c.type == event.type, events.c.at == event.at)
    seq = connection.execute(said).scalar_one_or_none()
    connection.connection.commit()
    return seq


def _plain(column: Column[Any], value: Any) -> Any:
    """As the driver is to be given it."""
    if isinstance(column.type, Json):
        return None if value is None else json.dumps(value)
    return str(value) if isinstance(value, str) else value


@functools.lru_cache(maxsize=64)  # whoever puts it together is known by its identity
def _making(shape: Shape) -> Callable[[], Select[Any]]:
    return functools.partial(_put_together, shape)


def _put_together(shape: Shape) -> Select[Any]:
    job = bindparam("job", type_=Text)
    changed = {name: bindparam(f"to_{name}", type_=jobs.c[name].type) for name in shape.values}
    seq = jobs.c.seq + literal_column("1" if shape.event else "0")
    fenced = (
        update(jobs)
        .where(jobs.c.id == job, still_running, jobs.c.attempt == bindparam("its_attempt", type_=Integer))
        .values(seq=seq, **changed)
        .returning(jobs.c.id, jobs.c.seq, jobs.c.attempt)
        .cte("fenced")
    )
    beside = []
    if shape.event:
        beside.append(_insert_event(fenced, shape.ends))
    if shape.picture:
        columns = {name: bindparam(f"its_{name}", type_=images.c[name].type) for name in shape.picture}
        of_job = select(fenced.c.id, *columns.values())
        beside.append(insert(images).from_select(["job_id", *columns], of_job).returning(images.c.id).cte("stored"))
    if shape.frees:
        held = (slots.c.device == bindparam("device", type_=Text), slots.c.job_id == job)
        empty = dict.fromkeys(("job_id", "attempt", "vram_mib"), null())
        free = update(slots).where(*held, exists(select(fenced.c.id))).values(empty)
        beside.append(free.returning(slots.c.slot).cte("freed"))
    return select(fenced.c.seq).add_cte(*beside)


def _insert_event(fenced: CTE, ends: bool) -> CTE:
    at, type_ = bindparam("at", type_=events.c.at.type), bindparam("type", type_=Text)
    body: ColumnElement[Any] = bindparam("body", type_=Json)
    if ends:
        body = func.jsonb_set(body, literal_column("'{images}'"), _pictures(fenced))
    event = select(fenced.c.id, fenced.c.seq, type_, at, fenced.c.attempt, body)
    into = insert(events).from_select(["job_id", "seq", "type", "at", "attempt", "body"], event)
    return into.returning(events.c.seq).cte("told")


def _pictures(fenced: CTE) -> ColumnElement[Any]:
    """All pictures of the job, as Python writes them: also those of earlier attempts, and what was deleted since."""
    pairs: list[Any] = []
    for name in PICTURE:
        pairs += [literal_column(f"'{name}'"), images.c["idx" if name == "index" else name]]
    listed = func.jsonb_agg(func.jsonb_build_object(*pairs)).aggregate_order_by(images.c.idx)
    none: ColumnElement[Any] = literal_column("'[]'::jsonb")
    return select(func.coalesce(listed, none)).where(images.c.job_id == fenced.c.id).scalar_subquery()
