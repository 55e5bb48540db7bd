"""With the write that frees a device its worker takes the next job: one transaction, one way to PostgreSQL and back."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, literal_column, select, update
from tests.postgres_kit import Postgres
from tests.store_kit import MODEL, OTHER, PLACE, WORKER, database, grammar, new, record, resolve, started, take, wish

from imagen.core.errors import Check, Rejected
from imagen.core.events import Completed
from imagen.core.ids import new_id
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Output, Phase, Signal, Step
from imagen.engine.drawing.fleet import Fleet
from imagen.engine.drawing.worker import Worker
from imagen.store import devices, intake, presence, queue
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.queue import Claim, LeaseLost
from imagen.store.tables import jobs, slots, workers

JOBS = 6
ENDED = {"completed", "queued"}


class Engine:
    """Draws at once; it may say early that its device is free, and refuses what it is asked to."""

    def __init__(self, *, early: bool, takes_s: float = 0.0, closes_s: float = 0.0) -> None:
        self.early = early
        self.takes_s = takes_s
        self.closes_s = closes_s
        self.drawn: list[str] = []

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: object, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        self.drawn.append(request.prompt)
        yield Step(step=1, total=1)
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            await asyncio.sleep(self.closes_s)
            raise
        if request.prompt == "refused":
            raise Rejected("not this one", hint="ask for another")
        yield Phase(name="decoding", device_free=self.early)
        yield Output(data=bytes(192), width=8, height=8)

    async def aclose(self) -> None: ...


async def finished(db: Database, claim: Claim, **how: Any) -> Claim | None:
    end = Completed(job=claim.job, attempt=claim.attempt)
    return await db.write(queue.finish, claim, end, timings={}, facts={}, then=wish(**how))


@pytest.mark.needs_postgres
async def test_the_end_and_the_next_beginning_are_one_transaction(postgres: Postgres) -> None:
    """What is brought is what a claim of its own brings, and the slot goes from hand to hand."""
    async with database(postgres.new_database()) as db:
        ids = await db.write(intake.submit, [new(), new(), new(OTHER)])
        first = await take(db)
        assert first is not None
        second = await finished(db, first)
        assert second is not None
        third = await db.write(queue.free_device, second, then=wish())
        assert third is not None
        assert [first.job, second.job, third.job] == ids
        alike: dict[str, Any] = {"job": "", "turn": None, "waited_s": 0.0}
        assert replace(second, **alike) == replace(first, **alike)
        assert third.model == replace(OTHER, device=MODEL.device)
        for claim, types in (
            (first, "queued started completed"),
            (second, "queued started"),
            (third, "queued started"),
        ):
            told = await record(db, claim.job)
            assert " ".join(event.type for event in told) == types
            grammar(told)
        written = select(jobs.c.id, literal_column("xmin::text").label("xmin"))
        by: dict[str, str] = {row.id: row.xmin for row in await db.read(lambda c: c.execute(written).all())}
        assert by[first.job] != by[third.job]
        assert by[second.job] == by[third.job], "the change of a row says who made it last"
        assert await db.read(_held) == [third.job]
        assert await finished(db, third) is None, "nothing waits"
        assert await finished(db, second) is None
        assert await db.read(_held) == []


@pytest.mark.needs_postgres
async def test_what_has_a_question_in_it_waits_for_a_claim_of_its_own(postgres: Postgres) -> None:
    """The end is recorded all the same, and the long way finds the job."""
    async with database(postgres.new_database()) as db:
        await db.write(intake.submit, [new(), new(), new(), new(), new(OTHER)])
        claim = await take(db)
        assert claim is not None
        assert await finished(db, claim, places={"test": replace(PLACE, budget_mib=900)}) is None, "a shared card"
        claim = await take(db)
        assert claim is not None
        assert await finished(db, claim, loaded=("other",)) is None, "may the other one pass?"
        claim = await take(db)
        assert claim is not None
        await db.write(lambda c: c.execute(insert(jobs).values(id=new_id(), prompt="by SQL", model="test")))
        assert await finished(db, claim) is None, "somebody has to resolve it first"
        claim = await take(db)
        assert claim is not None
        await db.write(lambda c: c.execute(delete(workers).where(workers.c.id == WORKER)))
        assert await finished(db, claim) is None, "it was buried"
        assert await db.read(_held) == []
        claim = await take(db)
        assert claim is not None


@pytest.mark.needs_postgres
async def test_who_lost_his_job_is_not_told_of_the_next(postgres: Postgres) -> None:
    """What was taken all the same is a job of ours that nobody draws, and goes back as such."""
    async with database(postgres.new_database()) as db:
        places = {"test": replace(PLACE, slots=2)}
        ids = await db.write(intake.submit, [new(), new()])
        claim = await take(db, places=places)
        assert claim is not None
        await db.write(lambda c: c.execute(update(jobs).where(jobs.c.id == ids[0]).values(attempt=2)))
        with pytest.raises(LeaseLost):
            await finished(db, claim, places=places)
        assert ids[1] in await db.read(presence.holds, WORKER)
        await db.write(queue.unheard, ids[1], WORKER)
        again = await take(db, places=places)
        assert again is not None
        assert (again.job, again.attempt) == (ids[1], 2)


@pytest.mark.parametrize("early", [False, True], ids=["at the end", "early"])
async def test_a_worker_goes_from_job_to_job(
    place: str, tmp_path: Path, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, each once; after a failure it looks again. On PostgreSQL it claims twice, for all of them."""
    asked, claim = 0, queue.claim

    def counted(*args: Any, **how: Any) -> Claim | None:
        nonlocal asked
        found = claim(*args, **how)
        asked += found is not None
        return found

    monkeypatch.setattr(queue, "claim", counted)
    async with database(place) as db:
        asks = [new(prompt="refused" if number == 2 else f"fox {number}") for number in range(JOBS)]
        engine = Engine(early=early)
        async with _working(db, tmp_path, engine):
            ids = await db.write(intake.submit, asks)
            await _ended(db, ids)
        assert engine.drawn == [ask.request.prompt for ask in asks]
        for number, job in enumerate(ids):
            told = await record(db, job)
            grammar(told)
            assert told[-1].type == ("failed" if number == 2 else "completed")
        assert asked == (2 if "postgresql" in place else JOBS)
        assert await db.read(_held) == []


