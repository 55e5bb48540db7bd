"""`imagen --server URL` as a person types it: a server that dies and comes back, and what is wrong with one."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import PROGRAM, Away
from tests.serve_kit import ask, told
from tests.service_kit import House, Program, free_port

PAGE = Path(__file__).parents[2] / "docs/howto/use-a-server.md"
QUICK = ("--set", "slow=0", "--size", "64x64")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def there() -> Iterator[House]:
    """Another machine."""
    with House() as house:
        yield house


@pytest.fixture
def imagen(tmp_path: Path, there: House) -> Iterator[Away]:
    """A command line without anything of its own."""
    program = Away(tmp_path, there.serve(port=free_port()))
    yield program
    for process in program.started:
        process.kill()
        process.communicate()


def again(there: House, server: Program) -> Program:
    """The same server, after it was killed."""
    return there.serve(port=int(server.url.rpartition(":")[2]))


def test_a_server_that_is_killed_costs_time_and_no_picture(imagen: Away, there: House, until: Any) -> None:
    """Killed while it draws and started again: the command goes on, and there is one picture of one job."""
    process = imagen.start("generate", "a fox", "--set", "slow=4", "--size", "64x64", "-o", "fox.png", "--json")
    until(lambda: (jobs := _jobs(imagen.server)) and (jobs[0]["progress"] or {}).get("step"))
    imagen.server.kill()
    server = again(there, imagen.server)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.count("trying again for 60 s") == 1
    said = [json.loads(line) for line in out.splitlines()]
    durable = [event["seq"] for event in said if event["type"] not in ("phase", "progress", "preview")]
    assert durable == list(range(1, len(durable) + 1))
    assert [event["type"] for event in said if event["type"] in ("requeued", "completed")] == ["requeued", "completed"]
    assert (imagen.here / "fox.png").read_bytes().startswith(b"\x89PNG")
    (job,) = _jobs(server)
    assert len(job["images"]) == 1


def test_who_leaves_a_server_that_is_away_is_told_what_waits_there(imagen: Away, until: Any) -> None:
    """Ctrl-C cannot be heard there; pressed twice it ends, and says what was not done and how to do it."""
    process = imagen.start("generate", "a fox", "--set", "slow=60", "--size", "64x64")
    until(lambda: (jobs := _jobs(imagen.server)) and (jobs[0]["progress"] or {}).get("step"))
    (job,) = _jobs(imagen.server)
    imagen.server.kill()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = ""
    while "press Ctrl-C again" not in said:
        said += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    url = imagen.server.url
    assert f"not cancelled: {url} does not answer; job {job['id']} waits there: `imagen " in err
    assert f"jobs cancel {job['id']}`" in err


def test_a_comparison_is_killed_and_finished_through_its_server(imagen: Away, until: Any) -> None:
    """Its folder is here, its jobs are there: nothing is drawn twice, and failed cells only when asked."""
    arguments = ("compare", "a fox", "--models", "mock,mock-warm,mock-broken", "--set", "slow=3", "--size", "64x64")
    process = imagen.start(*arguments, "-o", "foxes")
    folder = imagen.here / "foxes"
    until(lambda: list(folder.glob("a-fox_*.png")))
    process.kill()
    process.communicate()
    run = imagen("compare", "--resume", "foxes", "--json")
    assert run.returncode == 1, run.stderr
    cells = {cell["model"]: cell for cell in json.loads(run.stdout)["cells"]}
    assert [cells[name]["state"] for name in ("mock", "mock-warm", "mock-broken")] == ["completed"] * 2 + ["failed"]
    assert len(_jobs(imagen.server)) == 3
    assert cells["mock"]["backend"] == "mock"
    assert (folder / "contact-sheet.png").exists()
    assert imagen("compare", "--resume", "foxes", "--failed").returncode == 1
    assert len(_jobs(imagen.server)) == 4
    run = imagen("compare", "--resume", cells["mock"]["job"] and json.loads(run.stdout)["series"], "-o", "twin")
    assert (imagen.here / "twin" / "a-fox_mock.png").read_bytes() == (folder / "a-fox_mock.png").read_bytes()


def test_what_is_wrong_with_a_server_is_told(imagen: Away, there: House) -> None:
    """A key that is missing and an address where nobody is are the set-up, exit 3, each with a hint and as JSON."""
    key = there.run("keys", "add", "alice").stdout.strip().splitlines()[-1]
    assert key

    def locked() -> bool:
        return ask(f"{imagen.server.url}/v1/jobs")[0] == 401

    while not locked():  # noticed within seconds
        pass
    refused = imagen("jobs", "list", "--json")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["error"]["code"] == "unauthorized"
    assert "IMAGEN_KEY" in refused.stderr
    assert imagen("jobs", "list", environment={"IMAGEN_KEY": key}).returncode == 0
    failing = imagen("models", "check", "flux1-schnell", environment={"IMAGEN_KEY": key})
    assert failing.returncode == 3
    assert f"fails at {imagen.server.url}; the hints are for its owner" in failing.stderr
    config = imagen.home / "config.yaml"
    config.write_text(f"servers:\n  gpu: {{url: {imagen.server.url}, key: {key}}}\n")
    run = imagen("jobs", "--server", "gpu", environment={"IMAGEN_SERVER": ""})
    assert run.returncode == 0, run.stderr
    assert key not in imagen("config", "show").stdout
    gone = imagen("jobs", "list", environment={"IMAGEN_SERVER": f"http://127.0.0.1:{free_port()}"})
    assert gone.returncode == 3
    assert "does not answer" in gone.stderr
    assert not [line for line in told(imagen.server) if "Traceback" in str(line)]


def test_the_page_about_it_works_as_it_stands(imagen: Away) -> None:
    """Its block runs from top to bottom, with the address of a server that is there."""
    (block,) = re.findall(r"^```sh away\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    path = f"{PROGRAM.parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", "-eu", "-c", block],
        cwd=imagen.here,
        env={**imagen.environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "same pixels" in run.stdout
    assert (imagen.here / "foxes" / "contact-sheet.png").exists()
    assert len(_jobs(imagen.server)) == 4
    assert not (imagen.home / "imagen.db").exists()


def _jobs(server: Program) -> list[dict[str, Any]]:
    status, page = ask(f"{server.url}/v1/jobs")
    assert status == 200, page
    found: list[dict[str, Any]] = page["jobs"]
    return found
