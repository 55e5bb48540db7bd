"""What a worker says of its job in one statement (PostgreSQL) is what the long way writes, once, while it holds it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Table, select, text, update
from tests.postgres_kit import Postgres
from tests.store_kit import database, grammar, new, record, take

from imagen.core.errors import Crashed
from imagen.core.events import Cancelled, Completed, Failed, Image, Warning
from imagen.core.job import StoredImage
from imagen.store import intake, queue
from imagen.store.bell import JOBS
from imagen.store.db import Database
from imagen.store.postgresql import driver, recording
from imagen.store.queue import Claim, LeaseLost
from imagen.store.tables import events, images, jobs, slots

pytestmark = pytest.mark.needs_postgres

AT = datetime(2126, 11, 22, 9, 30, 15, 123456, tzinfo=UTC)
ENDS: dict[str, Callable[[str], Completed | Failed | Cancelled]] = {
    "completed": lambda job: Completed(job=job, at=AT, attempt=1, timings={"sample": 1.25}, vram_peak_mib=900),
    "failed": lambda job: Failed(job=job, at=AT, attempt=1, error=Crashed("it broke \N{SNOWMAN}", hint="again")),
    "cancelled": lambda job: Cancelled(job=job, at=AT, attempt=1, by="ann", step=3),
}


async def begun(db: Database) -> Claim:
    """A job with a fixed name in a worker's hands."""
    await db.write(intake.submit, [new(n=2)])
    claim = await take(db)
    assert claim is not None
    return claim


def picture(claim: Claim, index: int) -> Image:
    sizes: dict[str, Any] = {"width": 8, "height": 16, "seed": 2**53 - index}
    hashes: dict[str, Any] = {"sha256": "a" * 64, "pixels_sha256": "b" * 64}
    image = StoredImage(index=index, id=f"picture-{index}", url=f"/v1/images/{index}", **sizes, **hashes)
    return Image(job=claim.job, at=AT + timedelta(seconds=index), attempt=claim.attempt, image=image)


def warning(claim: Claim) -> Warning:
    return Warning(job=claim.job, at=AT, attempt=claim.attempt, code="size_differs", message="8x8 was asked")


def all_of(connection: Connection, job: str) -> dict[str, Any]:
    """What is recorded of a job, as the database keeps it, without what differs each time."""

    def rows(table: Table, *left_out: str) -> list[dict[str, Any]]:
        found = connection.execute(select(table)).mappings()
        return [{name: value for name, value in row.items() if name not in left_out} for row in found]

    moving = ("id", "created_at", "started_at", "record", "seed_given")
    told = rows(events, "pos", "job_id")
    return {
        "jobs": rows(jobs, *moving),
        "events": [one | ({"at": None} if one["type"] in ("queued", "started") else {}) for one in told],
        "images": rows(images, "job_id"),
        "slots": rows(slots, "job_id"),
        "held": connection.execute(select(slots.c.slot).where(slots.c.job_id == job)).all(),
    }


@pytest.mark.parametrize("end", ENDS)
async def test_it_writes_what_the_long_way_writes(postgres: Postgres, end: str) -> None:
    """A warning, a handle, two pictures of which one is deleted while the other is drawn, and the end."""
    found = []
    for at_once in (True, False):

        def said(connection: Connection, /, work: Any, *args: Any, at_once: bool, **more: Any) -> Any:
            if not at_once:
                connection.execute(text("select 1"))  # begun: the long way
            assert recording.possible(connection) is at_once
            result = work(connection, *args, **more)
            assert driver.is_idle(connection) is at_once, "it is over"
            return result

        async with database(postgres.new_database()) as db:
            claim = await begun(db)
            how: dict[str, Any] = {"at_once": at_once}
            numbers = [await db.write(said, queue.say, claim, warning(claim), **how)]
            await db.write(said, queue.keep_handle, claim, {"token": {"id": "7"}, "first": 0, "n": 2}, **how)
            middle = await db.read(all_of, claim.job)
            for index in (1, 0):
                kept: dict[str, Any] = {"path": f"2026/{index}.png", "mime": "image/png"}
                numbers.append(await db.write(said, queue.add_image, claim, picture(claim, index), **kept, **how))
                await db.write(_deleted, "picture-1")
            await db.write(said, queue.free_device, claim, **how)
            ending = ENDS[end](claim.job)
            facts: dict[str, Any] = {"timings": {"sample": 1.25}, "facts": {"cost": 0.5}}
            await db.write(said, queue.finish, claim, ending, **facts, **how)
            grammar(await record(db, claim.job))
            found.append((numbers, middle, _named(await db.read(all_of, claim.job), claim)))
    assert _named(found[0][1], None)["events"] == _named(found[1][1], None)["events"]
    assert found[0][0] == found[1][0] == [3, 4, 5]
    assert found[0][2] == found[1][2]
    states = [one["state"] for one in found[0][2]["events"][-1]["body"]["images"]]
    assert states == ["stored", "deleted"], "the end tells what is left by then, in order"


