"""The same small trace twice: played, and drawn by real workers on a real PostgreSQL, whose drawing is sleeping."""

import asyncio
import tempfile
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
from benchmarks.fleet.play import Told
from benchmarks.fleet.world import DAY_S, Arrival, Kind, World, arrivals
from sqlalchemy import select
from tests import store_kit
from tests.service_kit import databases

from imagen.core.errors import Check
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.signals import Output, Phase, Signal, Step
from imagen.engine.drawing.worker import Worker
from imagen.store import intake
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.intake import NewJob
from imagen.store.tables import jobs

CARDS = 12
LENGTH_S = 150.0
SETTLE_S = 3.0  # until all have arrived
KINDS = (Kind("quick", 0.5, 1.0, 3.0, 4), Kind("middle", 0.3, 1.5, 3.0, 4), Kind("slow", 0.2, 3.0, 5.0, 8))
WORLD = World(
    gpus=CARDS,
    jobs_a_day=3.2 * DAY_S,  # a second
    kinds=KINDS,
    swing=0.6,
    bursts_an_hour=0,
    fashion="",
    lives_s=0,
    jitter=0,
    shrink=DAY_S / LENGTH_S,
)
BEGUN = select(jobs.c.id, jobs.c.created_at, jobs.c.started_at).where(jobs.c.started_at.is_not(None))
CONNECTED = "select count(*) from pg_stat_activity where datname <> 'postgres' and pid <> pg_backend_pid()"


class Card:
    """Loads and draws by sleeping."""

    def __init__(self) -> None:
        self.loaded = ""
        self.changes = 0

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: object, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        kind = next(kind for kind in KINDS if kind.name == model.name)
        if self.loaded != model.name:
            self.loaded, self.changes = model.name, self.changes + 1
            yield Phase(name="loading")
            await asyncio.sleep(kind.load_s)
        yield Phase(name="sampling")
        for step in range(1, kind.steps + 1):
            await asyncio.sleep(kind.draw_s / kind.steps)
            yield Step(step=step, total=kind.steps)
        yield Output(data=bytes(192), width=8, height=8)

    async def aclose(self) -> None:
        pass


async def drawn(world: World, coming: Sequence[Arrival]) -> tuple[Told, float]:
    """What real workers made of it, and how many connections each had."""
    told, over = Told(), threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="imagen-fleet-") as folder,
        databases("postgres", 1, Path(folder)) as (url,),
    ):
        async with AsyncExitStack() as stack:
            door = Database(url)
            await door.open()
            stack.push_async_callback(door.close)
            cards = [Card() for _ in range(world.gpus)]
            working = [
                asyncio.create_task((await _worker(stack, url, Path(folder), number, card)).run())
                for number, card in enumerate(cards)
            ]
            counting = asyncio.create_task(asyncio.to_thread(_connected, url, over))
            await asyncio.sleep(SETTLE_S)
            clock = asyncio.get_running_loop().time
            begin = clock()
            kinds = {}
            for one in coming:
                await asyncio.sleep(max(0.0, begin + one.at - clock()))
                model = replace(store_kit.MODEL, name=world.kinds[one.kind].name)
                job = replace(store_kit.new(model), priority=one.priority)
                (job_id,) = await door.write(intake.submit, [job])
                kinds[job_id] = one
            told.end = clock() - begin
            while True:
                rows = await door.read(lambda connection: connection.execute(BEGUN).all())
                if len(rows) == len(kinds):
                    break
                await asyncio.sleep(0.5)
            over.set()
            most = await counting
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            for row in rows:
                one = kinds[row.id]
                told.waits[one.priority, one.kind].append((row.started_at - row.created_at).total_seconds())
            told.begun, told.changes = len(rows), sum(card.changes for card in cards)
    return told, most / world.gpus


def _connected(url: str, over: threading.Event) -> int:
    """The most there were, until it is over."""
    most = 0
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as asking:
        while not over.wait(0.5):
            found = asking.execute(CONNECTED).fetchone()
            most = max(most, found[0] if found else 0)
    return most


async def _worker(stack: AsyncExitStack, url: str, folder: Path, number: int, card: Card) -> Worker:
    db = Database(url)
    await db.open()
    stack.push_async_callback(db.close)
    device = f"card-{number}@here"
    catalog = {kind.name: replace(store_kit.MODEL, name=kind.name, device=device) for kind in KINDS}
    return Worker(
        db,
        ImageStore("local", folder / f"images-{number}"),
        resolve=_never,
        backend_for=lambda _model: card,
        catalog=lambda: catalog,
        version="0",
    )


def _never(_draft: Draft) -> NewJob:
    raise AssertionError("nothing comes by SQL here")


def both() -> tuple[list[Arrival], Told, float]:
    """The trace, what real workers made of it, and the most connections that one of them had on the average."""
    coming = list(arrivals(WORLD))
    return coming, *asyncio.run(drawn(WORLD, coming))
