"""Following: nobody who watches loses an end, whoever is slow loses only what is old, and nobody holds anybody up."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text, update
from tests import store_kit
from tests.store_kit import grammar, new, take

from imagen.core import events
from imagen.core.events import Event
from imagen.core.request import PreviewPolicy
from imagen.engine.following import tide
from imagen.engine.following.feed import Feeds, Watch
from imagen.engine.following.tide import Tides, WatchAll
from imagen.store import intake, journal, queue, tables
from imagen.store.db import Database
from imagen.store.queue import Claim
from imagen.store.tables import jobs


class Desk:
    """A database, its followers, and a worker that does what a test says."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.feeds = Feeds(db, lambda: None)
        self.tides = Tides(db)
        self.tick = 0

    async def submit(self, owner: str = "local", preview: PreviewPolicy | None = None) -> str:
        (job,) = await self.db.write(intake.submit, [replace(new(preview=preview), owner=owner)])
        return job

    async def claim(self) -> Claim:
        claim = await take(self.db)
        assert claim is not None
        self.tick = claim.attempt * 1_000_000
        return claim

    async def step(self, claim: Claim, step: int, *, preview: bool = False, keep: bool = False) -> None:
        self.tick += 1
        envelope: dict[str, Any] = {"job": claim.job, "seq": claim.seq, "attempt": claim.attempt, "tick": self.tick}
        progress = events.Progress(step=step, total=100, **envelope)
        await self.db.write(journal.set_live, claim.job, claim.attempt, self.tick, None, progress)
        if preview:
            frame = events.Preview(
                step=step,
                total=100,
                index=step,
                mime="image/jpeg",
                width=1,
                height=1,
                target_width=8,
                target_height=8,
                method="backend",
                estimate=True,
                data=b"%d" % step,
                **envelope,
            )
            await self.db.write(journal.set_preview, frame, keep=keep)

    async def end(self, claim: Claim) -> None:
        done = events.Completed(job=claim.job, attempt=claim.attempt)
        await self.db.write(queue.finish, claim, done, timings={}, facts={})


@asynccontextmanager
async def desk(place: str) -> AsyncIterator[Desk]:
    async with store_kit.database(place) as db:
        made = Desk(db)
        try:
            yield made
        finally:
            await made.feeds.close()
            await made.tides.close()


async def rest(watch: Watch) -> list[Event]:
    """Everything up to the end."""
    told: list[Event] = []
    async with asyncio.timeout(30):
        while not watch.ended:
            told += await watch.next(5)
    return told


async def some(watch: WatchAll, count: int) -> list[tuple[int, Event]]:
    """At least so many durable events."""
    told: list[tuple[int, Event]] = []
    async with asyncio.timeout(30):
        while len([event for _, event in told if event.durable]) < count:
            told += await watch.next(5)
    return told


def names(told: Sequence[Event]) -> list[str]:
    return [event.type for event in told if event.durable]


async def test_fifty_watchers_of_one_job_hear_the_same(place: str) -> None:
    """Each gets every durable event in order, the end last, and the steps only upwards."""
    async with desk(place) as at:
        job = await at.submit()

        async def watch() -> list[Event]:
            async with at.feeds.watching(job, after=0, previews=False) as one:
                return await rest(one)

        watchers = [asyncio.create_task(watch()) for _ in range(50)]
        claim = await at.claim()
        for step in range(20):
            await at.step(claim, step)
        await at.end(claim)
        for told in await asyncio.gather(*watchers):
            assert names(told) == ["queued", "started", "completed"]
            assert told[-1].terminal
            steps = [event.step for event in told if isinstance(event, events.Progress)]
            assert steps == sorted(set(steps))
            grammar([event for event in told if event.durable])


async def test_whoever_is_slow_misses_only_what_is_old(place: str) -> None:
    """A watcher that asks once in between and once after the end gets the newest step then, and all that is durable."""
    async with desk(place) as at:
        job = await at.submit()
        async with at.feeds.watching(job, after=0, previews=True) as slow:
            assert names(await slow.next(5)) == ["queued"]
            claim = await at.claim()
            for step in range(30):
                await at.step(claim, step, preview=True)
            async with asyncio.timeout(10):
                while not (told := await slow.next(5)) or told[-1].type != "preview":
                    pass
            previews = [event for event in told if isinstance(event, events.Preview)]
            assert len(previews) == 1, "only the newest is kept"
            while await slow.next(0.3):
                pass
            await at.step(claim, 99)
            await at.end(claim)
            told = await rest(slow)
            assert told[-1].type == "completed"
            assert len([event for event in told if isinstance(event, events.Progress)]) <= 1


