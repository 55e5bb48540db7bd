"""The queue: jobs are taken once, writes are fenced, failures are counted, nothing gets stuck."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, text, update
from tests.store_kit import MODEL, OTHER, WORKER, arrive, database, grammar, new, record, resolve, take

import imagen.store
from imagen.core.errors import BadConfig, Conflict, SetupError, Unreachable, WrongDatabase
from imagen.core.events import Completed, Failed
from imagen.core.job import State
from imagen.core.model import Model
from imagen.store import history, intake, presence, queue, schema
from imagen.store.db import Database
from imagen.store.queue import Claim, LeaseLost
from imagen.store.tables import jobs, metadata, slots


async def end(db: Database, claim: Claim) -> None:
    await db.write(
        queue.finish,
        claim,
        State.COMPLETED,
        lambda stored: Completed(job=claim.job, attempt=claim.attempt, images=stored),
        timings={},
        facts={},
    )


def run_sql(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)


async def test_a_job_is_taken_once(tmp_path: Path) -> None:
    """A second claim finds nothing while the first holds the only job."""
    async with database(tmp_path) as db:
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


async def test_a_device_draws_one_thing_at_a_time(tmp_path: Path) -> None:
    """Two models of one device are never drawn at once, and the second says what it waits for."""
    async with database(tmp_path) as db:
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


async def test_a_device_with_two_slots_draws_two(tmp_path: Path) -> None:
    """Slots are counted per device."""
    wide = Model(name="wide", backend="script", device="cloud:x", slots=2)
    async with database(tmp_path) as db:
        await db.write(intake.submit, [new(wide), new(wide), new(wide)])
        assert await take(db) is not None
        assert await take(db) is not None
        assert await take(db) is None


async def test_priority_beats_the_loaded_model_and_that_beats_age(tmp_path: Path) -> None:
    """The order of the claim."""
    from dataclasses import replace

    async with database(tmp_path) as db:
        old, loaded, urgent = await db.write(intake.submit, [new(), new(OTHER), replace(new(), priority=5)])
        order = []
        for _ in range(3):
            claim = await take(db, loaded=["other"])
            assert claim is not None
            order.append(claim.job)
            await end(db, claim)
        assert order == [urgent, loaded, old]


async def test_a_zombie_can_record_nothing(tmp_path: Path) -> None:
    """After the lease went to another attempt, every write of the first one is refused."""
    async with database(tmp_path) as db:
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


async def test_three_failures_end_a_job_with_the_reason(tmp_path: Path) -> None:
    """Retryable errors wait a little longer each time, and stop."""
    async with database(tmp_path) as db:
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


async def test_a_polite_hand_back_is_no_failure(tmp_path: Path) -> None:
    """A worker that stops gives its job back, which is at once ready for the next."""
    async with database(tmp_path) as db:
        await db.write(intake.submit, [new()])
        for _ in range(5):
            claim = await take(db)
            assert claim is not None
            assert claim.failures == 0
            await db.write(queue.give_back, claim, reason="stopping")


async def test_a_row_inserted_by_sql_is_resolved_by_the_claim(tmp_path: Path) -> None:
    """`INSERT INTO jobs (prompt)` is a submission; empty columns are filled before `started`."""
    async with database(tmp_path) as db:
        await db.write(lambda c: c.execute(text("insert into jobs (prompt) values ('a hat')")))
        claim = await take(db)
        assert claim is not None
        assert claim.request.prompt == "a hat"
        assert len(claim.job) == 26
        job = await db.read(history.job, claim.job)
        assert job.request.model == "test"
        assert job.request.width == 8


async def test_a_bad_row_fails_with_its_reason(tmp_path: Path) -> None:
    """A row whose preview is nonsense ends as failed and does not block the queue."""
    async with database(tmp_path) as db:
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


async def test_a_model_nobody_knows_fails_after_a_minute(tmp_path: Path) -> None:
    """Another worker may know it, but not for ever."""
    async with database(tmp_path) as db:
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


async def test_an_old_row_of_a_known_model_is_left_to_be_drawn(tmp_path: Path) -> None:
    """A sweep ends what nobody knows, not what nobody had time for."""
    old = "insert into jobs (prompt, model, created_at) values ('x', '{}', '2020-01-01T00:00:00.000Z')"
    async with database(tmp_path) as db:
        await db.write(arrive, "worker-2", models=("other",))
        for model in ("test", "other", "nope"):
            await db.write(run_sql, old.format(model))
        await db.write(presence.bury, [], datetime.now(UTC), ["test"])
        left = await db.read(history.jobs_list, state="queued")
        assert {job.request.model for job in left} == {"test", "other"}


@pytest.mark.parametrize("moment", ["yesterday", "2026-13-45", "12:00", "", "2460000.5"])
async def test_a_moment_that_is_none_is_refused_by_the_database(tmp_path: Path, moment: str) -> None:
    """Better refused to whoever writes it than found by whoever reads it."""
    async with database(tmp_path) as db:
        for column in ("created_at", "run_after"):
            with pytest.raises(SetupError, match="CHECK"):
                await db.write(run_sql, f"insert into jobs (prompt, {column}) values ('x', '{moment}')")
        await db.write(run_sql, "insert into jobs (prompt, created_at) values ('x', '2026-01-02 10:00')")
        assert len(await db.read(history.jobs_list)) == 1


async def test_cancel_by_sql_ends_a_queued_job(tmp_path: Path) -> None:
    """`UPDATE jobs SET cancel_requested = true` is enough, and records the end."""
    async with database(tmp_path) as db:
        (job,) = await db.write(intake.submit, [new()])
        await db.write(lambda c: c.execute(text("update jobs set cancel_requested = true")))
        events = await record(db, job)
        grammar(events)
        assert events[-1].type == "cancelled"
        assert await take(db) is None


async def test_cancelling_what_ended_changes_nothing(tmp_path: Path) -> None:
    """A terminal state is final."""
    async with database(tmp_path) as db:
        (job,) = await db.write(intake.submit, [new()])
        claim = await take(db)
        assert claim is not None
        await end(db, claim)
        await db.write(queue.cancel, job, by="you")
        after = await db.read(history.job, job)
        assert after.state is State.COMPLETED
        assert not after.cancel_requested


async def test_an_idempotency_key_gives_the_same_job(tmp_path: Path) -> None:
    """Same key and body: the same job. Same key, other body: a conflict."""
    async with database(tmp_path) as db:
        how = {"owner": "local", "route": "/v1/jobs", "key": "k"}
        one = await db.write(intake.submit_once, [new()], body_hash="a", **how)
        assert await db.write(intake.submit_once, [new()], body_hash="a", **how) == one
        with pytest.raises(Conflict):
            await db.write(intake.submit_once, [new()], body_hash="b", **how)
        assert len(await db.read(history.jobs_list)) == 1


async def test_the_slot_of_a_dead_worker_is_freed(tmp_path: Path) -> None:
    """Burying a worker puts its job back and frees the device at once."""
    async with database(tmp_path) as db:
        (job,) = await db.write(intake.submit, [new()])
        await take(db)
        assert await db.write(presence.bury, [WORKER], datetime.now(UTC)) == [job]
        held = await db.read(lambda c: c.execute(slots.select().where(slots.c.job_id.is_not(None))).all())
        assert held == []


async def test_a_worker_is_dead_when_it_stops_counting_or_its_process_is_gone(tmp_path: Path) -> None:
    """Judged by the watcher's own monotonic clock, so that no clock that jumps can end a lease."""
    clock = [0.0]
    watcher = presence.Obituaries(lambda: clock[0])
    async with database(tmp_path) as db:
        rows = await db.read(presence.everyone)
        assert watcher.dead(rows) == []
        for _ in range(3):
            clock[0] += 4
            await db.write(presence.beat, WORKER, ())
            assert watcher.dead(await db.read(presence.everyone)) == []
        for _ in range(3):
            clock[0] += 4
            assert watcher.dead(await db.read(presence.everyone)) == []
        clock[0] += 4
        assert watcher.dead(await db.read(presence.everyone)) == [WORKER]
        await db.write(lambda c: c.execute(text("update workers set pid_started = 'another'")))
        assert presence.Obituaries().dead(await db.read(presence.everyone)) == [WORKER]


