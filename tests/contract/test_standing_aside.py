"""A worker leaves a new job for a moment to one that has its model loaded, and never a job that has waited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update
from tests import bulk_kit
from tests.store_kit import MODEL, OTHER, database, new

from imagen.core.errors import Check
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.signals import Output, Signal, Step
from imagen.engine.drawing.turns import ASIDE_S
from imagen.engine.drawing.worker import Worker
from imagen.store import intake, order, presence
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.intake import NewJob
from imagen.store.order import Place
from imagen.store.tables import jobs, workers

BEGUN = select(jobs.c.created_at, jobs.c.started_at, jobs.c.finished_at)
WARM = [*[MODEL] * 6, OTHER, MODEL]  # after these it is known what a change takes, and "test" is loaded
LOAD_S = 20.0
PLACES = {"test": Place(device=MODEL.device), "other": Place(device=OTHER.device)}
TRIES = 8  # a machine that is busy with other tests may be slow at any one


class Card:
    """Takes no time, but moves the clock by which the worker measures."""

    def __init__(self) -> None:
        self.now = 0.0
        self._loaded = ""

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: object, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        if model.name != self._loaded:
            self.now += LOAD_S
            self._loaded = model.name
        yield Step(step=1, total=1)
        self.now += 1.0
        yield Output(data=bytes(192), width=8, height=8)

    async def aclose(self) -> None:
        pass


async def test_a_new_job_is_left_to_who_has_its_model_loaded(place: str, tmp_path: Path) -> None:
    """For a moment; nobody takes it here, so it is drawn all the same."""
    async with warm(place, tmp_path, ["other"]) as db:
        for _ in range(TRIES):
            if await waited(db, OTHER) >= timedelta(seconds=ASIDE_S):
                return
            await drawn(db, MODEL)
    raise AssertionError("it never waited")


async def test_nobody_stands_aside_for_nobody(place: str, tmp_path: Path) -> None:
    """What is loaded nowhere is begun at once."""
    async with warm(place, tmp_path, []) as db:
        for _ in range(TRIES):
            if await waited(db, OTHER) < timedelta(seconds=ASIDE_S):
                return
            await drawn(db, MODEL)
    raise AssertionError("it always waited")


async def test_nobody_stands_aside_for_what_has_waited(place: str, tmp_path: Path) -> None:
    """Behind a line a card goes on with the oldest, whatever is loaded where."""
    async with warm(place, tmp_path, ["other"]) as db:
        for _ in range(TRIES):
            old = datetime.now(UTC) - timedelta(seconds=10)
            first, second = [await ended(db, job) for job in await db.write(submitted, [new(MODEL), new(OTHER)], old)]
            assert first.finished_at <= second.started_at
            if second.started_at - first.finished_at < timedelta(seconds=ASIDE_S):
                return
            await drawn(db, MODEL)
    raise AssertionError("it always waited")


async def test_what_is_new_of_each_model(place: str) -> None:
    """One old job of a model is enough, behind whichever new ones; one that came in the future is not new."""
    async with database(place) as db:
        now = datetime.now(UTC)
        since = now - timedelta(seconds=1)
        names = ("other", "test")
        assert await db.read(order.only_new, names, now, since) == set()
        await db.write(submitted, [new(), replace(new(), priority=5)], now - timedelta(seconds=0.5))
        assert await db.read(order.only_new, names, now, since) == {"test"}
        await db.write(submitted, [new(OTHER)], now + timedelta(hours=1))
        assert await db.read(order.only_new, names, now, since) == {"test"}
        await db.write(submitted, [replace(new(), priority=-5)], now - timedelta(seconds=5))
        assert await db.read(order.only_new, names, now, since) == set()


async def test_nobody_passes_more_than_are_counted(place: str) -> None:
    """Counting has an end; beyond it nobody is asked, for a thousand cards would say yes."""
    async with database(place) as db:
        (old,) = await db.write(submitted, [new()], datetime.now(UTC) - timedelta(hours=1))
        await db.write(lambda connection: bulk_kit.copies(connection, old, order.MANY - 2))
        await db.write(intake.submit, [new(OTHER)])
        for few in (True, False):
            heads = await db.read(order.heads, ["test", "other"], datetime.now(UTC), None, take=False)
            chosen = await db.read(order.loaded_first, heads, PLACES, ["other"], lambda *_: True)
            assert chosen.model == ("other" if few else "test")
            await db.write(submitted, [new()], datetime.now(UTC) - timedelta(hours=2))


async def waited(db: Database, model: Model) -> timedelta:
    """How long one more job of it did, that came when there was nothing else to do."""
    await asyncio.sleep(0.1)
    (job,) = await db.write(intake.submit, [new(model)])
    row = await ended(db, job)
    waited: timedelta = row.started_at - row.created_at
    return waited


async def drawn(db: Database, model: Model) -> None:
    """One more job of it."""
    (job,) = await db.write(intake.submit, [new(model)])
    await ended(db, job)


def submitted(connection: Connection, asked: Sequence[NewJob], came: datetime) -> list[str]:
    """Jobs that came at another time."""
    ids = intake.submit(connection, asked)
    connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(created_at=came))
    return list(ids)


async def ended(db: Database, job: str) -> Any:
    """The row of a job, when it is drawn."""
    while True:
        mark = db.mark(jobs=True)
        row = await db.read(lambda c: c.execute(BEGUN.where(jobs.c.id == job)).one())
        if row.finished_at is not None:
            return row
        await db.changed(mark, 0.05)


@asynccontextmanager
async def warm(place: str, folder: Path, loaded: Sequence[str]) -> AsyncIterator[Database]:
    """A worker that has "test" loaded and knows what loading takes, while another one says what it has."""
    async with database(place) as db:
        await db.write(neighbour, loaded)
        card = Card()
        worker = Worker(
            db,
            ImageStore("local", folder / "images"),
            resolve=_never,
            backend_for=lambda _model: card,
            catalog=lambda: {"test": MODEL, "other": OTHER},
            version="0",
            monotonic=lambda: card.now,
        )
        working = asyncio.create_task(worker.run())
        try:
            for model in WARM:
                await drawn(db, model)
            # It looked at the others before its first beat.
            while not await db.read(
                lambda c: c.execute(select(workers.c.beat).where(workers.c.id == worker.id)).scalar()
            ):
                await asyncio.sleep(0.02)
            yield db
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


def neighbour(connection: Connection, loaded: Sequence[str]) -> None:
    """A worker on a card of its own."""
    serves = {name: Place(device="card@there") for name in ("test", "other")}
    presence.arrive(connection, "far", version="0", serves=serves, solo=False, now=datetime.now(UTC))
    presence.beat(connection, "far", serves, loaded)


def _never(_draft: Draft) -> NewJob:
    raise AssertionError("nothing comes by SQL here")
