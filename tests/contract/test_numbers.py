"""The numbers of the queue and what happened in it, on both databases."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, insert, update
from tests.store_kit import OTHER, WORKER, database, new, take

from imagen.core.errors import Crashed
from imagen.store import intake, journal, numbers, presence, queue
from imagen.store.tables import jobs

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def _age(connection: Connection, job: str, seconds: float) -> None:
    created = NOON - timedelta(seconds=seconds)
    connection.execute(update(jobs).where(jobs.c.id == job).values(created_at=created))


def _by_hand(connection: Connection) -> None:
    connection.execute(insert(jobs).values(prompt="by hand"))


async def test_an_empty_queue_has_no_numbers(place: str) -> None:
    """Nothing waits, nothing runs, nothing happened."""
    async with database(place) as db:
        told = await db.read(numbers.numbers, NOON)
        assert (told.queued, told.running, told.slots) == ({}, {}, {})
        assert await db.read(journal.position) == 0
        assert await db.read(numbers.happened, 0) == []


async def test_depth_and_age_are_told_for_each_model(place: str) -> None:
    """Of what waits; what runs is counted apart, with the slot it takes."""
    async with database(place) as db:
        first, second, other = await db.write(intake.submit, [new(), new(), new(OTHER)])
        for job, seconds in ((first, 90.0), (second, 30.0), (other, 7.5)):
            await db.write(_age, job, seconds)
        told = await db.read(numbers.numbers, NOON)
        assert told.queued == {"test": (2, 90.0), "other": (1, 7.5)}
        claim = await take(db)
        assert claim is not None
        assert claim.job == first
        told = await db.read(numbers.numbers, NOON)
        assert told.queued["test"] == (1, 30.0)
        assert told.running == {"test": 1}
        assert told.slots == {"cpu@here": (1, 1)}


async def test_a_row_by_sql_that_names_no_model_is_counted(place: str) -> None:
    """Under no name, until it is resolved."""
    async with database(place) as db:
        await db.write(_by_hand)
        told = await db.read(numbers.numbers, NOON)
        assert told.queued[""][0] == 1
        assert told.queued[""][1] >= 0


async def test_what_happened_comes_in_order_and_only_once(place: str) -> None:
    """Starts, jobs that came back, ends; each with its model, after the position that was handed back."""
    async with database(place) as db:
        await db.write(intake.submit, [new(), new(OTHER)])
        before = await db.read(journal.position)
        assert before > 0
        first = await take(db)
        assert first is not None
        await db.write(queue.give_back, first, reason="the worker was stopped")
        second = await take(db)
        assert second is not None
        await db.write(presence.bury, [WORKER], datetime.now(UTC))
        told = await db.read(numbers.happened, before)
        assert [(one.type, one.model) for one in told] == [
            ("started", "test"),
            ("requeued", "test"),
            ("started", "test"),
            ("requeued", "test"),
        ]
        assert {one.job for one in told} == {first.job}
        assert [one.attempt for one in told] == [1, 1, 2, 2]
        assert {one.owner for one in told} == {"local"}
        assert [one.pos for one in told] == sorted(one.pos for one in told)
        assert told[1].body["reason"] == "the worker was stopped"
        assert told[3].body["reason"].endswith(" died")
        assert told[3].body["error"]["code"] == Crashed("x", hint="y").code
        assert await db.read(numbers.happened, told[-1].pos) == []
        # Whoever had the second attempt hears of that alone, and of nobody else's jobs.
        assert await db.read(numbers.happened_to, {second.job: second.attempt}) == told[2:]
        assert await db.read(numbers.happened_to, {second.job: 3}) == []
