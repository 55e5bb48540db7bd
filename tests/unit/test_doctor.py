"""The same errors, found early."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests import NOWHERE
from tests.cli_kit import imagen

from imagen.backends.mock import registration
from imagen.config import Settings, load_settings
from imagen.core.device import Device, Pause
from imagen.core.errors import Check, DatabaseAway, ImagenError, SetupError, Unreachable
from imagen.core.job import Job, State
from imagen.core.model import Model
from imagen.core.request import Draft
from imagen.engine.doctor import (
    LISTEN_S,
    Finding,
    check_daemons,
    check_models,
    diagnose,
    heard_of,
    package_changed_at,
)
from imagen.engine.doctor_crew import check_crew, check_waiting, told_of
from imagen.engine.wiring import catalog_of
from imagen.store.db import Database
from imagen.store.presence import host
from imagen.surfaces.cli import devices as cli_devices
from imagen.surfaces.cli.devices import _show, _state

MODEL = Model(name="m", backend="odd", device="cpu@here")


class Odd:
    """A backend whose check does what a test wants."""

    def __init__(self, does: Any) -> None:
        self.does = does

    async def check(self, model: Model) -> Sequence[Check]:
        if isinstance(self.does, Exception):
            raise self.does
        await asyncio.sleep(self.does)
        return [Check.passed("there")]


async def findings(settings: Settings, model: str | None = None, **looks: Any) -> dict[str, Finding]:
    mock = registration.create({})
    told = await diagnose(settings, catalog_of(settings), lambda _model: mock, model=model, looks=looks)
    return {finding.check.name: finding for finding in told}


def settings_of(home: Path, config: str = "") -> Settings:
    home.joinpath("config.yaml").write_text(config)
    return load_settings(home=home, environ={"IMAGEN_COMFYUI_URL": NOWHERE})


async def test_a_fresh_home_is_fine_and_stays_as_it_is(tmp_path: Path) -> None:
    """Looking changes nothing, and a model that fails by design is only a note."""
    home = tmp_path / "not yet"
    found = await findings(load_settings(home=home, environ={"IMAGEN_COMFYUI_URL": NOWHERE}))
    assert all(finding.ok for finding in found.values())
    assert not found["mock-broken: draws"].check.ok
    assert not home.exists()


@pytest.mark.parametrize("how", ["named", "default"])
async def test_a_model_that_is_needed_must_pass(tmp_path: Path, how: str) -> None:
    """Because it was named, or because it draws where nobody names one."""
    settings = settings_of(tmp_path, "default_model: mock-broken\n" if how == "default" else "")
    found = await findings(settings, "mock-broken" if how == "named" else None)
    assert not found["mock-broken: draws"].ok
    assert ("mock: draws" in found) is (how == "default")


async def test_nothing_that_can_draw_is_found(tmp_path: Path) -> None:
    """Whoever names no model would be refused."""
    off = ", ".join(f"{name}: {{enabled: false}}" for name in catalog_of(settings_of(tmp_path)).models)
    found = await findings(settings_of(tmp_path, f"models: {{{off}}}\n"))
    assert not found["default model"].ok


@pytest.mark.parametrize(("alias", "said"), [("ghost: nothing-here", "no such model"), ("mock: tiny-3d", "itself")])
async def test_an_alias_that_does_nothing_is_found(tmp_path: Path, alias: str, said: str) -> None:
    """A client that insists on the name would draw with something else."""
    found = await findings(settings_of(tmp_path, f"openai: {{aliases: {{{alias}}}}}\n"))
    error = found["aliases"].check.error
    assert error is not None
    assert said in error.message


async def test_a_broken_file_is_found_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    """Settings and model files each with their line."""
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("backend: mock\nlicense: MIT\n")
    found = await findings(settings_of(tmp_path, "stroage: local\n"))
    settings_error, file_error = found["settings"].check.error, found["model files"].check.error
    assert settings_error is not None
    assert file_error is not None
    assert "config.yaml:1" in settings_error.message
    assert "model.yaml:2" in file_error.message
    assert found["mock: draws"].ok


async def test_a_folder_that_refuses_is_found(tmp_path: Path) -> None:
    """A file in its place is one way to refuse."""
    (tmp_path / "file").write_text("")
    found = await findings(load_settings(home=tmp_path / "file" / "home", environ={"IMAGEN_COMFYUI_URL": NOWHERE}))
    assert not found["data folder"].ok
    assert not found["images folder"].ok


async def test_what_else_is_looked_at_passes_or_tells_its_error(tmp_path: Path) -> None:
    """Each look returns what there is to say, or raises."""

    async def fine() -> str:
        return "as it should be"

    async def gone() -> str:
        raise Unreachable("no answer", hint="start it")

    found = await findings(settings_of(tmp_path), fine=fine, gone=gone)
    assert found["fine"].check.note == "as it should be"
    assert isinstance(found["gone"].check.error, Unreachable)


@pytest.mark.parametrize(
    ("does", "code"),
    [
        (60, "timed_out"),
        (Unreachable("gone", hint="start it"), "unreachable"),
        (ValueError("no"), "crashed"),
    ],
)
async def test_a_check_that_hangs_or_breaks_has_failed(does: Any, code: str) -> None:
    """A plugin's mistake is a finding, and does not take the doctor down."""
    ((check,),) = await check_models([MODEL], lambda _model: Odd(does), limit_s=0.05)  # type: ignore[arg-type, return-value] # only its check is asked
    assert isinstance(check.error, ImagenError)
    assert check.error.code == code
    assert "m" in check.name


NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def worker(**changes: Any) -> dict[str, Any]:
    """A row of a worker that is as new as this program, here."""
    row = {"host": host(), "pid": os.getpid(), "version": "2.0", "started_at": NOON, "solo": False}
    return row | changes


def job_of(model: str | None) -> Job:
    request = Draft(prompt="a fox", model=model)
    return Job(id=f"of-{model}", state=State.QUEUED, request=request, created_at=NOON)


class TestDaemons:
    """A server that still runs what was installed before: the seed lost an evening to one."""

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"version": "1.0", "solo": True},
            {"host": "elsewhere:boot", "started_at": NOON - timedelta(days=9)},
        ],
        ids=["new", "a command that ends by itself", "files of another machine"],
    )
    def test_what_is_as_new_as_this_program_is_fine(self, changes: dict[str, Any]) -> None:
        """Commands end by themselves, and another machine's files are not ours to judge."""
        check_daemons([worker(**changes)], version="2.0", changed_at=NOON - timedelta(minutes=1))

    def test_an_older_version_is_named_with_how_to_restart_it(self) -> None:
        """Which process, on which machine, and the command."""
        old = [worker(), worker(version="1.0", pid=4711, host="box:boot"), worker(version="1.5")]
        with pytest.raises(SetupError) as told:
            check_daemons(old, version="2.0", changed_at=NOON - timedelta(minutes=1))
        assert "process 4711 on box is imagen 1.0, installed is 2.0, and 1 more" in told.value.message
        assert "on box" in told.value.hint
        assert "systemctl --user restart imagen-server" in told.value.hint

    def test_one_that_was_started_before_the_files_changed_is_old_too(self) -> None:
        """An editable installation, or the same version installed again."""
        with pytest.raises(SetupError) as told:
            check_daemons([worker()], version="2.0", changed_at=NOON + timedelta(seconds=1))
        assert f"process {os.getpid()} " in told.value.message
        assert f"kill {os.getpid()}" in told.value.hint

    def test_the_package_changed_when_its_newest_file_did(self) -> None:
        """Known from the files, without importing any."""
        import imagen

        newest = max(file.stat().st_mtime for file in Path(imagen.__file__).parent.rglob("*.py"))
        assert package_changed_at().timestamp() >= newest - 0.001
        assert package_changed_at() <= datetime.now(UTC)


