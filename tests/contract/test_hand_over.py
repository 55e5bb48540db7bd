"""An engine with a queue of its own gets the next job early; every other device draws one thing at a time."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.store_kit import database, grammar, new, record, take

from imagen.backends.base import Previews
from imagen.core.errors import Check
from imagen.core.job import State
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Output, Phase, Signal, Step
from imagen.engine.drawing import runner
from imagen.previews.policy import merge
from imagen.store import history, intake
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.queue import Claim


class Engine:
    """Stops where the test wants to look: while it decodes, and after its last picture."""

    def __init__(self, *, queues: bool, says: bool = False) -> None:
        self.queues = queues
        self.says = says
        self.here = asyncio.Event()
        self.go = asyncio.Event()
        self.stop_at = "decoding"

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        yield Step(step=1, total=request.n)
        yield Phase(name="decoding", device_free=self.says)
        await self._wait("decoding")
        for index in range(request.n):
            yield Output(data=bytes(192), width=8, height=8, index=index)
            if index == request.n - 1:
                await self._wait("drawn")

    async def _wait(self, where: str) -> None:
        if where == self.stop_at:
            self.here.set()
            await self.go.wait()

    async def aclose(self) -> None: ...


async def next_while(db: Database, folder: Path, engine: Engine, claim: Claim) -> tuple[Claim | None, list[str]]:
    """What another claim gets while the first job stands where the engine stops; then both are brought to an end."""
    told: list[str] = []
    images = ImageStore("local", folder / "images")

    async def run(one: Claim) -> State | None:
        drawn = lambda freed, _next: told.append(freed.job)  # noqa: E731 - a name for one line
        return await runner.Attempt(one, engine, db=db, images=images, policy=merge(None), drawn=drawn).run()

    running = asyncio.create_task(run(claim))
    await engine.here.wait()
    second = await take(db)
    engine.go.set()
    assert await running is State.COMPLETED
    if second is not None:
        assert await run(second) is State.COMPLETED
    return second, told


@pytest.mark.parametrize("stop_at", ["decoding", "drawn"])
async def test_a_device_without_a_queue_is_held_to_the_end(place: str, tmp_path: Path, stop_at: str) -> None:
    """Nothing else is begun on a card while it decodes, or while its job is saved."""
    async with database(place) as db:
        await db.write(intake.submit, [new(), new()])
        claim = await take(db)
        assert claim is not None
        engine = Engine(queues=False)
        engine.stop_at = stop_at
        second, told = await next_while(db, tmp_path, engine, claim)
        assert second is None
        assert told == []


@pytest.mark.parametrize("stop_at", ["decoding", "drawn"])
@pytest.mark.parametrize("how", [{"queues": True}, {"queues": False, "says": True}], ids=["queues", "says so"])
async def test_an_engine_with_a_queue_gets_the_next_early(
    place: str, tmp_path: Path, stop_at: str, how: dict[str, bool]
) -> None:
    """The next job is claimed while the first is decoded or saved, and both records are whole.

    So is one of a backend that has no queue, and says that its device is free.
    """
    async with database(place) as db:
        jobs = await db.write(intake.submit, [new(), new()])
        claim = await take(db)
        assert claim is not None
        engine = Engine(**how)
        engine.stop_at = stop_at
        second, told = await next_while(db, tmp_path, engine, claim)
        assert second is not None
        assert told == jobs, "each frees its device once"
        for job in jobs:
            grammar(await record(db, job))
            assert (await db.read(history.job, job)).state is State.COMPLETED


@pytest.mark.parametrize("says", [False, True])
async def test_a_cell_that_is_measured_is_left_alone_until_it_is_drawn(place: str, tmp_path: Path, says: bool) -> None:
    """What runs beside it would be counted as its own memory."""
    async with database(place) as db:
        await db.write(intake.submit, [new(), new()])
        claim = await take(db)
        assert claim is not None
        engine = Engine(queues=not says, says=says)
        second, told = await next_while(db, tmp_path, engine, replace(claim, series="s"))
        assert second is None
        assert told == [claim.job], "with its picture drawn it is free"


async def test_a_job_of_several_pictures_frees_its_device_with_the_last(place: str, tmp_path: Path) -> None:
    """While any picture is missing the device is needed."""
    async with database(place) as db:
        await db.write(intake.submit, [new(n=2), new()])
        claim = await take(db)
        assert claim is not None
        second, told = await next_while(db, tmp_path, Engine(queues=True), claim)
        assert second is None
        assert told == [claim.job]


async def test_a_backend_that_says_so_frees_its_device_with_all_that_it_has_left(place: str, tmp_path: Path) -> None:
    """It knows that these pictures are its last: they may come out together."""
    async with database(place) as db:
        await db.write(intake.submit, [new(n=2), new()])
        claim = await take(db)
        assert claim is not None
        second, told = await next_while(db, tmp_path, Engine(queues=False, says=True), claim)
        assert second is not None
        assert told == [claim.job, second.job]
