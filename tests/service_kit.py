"""`imagen serve` and `imagen worker` as real processes on a home of their own: started, killed, paused, measured."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

import imagen
from tests import NOWHERE
from tests.netns_kit import Room

PROGRAM = Path(sys.executable).parent / "imagen"
PATIENCE_S = 60.0  # for a machine that is busy with other tests; a start takes a second
READY = "imagen: serving on "
# Its pipe closes when this process ends, however it ends: then what was started here ends too.
GUARD = """
while read -r pid; do all="$all $pid"; done
for pid in $all; do grep -qs "$0" "/proc/$pid/environ" && kill -KILL "$pid"; done
"""


class House:
    """A home folder and a database, and every process that lives there; all are gone when the block ends."""

    def __init__(self, database: str | None = None, *, folder: Path | None = None) -> None:
        """`database` is the address of one; None means the SQLite file of the home."""
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="imagen-house-"))
        self.home = self.folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.address = database
        self.processes: list[Program] = []
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, str(self.home)], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    @property
    def database_url(self) -> str:
        """What the store opens."""
        return self.address or f"sqlite:///{self.home / 'imagen.db'}"

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the person who runs this; everything under the home."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEN_")}
        own = {
            "IMAGEN_HOME": str(self.home),
            "HOME": str(self.folder),
            "NO_COLOR": "1",
            "IMAGEN_COMFYUI_URL": NOWHERE,
            "IMAGEN_DEFAULT_MODEL": "mock",
        }
        return kept | own | ({"IMAGEN_DATABASE": self.address} if self.address else {})

    def model(self, name: str, *, like: str = "mock", **keys: Any) -> None:
        """A mock model of the user's own: another device, another load time, other defaults."""
        bundled = Path(imagen.__file__).parent / "models" / like / "model.yaml"
        folder = self.home / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        told = yaml.safe_load(bundled.read_text()) | {"title": name} | keys
        (folder / "model.yaml").write_text(json.dumps(told))  # JSON is YAML

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None, room: Room | None = None
    ) -> "Program":
        """`imagen ARGUMENTS`, beside us, or in a room of its own."""
        program = Program(self, arguments, self.environment | dict(environment or {}), room)
        self.processes.append(program)
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{program.pid}\n")
        self._guard.stdin.flush()
        return program

    def serve(self, *arguments: str, port: int = 0) -> "Program":
        """`imagen serve`, ready."""
        program = self.start("serve", "--port", str(port), *arguments)
        program.ready()
        return program

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """`imagen ARGUMENTS`, to its end."""
        return subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=self.environment | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def close(self) -> None:
        for program in self.processes:
            program.kill()
        self._guard.kill()
        self._guard.communicate()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self) -> None:
        """Leave the files there, for somebody who wants to know what happened."""
        self._own = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Program:
    """One process of imagen."""

    _count = 0

    def __init__(
        self, house: House, arguments: tuple[str, ...], environment: Mapping[str, str], room: Room | None = None
    ) -> None:
        Program._count += 1
        self.arguments = arguments
        self._said = house.folder / f"{arguments[0]}-{Program._count}.log"  # a pipe nobody reads would fill up
        with self._said.open("wb") as log:
            self.process = subprocess.Popen(
                room.command(PROGRAM, *arguments) if room else [PROGRAM, *arguments],
                cwd=house.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.paused = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        """All it wrote."""
        return self._said.read_text(errors="replace")

    def ready(self) -> str:
        """Wait for `imagen serve` to say where it is; its address."""
        give_up = time.monotonic() + PATIENCE_S
        while READY not in (told := self.said()):
            assert self.alive, f"imagen {' '.join(self.arguments)} ended: {told}"
            assert time.monotonic() < give_up, f"imagen {' '.join(self.arguments)} never got ready: {told}"
            time.sleep(0.005)
        return self.url

    @property
    def url(self) -> str:
        """The address it said it serves on."""
        return self.said().split(READY, 1)[1].split()[0].rstrip("/,;.")

    def kill(self) -> None:
        """SIGKILL; harmless when it is gone."""
        if self.alive:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self.paused = False

    def stop(self, within_s: float = PATIENCE_S) -> int:
        """SIGTERM, and wait; its exit code."""
        if self.paused:
            self.resume()
        if self.alive:
            self.process.terminate()
        return self.process.wait(within_s)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def rss_kib(self) -> int:
        """Resident memory now."""
        return status_kib(self.pid, "VmRSS")

    def peak_kib(self) -> int:
        """The most resident memory it ever had."""
        return status_kib(self.pid, "VmHWM")


@contextmanager
def house(kind: str, *, durable: bool = True) -> Iterator[House]:
    """A house on its own SQLite file, or on a private PostgreSQL server."""
    with ExitStack() as stack:
        address = None
        if kind == "postgres":
            from tests.postgres_kit import postgres

            address = stack.enter_context(postgres(durable=durable)).url
        yield stack.enter_context(House(address))


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def databases(kind: str, count: int, folder: Path, *, durable: bool = True) -> Iterator[list[str]]:
    """Addresses of so many empty databases: files in a folder, or all on one private PostgreSQL server."""
    if kind == "sqlite":
        yield [f"sqlite:///{folder / f'bench-{number}.db'}" for number in range(count)]
        return
    from tests.postgres_kit import postgres

    with postgres(durable=durable) as server:
        yield [server.new_database() for _ in range(count)]


def status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {name} of process {pid}: this needs Linux")