@pytest.mark.parametrize("politely", [True, False])
async def test_a_worker_that_is_told_to_stop_leaves_the_rest(place: str, tmp_path: Path, politely: bool) -> None:
    """What it has not drawn waits for somebody else, also what it took with the last end."""
    async with database(place) as db:
        ids = await db.write(intake.submit, [new() for _ in range(JOBS)])
        worker = _worker(db, tmp_path, Engine(early=False))
        working = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(60):
                await _ended(db, ids[:2])
                if politely:
                    worker.stop_claiming()
                    assert await worker.idle(30)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        assert {row.state for row in await db.read(lambda c: c.execute(select(jobs.c.state)).all())} <= ENDED
        assert await db.read(_held) == []


@pytest.mark.needs_postgres
async def test_what_is_taken_while_its_worker_leaves_goes_back(postgres: Postgres) -> None:
    """Leaving waits for a claim that is under way, and puts back what that took; afterwards nothing is taken."""
    async with database(postgres.new_database()) as db:
        await db.write(intake.submit, [new(), new()])
        claim = await take(db)
        assert claim is not None
        leaving: list[asyncio.Future[None]] = []

        def slowly(connection: Connection) -> None:
            """The next job is taken, and a while later that is committed: by the long way, which can be held open."""
            connection.execute(select(1))
            queue.finish(connection, claim, Completed(job=claim.job, attempt=1), timings={}, facts={})
            made = {"resolve": resolve, "started": started, "enlist": lambda c: presence.is_listed(c, WORKER)}
            assert queue.claim(connection, wish(), **made) is not None  # type: ignore[arg-type]
            loop.call_soon_threadsafe(lambda: leaving.append(asyncio.ensure_future(db.write(presence.leave, WORKER))))
            time.sleep(0.5)

        loop = asyncio.get_running_loop()
        await db.write(slowly)
        await leaving[0]
        states = await db.read(lambda c: c.execute(select(jobs.c.state, jobs.c.failures)).all())
        assert {(row.state, row.failures) for row in states} == {("completed", 0), ("queued", 0)}
        assert await db.read(_held) == []


@pytest.mark.needs_postgres
async def test_on_a_paused_device_nothing_is_begun_with_an_end(postgres: Postgres) -> None:
    """A pause ends what runs and no more."""
    from tests.contract.test_devices import pause

    async with database(postgres.new_database()) as db:
        await db.write(intake.submit, [new(), new()])
        claim = await take(db)
        assert claim is not None
        await db.write(devices.pause, MODEL.device, pause())
        assert await finished(db, claim) is None


async def test_a_device_is_not_kept_from_others_who_draw_on_it(place: str, tmp_path: Path) -> None:
    """One draws "test" there, the other "other": with a line of the first, the second has its turn all the same."""
    async with database(place) as db:
        engine = Engine(early=False, takes_s=0.02)
        async with _working(db, tmp_path, engine), _working(db, tmp_path, engine, OTHER):
            line = await db.write(intake.submit, [new() for _ in range(25 * JOBS)])
            await _ended(db, line[:3])
            await _ended(db, await db.write(intake.submit, [replace(new(OTHER, prompt="other"), priority=50)]))
            drawn = len(engine.drawn)
            await _ended(db, line)
        assert drawn < len(line), "not only when the line was over"


def test_who_else_is_there() -> None:
    """Not known before the first look; another on the same device, or one that draws only its own somewhere."""

    def row(worker: str, *places: str, solo: bool = False) -> Any:
        drawn = {device: ["test"] for device in places}
        return SimpleNamespace(id=worker, solo=solo, loaded=[], troubled=None, places=drawn)

    fleet = Fleet("me")
    assert not fleet.alone
    for others, alone in (
        ([], True),
        ([row("far", "gpu@there")], True),
        ([row("far", "gpu@there"), row("near", "gpu@there", "gpu@here")], False),
        ([row("a command", solo=True)], False),
    ):
        fleet.look([row("me", "gpu@here"), *others], ())
        assert fleet.alone is alone, others