async def test_a_late_watcher_sees_how_it_stands_at_once(place: str) -> None:
    """The current step and the latest preview come without waiting for the next ones, also after others watched."""
    async with desk(place) as at:
        job = await at.submit()
        claim = await at.claim()
        async with at.feeds.watching(job, after=0, previews=False) as early:
            await at.step(claim, 7, preview=True)
            async with asyncio.timeout(10):
                while not any(event.type == "progress" for event in await early.next(5)):
                    pass
            async with at.feeds.watching(job, after=2, previews=True) as late:
                told: list[Event] = []
                async with asyncio.timeout(10):
                    while not any(event.type == "preview" for event in told):
                        told += await late.next(5)
                assert names(told) == []
                assert {event.type for event in told} == {"progress", "preview"}
                assert (await at.db.read(journal.attention, job, datetime.now(UTC))).watched
        assert not (await at.db.read(journal.attention, job, datetime.now(UTC))).watched


async def test_promised_previews_all_come(place: str) -> None:
    """A count is a promise: none is conflated, even for a watcher that comes last."""
    async with desk(place) as at:
        job = await at.submit(preview=PreviewPolicy(count=5))
        claim = await at.claim()
        for step in range(1, 6):
            await at.step(claim, step, preview=True, keep=True)
        async with at.feeds.watching(job, after=0, previews=True) as watch:
            told: list[Event] = []
            async with asyncio.timeout(10):
                while len([event for event in told if event.type == "preview"]) < 5:
                    told += await watch.next(5)
            assert [event.index for event in told if isinstance(event, events.Preview)] == [1, 2, 3, 4, 5]


async def test_rejoining_goes_on_where_it_was(place: str) -> None:
    """After a number: what follows. After a number that was never given: everything."""
    async with desk(place) as at:
        job = await at.submit()
        await at.end(await at.claim())
        for after, expected in ((0, [1, 2, 3]), (2, [3]), (3, []), (99, [1, 2, 3])):
            async with at.feeds.watching(job, after=after, previews=False) as watch:
                assert [event.seq for event in await rest(watch)] == expected


async def test_the_stream_of_all_jobs_is_an_owners_own(place: str) -> None:
    """Only what is theirs, every durable event once, and the ends."""
    async with desk(place) as at, at.tides.watching(owner="ann", jobs=None, after=None, previews=True) as anns:
        async with at.tides.watching(owner=None, jobs=None, after=None, previews=False) as everybodys:
            for watch in (anns, everybodys):
                await watch.joined()  # what came before that is not told
                assert await watch.next(0.3) == ()
            for owner in ("ann", "bob"):
                job = await at.submit(owner)
                claim = await at.claim()
                await at.step(claim, 5, preview=True)
                await asyncio.sleep(0.1)
                await at.end(claim)
                if owner == "ann":
                    hers = job
            told = [event for _, event in await some(everybodys, 6)]
            assert names(told) == ["queued", "started", "completed"] * 2
        seen = [event for _, event in await some(anns, 3)]
        assert names(seen) == ["queued", "started", "completed"]
        assert {event.job for event in seen} == {hers}
        assert await anns.next(0.3) == ()


async def test_the_stream_of_all_jobs_can_be_rejoined(place: str) -> None:
    """From any cursor on, nothing durable is missing and nothing comes twice."""
    async with desk(place) as at:
        async with at.tides.watching(owner=None, jobs=None, after=None, previews=False) as quiet:
            beginning = await quiet.joined()
        async with at.tides.watching(owner=None, jobs=None, after=beginning, previews=False) as first:
            assert await first.joined() == beginning
            for _ in range(3):
                await at.submit()
                await at.end(await at.claim())
            told = await some(first, 9)
        everything = [(event.job, event.seq) for _, event in told if event.durable]
        assert len(everything) == 9
        for number, (cursor, _) in enumerate([item for item in told if item[1].durable], 1):
            async with at.tides.watching(owner=None, jobs=None, after=cursor, previews=False) as again:
                left = await some(again, 9 - number) if number < 9 else await again.next(0.2)
                assert [(event.job, event.seq) for _, event in left] == everything[number:]


async def test_who_falls_far_behind_reads_for_himself(place: str, monkeypatch: object) -> None:
    """A follower that was away for longer than the window loses nothing."""
    window = tide.WINDOW
    tide.WINDOW = 5
    try:
        async with desk(place) as at, at.tides.watching(owner=None, jobs=None, after=None, previews=False) as slow:
            await slow.joined()
            jobs = [await at.submit() for _ in range(20)]
            async with at.tides.watching(owner=None, jobs=None, after=None, previews=False) as other:
                await other.joined()
                jobs.append(await at.submit())
                await some(other, 1)
            told = await some(slow, 21)
            assert [event.job for _, event in told] == jobs
    finally:
        tide.WINDOW = window


