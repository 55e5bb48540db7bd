"""Cog's own server, as it runs inside a container, with a small model of the tests."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.service_kit import free_port

MODEL = Path(__file__).parent / "data" / "cog"
PATIENCE_S = 30.0


class Cog:
    """The program, and what its model was asked for."""

    def __init__(self, folder: Path, *, streams: bool = True) -> None:
        self.folder = folder
        shutil.copytree(MODEL, folder, dirs_exist_ok=True)
        if not streams:  # what `cog build` writes for a model without the decorator
            file = folder / ".cog" / "openapi_schema.json"
            told = json.loads(file.read_text())
            del told["paths"]["/predictions"]["post"]["x-cog-streaming"]
            file.write_text(json.dumps(told))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """As its image does: a port, and which class draws."""
        # Its worker is whatever `python` the PATH finds first.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        told = {
            "PATH": path,
            "PORT": str(self.port),
            "COG_PREDICT_TYPE_STUB": "run.py:Clouds",
            "HOME": str(self.folder),
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"],
                cwd=self.folder,
                env=told,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until(lambda: self.status == "READY")

    def kill(self) -> None:
        """With its worker, and at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def status(self) -> str:
        """What it says of its health; nothing while it is away."""
        try:
            with urllib.request.urlopen(f"{self.url}/health-check", timeout=5) as answer:
                return str(json.load(answer)["status"])
        except OSError:
            return ""

    @property
    def begun(self) -> list[str]:
        """The prompt of each prediction that its model was given."""
        file = self.folder / "begun"
        return file.read_text().splitlines() if file.exists() else []

    def until(self, condition: Any) -> None:
        """Wait for something that can only be looked at."""
        give_up = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.02)


@contextmanager
def cog(folder: Path, *, streams: bool = True) -> Iterator[Cog]:
    """A server that runs, and is gone with whatever it draws when the block ends."""
    made = Cog(folder, streams=streams)
    try:
        made.start()
        yield made
    finally:
        made.kill()
