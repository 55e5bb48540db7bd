"""A claim in one statement (PostgreSQL) takes what the long way takes, and leaves to it what has a question in it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update
from tests.postgres_kit import Postgres
from tests.store_kit import MODEL, OTHER, PLACE, WORKER, database, new, record, resolve, started, take, wish

from imagen.core.device import Pause
from imagen.core.errors import SetupError
from imagen.core.request import PREVIEW_METHODS, PreviewPolicy
from imagen.store import bell, devices, intake, journal, queue
from imagen.store.db import Database
from imagen.store.intake import NewJob
from imagen.store.order import Place
from imagen.store.postgresql import claiming, driver
from imagen.store.tables import events, jobs, slots, workers

pytestmark = pytest.mark.needs_postgres

ROOM = Place(device="roomy@here", slots=64)
ROOMY = {"test": ROOM, "other": ROOM}


@pytest.fixture
def address(postgres: Postgres) -> str:
    """The address of an empty database."""
    return postgres.new_database()


async def at_once(db: Database, **changes: Any) -> tuple[Any, bool]:
    """Only the one statement."""
    return await db.write(claiming.take, wish(**changes), datetime.now(UTC))


async def opened(db: Database) -> None:
    """The device's slot is in the list, as it is once somebody has looked."""
    assert await take(db) is None


async def test_it_takes_what_the_long_way_takes_in_the_same_order(address: str, postgres: Postgres) -> None:
    """Two models, priorities, jobs that wait for their next try: the same jobs, rooms, events, one after the other."""
    seed = random.randrange(10**6)
    told = {}
    # `only` is what the one statement is not asked for.
    for way, place in (("at once", address), ("the long way", postgres.new_database())):
        chance = random.Random(seed)
        async with database(place) as db:
            many = [_any(chance, number) for number in range(40)]
            await db.write(intake.submit, many)
            await db.write(_later, [job.id or "" for job in many[::7]])
            only = [job.id for job in many] if way == "the long way" else None
            assert await take(db, places=ROOMY, only=[]) is None  # makes the slots
            how: dict[str, Any] = {"places": ROOMY, "only": only, "loaded": ("test",), "may_pass": _never}
            taken = [claim for _ in many if (claim := await take(db, **how)) is not None]
            events = [[type(event).__name__ for event in await record(db, claim.job)] for claim in taken]
            held = await db.read(_held)
            told[way] = [
                (claim.job, claim.attempt, claim.seq, claim.model, claim.request, said, held[claim.job])
                for claim, said in zip(taken, events, strict=True)
            ]
            assert await take(db, places=ROOMY, only=only) is None
    assert told["at once"] == told["the long way"], f"seed {seed}"
    assert len(told["at once"]) == 40 - 6


async def test_a_plain_job_is_taken_at_once(address: str) -> None:
    """One statement brings the row, takes the slot and tells whether previews are made."""
    async with database(address) as db:
        await opened(db)
        first, second = await db.write(intake.submit, [new(), new()])
        await db.write(journal.watch, "somebody", first, datetime.now(UTC))
        row, _ = await at_once(db)
        assert (row.id, row.attempt, row.seq, row.worker, row.device) == (first, 1, 2, WORKER, MODEL.device)
        assert (await _bodies(db))[first]["preview"] == {"method": "auto", "why": "somebody watches"}
        assert await at_once(db) == (None, False), "the device is taken"
        await db.write(_free)
        row, _ = await at_once(db)
        assert row.id == second
        assert (await _bodies(db))[second]["preview"] == {"method": "off", "why": "unwatched_at_start"}


async def test_where_nothing_waits_nobody_has_to_look_again(address: str) -> None:
    """An empty queue is one look; so is one where the only job waits for its next try."""
    async with database(address) as db:
        await opened(db)
        assert await at_once(db) == (None, True)
        (job,) = await db.write(intake.submit, [new()])
        await db.write(_later, [job])
        assert await at_once(db) == (None, True)


