"""The parts of `imagen serve` and `imagen worker` that need no process of their own."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_imports import loaded

from imagen.core.errors import SetupError
from imagen.surfaces import logs
from imagen.surfaces.cli import daemon
from imagen.surfaces.cli.serve import listening, url_of

HEAVY = {"fastapi", "starlette", "uvicorn", "structlog", "prometheus_client", "sqlalchemy", "psycopg", "pydantic"}


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_help_loads_no_server(tmp_path: Path, command: str) -> None:
    """Asking how it works does not load what it works with."""
    assert not loaded(tmp_path, command, "--help") & HEAVY


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
def test_a_free_port_is_found_and_said_as_an_address(host: str, shown: str) -> None:
    """Also for IPv6, where an address needs brackets."""
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here; get it with: sysctl net.ipv6.conf.lo.disable_ipv6=0")
    with listening(host, 0) as listener:
        assert url_of(listener) == f"{shown}{listener.getsockname()[1]}"
        assert listener.getsockname()[1] > 0


def test_two_cannot_listen_in_one_place() -> None:
    """Said when the second one starts, not when the first request goes to the wrong one."""
    with listening("127.0.0.1", 0) as listener, pytest.raises(SetupError) as told:
        listening("127.0.0.1", listener.getsockname()[1])
    assert "--port 0" in told.value.hint


def test_a_port_can_be_taken_again_at_once() -> None:
    """A restart does not wait for connections of the server before to time out."""
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0]:
            pass
    with listening("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


class Slow:
    """A worker whose job takes a while."""

    def __init__(self, seconds: float) -> None:
        self.claiming = True
        self._seconds = seconds

    def stop_claiming(self) -> None:
        self.claiming = False

    async def idle(self, timeout_s: float) -> bool:
        await asyncio.sleep(min(self._seconds, timeout_s))
        return self._seconds <= timeout_s


class TestLeaving:
    """What a signal does."""

    @pytest.fixture(autouse=True)
    def handlers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The log takes over what libraries say; here only for a test."""
        root = logging.getLogger()
        monkeypatch.setattr(root, "handlers", root.handlers[:])
        monkeypatch.setattr(root, "level", root.level)

    @pytest.fixture(autouse=True)
    def no_end(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
        """The end by force is only noted: it would take the tests with it."""
        noted: list[tuple[float, int]] = []
        monkeypatch.setattr(daemon, "_end_after", lambda seconds, code: noted.append((seconds, code)))
        return noted

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
    async def test_the_first_asks(self, number: signal.Signals, code: int, no_end: list[tuple[float, int]]) -> None:
        """Politely, with an end by force behind it for whatever hangs."""
        leaving = daemon.Leaving(5.0)
        os.kill(os.getpid(), number)
        await leaving.asked.wait()
        assert leaving.code == code
        assert no_end == [(5.0 + daemon.LEAVE_S, 128 + number)]

    @pytest.mark.parametrize(("takes_s", "grace_s", "gives_back"), [(0.0, 3600.0, False), (3600.0, 0.0, True)])
    async def test_running_jobs_get_the_grace(
        self, takes_s: float, grace_s: float, gives_back: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And nothing new is begun meanwhile."""
        leaving, worker = daemon.Leaving(grace_s), Slow(takes_s)
        await leaving.let_finish(worker, logs.begin(sys.stderr))
        assert not worker.claiming
        assert ("giving back" in capsys.readouterr().err) is gives_back

    async def test_the_second_ends_the_grace(self, no_end: list[tuple[float, int]]) -> None:
        """However long it is."""
        leaving = daemon.Leaving(3600.0)
        finishing = asyncio.create_task(leaving.let_finish(Slow(3600.0), logs.begin(sys.stderr)))
        os.kill(os.getpid(), signal.SIGINT)
        await leaving.asked.wait()
        assert not finishing.done()
        os.kill(os.getpid(), signal.SIGINT)
        await finishing
        assert no_end[-1] == (daemon.HURRY_S, 130)


def test_what_hangs_is_ended_by_force() -> None:
    """A thread that never returns, or a database that never answers, does not keep the process."""
    code = "from imagen.surfaces.cli import daemon; import time; daemon._end_after(0.05, 143); time.sleep(3600)"
    ran: Any = subprocess.run([sys.executable, "-c", code], check=False)
    assert ran.returncode == 143
