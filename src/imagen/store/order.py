"""The order of the queue: strict on priority; among equals the loaded model, if it may; then age."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    Subquery,
    Text,
    and_,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)

from imagen.core.model import Model
from imagen.store import templates
from imagen.store.columns import Instant
from imagen.store.tables import is_queued, jobs

MOST_SLOTS = 16  # of a shared device: a row each, and each is a job in memory of one worker
ONE = literal_column("1", Integer)  # written out: a plan that is made before the number is known is one for many rows
MANY = 10_000  # waiting jobs are counted so far, ten for each of a thousand cards; who would pass more passes nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker would draw a model: the device as its catalog says now, and how many jobs that takes at once."""

    device: str
    slots: int = 1
    vram_mib: int | None = None  # what the model holds while it draws a picture of its usual size
    pixels: int = 0  # of that size
    budget_mib: int | None = None  # where models share the device: what they may hold of it together

    def need_mib(self, head: Row[Any]) -> int | None:
        """What drawing this job holds of a shared device; None where it is not shared."""
        if self.budget_mib is None:
            return None
        # What a larger picture needs nobody knows, and a comparison is measured: nothing else draws beside it.
        usual = head.width * head.height <= self.pixels and head.series_id is None
        return min(self.vram_mib, self.budget_mib) if usual and self.vram_mib is not None else self.budget_mib


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a worker would take next."""

    worker: str
    places: Mapping[str, Place]  # of the models it draws
    knows: Sequence[str]  # the names it understands
    # JSON, what `started` says of them: by the method that a job asks for (or ""), then by whether somebody watches.
    previews: str
    loaded: Sequence[str] = ()  # models that may go before others of the same priority


@dataclass(frozen=True, slots=True, order=True)
class Turn:
    """When a job came, among all others; compares as the queue does."""

    came: datetime
    job: str
    model: str = field(compare=False)


def place_of(model: Model) -> Place:
    """Where a model is drawn, as long as it shares its device with nobody."""
    usual = model.defaults
    return Place(device=model.device, slots=model.slots, vram_mib=model.vram_mib, pixels=usual.width * usual.height)


def sharing(places: Mapping[str, Place], budgets: Mapping[str, int]) -> dict[str, Place]:
    """The same places, with the devices that have a budget shared: as many slots as the smallest model fits there."""
    least: dict[str, int] = {}
    for place in places.values():
        if place.device in budgets and place.vram_mib:
            least[place.device] = min(place.vram_mib, least.get(place.device, place.vram_mib))
    shared = dict(places)
    for name, place in places.items():
        if (budget := budgets.get(place.device)) is not None:
            fit = min(budget // least[place.device], MOST_SLOTS) if place.device in least else 1
            shared[name] = replace(place, budget_mib=budget, slots=max(place.slots, fit))
    return shared


# Device, oldest job, younger job of the loaded model, how many wait that came before that one: may it go first?
MayPass = Callable[[str, Turn, Turn, int], bool]


def anything(
    connection: Connection, places: Mapping[str, Place], knows: Sequence[str], only: Sequence[str] | None = None
) -> bool:
    """Might a claim find something? A look that disturbs nobody, before one that takes the write lock."""
    raw = select(jobs.c.id).where(unresolved(jobs.c.model.in_(knows)))
    if only is not None:
        raw = raw.where(jobs.c.id.in_(only))
    if connection.execute(raw.limit(1)).first():
        return True
    return bool(places) and bool(heads(connection, list(places), datetime.now(UTC), only, take=False))


def unresolved(known: ColumnElement[bool]) -> ColumnElement[bool]:
    """A row that came by SQL, for a model that the caller knows; another worker may know the others."""
    return and_(is_queued, jobs.c.record.is_(None), or_(jobs.c.model.is_(None), known))


def left_over(connection: Connection, knows: Sequence[str]) -> dict[str, Model]:
    """Models that jobs still wait for and that are in no catalog any more, as those jobs carry them.

    Goes from name to name along the index, however many jobs wait.
    """
    first = (
        select(func.min(jobs.c.model).label("model")).where(is_queued, jobs.c.record.is_not(None)).cte(recursive=True)
    )
    after = jobs.alias()
    waits = after.c.state == literal_column("'queued'")
    following = select(func.min(after.c.model)).where(waits, after.c.model > first.c.model).scalar_subquery()
    names = first.union_all(select(following).where(first.c.model.is_not(None)))
    found = connection.execute(select(names.c.model).where(names.c.model.is_not(None))).scalars().all()
    models = {}
    for name in set(found) - set(knows):
        record = connection.execute(
            select(jobs.c.record).where(is_queued, jobs.c.model == name, jobs.c.record.is_not(None)).limit(1)
        ).scalar_one_or_none()
        if record is not None:
            models[name] = templates.whole(connection, Model.from_dict(record))
    return models


def places_of(connection: Connection, ids: Sequence[str]) -> dict[str, Place]:
    """Where these jobs would be drawn by what they carry themselves."""
    rows = connection.execute(
        select(jobs.c.model, jobs.c.record).where(jobs.c.id.in_(ids), jobs.c.record.is_not(None))
    ).all()
    carried = {row.model: Model.from_dict(row.record) for row in rows}
    return {name: place_of(model) for name, model in carried.items()}


def loaded_first(
    connection: Connection, heads: Sequence[Row[Any]], places: Mapping[str, Place], loaded: Sequence[str], ask: MayPass
) -> Row[Any]:
    """The oldest of the highest priority; or one of a model that its device has loaded, if that may pass it."""
    oldest = heads[0]
    device = places[oldest.model].device
    if oldest.model in loaded:
        return oldest
    for head in heads:
        same = head.priority == oldest.priority and places[head.model].device == device
        if not same or head.model not in loaded:
            continue
        here = [model for model, place in places.items() if place.device == device]
        before = (
            select(jobs.c.id)
            .where(
                is_queued,
                jobs.c.model.in_(here),
                jobs.c.priority == head.priority,
                tuple_(jobs.c.created_at, jobs.c.id) < tuple_(bindparam("came", head.created_at, Instant), head.id),
            )
            .limit(MANY)
            .subquery()
        )
        waiting = connection.execute(select(func.count()).select_from(before)).scalar_one()
        if waiting < MANY and ask(device, turn_of(oldest), turn_of(head), waiting):
            return head
    return oldest


def only_new(connection: Connection, models: Collection[str], now: datetime, since: datetime) -> set[str]:
    """Those of which jobs wait that have all come since then.

    One that came in the future is not new: the clock of whoever submitted it is ahead, and nobody waits for that.
    """
    rows = connection.execute(_only_new(tuple(sorted(models))), {"now": now, "since": since})
    return {row.name for row in rows if row.waits is not None and row.aged is None}


@functools.lru_cache(maxsize=64)
def _only_new(models: tuple[str, ...]) -> Select[Any]:
    names = _served(models)
    job = jobs.alias()
    ready = (
        job.c.state == literal_column("'queued'"),
        job.c.record.is_not(None),
        or_(job.c.run_after.is_(None), job.c.run_after <= bindparam("now", type_=Instant)),
        or_(job.c.created_at <= bindparam("since", type_=Instant), job.c.created_at > bindparam("now", type_=Instant)),
    )
    aged = select(job.c.id).where(job.c.model == names.c.name, *ready).order_by(*by_turn(job.c)).limit(ONE)
    waits = first_of(names.c.name)
    return select(names.c.name, waits.scalar_subquery().label("waits"), aged.scalar_subquery().label("aged"))


def turn_of(row: Row[Any]) -> Turn:
    return Turn(row.created_at, row.id, row.model)


def heads(
    connection: Connection, models: Sequence[str], now: datetime, only: Sequence[str] | None, *, take: bool = True
) -> Sequence[Row[Any]]:
    """The first job of each model, the best first: as quick behind a long queue of other models as behind none."""
    given = {"now": now} if only is None else {"now": now, "only": list(only)}
    return connection.execute(_heads(tuple(models), only is not None, take), given).all()


@functools.lru_cache(maxsize=64)  # a worker asks the same for weeks, and putting it together takes longer than asking
def _heads(models: tuple[str, ...], limited: bool, take: bool) -> Select[Any]:
    names = _served(models)
    head = first_of(names.c.name, limited=limited)
    if take:
        head = head.with_for_update(skip_locked=True)
    best = select(head.scalar_subquery().label("id")).select_from(names).subquery("heads")
    turn = (jobs.c.id, jobs.c.model, jobs.c.priority, jobs.c.created_at)
    size = (jobs.c.width, jobs.c.height, jobs.c.series_id)
    return select(*turn, *size).join(best, best.c.id == jobs.c.id).order_by(*by_turn(jobs.c))


def _served(models: Sequence[str]) -> Subquery:
    return union_all(*(select(literal(model, Text).label("name")) for model in models)).subquery("served")


def first_of(model: ColumnElement[str], *, limited: bool = False) -> Select[Any]:
    """The first job that waits for a model; `now` is given when it is asked, and `only` with `limited`."""
    first = jobs.alias()
    ready = [
        first.c.state == literal_column("'queued'"),
        first.c.record.is_not(None),
        or_(first.c.run_after.is_(None), first.c.run_after <= bindparam("now", type_=Instant)),
    ]
    if limited:
        ready.append(first.c.id.in_(bindparam("only", expanding=True)))
    return select(first.c.id).where(first.c.model == model, *ready).order_by(*by_turn(first.c)).limit(ONE)


def by_turn(job: Any) -> tuple[ColumnElement[Any], ...]:
    """The order in which jobs are served, by their columns."""
    return (job.priority.desc(), job.created_at, job.id)