async def test_a_watcher_that_slept_buries_nobody(tmp_path: Path) -> None:
    """After its own pause it starts to watch anew."""
    clock = [0.0]
    watcher = presence.Obituaries(lambda: clock[0])
    async with database(tmp_path) as db:
        rows = await db.read(presence.everyone)
        assert watcher.dead(rows) == []
        clock[0] += 1000
        assert watcher.dead(rows) == []


async def test_unknown_rows_do_not_starve_known_ones(tmp_path: Path) -> None:
    """Twenty rows of a model nobody knows stand before a good one, which is still resolved and drawn."""
    async with database(tmp_path) as db:
        for _ in range(20):
            await db.write(lambda c: c.execute(text("insert into jobs (prompt, model) values ('x', 'nope')")))
        await db.write(lambda c: c.execute(text("insert into jobs (prompt, model) values ('good', 'test')")))
        claim = await take(db)
        assert claim is not None
        assert claim.request.prompt == "good"


async def test_migrations_and_tables_say_the_same(tmp_path: Path) -> None:
    """What the migrations make is what the code believes, and HEAD is the newest of them."""
    config = Config()
    config.set_main_option("script_location", str(Path(imagen.store.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD
    made = create_engine("sqlite://", execution_options={"schema_translate_map": {"imagen": None}})
    metadata.create_all(made)
    async with database(tmp_path) as db:
        migrated = shape(db.engine)
    believed = shape(made)
    made.dispose()
    del migrated["alembic_version"]
    assert migrated == believed


def shape(engine: Engine) -> dict[str, object]:
    """Columns, keys and indexes of every table."""
    look = inspect(engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in look.get_columns(table)],
            look.get_pk_constraint(table)["constrained_columns"],
            sorted((index["name"] or "", index["column_names"]) for index in look.get_indexes(table)),
            sorted(check["sqltext"] for check in look.get_check_constraints(table)),
            sorted(key["referred_table"] for key in look.get_foreign_keys(table)),
        )
        for table in look.get_table_names()
    }


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