async def test_what_has_a_question_in_it_is_left_to_the_long_way(address: str) -> None:
    """A row by SQL, a loaded model that might pass, an unknown slot, a paused device, a worker that was buried."""
    async with database(address) as db:
        await db.write(intake.submit, [new()])
        assert await at_once(db) == (None, False), "nobody made its slot yet"
        claim = await take(db)
        assert claim is not None
        await db.write(_free)

        await db.write(intake.submit, [new(), new(OTHER)])
        assert await at_once(db, loaded=("other",)) == (None, False), "may the other one pass?"
        assert await at_once(db, worker="buried") == (None, False)

        await db.write(devices.pause, MODEL.device, _pause())
        assert await at_once(db) == (None, False)
        await db.write(devices.resume, MODEL.device)

        await db.write(_by_sql, "raw")
        assert await at_once(db) == (None, False), "somebody has to resolve it first"
        assert await at_once(db, knows=()) == (None, False), "it names no model: anybody's"
        await db.write(lambda connection: connection.execute(delete(jobs).where(jobs.c.id == "raw")))

        row, _ = await at_once(db, loaded=("test",))
        assert row is not None


async def test_a_job_that_is_not_plain_is_left_to_the_long_way(address: str) -> None:
    """One that was begun before (its previews go first), and a model with a wish of its own for previews."""
    shy = replace(MODEL, preview=False)
    async with database(address) as db:
        await opened(db)
        (job,) = await db.write(intake.submit, [new()])
        first = await take(db)
        assert first is not None
        await db.write(queue.give_back, first, reason="tea")
        assert await at_once(db) == (None, False)
        again = await take(db)
        assert again is not None
        assert (again.job, again.attempt) == (job, 2)
        await db.write(_free)

        (job,) = await db.write(intake.submit, [new(shy)])
        assert await at_once(db) == (None, False)
        claim = await take(db)
        assert claim is not None
        assert claim.job == job


async def test_a_worker_that_was_buried_enters_the_list_before_it_takes(address: str) -> None:
    """`enlist` runs before anything is taken; otherwise its job would be taken away from it again."""
    async with database(address) as db:
        await opened(db)
        await db.write(intake.submit, [new()])
        await db.write(lambda connection: connection.execute(delete(workers)))
        seen = []
        assert await take(db, enlist=lambda connection: seen.append(connection)) is not None
        assert len(seen) == 1


async def test_a_claim_whose_connection_was_cut_is_tried_again(address: str, postgres: Postgres) -> None:
    """What is said to the driver itself fails as everything else does, and is said again on a new connection."""
    async with database(address) as db, database(postgres.new_database()) as other:
        await opened(db)
        (job,) = await db.write(intake.submit, [new()])
        name = db.engine.url.database
        assert name is not None
        assert await other.read(_cut, name), "there was a connection to cut"
        claim = await take(db)
        assert claim is not None
        assert claim.job == job


async def test_what_it_tells_is_what_the_long_way_tells(address: str) -> None:
    """The event `started`, letter for letter as the database keeps it, for everything that a request can hold."""
    odd: list[dict[str, Any]] = [
        {"prompt": 'a "fox"\n\t\\ in the snow \u2744 \U0001f98a', "negative": "%s %(x)s 100%"},
        *(
            {"guidance": guidance}
            for guidance in (None, 0.0, -0.0, 7.0, -3.0, 4.5, 0.1, 1e-7, 123456789.25, 1e14, 1 / 3)
        ),
        {"seed": 2**63 - 1, "n": 16, "width": 4096, "options": {"a": [1, 2.0, None, True], "b": {"c": "d"}, "": 1.5}},
    ]
    wishes = [None, *(PreviewPolicy(method=method, count=3) for method in PREVIEW_METHODS)]
    both = [
        [replace(new(preview=wish, **changes), id=f"{way}-{number:03}") for number, (changes, wish) in enumerate(cases)]
        for way in ("at-once", "long")
        for cases in [[(changes, wish) for changes in odd for wish in wishes]]
    ]
    async with database(address) as db:
        await opened(db)
        for at_once_, jobs_ in zip((True, False), both, strict=True):
            ids = await db.write(intake.submit, jobs_)
            for job in ids[::2]:
                await db.write(journal.watch, f"of {job}", job, datetime.now(UTC))
            for _ in ids:
                await db.write(_free)
                if at_once_:
                    row, _ = await at_once(db)
                    assert row is not None
                else:
                    assert await take(db, only=ids) is not None
        told = await db.read(_as_kept)
        assert len(told) == 2 * len(both[0])
        for one in both[0]:
            assert told[str(one.id)] == told[str(one.id).replace("at-once", "long")], one


