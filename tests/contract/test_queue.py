"""The queue: jobs are taken once, writes are fenced, failures are counted, nothing gets stuck."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Inspector, insert, inspect, text, update
from tests.postgres_kit import Postgres, postgres
from tests.store_kit import MODEL, OTHER, PLACE, WORKER, arrive, database, grammar, new, record, resolve, take

import imagen
import imagen.store
from imagen.core.errors import (
    BadConfig,
    Conflict,
    DatabaseAway,
    RequestError,
    SetupError,
    TooMany,
    Unreachable,
    WrongDatabase,
)
from imagen.core.events import Completed, Failed
from imagen.core.job import State
from imagen.core.model import Model
from imagen.store import history, intake, journal, order, presence, queue, schema
from imagen.store.bell import POLL_S
from imagen.store.db import Database
from imagen.store.intake import Once
from imagen.store.order import Place, Turn
from imagen.store.queue import Claim, LeaseLost
from imagen.store.tables import jobs, metadata, series, slots


async def end(db: Database, claim: Claim) -> None:
    await db.write(queue.finish, claim, Completed(job=claim.job, attempt=claim.attempt), timings={}, facts={})


def run_sql(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)


def empty_series(connection: Connection, series_id: str, *, owner: str) -> None:
    values = {"prompts": [], "models": [], "seeds": [], "owner": owner, "created_at": datetime.now(UTC)}
    connection.execute(insert(series).values(id=series_id, **values))


async def test_a_job_is_taken_once(place: str) -> None:
    """A second claim finds nothing while the first holds the only job."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        claim = await take(db)
        assert claim is not None
        assert claim.job == job
        assert claim.attempt == 1
        assert await take(db) is None
        await end(db, claim)
        events = await record(db, job)
        grammar(events)
        assert [event.type for event in events] == ["queued", "started", "completed"]


async def test_a_device_draws_one_thing_at_a_time(place: str) -> None:
    """Two models of one device are never drawn at once, and the second says what it waits for."""
    async with database(place) as db:
        first, second = await db.write(intake.submit, [new(), new(OTHER)])
        claim = await take(db)
        assert claim is not None
        assert claim.job == first
        assert await take(db) is None
        waiting = await db.read(history.job, second)
        assert waiting.position == 0
        assert waiting.waits_for is not None
        assert first[-8:] in waiting.waits_for
        await end(db, claim)
        later = await take(db)
        assert later is not None
        assert later.job == second


async def test_a_device_with_two_slots_draws_two(place: str) -> None:
    """Slots are counted per device."""
    wide = Model(name="wide", backend="script", device="cloud:x", slots=2)
    there = {"wide": Place(device="cloud:x", slots=2)}
    async with database(place) as db:
        await db.write(intake.submit, [new(wide), new(wide), new(wide)])
        assert await take(db, places=there) is not None
        assert await take(db, places=there) is not None
        assert await take(db, places=there) is None


async def test_priority_beats_the_loaded_model_and_that_beats_age(place: str) -> None:
    """The order of the claim."""
    async with database(place) as db:
        old, loaded, urgent = await db.write(intake.submit, [new(), new(OTHER), replace(new(), priority=5)])
        order = []
        for _ in range(3):
            claim = await take(db, loaded=["other"])
            assert claim is not None
            order.append(claim.job)
            await end(db, claim)
        assert order == [urgent, loaded, old]


async def test_the_loaded_model_passes_only_as_far_as_it_may(place: str) -> None:
    """The worker is asked with the oldest job, the one that would pass it, and how many wait before that one."""
    async with database(place) as db:
        old, _, loaded = await db.write(intake.submit, [new(), new(), new(OTHER)])
        asked: list[tuple[str, str, str, int]] = []

        def no(device: str, oldest: Turn, younger: Turn, waiting: int) -> bool:
            asked.append((device, oldest.job, younger.job, waiting))
            return False

        claim = await take(db, loaded=["other"], may_pass=no)
        assert claim is not None
        assert claim.job == old
        assert asked == [("cpu@here", old, loaded, 2)]
        await end(db, claim)
        claim = await take(db, loaded=["other"], may_pass=lambda *_: True)
        assert claim is not None
        assert claim.job == loaded