class TestHeard:
    """Who lives on another machine is known only by counting up."""

    async def test_who_counts_up_is_heard(self) -> None:
        """Those of this machine are not waited for; one that is silent costs a beat and is named so."""
        here, there, gone = (
            worker(id=name, beat=1, host=at) for name, at in (("a", host()), ("b", "b:1"), ("c", "c:1"))
        )
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        async def look() -> list[dict[str, Any]]:
            return [here, there | {"beat": 2}, gone]

        assert await heard_of([here], look, sleep=sleep) == {"a"}
        assert slept == []
        heard = await heard_of([here, there, gone], look, sleep=sleep)
        assert heard == {"a", "b"}
        assert sum(slept) == pytest.approx(LISTEN_S)
        told = told_of(gone | {"places": {"cuda:0@c": ["x", "y"]}, "troubled": "the disk is full"}, heard)
        assert told.startswith(f"c {os.getpid()}: imagen 2.0, since ")
        assert told.endswith("not heard for 4 s, models: 2 on cuda:0@c; begins nothing: the disk is full")


class TestCrew:
    """Who draws, who only serves, and what nobody draws."""

    def test_a_server_that_draws_nothing_is_no_worker(self) -> None:
        """It has a row among them, for its version."""
        draws, serves, gone = (
            worker(id=name, models=models, troubled=None) for name, models in (("a", ["m"]), ("b", []), ("c", ["m"]))
        )
        assert check_crew([serves], {"b"}) == "0 alive and 1 that only serves"
        assert check_crew([draws, serves, gone], {"a", "b"}) == "1 alive and 1 that only serves, 1 not heard"
        assert check_crew([draws], {"a"}) == "1 alive"

    def test_a_worker_that_begins_nothing_is_a_failure(self) -> None:
        """With where it runs and why; one that is not even heard is told of elsewhere."""
        why = "no picture can be stored: access is denied"
        troubled = worker(id="a", models=["m"], troubled=why, host="box:boot", pid=4711)
        with pytest.raises(SetupError, match="1 of 2 workers, box 4711, begin nothing") as told:
            check_crew([troubled, worker(id="b", models=["m"], troubled=None)], {"a", "b"})
        assert told.value.message.endswith("begin nothing: no picture can be stored: access is denied")
        assert check_crew([troubled], set()) == "0 alive, 1 not heard"

    def test_jobs_that_nobody_draws_are_a_failure(self) -> None:
        """Also those of a worker on another machine that is not heard any more."""
        there = worker(id="a", models=["m"])
        assert check_waiting([], {"m": 4}, [there], {"a"}, knows=()) == "none that nobody draws"
        with pytest.raises(SetupError, match=r"jobs wait that nobody draws: 4 of m$") as told:
            check_waiting([], {"m": 4}, [there], set(), knows=())
        assert "imagen worker --models m" in told.value.hint

    def test_workers_that_begin_nothing_are_told_with_their_own_reasons(self) -> None:
        """What is wrong at one is not said of the others."""
        why = {"a": "the disk is full", "b": "access is denied", "c": "the disk is full"}
        crew = [
            worker(id=name, models=["m"], troubled=f"no picture can be stored: {told}", host=f"{name}:1", pid=7)
            for name, told in why.items()
        ]
        with pytest.raises(SetupError) as told:
            check_crew(crew, set(why))
        assert told.value.message == (
            "3 of 3 workers, a 7, b 7, c 7, begin nothing: no picture can be stored: "
            "the disk is full (a 7, c 7); access is denied (b 7)"
        )

    def test_a_model_that_nobody_knows_is_in_no_command(self) -> None:
        """Beside one that is known, and alone."""
        left = [job_of("nosuch"), job_of("tiny")]
        with pytest.raises(SetupError) as told:
            check_waiting(left, {"nosuch": 1, "tiny": 1}, [], set(), knows=["tiny"])
        assert told.value.message.endswith(": 1 of nosuch (unknown model), 1 of tiny")
        assert "`imagen worker --models tiny`" in told.value.hint
        assert told.value.hint.endswith("`imagen jobs watch of-tiny`")
        with pytest.raises(SetupError) as told:
            check_waiting([job_of("nosuch")], {"nosuch": 1}, [], set(), knows=["tiny"])
        assert "imagen worker" not in told.value.hint
        assert "imagen models" in told.value.hint

    def test_a_job_without_a_model_waits_for_any_worker(self) -> None:
        """It came by SQL, and is counted as long as there is none."""
        left, busy = [job_of(None), job_of("tiny")], {"": 1, "tiny": 1}
        with pytest.raises(SetupError) as told:
            check_waiting(left, busy, [], set(), knows=["tiny"])
        assert told.value.message.endswith(": 1 of tiny, 1 without a model")
        with pytest.raises(SetupError, match=r": 2 without a model$") as told:
            check_waiting([], {"": 2}, [worker(id="a", models=["m"])], set(), knows=[])
        assert told.value.hint.startswith("start `imagen worker`")
        there = worker(id="a", models=["m"])
        assert check_waiting([job_of(None)], {"": 1}, [there], {"a"}, knows=[]) == "none that nobody draws"


