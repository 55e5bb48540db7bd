"""The distribution's Chromium without a driver: commands go through two pipes, in Chromium's own protocol.

Nothing to install but the browser: no WebSocket, no second program between the test and it.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # a build machine's root has no other way; it visits nothing but our own server
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)


# It reads commands from file 3 and writes answers to file 4, whatever numbers our ends have.
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A Chromium with an empty profile; it is gone when the block ends."""

    def __init__(self) -> None:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        assert program is not None, "there is no Chromium here: sudo apt install chromium"
        self._folder = Path(tempfile.mkdtemp(prefix="imagen-browser-"))
        to_browser, self._commands = _pipe()
        self._answers, from_browser = _pipe()
        launch = [sys.executable, "-c", LAUNCH, str(to_browser), str(from_browser), program]
        self._process = subprocess.Popen(
            [*launch, *FLAGS, f"--user-data-dir={self._folder}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(self._folder)},
        )
        os.close(to_browser)
        os.close(from_browser)
        self._waiting: dict[int, Queue[dict[str, Any]]] = {}
        self._last = 0
        self._lock = threading.Lock()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def tab(self, url: str) -> "Tab":
        """A new tab that has loaded a page."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        tab.open(url)
        return tab

    def ask(self, method: str, session: str | None = None, **params: Any) -> Any:
        """One command and its answer."""
        answer: Queue[dict[str, Any]] = Queue()
        with self._lock:
            self._last += 1
            number = self._last
            self._waiting[number] = answer
            told = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
            os.write(self._commands, json.dumps(told).encode() + b"\0")
        try:
            said = answer.get(timeout=PATIENCE_S)
        except Empty:
            raise AssertionError(f"the browser does not answer {method}") from None
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    def close(self) -> None:
        """Away with it and its profile."""
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._reading.join(PATIENCE_S)
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._answers, 1 << 16):
            *whole, rest = (rest + data).split(b"\0")
            for line in whole:
                said = json.loads(line)
                if waiting := self._waiting.pop(said.get("id", 0), None):
                    waiting.put(said)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Tab:
    """One tab, in which JavaScript runs."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def open(self, url: str) -> None:
        """Go there, and wait until the page is loaded."""
        self._browser.ask("Page.enable", self._session)
        went = self._browser.ask("Page.navigate", self._session, url=url)
        assert "errorText" not in went, f"{url}: {went['errorText']}"
        waiting = "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))"
        while self.run("location.href") == "about:blank":
            pass
        self.run(waiting)

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited."""
        said = self._browser.ask(
            "Runtime.evaluate", self._session, expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, f"{said['exceptionDetails']}"
        return said["result"].get("value")


def _pipe() -> tuple[int, int]:
    """Both ends, with numbers above those that the browser wants for itself."""
    reading, writing = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (reading, writing))
    os.close(reading)
    os.close(writing)
    return moved[0], moved[1]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for as long as the block lasts."""
    with Browser() as browser:
        yield browser
