"""The slots of devices: which are free for us, how much room a shared card has, and which devices are paused.

A claim keeps the free slots it found locked until its transaction ends. Where a card is shared by a budget it locks
slot 0 instead, which stands for the whole device: whoever holds that one sees all that is taken, and nobody else can
take anything meanwhile.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from imagen.store.bell import slot_of, touch
from imagen.store.columns import Instant, upsert
from imagen.store.order import Place
from imagen.store.tables import slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one device has left for us."""

    slot: int
    vram_mib: int | None = None  # of a card that is shared; None: it is drawn on alone

    def takes(self, need_mib: int | None) -> bool:
        return need_mib is None or self.vram_mib is None or need_mib <= self.vram_mib


def rooms(connection: Connection, places: Collection[Place], now: datetime) -> dict[str, Room]:
    """Each device that has a free slot and is not paused, kept for us until this transaction ends."""
    wanted = {place.device: place for place in places}
    free = _look(connection, wanted, now)
    missing = {device: place for device, place in wanted.items() if device not in free}
    if missing and _make(connection, missing):
        free |= _look(connection, missing, now)
    return free


def fitting(heads: Sequence[Row[Any]], places: Mapping[str, Place], free: Mapping[str, Room]) -> list[Row[Any]]:
    """The jobs there is room for. One that waits for more is passed by nobody there, or it would wait for ever."""
    full: set[str] = set()
    fit = []
    for head in heads:
        device = places[head.model].device
        if device in full:
            continue
        if free[device].takes(places[head.model].need_mib(head)):
            fit.append(head)
        else:
            full.add(device)
    return fit


def take(connection: Connection, device: str, slot: int, *, job: str, attempt: int, vram_mib: int | None) -> None:
    """Give a job the slot that was kept for it."""
    connection.execute(
        update(slots)
        .where(slots.c.device == device, slots.c.slot == slot)
        .values(job_id=job, attempt=attempt, vram_mib=vram_mib)
    )


def free(connection: Connection, job_id: str, device: str) -> None:
    """A job needs its device no more."""
    freed = connection.execute(_freeing(), {"its_device": device, "its_job": job_id}).scalars()
    touch(connection, *(slot_of(device) for device in freed))


@functools.cache  # putting it together takes longer than asking
def _freeing() -> ReturningUpdate[Any]:
    # The device too: it leads there by the key, and a fleet has a thousand slots.
    held = (slots.c.device == bindparam("its_device"), slots.c.job_id == bindparam("its_job"))
    return update(slots).where(*held).values(job_id=None, attempt=None, vram_mib=None).returning(slots.c.device)


def anchor(connection: Connection, device: str) -> Any:
    """Lock a device by its slot 0, made if need be; what that says of a pause, as `paused` and `paused_until`."""
    connection.execute(upsert(connection, slots).values(device=device, slot=0).on_conflict_do_nothing())
    row = select(slots.c.paused, slots.c.paused_until).where(slots.c.device == device, slots.c.slot == 0)
    return connection.execute(row.with_for_update()).one()


def _look(connection: Connection, wanted: Mapping[str, Place], now: datetime) -> dict[str, Room]:
    shared = [device for device, place in wanted.items() if place.budget_mib is not None]
    given: dict[str, Any] = {"devices": list(wanted), "now": now} | ({"shared": shared} if shared else {})
    rows = connection.execute(_open_slots_statement(bool(shared)), given).all()
    # A device that was given fewer slots keeps its rows; they are not used any more.
    free = {row.device: Room(slot=row.slot) for row in rows if row.slot < wanted[row.device].slots}
    alone = {device: room for device, room in free.items() if device not in shared}
    locked = [device for device in shared if device in free]
    return alone | _shared(connection, wanted, locked) if locked else alone


@functools.cache  # putting it together takes longer than asking
def _open_slots_statement(shared: bool) -> Select[Any]:
    open_: ColumnElement[bool] = slots.c.job_id.is_(None)
    if shared:
        inside = slots.c.device.in_(bindparam("shared", expanding=True))
        open_ = or_(and_(~inside, open_), and_(inside, slots.c.slot == 0))
    return open_slots(slots.c.device.in_(bindparam("devices", expanding=True)), open_)


def open_slots(ours: ColumnElement[bool], open_: ColumnElement[bool]) -> Select[Any]:
    """The slots of our devices that are open and not paused, locked; `now` is given when it is asked."""
    # `paused` stands in the row that is locked: a claim that waits for a pause to be written sees it then.
    awake = or_(slots.c.paused.is_(None), slots.c.paused_until <= bindparam("now", type_=Instant))
    return (
        select(slots.c.device, slots.c.slot)
        .where(ours, open_, awake)
        .order_by(slots.c.device, slots.c.slot.desc())
        .with_for_update(skip_locked=True)
    )


def _shared(connection: Connection, wanted: Mapping[str, Place], locked: Sequence[str]) -> dict[str, Room]:
    """What is left of the cards that we hold by their slot 0, without those that are full."""
    rows = connection.execute(select(slots).where(slots.c.device.in_(locked))).all()
    left = {}
    for device in locked:
        place = wanted[device]
        here = [row for row in rows if row.device == device]
        open_ = [row.slot for row in here if row.job_id is None and row.slot < place.slots]
        budget = place.budget_mib or 0
        # Whoever knows of no budget draws alone.
        held = sum(budget if row.vram_mib is None else row.vram_mib for row in here if row.job_id is not None)
        if open_ and held < budget:
            left[device] = Room(slot=min(open_), vram_mib=budget - held)
    return left


def _make(connection: Connection, wanted: Mapping[str, Place]) -> bool:
    asked = select(slots.c.device, slots.c.slot).where(slots.c.device.in_(wanted))
    there = {(row.device, row.slot) for row in connection.execute(asked)}
    made = False
    for device, place in sorted(wanted.items()):
        missing = [slot for slot in range(place.slots) if (device, slot) not in there]
        if missing:
            first = anchor(connection, device)
            rows = [
                {"device": device, "slot": n, "paused": first.paused, "paused_until": first.paused_until}
                for n in missing
            ]
            connection.execute(upsert(connection, slots).values(rows).on_conflict_do_nothing())
            made = True
    return made