async def test_what_it_did_is_committed_and_heard(address: str) -> None:
    """It needs no second way: the job is taken for others at once, and whoever follows it is told, once."""
    async with database(address) as db:
        await opened(db)
        (job,) = await db.write(intake.submit, [new()])
        heard: list[tuple[str, str]] = []
        async with _listening(address, heard) as hear:
            claim = await take(db)
            assert claim is not None
            kinds = [type(event).__name__ for event in await record(db, job)]
            assert await take(db) is None
            await db.write(bell.touch, "imagen:over")
            await hear("imagen:over")
        assert kinds == ["Queued", "Started"]
        assert heard == [(bell.JOBS, job)]


async def test_who_follows_in_the_same_process_is_told_too(address: str) -> None:
    """A process whose own connection does not listen rings for itself."""
    async with database(address) as db:
        await opened(db)
        (job,) = await db.write(intake.submit, [new()])
        mark = db.mark()
        claim = await take(db)
        assert claim is not None
        assert await db.changed(mark, 5.0, frozenset({job}))


async def test_a_claim_that_cannot_be_committed_took_nothing(address: str) -> None:
    """What fails at the very end fails for the caller, and the next is taken on the same connection."""
    async with database(address) as db:
        await opened(db)
        (job,) = await db.write(intake.submit, [new()])
        await db.write(_refusing_commits)
        with pytest.raises(SetupError, match="not today"):
            await take(db)
        await db.write(lambda connection: connection.execute(text("drop trigger refused on imagen.events")))
        claim = await take(db)
        assert claim is not None
        assert (claim.job, claim.attempt) == (job, 1)
        assert [type(event).__name__ for event in await record(db, job)] == ["Queued", "Started"]


async def test_it_is_planned_once_and_leaves_no_setting_behind(address: str) -> None:
    """However often it is said, on one connection; what is said after it is planned as ever."""
    async with database(address) as db:
        await opened(db)

        def twelve(connection: Connection) -> tuple[str, str, int]:
            for _ in range(12):
                claiming.take(connection, wish(places={"test": PLACE}), datetime.now(UTC))
            assert not connection.connection.driver_connection.info.transaction_status, "nothing is left open"  # type: ignore[union-attr]
            planned = text("select sum(custom_plans) from pg_prepared_statements where name like 'imagen%'")
            modes = connection.execute(
                text("select current_setting('plan_cache_mode'), current_setting('enable_seqscan')")
            )
            mode, scans = modes.one()
            return mode, scans, int(connection.execute(planned).scalar_one())

        assert await db.write(twelve) == ("auto", "on", 0)


async def test_a_server_that_forgot_the_statement_is_told_it_again(address: str) -> None:
    """psycopg has it forget all statements of a connection, ours too, when it has to roll back."""
    async with database(address) as db:
        await opened(db)
        (job,) = await db.write(intake.submit, [new()])

        def forgotten(connection: Connection) -> Any:
            nowhere = wish(places={"test": replace(PLACE, device="nowhere@here")})
            assert claiming.take(connection, nowhere, datetime.now(UTC)) == (None, False)
            connection.execute(text("deallocate all"))
            connection.connection.commit()
            return claiming.take(connection, wish(places={"test": PLACE}), datetime.now(UTC))

        row, _ = await db.write(forgotten)
        assert row.id == job


