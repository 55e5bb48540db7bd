"""A claim in one statement (PostgreSQL) takes what the long way takes, and leaves to it what has a question in it."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update
from tests.postgres_kit import Postgres
from tests.store_kit import MODEL, OTHER, PLACE, WORKER, database, new, record, take

from imagen.core.device import Pause
from imagen.store import devices, intake, journal, taking
from imagen.store.db import Database
from imagen.store.intake import NewJob
from imagen.store.order import Place
from imagen.store.tables import jobs, slots, workers

pytestmark = pytest.mark.needs_postgres

ROOM = Place(device="roomy@here", slots=64)
ROOMY = {"test": ROOM, "other": ROOM}


@pytest.fixture
def address(postgres: Postgres) -> str:
    """The address of an empty database."""
    return postgres.new_database()


async def at_once(db: Database, **changes: Any) -> tuple[Any, bool]:
    """Only the one statement."""
    said: dict[str, Any] = {
        "worker": WORKER,
        "places": {"test": PLACE, "other": PLACE},
        "knows": ("test", "other"),
        "loaded": (),
        "now": datetime.now(UTC),
    }
    return await db.write(taking.take, **said | changes)


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
    """One statement brings the row, takes the slot and says whether somebody watches."""
    async with database(address) as db:
        await opened(db)
        first, second = await db.write(intake.submit, [new(), new()])
        await db.write(journal.watch, "somebody", first, datetime.now(UTC))
        row, _ = await at_once(db)
        assert (row.id, row.attempt, row.seq, row.worker, row.device) == (first, 1, 2, WORKER, MODEL.device)
        assert row.watched
        assert await at_once(db) == (None, False), "the device is taken"
        await db.write(_free)
        row, _ = await at_once(db)
        assert row.id == second
        assert not row.watched


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


def test_it_is_short_enough_to_be_remembered() -> None:
    """psycopg parses what is longer than this anew each time."""
    from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    assert len(str(taking._put_together().compile(dialect=PGDialect_psycopg()))) < MAX_CACHED_STATEMENT_LENGTH


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
