"""Whatever happens to the process that draws, `imagen serve` lives; the job is tried again or fails with the reason."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import child_kit
from tests.child_kit import alive
from tests.serve_kit import Until, ask, drawing, ended, job_of, submit
from tests.service_kit import House, Program, status_kib

WEIGHTS_MIB = 256
OPTIONS = {
    "once": {"type": "str", "default": "", "help": "a file; when it is there, nothing happens"},
    "slow": {"type": "float", "default": 0.0, "help": "seconds of each step"},
}


class Lodging(House):
    """A house in which the backend of these tests is installed, with a model of it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._installed = child_kit.installed(folder / "site")
        super().__init__(folder=folder)
        usual = {"cancel_s": 1, "ready": False, "memory_limit_mib": 1024, "weights_mib": WEIGHTS_MIB}
        (self.home / "config.yaml").write_text(json.dumps({"backends": {"faulty": {**usual, **settings}}}))
        model = self.home / "models" / "faulty"
        model.mkdir(parents=True)
        told = {"backend": "faulty", "defaults": {"width": 64, "height": 64, "steps": 4}, "options": OPTIONS}
        (model / "model.yaml").write_text(json.dumps(told))

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | dict(self._installed) | {"IMAGEN_DEFAULT_MODEL": "faulty"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One for all faults: it has to live through every one of them."""
    with Lodging(tmp_path_factory.mktemp("lodging")) as house:
        program = house.serve()
        yield program
        assert program.alive
        assert "Traceback" not in program.said(), program.said()
        assert program.stop() == 0


@pytest.fixture
def lodging(tmp_path: Path) -> Iterator[Callable[..., Lodging]]:
    """Houses with settings of their own."""
    houses: list[Lodging] = []

    def make(**settings: Any) -> Lodging:
        houses.append(Lodging(tmp_path / f"house-{len(houses)}", **settings))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


def children(pid: int) -> list[int]:
    """The processes it started that are there now."""
    found = {int(child) for listing in Path(f"/proc/{pid}/task").glob("*/children") for child in _read(listing).split()}
    return sorted(child for child in found if alive(child))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def draws(server: Program, until: Until) -> Mapping[str, Any]:
    """It does, still."""
    job = ended(server, submit(server, prompt="a fox"), until)
    assert job["state"] == "completed", job
    return job


@pytest.mark.parametrize(
    ("fault", "code", "words", "attempts"),
    [
        ("segfault", "crashed", "SIGSEGV", 3),
        ("kill", "crashed", "SIGKILL", 3),
        ("raise", "crashed", "ValueError", 1),
        ("thread", "out_of_memory", "CUDA out of memory", 1),
        ("memory", "out_of_memory", "ran out of memory", 1),
        ("bad_alloc", "out_of_memory", "ran out of memory", 1),
    ],
)
def test_a_fault_that_stays_fails_the_job_with_its_reason(
    server: Program, until: Until, fault: str, code: str, words: str, attempts: int
) -> None:
    """After three tries where another might have helped, else at once; the next job is drawn."""
    job = ended(server, submit(server, prompt=f"{fault}@2"), until)
    assert (job["state"], job["error"]["code"], job["attempt"]) == ("failed", code, attempts)
    assert words in job["error"]["message"]
    assert job["error"]["hint"]
    draws(server, until)


@pytest.mark.parametrize("fault", ["segfault", "abort", "kill", "exit", "babble"])
def test_a_fault_that_passes_costs_a_retry(server: Program, until: Until, tmp_path: Path, fault: str) -> None:
    """The job is completed by a new process."""
    once = str(tmp_path / "once")
    job = ended(server, submit(server, prompt=f"{fault}@2", options={"once": once}), until)
    assert (job["state"], job["attempt"]) == ("completed", 2), job


def test_a_child_that_is_killed_from_outside_is_replaced(server: Program, until: Until) -> None:
    """`kill -9` in the middle of a job."""
    draws(server, until)
    job = submit(server, prompt="a fox", options={"slow": 0.5})
    drawing(server, job, until)
    (pid,) = children(server.pid)
    os.kill(pid, signal.SIGKILL)
    told = ended(server, job, until)
    assert (told["state"], told["attempt"]) == ("completed", 2), told
    assert children(server.pid) != [pid]


@pytest.mark.parametrize("fault", ["wait", "stubborn", "hold for ever"])
def test_a_child_that_never_answers_can_be_cancelled(server: Program, until: Until, fault: str) -> None:
    """Its heartbeats go on meanwhile, the server answers, and the next job is drawn."""
    job = submit(server, prompt=f"{fault}@2")
    drawing(server, job, until)
    for _ in range(5):
        began = time.monotonic()
        assert ask(f"{server.url}/healthz")[0] == 200
        assert time.monotonic() - began < 2
        time.sleep(0.1)
    assert job_of(server, job)["state"] == "running"
    ask(f"{server.url}/v1/jobs/{job}/cancel", method="POST")
    assert ended(server, job, until)["state"] == "cancelled"
    draws(server, until)


def test_a_child_that_floods_is_drawn_with(server: Program, until: Until) -> None:
    """What it says for people goes nowhere, and fills nothing."""
    before = len(server.said())
    assert ended(server, submit(server, prompt="flood@2"), until)["state"] == "completed"
    assert len(server.said()) - before < 100_000


def test_memory_is_back_when_nobody_draws(lodging: Callable[..., Lodging], until: Until) -> None:
    """The weights are never in the server, and after `unload_after_s` nowhere."""
    server = lodging(unload_after_s=3).serve()
    assert children(server.pid) == []
    before = server.rss_kib()
    draws(server, until)
    (pid,) = children(server.pid)
    assert status_kib(pid, "VmRSS") > WEIGHTS_MIB * 1024
    until(lambda: children(server.pid) == [])
    assert server.rss_kib() - before < WEIGHTS_MIB * 1024 / 4
    draws(server, until)
    assert server.stop() == 0


@pytest.mark.parametrize("fault", ["wait", "hold for ever"])
def test_a_child_dies_with_its_parent(lodging: Callable[..., Lodging], until: Until, fault: str) -> None:
    """`kill -9` of the worker, whatever the child computes."""
    server = lodging().serve()
    job = submit(server, prompt=f"{fault}@2")
    drawing(server, job, until)
    (pid,) = children(server.pid)
    server.kill()
    until(lambda: not alive(pid))


def test_a_spare_is_there_before_the_first_job_if_asked_for(lodging: Callable[..., Lodging], until: Until) -> None:
    """`ready: true`, for who draws for others; a command that only looks starts nothing that stays."""
    house = lodging(ready=True)
    server = house.serve()
    until(lambda: len(children(server.pid)) == 1)
    assert server.stop() == 0
    assert house.run("models").returncode == 0


def test_one_command_draws_and_leaves_nothing(lodging: Callable[..., Lodging]) -> None:
    """`imagen generate` without a server."""
    house = lodging(ready=True)
    run = house.run("generate", "a fox", "--model", "faulty", "--json")
    assert run.returncode == 0, run.stderr
    (pid,) = {int(one.split()[0]) for one in _drawn_by(house)}
    assert not alive(pid)


def _drawn_by(house: House) -> list[str]:
    return [json.loads(path.read_text())["run"]["drawn"] for path in house.home.rglob("*.json") if _is_sidecar(path)]


def _is_sidecar(path: Path) -> bool:
    return "run" in json.loads(path.read_text())