async def test_a_server_that_forgot_the_statements_but_one_is_told_them_again(address: str) -> None:
    """That one was prepared in the very way to the server on which the others turned out to be forgotten."""
    known, newer, newest = "select 1 as n", "select 2 as n", "select 3 as n"

    def forgotten(connection: Connection) -> list[int]:
        driver.at_once(connection, (known,), {}, behind=(known,))
        connection.connection.driver_connection.pgconn.exec_(b"deallocate all")  # type: ignore[union-attr]
        said = [(known, newer), (newest,), (known,), (newer,)]
        return [driver.at_once(connection, one, {}, behind=(known,))[-1].n for one in said]

    async with database(address) as db:
        assert await db.write(forgotten) == [2, 3, 1, 2]


async def test_in_the_middle_of_a_transaction_the_long_way_is_gone(address: str) -> None:
    """It is over by itself only where nothing was begun; otherwise a claim is undone with the rest."""
    async with database(address) as db:
        await opened(db)
        (job,) = await db.write(intake.submit, [new()])

        def undone(connection: Connection) -> None:
            places = {"test": PLACE, "other": PLACE}
            assert claiming.possible(connection, places)
            connection.execute(text("select 1"))
            assert not claiming.possible(connection, places)
            claim = queue.claim(connection, wish(places=places), resolve=resolve, started=started)
            assert claim is not None
            assert claim.job == job
            raise LookupError

        with pytest.raises(LookupError):
            await db.write(undone)
        assert (await take(db)) is not None, "it was undone"


def _any(chance: random.Random, number: int) -> NewJob:
    job = new(chance.choice((MODEL, OTHER)), seed=number)
    return replace(job, id=f"job-{number:02}", priority=chance.choice((0, 0, 0, 5)))


def _never(_device: str, _oldest: Any, _younger: Any, _waiting: int) -> bool:
    return False


def _later(connection: Connection, ids: list[str]) -> None:
    connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(run_after=datetime.now(UTC) + timedelta(hours=1)))


def _held(connection: Connection) -> dict[str, tuple[Any, ...]]:
    return {row.job_id: tuple(row) for row in connection.execute(select(slots).where(slots.c.job_id.is_not(None)))}


def _free(connection: Connection) -> None:
    connection.execute(update(slots).values(job_id=None, attempt=None))


def _by_sql(connection: Connection, job: str) -> None:
    connection.execute(insert(jobs).values(id=job, prompt="a fox"))


def _cut(connection: Connection, name: str) -> list[bool]:
    cut = text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name")
    return list(connection.execute(cut, {"name": name}).scalars())


def _pause() -> Pause:
    return Pause(reason="tea", by="me", since=datetime.now(UTC))


async def _bodies(db: Database) -> dict[str, Any]:
    query = select(events.c.job_id, events.c.body).where(events.c.type == "started")
    return {row.job_id: row.body for row in await db.read(lambda connection: connection.execute(query).all())}


def _as_kept(connection: Connection) -> dict[str, str]:
    kept = text("select job_id, attempt || ' ' || seq || ' ' || body::text from imagen.events where type = 'started'")
    return {job: told for job, told in connection.execute(kept)}


def _refusing_commits(connection: Connection) -> None:
    body = "begin raise exception ''not today''; end"
    connection.execute(text(f"create function public.refused() returns trigger language plpgsql as '{body}'"))
    connection.execute(
        text(
            "create constraint trigger refused after insert on imagen.events deferrable initially deferred "
            "for each row execute function public.refused()"
        )
    )


@asynccontextmanager
async def _listening(address: str, heard: list[tuple[str, str]]) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Everything that is said on the two channels, until a topic comes."""
    import psycopg

    async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
        for channel in (bell.WORK, bell.JOBS):
            await connection.execute(f"listen {channel}".encode())

        async def hear(last: str) -> None:
            async with asyncio.timeout(10):
                async for notice in connection.notifies():
                    if notice.payload == last:
                        return
                    heard.append((notice.channel, notice.payload))

        yield hear