async def test_a_lost_attempt_that_still_closes_is_not_the_next_one(place: str, tmp_path: Path) -> None:
    """It was put back from outside, and is drawn again by the same worker before the first one is gone."""
    two = replace(MODEL, slots=2)
    async with database(place) as db:
        engine = Engine(early=False, takes_s=30, closes_s=4 * presence.HEARTBEAT_S)
        async with _working(db, tmp_path, engine, two):
            (job,) = await db.write(intake.submit, [new(two)])
            while not engine.drawn:
                await asyncio.sleep(0.02)
            engine.takes_s = 3 * presence.HEARTBEAT_S
            await db.write(queue.requeue, job, reason="somebody put it back", error=None)
            await _ended(db, [job])
        told = await record(db, job)
        grammar(told)
        types = [event.type for event in told]
        assert types == ["queued", "started", "requeued", "started", "image", "completed"]


@pytest.mark.needs_postgres
async def test_what_cannot_be_read_of_the_next_is_no_fault_of_the_last(postgres: Postgres) -> None:
    """It goes back as a job that nobody heard of."""
    async with database(postgres.new_database()) as db:
        first, second = await db.write(intake.submit, [new(), new()])
        claim = await take(db)
        assert claim is not None
        nonsense = update(jobs).where(jobs.c.id == second).values(preview={"nonsense": 1})
        await db.write(lambda c: c.execute(nonsense))
        assert await finished(db, claim) is None
        assert (await record(db, first))[-1].type == "completed"
        assert await db.read(presence.holds, WORKER) == [second]


@pytest.mark.needs_postgres
async def test_what_came_with_an_end_is_not_begun_by_who_was_told_to_stop(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word comes while the end is being written; what was taken with it goes back as the worker leaves."""
    finish = queue.finish

    def slowly(connection: Connection, claim: Claim, *given: Any, **how: Any) -> Claim | None:
        taken = finish(connection, claim, *given, **how)
        worker.stop_claiming()
        return taken

    monkeypatch.setattr(queue, "finish", slowly)
    async with database(postgres.new_database()) as db:
        engine = Engine(early=False)
        worker = _worker(db, tmp_path, engine)
        first, second = await db.write(intake.submit, [new(), new()])
        working = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(60):
                while second not in await db.read(_held):
                    await asyncio.sleep(0.02)
            assert await worker.idle(30)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        assert len(engine.drawn) == 1
        assert (await record(db, first))[-1].type == "completed"
        assert [event.type for event in await record(db, second)] == ["queued", "started", "requeued"]


@pytest.mark.needs_postgres
async def test_what_was_taken_while_the_last_was_cancelled_is_begun(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write that frees a device takes its time; its job's end is asked for meanwhile."""
    free = queue.free_device

    def slowly(connection: Connection, claim: Claim, **how: Any) -> Claim | None:
        taken = free(connection, claim, **how)
        if claim.job == first:
            time.sleep(1.0)
        return taken

    monkeypatch.setattr(queue, "free_device", slowly)
    async with database(postgres.new_database()) as db, _working(db, tmp_path, Engine(early=True)):
        first, second = await db.write(intake.submit, [new(), new()])
        while second not in await db.read(_held):
            await asyncio.sleep(0.02)
        await db.write(queue.cancel, first, by="ann")
        await _ended(db, [first, second])
        assert [event.type for event in await record(db, first)][-1] == "cancelled"
        assert [event.type for event in await record(db, second)] == ["queued", "started", "image", "completed"]


@asynccontextmanager
async def _working(db: Database, folder: Path, engine: Engine, model: Model = MODEL) -> AsyncIterator[None]:
    """A worker that has seen who else is there."""
    worker = _worker(db, folder, engine, model)
    working = asyncio.create_task(worker.run())
    beats = select(workers.c.beat).where(workers.c.id == worker.id)
    try:
        async with asyncio.timeout(100):
            while not await db.read(lambda c: c.execute(beats).scalar()):
                await asyncio.sleep(0.02)
            yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _worker(db: Database, folder: Path, engine: Engine, model: Model = MODEL) -> Worker:
    return Worker(
        db,
        ImageStore("local", folder / "images"),
        resolve=resolve,
        backend_for=lambda _model: engine,
        catalog=lambda: {model.name: model},
        models=[model.name],
        version="0",
    )


async def _ended(db: Database, ids: Sequence[str]) -> None:
    over = select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.finished_at.is_not(None))
    mark = db.mark(jobs=True)
    while len(await db.read(lambda c: c.execute(over).all())) < len(ids):
        await db.changed(mark, 0.05)
        mark = db.mark(jobs=True)


def _held(connection: Connection) -> list[str]:
    return list(connection.execute(select(slots.c.job_id).where(slots.c.job_id.is_not(None))).scalars())