async def test_a_zombie_can_record_nothing(place: str) -> None:
    """After the lease went to another attempt, every write of the first one is refused."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        zombie = await take(db)
        assert zombie is not None
        await db.write(presence.bury, [WORKER], datetime.now(UTC))
        await db.write(arrive, "worker-2")
        await db.write(lambda c: c.execute(update(jobs).values(run_after=None)))
        heir = await take(db, "worker-2")
        assert heir is not None
        assert heir.attempt == 2
        with pytest.raises(LeaseLost):
            await end(db, zombie)
        with pytest.raises(LeaseLost):
            await db.write(queue.keep_handle, zombie, {"token": "x"})
        await end(db, heir)
        events = await record(db, job)
        grammar(events)
        assert [event.type for event in events] == ["queued", "started", "requeued", "started", "completed"]


async def test_three_failures_end_a_job_with_the_reason(place: str) -> None:
    """Retryable errors wait a little longer each time, and stop."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        waits = []
        for _ in range(3):
            await db.write(lambda c: c.execute(update(jobs).values(run_after=None)))
            claim = await take(db)
            assert claim is not None
            error = Unreachable("nobody answers", hint="start it")
            await db.write(queue.give_back, claim, reason="nobody answers", error=error)
            row = await db.read(lambda c: c.execute(text("select run_after from jobs")).scalar_one())
            waits.append(row)
        assert waits[0] < waits[1]
        ended = await db.read(history.job, job)
        assert ended.state is State.FAILED
        assert ended.error is not None
        assert ended.error.message == "nobody answers"
        events = await record(db, job)
        grammar(events)
        assert isinstance(events[-1], Failed)


async def test_a_polite_hand_back_is_no_failure(place: str) -> None:
    """A worker that stops gives its job back, which is at once ready for the next."""
    async with database(place) as db:
        await db.write(intake.submit, [new()])
        for _ in range(5):
            claim = await take(db)
            assert claim is not None
            assert claim.failures == 0
            await db.write(queue.give_back, claim, reason="stopping")


async def test_a_row_inserted_by_sql_is_resolved_by_the_claim(place: str) -> None:
    """`INSERT INTO jobs (prompt)` is a submission; empty columns are filled before `started`."""
    async with database(place) as db:
        await db.write(lambda c: c.execute(text("insert into jobs (prompt) values ('a hat')")))
        claim = await take(db)
        assert claim is not None
        assert claim.request.prompt == "a hat"
        assert len(claim.job) == 26
        job = await db.read(history.job, claim.job)
        assert job.request.model == "test"
        assert job.request.width == 8


async def test_a_bad_row_fails_with_its_reason(place: str) -> None:
    """A row whose preview is nonsense ends as failed and does not block the queue."""
    async with database(place) as db:
        bad = (
            "insert into jobs (prompt, preview, created_at) values ('x', '{\"cuont\": 1}', '2020-01-01T00:00:00.000Z')"
        )
        await db.write(lambda c: c.execute(text(bad.replace(":", "\\:"))))
        await db.write(intake.submit, [new()])
        assert await take(db) is not None
        (failed,) = await db.read(history.jobs_list, state="failed")
        assert failed.error is not None
        assert "cuont" in failed.error.message
        grammar(await record(db, failed.id))


async def test_a_job_that_cannot_be_read_holds_up_no_other(place: str) -> None:
    """Nonsense that was written into a job that waits, or that a newer program wrote, is a failure of that job."""
    async with database(place) as db:
        bad, good = await db.write(intake.submit, [new(), new()])
        nonsense = update(jobs).where(jobs.c.id == bad).values(preview={"nonsense": 1}, run_after=None)
        for _ in range(queue.MAX_FAILURES):
            await db.write(lambda c: c.execute(nonsense))
            assert await take(db) is None
        claim = await take(db)
        assert claim is not None
        assert claim.job == good, "and its device is free again"
        failed = await db.read(history.job, bad)
        assert failed.state is State.FAILED
        assert failed.error is not None
        assert "nonsense" in failed.error.message
        grammar(await record(db, bad))


