"""Hooks around a device: run in order, in bounded time, and told in the words of what failed."""

import asyncio
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from imagen.core.device import Hook
from imagen.core.errors import HookFailed
from imagen.engine.drawing import hooks


async def run(hook: Hook, *, which: str = "before", timeout_s: float = 10) -> None:
    await hooks.run(hook, which, device="card", model="fox", timeout_s=timeout_s)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def test_a_command_hears_what_it_is_for(tmp_path: Path) -> None:
    """The device, the model and which hook it is stand in its environment."""
    told = tmp_path / "told"
    names = "('IMAGEN_DEVICE', 'IMAGEN_MODEL', 'IMAGEN_HOOK')"
    await run(python(f"import os; open({str(told)!r}, 'w').write(' '.join(os.environ[n] for n in {names}))"))
    assert told.read_text() == "card fox before"


async def test_a_command_that_fails_is_told_with_its_last_line() -> None:
    """Whatever it said before that."""
    with pytest.raises(HookFailed, match=r"hook `before` of card .* ended with 3: no such model$") as caught:
        await run(python("print('x' * 100_000); print('no such model'); raise SystemExit(3)"))
    assert "devices:" in caught.value.hint
    assert caught.value.retryable


async def test_a_command_that_is_not_there_is_named() -> None:
    """As the system says it."""
    with pytest.raises(HookFailed, match="cannot run no-such-program: No such file"):
        await run(("no-such-program", "stop"))


async def test_a_command_that_never_ends_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """The time is up for its children too, and what it says without end fills nothing."""
    mark = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(mark)!r}).touch()"
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\nwhile True: print('y' * 1000)"
    begun = time.monotonic()
    with pytest.raises(HookFailed, match=r"took longer than 0\.7 s"):
        await run(python(code), timeout_s=0.7)
    assert time.monotonic() - begun < 5
    await asyncio.sleep(2)
    assert not mark.exists()


async def test_what_a_command_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    """A hook may start a daemon that keeps its output open."""
    begun = time.monotonic()
    await run(("sh", "-c", "sleep 20 & echo started"))
    assert time.monotonic() - begun < 10


@pytest.fixture
def service() -> Iterator["Service"]:
    with Service() as served:
        yield served


class Service:
    """An address that answers what it is told to, and remembers what was posted."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"ok"
        self.heard: list[tuple[str, bytes]] = []

    def __enter__(self) -> "Service":
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                service.heard.append((self.path, self.rfile.read(length)))
                self.send_response(service.status)
                self.end_headers()
                self.wfile.write(service.body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/unload?all=1"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


async def test_an_address_is_posted_to(service: Service) -> None:
    """With the same three words as JSON."""
    await run(service.url, which="after")
    ((path, body),) = service.heard
    assert path == "/unload?all=1"
    assert body.replace(b" ", b"") == b'{"device":"card","hook":"after","model":"fox"}'


@pytest.mark.parametrize("status", [302, 404, 503])
async def test_an_address_that_refuses_is_told(service: Service, status: int) -> None:
    """No redirect is followed, and the last line of the answer is in the error."""
    service.status, service.body = status, b"first\nthe model is in use\n"
    with pytest.raises(HookFailed, match=f"answered {status} by 127.0.0.1:.*: the model is in use"):
        await run(service.url)
    assert len(service.heard) == 1


async def test_an_address_where_nobody_is_is_told() -> None:
    """Without the rest of the address, in which a secret may stand."""
    with pytest.raises(HookFailed, match=r"cannot reach 127\.0\.0\.1:9") as caught:
        await run("http://127.0.0.1:9/unload?token=S3cret")
    assert "S3cret" not in str(caught.value.as_dict())