async def test_who_lost_the_job_writes_nothing(postgres: Postgres) -> None:
    """Not an event, not a picture, not a free slot."""
    async with database(postgres.new_database()) as db:
        claim = await begun(db)
        await db.write(lambda connection: connection.execute(update(jobs).values(attempt=2)))
        before = await db.read(all_of, claim.job)
        lost: tuple[tuple[Any, ...], ...] = (
            (queue.say, claim, warning(claim)),
            (queue.keep_handle, claim, {"token": "7"}),
            (queue.free_device, claim),
        )
        for work, *args in lost:
            with pytest.raises(LeaseLost):
                await db.write(work, *args)
        with pytest.raises(LeaseLost):
            await db.write(queue.add_image, claim, picture(claim, 0), path="fox.png", mime="image/png")
        with pytest.raises(LeaseLost):
            await db.write(queue.finish, claim, ENDS["completed"](claim.job), timings={}, facts={})
        assert await db.read(all_of, claim.job) == before
        assert before["held"]


async def test_an_answer_that_was_lost_is_asked_for_and_not_said_twice(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks behind each write: it is looked up on the next one, under the number that it got."""
    way, broken = driver._one_way, 0

    def breaking(connection: Connection, *args: Any) -> Any:
        nonlocal broken
        brought = way(connection, *args)
        if not connection.info.get("again"):
            broken += 1
            connection.connection.driver_connection.close()  # type: ignore[union-attr]
            raise psycopg.OperationalError("the connection is lost")
        return brought

    async with database(postgres.new_database()) as db:
        claim = await begun(db)
        monkeypatch.setattr(driver, "_one_way", breaking)
        db.mark(jobs=True)
        while not db._ears[JOBS].hears:
            await asyncio.sleep(0.02)
        mark = db.mark(jobs=True)
        assert await db.write(queue.say, claim, warning(claim)) == 3
        assert await db.changed(mark, 30.0, frozenset({claim.job})), "whoever follows it hears of it"
        await db.write(queue.keep_handle, claim, {"token": "7"})
        assert await db.write(queue.add_image, claim, picture(claim, 0), path="fox.png", mime="image/png") == 4
        await db.write(queue.free_device, claim)
        await db.write(queue.finish, claim, ENDS["completed"](claim.job), timings={}, facts={})
        assert broken == 5
        told = await record(db, claim.job)
        grammar(told)
        assert [event.type for event in told] == ["queued", "started", "warning", "image", "completed"]


async def test_a_connection_that_was_gone_before_it_was_used_costs_nothing(postgres: Postgres) -> None:
    """PostgreSQL restarted since: it is said on a new one, and nobody draws anything twice."""
    async with database(postgres.new_database()) as db:
        claim = await begun(db)
        gone = text("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()")
        with psycopg.connect(db.engine.url.set(drivername="postgresql").render_as_string(False)) as other:
            other.execute(f"{gone} and pid <> pg_backend_pid()".encode())
        assert await db.write(queue.add_image, claim, picture(claim, 0), path="fox.png", mime="image/png") == 3
        await db.write(queue.finish, claim, ENDS["completed"](claim.job), timings={}, facts={})


def _deleted(connection: Connection, image: str) -> None:
    connection.execute(update(images).where(images.c.id == image).values(state="deleted"))


def _named(found: dict[str, Any], claim: Claim | None) -> dict[str, Any]:
    """What was told without the names that differ each time."""
    told = [one | ({"body": None} if one["type"] in ("queued", "started") else {}) for one in found["events"]]
    return found | {"events": told, "worker": claim and claim.worker}


async def test_a_row_is_found_by_its_id(postgres: Postgres) -> None:
    """Also while PostgreSQL believes that next to nothing runs: it would look through all that do."""
    async with database(postgres.new_database()) as db:
        await db.write(intake.submit, [new() for _ in range(400)])
        shape = recording.Change(event=None, values={"failures": 1}, picture={}, frees=True).shape

        def planned(connection: Connection) -> str:
            connection.execute(text("analyze imagen.jobs"))
            connection.execute(text("set local enable_seqscan = off"))
            words = driver.spoken(connection, recording._making(shape))
            given = {"job": "a", "its_attempt": 1, "to_failures": 1, "device": "d"}
            told = connection.exec_driver_sql(f"explain {words}", given)
            return "\n".join(told.scalars())

        plan = await db.write(planned)
        assert "using pk_jobs on jobs" in plan
        assert "ix_jobs_state" not in plan
