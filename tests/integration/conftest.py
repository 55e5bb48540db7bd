"""`imagen` as a person runs it: a program of its own, in a home of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import NOWHERE
from tests.service_kit import House, Program

PROGRAM = Path(sys.executable).parent / "imagen"
LONGEST_S = 60.0  # for a machine that is busy with other tests; nothing here takes a tenth of it


class Imagen:
    """The program with a home; every process it started is gone when the test ends."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.here = folder / "here"
        self.home.mkdir()
        self.here.mkdir()
        self.started: list[subprocess.Popen[str]] = []
        self.longest_s = LONGEST_S

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEN_")}
        return kept | {
            "IMAGEN_HOME": str(self.home),
            "IMAGEN_COMFYUI_URL": NOWHERE,
            "IMAGEN_DEFAULT_MODEL": "mock",  # takes orders: what these tests are about is not what is drawn
            "HOME": str(self.here),
            "NO_COLOR": "1",
        }

    def __call__(
        self, *arguments: str | bytes, stdin: str | bytes = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        run = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.here,
            env=self.environment | dict(environment or {}),
            input=stdin if isinstance(stdin, bytes) else stdin.encode(),
            capture_output=True,
            timeout=self.longest_s,
            check=False,
        )
        return subprocess.CompletedProcess(
            run.args, run.returncode, run.stdout.decode(), run.stderr.decode(errors="replace")
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run on, beside the test."""
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=self.here,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def events(self, *arguments: str) -> list[dict[str, Any]]:
        """The events that a command prints with --json."""
        return lines(self(*arguments, "--json").stdout)

    def draw(self, *arguments: str) -> dict[str, Any]:
        """Draw at once and give back the first picture as recorded."""
        run = self("generate", *arguments, "--set", "slow=0", "--json")
        assert run.returncode == 0, run.stdout + run.stderr
        picture: dict[str, Any] = lines(run.stdout)[-1]["images"][0]
        return picture

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, newest first."""
        found: list[dict[str, Any]] = json.loads(self("jobs", "list", "--json").stdout)["jobs"]
        return found

    def job(self, job_id: str) -> dict[str, Any]:
        shape: dict[str, Any] = json.loads(self("jobs", "show", job_id, "--json").stdout)
        return shape


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


class Away(Imagen):
    """The same in a home of its own, but with everything done by a server."""

    def __init__(self, folder: Path, server: Program) -> None:
        super().__init__(folder)
        self.server = server

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"IMAGEN_SERVER": self.server.url}


both_doors = pytest.mark.parametrize("imagen", ["here", "away"], indirect=True)


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Program]:
    """A server for all tests of this process that go through one; they know their own jobs only."""
    with House() as house:
        yield house.serve()


@pytest.fixture
def imagen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Imagen]:
    """At this machine; for a test of both doors, also through a server."""
    away = getattr(request, "param", "here") == "away"
    program = Away(tmp_path, request.getfixturevalue("elsewhere")) if away else Imagen(tmp_path)
    yield program
    for process in program.started:
        process.kill()
        process.communicate()


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Waits for a condition to hold, and gives back what it came to."""

    def wait(condition: Callable[[], Any]) -> Any:
        give_up = time.monotonic() + LONGEST_S
        while not (value := condition()):
            assert time.monotonic() < give_up, "it did not happen"
            time.sleep(0.02)
        return value

    return wait