async def test_a_model_nobody_knows_fails_after_a_minute(place: str) -> None:
    """Another worker may know it, but not for ever."""
    async with database(place) as db:
        await db.write(lambda c: c.execute(text("insert into jobs (prompt, model) values ('x', 'nope')")))
        assert await take(db) is None
        now = datetime.now(UTC)
        assert await db.write(intake.fail_unknown_models, now, ["test"]) == 0
        later = now + timedelta(seconds=61)
        assert await db.write(intake.fail_unknown_models, later, ["test", "nope"]) == 0
        assert await db.write(intake.fail_unknown_models, later, ["test"]) == 1
        (job,) = await db.read(history.jobs_list)
        assert job.error is not None
        assert job.error.code == "unknown_model"
        grammar(await record(db, job.id))


async def test_an_old_row_of_a_known_model_is_left_to_be_drawn(place: str) -> None:
    """A sweep ends what nobody knows, not what nobody had time for."""
    old = "insert into jobs (prompt, model, created_at) values ('x', '{}', '2020-01-01T00:00:00.000Z')"
    async with database(place) as db:
        await db.write(arrive, "worker-2", models=("other",))
        for model in ("test", "other", "nope"):
            await db.write(run_sql, old.format(model))
        await db.write(presence.bury, [], datetime.now(UTC), ["test"])
        left = await db.read(history.jobs_list, state="queued")
        assert {job.request.model for job in left} == {"test", "other"}


@pytest.mark.parametrize("moment", ["some day", "2026-13-45", "12:00", "", "2460000.5"])
async def test_a_moment_that_is_none_is_refused_by_the_database(place: str, moment: str) -> None:
    """Better refused to whoever writes it than found by whoever reads it."""
    async with database(place) as db:
        for column in ("created_at", "run_after"):
            # SQLite by a CHECK, PostgreSQL by the type of the column.
            with pytest.raises(SetupError, match=r"CHECK|timestamp|date/time"):
                await db.write(run_sql, f"insert into jobs (prompt, {column}) values ('x', '{moment}')")
        await db.write(run_sql, "insert into jobs (prompt, created_at) values ('x', '2026-01-02 10:00')")
        assert len(await db.read(history.jobs_list)) == 1


async def test_cancel_by_sql_ends_a_queued_job(place: str) -> None:
    """`UPDATE jobs SET cancel_requested = true` is enough, and records the end."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        await db.write(lambda c: c.execute(text("update jobs set cancel_requested = true")))
        events = await record(db, job)
        grammar(events)
        assert events[-1].type == "cancelled"
        assert await take(db) is None


async def test_cancelling_what_ended_changes_nothing(place: str) -> None:
    """A terminal state is final."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        claim = await take(db)
        assert claim is not None
        await end(db, claim)
        await db.write(queue.cancel, job, by="you")
        after = await db.read(history.job, job)
        assert after.state is State.COMPLETED
        assert not after.cancel_requested


async def test_an_idempotency_key_gives_the_same_job(place: str) -> None:
    """Same key and body: the same job. Same key, other body: a conflict."""
    async with database(place) as db:
        once = Once(route="/v1/jobs", key="k", body_hash="a")
        one = await db.write(intake.submit_once, [new()], once=once)
        assert await db.write(intake.submit_once, [new()], once=once) == one
        with pytest.raises(Conflict):
            await db.write(intake.submit_once, [new()], once=replace(once, body_hash="b"))
        assert len(await db.read(history.jobs_list)) == 1


async def test_the_slot_of_a_dead_worker_is_freed(place: str) -> None:
    """Burying a worker puts its job back and frees the device at once."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        await take(db)
        assert await db.write(presence.bury, [WORKER], datetime.now(UTC)) == [job]
        held = await db.read(lambda c: c.execute(slots.select().where(slots.c.job_id.is_not(None))).all())
        assert held == []


async def test_a_worker_is_dead_when_it_stops_counting_or_its_process_is_gone(place: str) -> None:
    """Judged by the watcher's own monotonic clock, so that no clock that jumps can end a lease."""
    clock = [0.0]
    watcher = presence.Obituaries(lambda: clock[0])
    async with database(place) as db:
        rows = await db.read(presence.everyone)
        assert watcher.dead(rows) == []
        for _ in range(3):
            clock[0] += 4
            await db.write(presence.beat, WORKER, {})
            assert watcher.dead(await db.read(presence.everyone)) == []
        for _ in range(3):
            clock[0] += 4
            assert watcher.dead(await db.read(presence.everyone)) == []
        clock[0] += 4
        assert watcher.dead(await db.read(presence.everyone)) == [WORKER]
        await db.write(lambda c: c.execute(text("update workers set pid_started = 'another'")))
        assert presence.Obituaries().dead(await db.read(presence.everyone)) == [WORKER]


