"""A worker does not take what it cannot draw: in a fleet the job waits and says for what, alone it fails at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Connection, insert, update
from tests import NOWHERE
from tests.onnx_kit import painter
from tests.postgres_kit import Postgres
from tests.store_kit import PLACE, arrive, database, new

import imagen
from imagen.app import App
from imagen.config import load_settings
from imagen.core.errors import MissingExtra, NobodyDraws, SetupError
from imagen.core.job import Job, State
from imagen.core.request import Draft
from imagen.engine.devices import Devices
from imagen.engine.doctor_crew import check_crew, check_waiting, told_of
from imagen.engine.drawing.worker import IDLE_S
from imagen.models.catalog import load_catalog
from imagen.store import devices, history, intake, presence
from imagen.store.db import Database
from imagen.store.tables import jobs

LONG_S = 60
MINE = Draft(prompt="w498", model="mine", width=16, height=16, steps=2, options={"shade": "none"})
RECORD = {
    "backend": "onnx",
    "device": "card:0",
    "network": "net.onnx",
    "words": "vocab.txt",
    "defaults": {"width": 16, "height": 16, "steps": 2, "guidance": 1.0},
    "options": {"shade": {"type": "str", "choices": ["none", "some"], "default": "none"}},
}
EMPTY = load_catalog(folders=[], configured={}, default_model=None, backends={}, backend_settings={}, host="here")
WHY = MissingExtra("not installed: diffusers", hint="pip install imagen-platform[diffusers]")


@asynccontextmanager
async def machine(place: str, home: Path, *, weights: bool = False) -> AsyncIterator[App]:
    """One machine of a fleet, or the only one, with a model whose weights may be missing."""
    folder = home / "models" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(RECORD))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", *(f"w{i}" for i in range(1000))]))
    if weights:
        painter(folder / "net.onnx")
    environ = {"IMAGEN_COMFYUI_URL": NOWHERE}
    if not place.startswith("sqlite"):
        environ["IMAGEN_DATABASE"] = place.replace("+psycopg", "")
    async with imagen.open(settings=load_settings(home=home, environ=environ)) as app:
        yield app


async def until(app: App, job: Job, sees: Callable[[Job], bool]) -> Job:
    """The job, as soon as it is as it should be."""
    async with asyncio.timeout(LONG_S):
        while not sees(found := await app.job(job.id)):
            await asyncio.sleep(0.05)
    return found


def ended(job: Job) -> bool:
    return job.state.terminal


def says_what_is_lacking(job: Job) -> bool:
    return "can draw" in (job.waits_for or "")


async def available(app: App, name: str = "mine") -> str:
    """What a caller is told of a model: nothing when it can be drawn."""
    (state,) = [one for one in await app.model_states() if one.model.name == name]
    assert state.available is (state.error is None)
    return state.error.message if state.error else ""


async def test_what_cannot_be_drawn_waits_in_a_fleet_and_fails_at_once_alone(place: str, tmp_path: Path) -> None:
    """It says for what, everywhere; and is drawn as soon as the weights are there, without a restart or a failure."""
    lines: list[str] = []
    async with machine(place, tmp_path) as app, machine(place, tmp_path) as other:
        app.log = lines.append
        async with app.drawing():
            job = await app.submit(MINE)
            if place.startswith("sqlite"):
                failed = await until(app, job, ended)
                assert failed.error is not None
                assert failed.error.code == "missing_file"
                assert "put it to one of" in failed.error.hint
                return
            waiting = await until(app, job, says_what_is_lacking)
            said = waiting.waits_for or ""
            assert said.startswith("a worker that can draw mine; ")
            assert ": net.onnx of the model mine is not there; hint: put it to one of" in said
            (worker,) = await app.workers()
            assert "mock" in worker["models"]
            assert not {"mine", "flux1-schnell"} & {*worker["models"]}
            assert {"mine", "flux1-schnell"} <= {*worker["lacks"]}
            assert worker["lacks"]["mine"]["device"] == "card:0"
            (card,) = [device for device in await app.devices.all() if device.name == "card:0"]
            assert "is not there" in card.lacks["mine"]
            for asked in (app, other):
                assert "net.onnx of the model mine is not there" in await available(asked)
                assert await available(asked, "mock") == ""
                assert "mine" not in await asked.usable_models()
            assert await other.orphans() == []
            async with other.working([job.id]):  # as `imagen jobs watch` does on a machine that lacks it, too
                await asyncio.sleep(2 * IDLE_S)
            assert (await other.job(job.id)).attempt == 0
            assert "mine" not in (await app.workers())[0]["places"].get("card:0", ())
            assert (await app.job(job.id)).failures == 0
            painter(tmp_path / "models/mine/net.onnx")
            assert (await until(app, job, ended)).state is State.COMPLETED
            assert (await app.job(job.id)).failures == 0
            assert await available(other) == ""
    told = [line for line in lines if "mine" in line]
    assert [line.partition(":")[0] for line in told] == ["not drawn here", "drawn here now"]


@pytest.mark.needs_postgres
async def test_a_burst_is_left_to_the_machine_that_can(postgres: Postgres, tmp_path: Path) -> None:
    """A worker that starts takes nothing of a model before it was looked at; who can draw it says so for all."""
    place = postgres.new_database()
    async with machine(place, tmp_path / "a") as poor, machine(place, tmp_path / "b", weights=True) as rich:
        burst = [await rich.submit(MINE) for _ in range(8)]
        async with poor.drawing(models=["mine"]):
            await until(poor, burst[0], says_what_is_lacking)
            assert {(await poor.job(job.id)).state for job in burst} == {State.QUEUED}
            assert {(await poor.job(job.id)).attempt for job in burst} == {0}
            async with rich.drawing(models=["mine"]):
                for job in burst:
                    assert (await until(poor, job, ended)).state is State.COMPLETED
                assert await available(poor) == ""
                assert "mine" in await poor.usable_models()


async def test_a_command_that_draws_its_own_fails_at_once(place: str, tmp_path: Path) -> None:
    """Somebody sits there, and is told at once what to do."""
    async with machine(place, tmp_path) as app:
        job = await app.submit(MINE)
        async with app.working([job.id]):
            failed = await until(app, job, ended)
    assert failed.error is not None
    assert failed.error.code == "missing_file"


async def lacking(db: Database, worker: str = "w2", *, serves: tuple[str, ...] = ()) -> None:
    """Say for a worker that it lacks what it takes to draw `test`."""
    lacks = {"test": (PLACE.device, WHY)} if "test" not in serves else {}
    await db.write(presence.beat, worker, dict.fromkeys(serves, PLACE), lacks=lacks)


async def test_a_job_says_what_those_who_know_its_model_lack(place: str) -> None:
    """Also a row by SQL that nobody has taken up yet; one that can draw it is enough for nothing to be said."""
    async with database(place) as db:
        await db.write(presence.leave, "worker-1")
        await db.write(arrive, "w2")
        await lacking(db)
        (job,) = await db.write(intake.submit, [new()])
        await db.write(by_sql, "raw", "test")
        for one in (job, "raw"):
            said = (await db.read(history.job, one)).waits_for or ""
            assert said.startswith("a worker that can draw test; ")
            assert said.endswith(": not installed: diffusers; hint: pip install imagen-platform[diffusers]")
        await db.write(presence.beat, "w2", {})
        assert "can draw test" in ((await db.read(history.job, job)).waits_for or ""), "it is said once"
        await db.write(arrive, "w3", models=("test",))
        assert (await db.read(history.job, job)).waits_for is None
        assert (await db.read(history.job, "raw")).waits_for == "somebody who knows the model 'test'"
        await db.write(presence.leave, "w3")
        await lacking(db, serves=("test",))
        assert (await db.read(history.job, job)).waits_for is None


def by_sql(connection: Connection, job_id: str, model: str) -> None:
    """A row of somebody who speaks only SQL."""
    connection.execute(insert(jobs).values(id=job_id, prompt="x", model=model))


async def test_a_model_that_somebody_knows_is_not_unknown(place: str) -> None:
    """A row by SQL for a model that its worker cannot draw now waits, however long."""
    async with database(place) as db:
        await db.write(arrive, "w2")
        await lacking(db)
        for model in ("test", "nope"):
            await db.write(by_sql, model, model)
        long_ago = datetime.now(UTC) - timedelta(days=1)
        await db.write(lambda connection: connection.execute(update(jobs).values(created_at=long_ago)))
        await db.write(presence.bury, [], datetime.now(UTC))
        assert (await db.read(history.job, "test")).state is State.QUEUED
        assert (await db.read(history.job, "nope")).state is State.FAILED


async def test_a_device_says_what_nobody_can_draw_there(place: str) -> None:
    """Not what one of two workers of the same device can."""
    async with database(place) as db:
        await db.write(arrive, "w2")
        await lacking(db)

        async def lacks() -> dict[str, str]:
            crew = await db.read(presence.everyone)
            (device,) = await db.read(devices.listed, crew, datetime.now(UTC))
            assert device.name == PLACE.device
            return {**device.lacks}

        assert await lacks() == {"test": f"{WHY.message}; hint: {WHY.hint}"}
        await db.write(arrive, "w3", models=("test",))
        assert await lacks() == {}


async def test_who_waits_for_his_picture_is_told_after_a_while(place: str) -> None:
    """Not at once: where workers come because jobs wait, this one has to wait a little to be seen."""
    async with database(place) as db:
        await db.write(arrive, "w2")
        await lacking(db)

        def those(patience_s: float) -> Devices:
            return Devices(db, catalog=lambda: EMPTY, alive=presence.everyone, patience_s=patience_s)

        (job,) = await db.write(intake.submit, [new()])
        who = {"owner": "local", "route": "/v1/images/generations"}
        await those(30).turn_away(job, **who)
        await db.write(arrive, "w3", models=("test",))
        await those(0).turn_away(job, **who)
        assert (await db.read(history.job, job)).state is State.QUEUED
        await db.write(presence.leave, "w3")
        with pytest.raises(NobodyDraws, match=r"test cannot be drawn now; .*: not installed: diffusers") as told:
            await those(0).turn_away(job, **who)
        assert told.value.http_status == 503
        assert told.value.retryable
        assert WHY.hint in told.value.hint
        assert (await db.read(history.job, job)).state is State.CANCELLED


async def test_the_doctor_names_the_reason(place: str) -> None:
    """With its hint in place of the one to start another worker; who can draw nothing is a worker nevertheless."""
    async with database(place) as db:
        await db.write(presence.leave, "worker-1")
        await db.write(arrive, "w2")
        await lacking(db)
        await db.write(intake.submit, [new()])
        workers = [dict(row._mapping) for row in await db.read(presence.everyone)]
        with pytest.raises(SetupError, match=r"nobody draws: 1 of test .*: not installed: diffusers") as told:
            check_waiting([], {"test": 1}, workers, {"w2"}, knows=())
        assert told.value.hint.startswith(WHY.hint)
        assert check_crew(workers, {"w2"}) == "1 alive"
        assert told_of(workers[0], {"w2"}).endswith("models: none; cannot draw now: test")