def test_each_cause_has_its_own_hint() -> None:
    """What one lacks, what nobody draws and what nobody knows, beside each other."""
    lacks = {"flux": {"message": "ComfyUI does not answer", "hint": "start ComfyUI", "code": "unreachable"}}
    there = worker(id="a", models=["m"], lacks=lacks, host="box:1")
    left = [job_of("nosuch"), job_of("tiny")]
    with pytest.raises(SetupError) as told:
        check_waiting(left, {"nosuch": 1, "flux": 1, "tiny": 1}, [there], {"a"}, knows=["tiny", "flux"])
    assert "box: ComfyUI does not answer" in told.value.message
    unknown, lacked, start, mine = told.value.hint.split("; ")[0], *told.value.hint.split("; ")[2:]
    assert unknown.startswith("cancel those")
    assert lacked == "start ComfyUI"
    assert start.startswith("start `imagen worker --models tiny`,")
    assert mine.endswith("`imagen jobs watch of-tiny`")


def test_who_resumes_here_is_told_what_is_paused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name only the devices of this machine are meant."""
    why = Pause(reason="", by="me", since=datetime.now(UTC))

    class Devices:
        async def resume(self, names: Sequence[str]) -> list[Device]:
            return [Device(name="card:0")]

        async def all(self) -> list[Device]:
            return [Device(name="card:0"), Device(name="card:1@there", paused=why)]

    monkeypatch.setattr(cli_devices, "_ask", lambda question: asyncio.run(question(Devices())))
    assert "still paused: `imagen worker resume card:1@there`" in imagen("worker", "resume").err
    assert "still paused" not in imagen("worker", "resume", "card:0").err


def test_the_state_of_a_device_is_told_apart_from_the_flag_now() -> None:
    """What was paused this moment says who did it; later also when."""
    why = Pause(reason="", by="me", since=datetime.now(UTC) + timedelta(seconds=9))
    device = Device(name="card:0", paused=why)
    assert _state(device) == "paused by me"
    earlier = replace(why, since=datetime.now(UTC) - timedelta(minutes=5))
    assert _state(replace(device, paused=earlier)) == "paused by me (5 min ago)"
    assert _state(replace(device, paused=None, troubled="the disk is full")) == "begins nothing"
    assert _state(replace(device, paused=None)) == "open"


class TestCommand:
    """What a person sees."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("IMAGEN_HOME", str(tmp_path))
        return tmp_path

    def test_everything_is_fine_at_first(self) -> None:
        """Exit code 0, and the failing mock is a note."""
        ran = imagen("doctor")
        assert ran.code == 0
        assert "FAIL" not in ran.out
        assert "note  mock-broken" in ran.out
        (models,) = [line for line in ran.out.splitlines() if line.startswith("ok    models: ")]
        assert int(models.split()[2]) > 3
        assert "ok    mock" not in ran.out, "what is ready is not listed one by one"
        assert "ok    mock" in imagen("doctor", "mock").out

    def test_a_named_model_decides(self) -> None:
        """Exit code 3 when it would fail, 2 when there is none of that name."""
        assert imagen("doctor", "mock").code == 0
        assert imagen("doctor", "mock-broken").code == 3
        assert imagen("doctor", "mokc").code == 2

    def test_as_json_it_is_one_document(self) -> None:
        """With the errors as they would be raised."""
        ran = imagen("doctor", "mock-broken", "--json")
        told = json.loads(ran.out)
        assert (ran.code, told["ok"]) == (3, False)
        (failed,) = [check for check in told["checks"] if not check["ok"]]
        assert failed["error"]["code"] == "out_of_memory"

    @pytest.mark.parametrize(
        ("config", "environ"),
        [("a: [\n", {}), ("models: {mock: {titel: x}}\n", {}), ("", {"IMAGEN_DATABASE": "mysql://me:hunter2@host/x"})],
    )
    def test_broken_settings_are_found_and_the_rest_is_looked_at(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, config: str, environ: dict[str, str]
    ) -> None:
        """No setting can keep the doctor from working."""
        (home / "config.yaml").write_text(config)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        ran = imagen("doctor")
        assert ran.code == 3, ran.out
        assert ran.out.count("FAIL  ") == 1
        assert "ok    models: " in ran.out
        assert "hunter2" not in ran.out + ran.err

    def test_a_database_that_is_none_is_found(self, home: Path) -> None:
        """Another file under its name is the owner's turn."""
        (home / "imagen.db").write_text("this is no database, whatever its name says" * 100)
        ran = imagen("doctor")
        assert ran.code == 3
        assert "FAIL  database" in ran.out
        assert "workers" not in ran.out, "what only the database knows is not known"

    def test_a_database_that_may_only_be_read_is_found(self, home: Path) -> None:
        """Before anything is drawn; and what SQLite left beside it meanwhile is named, too."""
        lesser = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []

        def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
            command = [*lesser, sys.executable, "-m", "imagen", *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        assert imagen("db", "upgrade").code == 0
        file = home / "imagen.db"
        file.chmod(0o444)
        doctor = run("doctor")
        assert doctor.returncode == 3
        assert f"FAIL  database: cannot write the database {file}" in doctor.stdout
        file.chmod(0o644)
        for _ in range(3):
            drawn = run("generate", "a fox", "-m", "mock", "--size", "64x64")
            for name in re.findall(rf"{file}-\w+", drawn.stderr):
                Path(name).chmod(0o644)
        assert drawn.returncode == 0, drawn.stderr

    def test_a_postgresql_that_is_away_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By no look of many for a quarter of a minute, each anew."""
        asked = []

        async def away(self: Database) -> None:
            asked.append(self._away_s)
            raise DatabaseAway("the database is not running where it should be", hint="start it")

        monkeypatch.setattr(Database, "open", away)
        monkeypatch.setenv("IMAGEN_DATABASE", "postgresql://me@127.0.0.1:9/x")
        ran = imagen("doctor")
        assert ran.code == 3
        assert asked == [0.0]
        assert ran.out.count("is not running where it should be") == 1


def test_what_a_device_cannot_draw_is_told_once_for_all_its_models(capsys: pytest.CaptureFixture[str]) -> None:
    """Below the table, with the reason and what to do."""
    why = "not installed: diffusers; hint: pip install it"
    _show([Device(name="card:0", models=("mock",), lacks={"one": why, "two": why})], json_output=False, lacks=True)
    assert f"card:0 cannot draw one, two: {why}\n" in capsys.readouterr().out