@pytest.mark.needs_postgres
async def test_a_number_that_is_late_is_not_lost(postgres: object) -> None:
    """PostgreSQL shows a later position first when its transaction ends first; who rejoins there still gets both."""
    from tests.postgres_kit import Postgres

    assert isinstance(postgres, Postgres)
    async with desk(postgres.new_database()) as at:
        async with at.tides.watching(owner=None, jobs=None, after=0, previews=False) as watch:
            await watch.next(0.3)
            with at.db.engine.connect() as open_still:
                begun = open_still.begin()
                open_still.execute(text("insert into imagen.jobs (id, prompt) values ('late', 'x')"))
                early = await at.submit()
                told = await some(watch, 1)
                assert [event.job for _, event in told] == [early]
                cursor = told[0][0]
                begun.commit()
            told = await some(watch, 1)
            assert [event.job for _, event in told] == ["late"]
        async with at.tides.watching(owner=None, jobs=None, after=cursor, previews=False) as again:
            assert {event.job for _, event in await some(again, 2)} == {"late", early}


def told_by_a_later_version(connection: Connection, job: str) -> None:
    """An event of a type that nobody here knows, under the job's next number."""
    seq = connection.execute(update(jobs).where(jobs.c.id == job).values(seq=jobs.c.seq + 1).returning(jobs.c.seq))
    row = {"job_id": job, "seq": seq.scalar_one(), "type": "from_the_future", "attempt": 0, "body": {}}
    connection.execute(insert(tables.events).values(at=datetime.now(UTC), **row))


async def test_whoever_follows_a_job_is_let_go_when_it_closes(place: str) -> None:
    """However long it meant to wait; and leaving after the database is closed is no fault."""
    heard, closed = asyncio.Event(), asyncio.Event()

    async def follow(at: Desk, job: str) -> list[Event]:
        told: list[Event] = []
        async with at.feeds.watching(job, after=0, previews=False) as one:
            while not one.ended:
                told += await one.next(60)
                heard.set()
            await closed.wait()
        return told

    async with asyncio.timeout(20):
        async with desk(place) as at:
            following = asyncio.create_task(follow(at, await at.submit()))
            await heard.wait()
            await asyncio.sleep(0.1)  # it waits for more
        closed.set()
        assert names(await following) == ["queued"]


async def test_whoever_follows_all_jobs_is_let_go_when_it_closes(place: str) -> None:
    """Also who has not heard yet from where on; and leaving after the database is closed is no fault."""
    closed = asyncio.Event()

    async def follow(at: Desk) -> None:
        async with at.tides.watching(owner=None, jobs=None, after=None, previews=False) as watch:
            await watch.joined()
            await closed.wait()

    async with asyncio.timeout(20):
        async with desk(place) as at:
            following = asyncio.create_task(follow(at))
            await asyncio.sleep(0)  # it waits, and nothing is read yet
        closed.set()
        await following


async def test_what_a_later_version_tells_of_one_job_is_passed_over(place: str) -> None:
    """What comes after it is told once."""
    async with desk(place) as at:
        job = await at.submit()
        await at.db.write(told_by_a_later_version, job)
        claim = await at.claim()
        async with at.feeds.watching(job, after=0, previews=False) as watch:
            assert names(await watch.next(5)) == ["queued", "started"]
            await at.end(claim)
            assert names(await rest(watch)) == ["completed"]
        async with at.feeds.watching(job, after=3, previews=False) as again:
            assert names(await rest(again)) == ["completed"]


async def test_a_page_with_something_of_a_later_version_is_not_the_last_one(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who catches up from there is told everything that this version knows, and so is who follows from now on."""
    monkeypatch.setattr(tide, "PAGE", 3)
    # Where a number were taken for missing, nothing here would wait long enough for it.
    monkeypatch.setattr(tide, "HOLE_S", 3600.0)
    async with desk(place) as at:
        first = await at.submit()
        await at.db.write(told_by_a_later_version, first)
        others = [await at.submit() for _ in range(6)]
        async with at.tides.watching(owner=None, jobs=None, after=0, previews=False) as behind:
            assert [event.job for _, event in await some(behind, 7)] == [first, *others]
            await at.db.write(told_by_a_later_version, first)
            last = await at.submit()
            ((cursor, event),) = await some(behind, 1)
            assert (event.job, cursor) == (last, await at.db.read(journal.position))
