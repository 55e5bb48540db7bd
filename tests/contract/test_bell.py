"""Who is told what on PostgreSQL: whoever wants to hear misses nothing, and whoever does not is left in peace."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import Connection, insert, select, text
from tests import postgres_kit
from tests.postgres_kit import Postgres
from tests.store_kit import database, new, take

from imagen.core.events import Event, Progress
from imagen.core.request import PreviewPolicy
from imagen.engine.drawing import live
from imagen.engine.drawing.live import Live
from imagen.engine.following import tide
from imagen.engine.following.feed import Feeds, Watch
from imagen.engine.following.tide import Tides
from imagen.store import bell, intake, journal
from imagen.store.bell import JOBS, WORK, touch
from imagen.store.db import Database
from imagen.store.queue import Claim
from imagen.store.tables import templates, watchers

pytestmark = pytest.mark.needs_postgres

QUEUE = "model:test"
ONLY = frozenset({QUEUE})


@contextmanager
def rests_after(seconds: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bell, "REST_S", seconds)
        yield


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Database]:
    """The same database, as another process has it."""
    db = Database(address)
    try:
        yield db
    finally:
        await db.close()


async def hears(db: Database, wanted: bool, channel: str = WORK) -> None:
    """Wait until it listens, or does not."""
    async with asyncio.timeout(30):
        while db._ears[channel].hears != wanted:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def waiting(db: Database, topic: str, *, listen: bool) -> AsyncIterator[list[str]]:
    """Somebody who waits again and again; how often it was surely for this."""
    heard: list[str] = []

    async def wait() -> None:
        while True:
            if not listen:
                db.rest()
            if await db.changed(db.mark(), 0.2, frozenset({topic}), listen=listen):
                heard.append(topic)

    task = asyncio.create_task(wait())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def filled(heard: list[str]) -> None:
    async with asyncio.timeout(10):
        while not heard:
            await asyncio.sleep(0.005)


async def test_whoever_is_busy_is_not_told_and_hears_again_when_it_is_not(postgres: Postgres) -> None:
    """It listens no more, and what came meanwhile is not lost: it is told to look, and hears of what comes then."""
    address = postgres.new_database()
    with rests_after(0.1):
        async with database(address) as busy, opened(address) as other:
            async with waiting(busy, QUEUE, listen=False) as heard:
                await hears(busy, True)
                await hears(busy, False)
                mark = busy.mark()
                await other.write(touch, QUEUE)
                await asyncio.sleep(0.2)
                assert not heard
            async with asyncio.timeout(10):
                assert await busy.changed(mark, 60, ONLY) is False, "what was said meanwhile is not known: look"
            async with waiting(busy, QUEUE, listen=True) as heard:
                await hears(busy, True)
                await other.write(touch, QUEUE)
                await filled(heard)


async def test_what_this_process_does_wakes_it_while_it_does_not_listen(postgres: Postgres) -> None:
    """Who draws waits for its own ends, and a courier beside it for what these bring."""
    with rests_after(0.05):
        async with database(postgres.new_database()) as db, waiting(db, QUEUE, listen=False) as heard:
            await hears(db, True)
            await hears(db, False)
            await db.write(touch, QUEUE)
            await filled(heard)


async def test_one_who_listens_is_enough_for_its_process(postgres: Postgres) -> None:
    """A server with a courier hears of webhooks, although its worker is busy."""
    address = postgres.new_database()
    with rests_after(0.05):
        async with database(address) as db, opened(address) as other, waiting(db, QUEUE, listen=False):
            async with waiting(db, "webhooks:", listen=True) as heard:
                await hears(db, True)
                await asyncio.sleep(0.3)
                assert db._ears[WORK].hears
                await other.write(touch, "webhooks:")
                await filled(heard)
            await hears(db, False)


async def test_those_who_tell_something_do_not_wait_for_each_others_disk() -> None:
    """A commit that notifies is alone with the disk, however long that takes; so the notification comes behind it."""
    slow = ("commit_delay=100000", "commit_siblings=0")  # a disk that takes 100 ms
    with postgres_kit.postgres(settings=slow) as server:
        async with database(server.url) as db, opened(server.url) as other, waiting(other, QUEUE, listen=True) as heard:
            await hears(other, True)

            def told(connection: Connection, name: str) -> None:
                connection.execute(insert(templates).values(digest=name, graph={}))
                touch(connection, QUEUE)

            took = []
            for writers in (1, 8):
                begin = time.monotonic()
                # Four at a time is what one process writes.
                await asyncio.gather(*((db, other)[n % 2].write(told, f"{n} of {writers}") for n in range(writers)))
                took.append(time.monotonic() - begin)
            await filled(heard)
        assert took[1] < 4 * took[0], "eight would take eight times as long, one after the other"


async def test_a_server_that_forgot_how_to_tell_is_told_again(postgres: Postgres) -> None:
    """psycopg has it forget all statements of a connection when it has to roll back; what is committed stays heard."""

    def forgetful(connection: Connection) -> None:
        touch(connection, QUEUE)
        connection.execute(text("deallocate all"))

    async with database(postgres.new_database()) as db, opened(str(db.engine.url)) as other:
        for _ in range(2):
            async with waiting(other, QUEUE, listen=True) as heard:
                await hears(other, True)
                await db.write(forgetful)
                await filled(heard)


async def test_a_topic_that_is_too_long_to_tell_wakes_everybody(postgres: Postgres) -> None:
    """A device named by an address may be as long as it likes, in any script."""
    address = postgres.new_database()
    async with database(address) as db, opened(address) as other, waiting(other, QUEUE, listen=True):
        await hears(other, True)
        mark = other.mark()
        await db.write(touch, "device:" + "\u2744" * 3000)
        async with asyncio.timeout(10):
            await other.changed(mark, 60.0, ONLY)


async def test_between_rest_and_listening_nothing_is_lost(postgres: Postgres) -> None:
    """A job that another process submits at any moment is found at once, and not only at the next look."""
    address = postgres.new_database()
    count, chance = 100, random.Random(7)

    def look(connection: Connection) -> int:
        return len(connection.exec_driver_sql("select id from imagen.jobs").all())

    with rests_after(0.002):
        async with database(address) as busy, opened(address) as other:
            found = asyncio.Event()

            async def submit() -> None:
                for _ in range(count):
                    await asyncio.sleep(chance.uniform(0, 0.02))
                    found.clear()
                    await other.write(intake.submit, [new()])
                    await found.wait()

            submitting = asyncio.create_task(submit())
            seen = 0
            async with asyncio.timeout(120):
                while seen < count:
                    mark = busy.mark()
                    if (now := await busy.read(look)) > seen:
                        seen = now
                        found.set()
                        busy.rest()
                        await asyncio.sleep(chance.uniform(0, 0.02))  # it draws
                        continue
                    begun = time.monotonic()
                    await busy.changed(mark, 20, ONLY)
                    assert time.monotonic() - begun < 15, f"the job after {seen} was not heard of"
            await submitting


async def test_whoever_is_slow_to_look_goes_on_listening(postgres: Postgres) -> None:
    """Or a database that is busy would be asked again for each time that somebody begins to listen."""
    with rests_after(0.05):
        async with database(postgres.new_database()) as db:
            mark = db.mark()
            await hears(db, True)
            await db.changed(mark, 0.01, ONLY)
            await asyncio.sleep(0.3)  # it looks
            assert db._ears[WORK].hears


async def test_a_connection_that_breaks_while_nobody_listens_is_made_anew(postgres: Postgres) -> None:
    """Or whoever wants to hear afterwards would wait on a dead line."""
    address = postgres.new_database()
    with rests_after(0.05):
        async with database(address) as db, opened(address) as other:
            db.mark()
            await hears(db, True)
            db.rest()
            await hears(db, False)
            with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as connection:
                ended = connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where query like 'unlisten %'"
                    " and datname = current_database()"
                ).fetchall()
            assert ended == [(True,)]
            async with waiting(db, QUEUE, listen=True) as heard:
                await hears(db, True)
                await other.write(touch, QUEUE)
                await filled(heard)


# Progress


class Heard:
    """What PostgreSQL says of jobs, as anybody hears it who listens."""

    def __init__(self, connection: "psycopg.AsyncConnection[object]") -> None:
        self._connection = connection

    async def until(self, seconds: float) -> list[str]:
        """What comes in this time."""
        return [notice.payload async for notice in self._connection.notifies(timeout=seconds)]


@asynccontextmanager
async def hearing(address: str) -> AsyncIterator[Heard]:
    plain = address.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(plain, autocommit=True) as connection:
        await connection.execute(f"listen {JOBS}".encode())
        yield Heard(connection)


@asynccontextmanager
async def drawing(db: Database, owner: str = "local") -> AsyncIterator[tuple[Claim, Live]]:
    """A job that runs, and its voice."""
    await db.write(intake.submit, [replace(new(), owner=owner)])
    claim = await take(db)
    assert claim is not None
    voice = Live(db, claim, PreviewPolicy())
    voice.start(lambda: None)
    try:
        yield claim, voice
    finally:
        await voice.stop()


async def test_steps_that_nobody_waits_for_are_written_and_not_told(postgres: Postgres) -> None:
    """Whoever asks how the job stands reads them all the same."""
    address = postgres.new_database()
    async with database(address) as db, drawing(db) as (claim, voice), hearing(address) as heard:
        for step in range(3):
            voice.step(step + 1, 9, 0)
            await voice.flush()
        assert await heard.until(0.5) == []
        news = await db.read(journal.news, claim.job, 99, 0)
        assert [event.step for event in news.events if isinstance(event, Progress)] == [3]


@pytest.mark.parametrize("previews", [False, True])
async def test_steps_of_a_job_that_is_followed_are_told(postgres: Postgres, previews: bool) -> None:
    """Each as it is written, for as long as somebody follows; previews are drawn only for who wants them."""
    address = postgres.new_database()
    async with database(address) as db, drawing(db) as (claim, voice), hearing(address) as heard:
        feeds = Feeds(db, lambda: None)
        async with feeds.watching(claim.job, after=0, previews=previews) as watch:
            await watch.next(5)
            told = await _attention(db, claim, followed=True)
            assert told.watched is previews
            for step in range(3):
                voice.step(step + 1, 9, 0)
                await voice.flush()
                await _progress(watch, step + 1)
        assert claim.job in await heard.until(0.5)
        await _attention(db, claim, followed=False)
        voice.step(4, 9, 0)
        await voice.flush()
        assert await heard.until(0.5) == []


async def test_whoever_comes_while_a_step_is_written_is_told_of_it(postgres: Postgres) -> None:
    """He looked before it could be seen, and the next step may be a minute away: the next look tells him."""
    address = postgres.new_database()
    async with database(address) as db, drawing(db) as (claim, voice), hearing(address) as heard:
        voice.step(1, 9, 0)
        await voice.flush()
        assert await heard.until(0.3) == []
        await db.write(journal.follow, {"somebody": journal.steps_of(claim.job)}, datetime.now(UTC))
        assert await heard.until(live.LOOK_S + 1) == [claim.job]
        assert await heard.until(3 * live.LOOK_S) == [], "once is enough"


async def test_a_lease_that_is_not_renewed_ends(postgres: Postgres) -> None:
    """Whoever dies while he follows is told of steps for a minute, and no longer."""
    address = postgres.new_database()
    async with database(address) as db, drawing(db) as (claim, _):
        at = datetime.now(UTC)
        await db.write(journal.follow, {"somebody": journal.steps_of(claim.job)}, at)
        assert (await db.read(journal.attention, claim.job, at)).followed
        later = datetime.fromtimestamp(at.timestamp() + journal.FOLLOW_S + 1, UTC)
        assert not (await db.read(journal.attention, claim.job, later)).followed


@pytest.mark.parametrize(
    ("owner", "one", "followed"), [(None, False, True), ("ann", False, True), ("bob", False, False), (None, True, True)]
)
async def test_who_follows_all_jobs_says_whose(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, owner: str | None, one: bool, followed: bool
) -> None:
    """A page of somebody else makes nobody tell of hers; and whoever comes need not wait for the next look."""
    monkeypatch.setattr(tide, "LOOK_S", 60.0)
    address = postgres.new_database()
    async with database(address) as db, drawing(db, "ann") as (claim, _):
        tides = Tides(db)
        jobs = [claim.job] if one else None
        async with tides.watching(owner=owner, jobs=jobs, after=None, previews=False) as watch:
            await watch.joined()
            whose = {journal.steps_of(claim.job) if one else journal.steps_of_all(owner)}
            await _followed(db, whose)
            told = await _attention(db, claim, followed=followed)
            assert not told.watched
            await hears(db, True, JOBS)
            await asyncio.sleep(0.2)  # it has looked after that, and sleeps
            async with tides.watching(owner="ann", jobs=None, after=None, previews=False):
                await _followed(db, whose | {journal.steps_of_all("ann")})
                await _attention(db, claim, followed=True)
            await db.write(touch, claim.job)
            await _followed(db, whose)
        await _followed(db, set())
        await _attention(db, claim, followed=False)


async def _followed(db: Database, whose: set[str]) -> None:
    """Wait until just these are followed."""
    async with asyncio.timeout(10):
        while set(await db.read(lambda connection: connection.scalars(select(watchers.c.job_id)).all())) != whose:
            await asyncio.sleep(0.01)


async def _attention(db: Database, claim: Claim, *, followed: bool) -> journal.Attention:
    """What a worker knows of who looks, within two looks of its own."""
    until = time.monotonic() + 5
    while True:
        told = await db.read(journal.attention, claim.job, datetime.now(UTC))
        if told.followed == followed or time.monotonic() > until:
            assert told.followed == followed
            return told
        await asyncio.sleep(0.01)


async def _progress(watch: Watch, step: int) -> None:
    told: list[Event] = []
    async with asyncio.timeout(10):
        while not any(isinstance(event, Progress) and event.step == step for event in told):
            told += await watch.next(5)