async def test_who_was_buried_and_arrives_anew_is_alive(place: str) -> None:
    """Its count begins again, and may stand where it stood when it was last seen."""
    clock = [0.0]
    watcher = presence.Obituaries(lambda: clock[0])
    async with database(place) as db:
        for _ in range(5):
            assert watcher.dead(await db.read(presence.everyone)) == []
            clock[0] += 3
        assert watcher.dead(await db.read(presence.everyone)) == [WORKER]
        await db.write(presence.bury, [WORKER], datetime.now(UTC))
        await db.write(arrive, WORKER)
        clock[0] += 3
        assert watcher.dead(await db.read(presence.everyone)) == []


async def test_a_watcher_that_slept_buries_nobody(place: str) -> None:
    """After its own pause it starts to watch anew."""
    clock = [0.0]
    watcher = presence.Obituaries(lambda: clock[0])
    async with database(place) as db:
        rows = await db.read(presence.everyone)
        assert watcher.dead(rows) == []
        clock[0] += 1000
        assert watcher.dead(rows) == []


async def test_unknown_rows_do_not_starve_known_ones(place: str) -> None:
    """Twenty rows of a model nobody knows stand before a good one, which is still resolved and drawn."""
    async with database(place) as db:
        for _ in range(20):
            await db.write(lambda c: c.execute(text("insert into jobs (prompt, model) values ('x', 'nope')")))
        await db.write(lambda c: c.execute(text("insert into jobs (prompt, model) values ('good', 'test')")))
        claim = await take(db)
        assert claim is not None
        assert claim.request.prompt == "good"


async def test_migrations_and_tables_say_the_same(place: str) -> None:
    """What the migrations make is what the code believes, and HEAD is the newest of them."""
    config = Config()
    config.set_main_option("script_location", str(Path(imagen.store.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD
    async with database(place) as db:
        inside = "imagen" if db.engine.dialect.name == "postgresql" else None
        migrated = shape(db.engine, inside)
        made = db.engine.execution_options(schema_translate_map={"imagen": "believed" if inside else None})
        with made.begin() as connection:
            if inside:
                connection.execute(text("create schema believed"))
            else:
                metadata.drop_all(connection)
            metadata.create_all(connection)
        believed = shape(db.engine, "believed" if inside else None)
    for found in (migrated, believed):
        found.pop("alembic_version", None)
    assert migrated == believed


def shape(engine: Engine, schema: str | None) -> dict[str, object]:
    """Columns, keys and indexes of every table."""
    look = inspect(engine)
    return {table: _shape(look, table, schema) for table in look.get_table_names(schema)}


def _shape(look: Inspector, table: str, schema: str | None) -> object:
    return (
        sorted((c["name"], str(c["type"]), c["nullable"], c["default"] or "") for c in look.get_columns(table, schema)),
        look.get_pk_constraint(table, schema)["constrained_columns"],
        sorted((index["name"] or "", index["column_names"]) for index in look.get_indexes(table, schema)),
        sorted(check["sqltext"] for check in look.get_check_constraints(table, schema)),
        sorted(key["referred_table"] for key in look.get_foreign_keys(table, schema)),
        sorted(unique["column_names"] for unique in look.get_unique_constraints(table, schema)),
    )


@pytest.mark.parametrize(("version", "words"), [("0000", "db upgrade"), ("9999", "newer imagen")])
async def test_a_database_of_another_version_is_refused(tmp_path: Path, version: str, words: str) -> None:
    """Older says the command, newer says what to install."""
    async with database(tmp_path) as db:
        await db.write(lambda c: c.execute(text("update alembic_version set version_num = :v"), {"v": version}))
    again = Database(f"sqlite:///{tmp_path / 'imagen.db'}")
    with pytest.raises(WrongDatabase) as caught:
        await again.open()
    assert words in caught.value.hint
    await again.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A text file in its place is named, and left alone."""
    (tmp_path / "imagen.db").write_text("hello " * 1000)
    db = Database(f"sqlite:///{tmp_path / 'imagen.db'}")
    with pytest.raises(BadConfig):
        await db.open()
    await db.close()
    assert (tmp_path / "imagen.db").read_text().startswith("hello")


def test_the_kit_knows_both_models() -> None:
    """The helper of these tests resolves what they use."""
    from imagen.core.request import Draft

    assert resolve(Draft(prompt="x", model="other")).model == OTHER
    assert resolve(Draft(prompt="x")).model == MODEL


async def test_an_older_database_is_brought_up_with_everything_in_it(place: str) -> None:
    """`imagen db upgrade` from the first version keeps jobs, pictures and the order of events."""
    config = Config()
    config.set_main_option("script_location", str(Path(imagen.store.__file__).parent / "migrations"))
    old = Database(place)
    with old.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("create schema imagen"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for prompt in ("one", "two"):
            connection.execute(text("insert into jobs (prompt, model) values (:prompt, 'test')"), {"prompt": prompt})
        connection.execute(text("update jobs set cancel_requested = true where prompt = 'two'"))
    with pytest.raises(WrongDatabase) as caught:
        await old.open()
    assert "db upgrade" in caught.value.hint
    assert await old.upgrade() == ("0001", schema.HEAD)
    await old.close()
    async with database(place) as db:
        two, one = await db.read(history.jobs_list)
        assert {one.request.prompt, two.request.prompt} == {"one", "two"}
        told = await db.read(journal.since, 0, limit=10)
        assert [pos for pos, _, _ in told] == [1, 2, 3]
        assert [event.type for _, _, event in told if event] == ["queued", "queued", "cancelled"]
        await db.write(intake.submit, [new()])
        claim = await take(db)
        assert claim is not None
        assert claim.request.prompt == "one"
        *_, (_, _, newest) = await db.read(journal.since, 3, limit=10)
        assert newest is not None
        assert newest.type == "started"


async def test_a_worker_draws_a_model_where_its_own_catalog_says(place: str) -> None:
    """A job is not tied to the device of the machine that submitted it: two workers draw two at once."""
    async with database(place) as db:
        await db.write(intake.submit, [new(), new(), new()])
        here = await take(db, places={"test": Place(device="cuda:0@one")})
        there = await take(db, places={"test": Place(device="cuda:0@two")})
        assert here is not None
        assert there is not None
        assert (here.model.device, there.model.device) == ("cuda:0@one", "cuda:0@two")
        assert here.job != there.job
        assert await take(db, places={"test": Place(device="cuda:0@two")}) is None


async def test_jobs_of_a_model_that_was_removed_are_still_found(place: str) -> None:
    """What a job carries says where it may be drawn."""
    async with database(place) as db:
        await db.write(intake.submit, [new(), new(OTHER)])
        assert await db.read(order.left_over, ["test"]) == {"other": OTHER}
        assert await db.read(order.left_over, ["test", "other"]) == {}


async def test_a_look_finds_what_a_claim_would(place: str) -> None:
    """And nothing while there is nothing."""
    async with database(place) as db:
        assert not await db.read(order.anything, {"test": PLACE}, ["test"])
        await db.write(intake.submit, [new()])
        assert await db.read(order.anything, {"test": PLACE}, ["test"])
        assert not await db.read(order.anything, {"other": PLACE}, ["other"])
        await db.write(run_sql, "insert into jobs (prompt) values ('by sql')")
        assert await db.read(order.anything, {"other": PLACE}, ["other"])


async def test_an_owner_may_only_have_so_many_waiting(place: str) -> None:
    """The refusal names the limit; another owner is not touched by it."""
    async with database(place) as db:
        mine = [replace(new(), owner="ann") for _ in range(2)]
        await db.write(intake.submit_once, mine, once=None, queue_limit=2)
        with pytest.raises(TooMany, match=r"limits\.queued"):
            await db.write(intake.submit_once, mine[:1], once=None, queue_limit=2)
        await db.write(intake.submit_once, [replace(new(), owner="bob")], once=None, queue_limit=2)
        assert len(await db.read(history.jobs_list, owner="ann")) == 2
        assert len(await db.read(history.jobs_list, owner="bob")) == 1


@pytest.mark.parametrize("listed", [history.jobs_list, history.series_list])
async def test_a_list_refuses_what_is_no_page_of_it(place: str, listed: Callable[..., Any]) -> None:
    """A place that is not there or is somebody else's, and less than one or more than a thousand at once."""
    async with database(place) as db:
        (known,) = await db.write(intake.submit, [replace(new(), owner="ann")])
        await db.write(empty_series, known, owner="ann")
        assert await db.read(listed, before=known, owner="ann") == []
        for before in ("nonsense", known[:-1]):
            with pytest.raises(RequestError, match="go on from"):
                await db.read(listed, before=before)
        with pytest.raises(RequestError, match="go on from"):
            await db.read(listed, before=known, owner="bob")
        for limit in (-1, 0, 1001):
            with pytest.raises(RequestError, match=f"a page of {limit}"):
                await db.read(listed, limit=limit)


async def test_a_claim_nobody_heard_of_goes_back(place: str) -> None:
    """The answer was lost with the connection: the worker lives, but does not know that it has the job."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        await take(db)
        assert await db.read(presence.holds, WORKER) == [job]
        await db.write(queue.unheard, job, WORKER)
        again = await db.read(history.job, job)
        assert (again.state, again.failures) == (State.QUEUED, 0)
        grammar(await record(db, job))


async def test_many_at_once_share_the_queue(place: str) -> None:
    """Eight claims at the same moment on four devices: four different jobs, each device once."""
    async with database(place) as db:
        await db.write(intake.submit, [new() for _ in range(8)])
        devices = [f"cuda:{number % 4}@here" for number in range(8)]
        claims = await asyncio.gather(*(take(db, places={"test": Place(device=device)}) for device in devices))
        taken = [claim for claim in claims if claim is not None]
        assert len({claim.job for claim in taken}) == len(taken)
        assert len({claim.model.device for claim in taken}) == len(taken)
        more = [await take(db, places={"test": Place(device=device)}) for device in devices[:4]]
        assert len(taken) + len([claim for claim in more if claim is not None]) == 4


async def test_the_same_key_at_the_same_moment_is_one_job(place: str) -> None:
    """Ten retries of a client that lost patience bring one job."""
    async with database(place) as db:
        once = Once(route="/v1/jobs", key="k", body_hash="a")
        ids = await asyncio.gather(*(db.write(intake.submit_once, [new()], once=once) for _ in range(10)))
        assert len({one for (one,) in ids}) == 1
        assert len(await db.read(history.jobs_list)) == 1


async def test_a_cancel_at_the_moment_of_the_claim_is_never_lost(place: str) -> None:
    """Either it ended queued, or the worker that has it will see the wish."""
    async with database(place) as db:
        for _ in range(10):
            (job,) = await db.write(intake.submit, [new()])
            claim, _ = await asyncio.gather(take(db), db.write(queue.cancel, job, by="you"))
            found = await db.read(history.job, job)
            assert found.cancel_requested
            if claim is None:
                assert found.state is State.CANCELLED
            else:
                assert found.state is State.RUNNING
                assert (await db.read(journal.attention, job, datetime.now(UTC))).cancel_requested
                await end(db, claim)
            grammar(await record(db, job))


@pytest.mark.needs_postgres
async def test_a_restart_of_postgresql_is_waited_for(tmp_path: Path) -> None:
    """Writes and reads of the moment are done again when it is back; the bell is heard again too."""
    with postgres(durable=False) as server:
        async with database(server.url) as db:
            mark = db.mark(jobs=True)
            await db.write(intake.submit, [new()])
            await asyncio.to_thread(server.stop)
            writing = asyncio.create_task(db.write(intake.submit, [new()]))
            reading = asyncio.create_task(db.read(history.jobs_list))
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)
            await writing
            assert len(await reading) >= 1
            assert len(await db.read(history.jobs_list)) == 2
            async with asyncio.timeout(30):
                while not all(ear.hears for ear in db._ears.values()):
                    await db.changed(db.mark(), 0.05, frozenset({"nothing"}))
            mark = db.mark(jobs=True)
            other = Database(server.url)
            (job,) = await other.write(intake.submit, [new()])
            async with asyncio.timeout(10):
                while not await db.changed(mark, 5, frozenset((job,))):
                    pass
            await other.close()


@pytest.mark.needs_postgres
async def test_who_follows_no_jobs_hears_nothing_of_them(postgres: Postgres) -> None:
    """Neither of steps nor of what SQL cancels; of queues and devices it does hear, for a worker waits for those."""
    address = postgres.new_database()
    waits, follows = Database(address), Database(address)

    async def wait(listening: Database) -> None:
        while True:
            await listening.changed(listening.mark(), 60, frozenset({"nothing"}))

    waiting = [asyncio.create_task(wait(one)) for one in (waits, follows)]

    async def told(listening: Database, *, jobs: bool) -> set[str]:
        listening.mark(jobs=jobs)
        async with asyncio.timeout(10):
            while not all(ear.hears for ear in list(listening._ears.values())[: 1 + jobs]):
                await asyncio.sleep(0.01)
        return set(listening._bell._rung)

    async with database(address) as draws:
        assert not await told(waits, jobs=False) | await told(follows, jobs=True)
        ids = await draws.write(intake.submit, [new(), new()])
        claim = await take(draws)
        assert claim is not None
        await draws.write(journal.set_live, claim.job, claim.attempt, 1, None, None)
        await draws.write(_by_sql, ids[1])
        await end(draws, claim)
        work = {"model:test", "device:cpu@here"}
        async with asyncio.timeout(10):
            while not (work <= await told(waits, jobs=False) and work | {*ids} <= await told(follows, jobs=True)):
                await asyncio.sleep(0.01)
        assert await told(waits, jobs=False) == work
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await waits.close()
    await follows.close()


def _by_sql(connection: Connection, job: str) -> None:
    connection.execute(text("update imagen.jobs set cancel_requested = true where id = :job"), {"job": job})


async def test_only_what_others_write_to_sqlite_wakes_everybody(tmp_path: Path) -> None:
    """This process says itself whom its writes concern: a hundred who wait are not all woken for one of them."""
    async with database(tmp_path) as db:
        await db.write(intake.submit, [new()])
        mark = db.mark()
        mine = asyncio.create_task(db.changed(mark, 20, frozenset(("a job of somebody",))))
        for _ in range(5):
            await db.write(intake.submit, [new()])
            await asyncio.sleep(2 * POLL_S)
        assert not mine.done()
        other = Database(f"sqlite:///{tmp_path / 'imagen.db'}")
        await other.write(intake.submit, [new()])
        async with asyncio.timeout(10):
            assert await mine is False, "who wrote what is not known, so whoever is woken has to look"
        await other.close()


async def test_a_file_that_was_moved_away_is_not_written_to(tmp_path: Path) -> None:
    """What is written into a file without a name is lost; and the readiness of a server must see it."""
    async with database(tmp_path) as db:
        (tmp_path / "imagen.db").rename(tmp_path / "elsewhere.db")
        for attempt in (db.check(), db.write(intake.submit, [new()])):
            with pytest.raises(SetupError, match="moved or deleted"):
                await attempt
        (tmp_path / "elsewhere.db").rename(tmp_path / "imagen.db")
        await db.write(intake.submit, [new()])


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "12000-01-01", "0044-03-15 BC"])
@pytest.mark.needs_postgres
async def test_a_moment_that_no_program_can_read_is_refused(request: pytest.FixtureRequest, moment: str) -> None:
    """One such row would stop every worker that reads it."""
    server: Postgres = request.getfixturevalue("postgres")
    async with database(server.new_database()) as db:
        for column in ("created_at", "run_after"):
            with pytest.raises(SetupError, match="check constraint"):
                await db.write(run_sql, f"insert into imagen.jobs (prompt, {column}) values ('x', '{moment}')")


@pytest.mark.parametrize("id_", ["'a/b'", "''", "'a b'", "'ü'", "'a\n'", "'\na'", f"'{'a' * 201}'"])
async def test_an_id_that_cannot_stand_in_an_address_is_refused(place: str, id_: str) -> None:
    """A job that nobody could ask for over HTTP is not taken."""
    async with database(place) as db:
        with pytest.raises(SetupError, match=r"CHECK|check constraint|type"):
            await db.write(run_sql, f"insert into jobs (id, prompt) values ({id_}, 'x')")
        await db.write(run_sql, "insert into jobs (id, prompt) values ('My_job-1.2', 'x')")


async def test_a_row_inserted_as_running_is_put_back(place: str) -> None:
    """Nobody has it, so the sweep treats it as one whose worker died."""
    async with database(place) as db:
        await db.write(run_sql, "insert into jobs (id, prompt, state) values ('lost', 'x', 'running')")
        assert await db.write(presence.bury, [], datetime.now(UTC)) == ["lost"]
        assert (await db.read(history.job, "lost")).state is State.QUEUED


async def test_a_newer_database_is_not_upgraded(place: str) -> None:
    """The same words as everywhere else."""
    async with database(place) as db:
        await db.write(lambda c: c.execute(text("update alembic_version set version_num = '9999'")))
        with pytest.raises(WrongDatabase, match="knows only up to"):
            await db.upgrade()


@pytest.mark.needs_postgres
async def test_what_is_said_of_a_database_that_is_away_names_no_address(tmp_path: Path) -> None:
    """Errors travel to callers; a password in the query of the address travels with none."""
    db = Database("postgresql://127.0.0.1:1/imagen?user=ann&password=S3cret")
    with pytest.raises(DatabaseAway) as caught:
        await db.open()
    assert caught.value.retryable
    told = str(caught.value.as_dict())
    assert "S3cret" not in told
    assert "ann" not in told
    await db.close()


async def test_a_hint_names_where_the_address_was_set(tmp_path: Path) -> None:
    """Who gave it in a file or a variable looks in vain in config.yaml."""
    from imagen.config import load_settings

    (tmp_path / "database").write_text("postgresql://ann:S3cret@127.0.0.1:1/imagen")
    environ = {"IMAGEN_DATABASE_FILE": str(tmp_path / "database")}
    for settings, said in (
        (load_settings(home=tmp_path, environ=environ), "IMAGEN_DATABASE_FILE"),
        (load_settings(home=tmp_path, environ={"IMAGEN_DATABASE": "postgresql://127.0.0.1:1/x"}), "IMAGEN_DATABASE"),
        (load_settings(home=tmp_path, environ={}), "`database:` of config.yaml"),
    ):
        assert settings.database_from == said
    with pytest.raises(DatabaseAway, match="not running") as caught:
        async with imagen.open(settings=load_settings(home=tmp_path, environ=environ)):
            pass
    assert "IMAGEN_DATABASE_FILE" in caught.value.hint
    assert "S3cret" not in str(caught.value.as_dict())


@pytest.mark.needs_postgres
async def test_a_database_that_is_away_for_long_fails_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was being drawn goes back without a failure and is drawn again."""
    import imagen.store.db
    from imagen.core.request import Draft

    monkeypatch.setattr(imagen.store.db, "AWAY_S", 0.5)
    with postgres(durable=False) as server:
        (tmp_path / "config.yaml").write_text(f"database: {server.url}\n")
        async with imagen.open(home=tmp_path) as app, app.drawing():
            job = await app.submit(Draft(prompt="a fox [slow:6]", model="mock", width=64, height=64))
            async with asyncio.timeout(60):
                while (await app.job(job.id)).state is not State.RUNNING:
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(3)
                await asyncio.to_thread(server.start)
                while not (done := await app.job(job.id)).state.terminal:
                    await asyncio.sleep(0.2)
            assert (done.state, done.failures) == (State.COMPLETED, 0)
