"""What a daemon writes about itself: lines for machines or for people, and nothing that should not be read."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from imagen.surfaces import logs

KEY = "imagen_hT2kq9Zr-4mXw_8sVbNcYd7LpQe3Ru1F"


class Terminal(io.StringIO):
    """A stream that somebody sits before."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """The handlers of this process, put back."""
    before = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    logging.getLogger().handlers[:], level = before
    logging.getLogger().setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def told(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_journal_gets_one_json_object_a_line(stream: io.StringIO) -> None:
    """When, how bad and what come first; the rest are fields, whatever is in them."""
    log = logs.begin(stream)
    log.info("drawn", job="01ABC", ms=12.5, said="two\nlines \x1b[31m")
    (line,) = told(stream)
    assert list(line)[:3] == ["at", "level", "event"]
    assert line | {"at": ""} == {
        "at": "",
        "level": "info",
        "event": "drawn",
        "job": "01ABC",
        "ms": 12.5,
        "said": "two\nlines \x1b[31m",
    }
    assert line["at"].endswith("+00:00")


def test_a_terminal_gets_readable_lines_that_cannot_move_the_cursor() -> None:
    """One line for one event, also when somebody else chose the words."""
    stream = Terminal()
    logs.begin(stream).info("request\x1b[2J", path="/a b\n/\x9b31m", status=404)
    (line,) = stream.getvalue().splitlines()
    assert line[9:] == r"""info  request\x1b[2J  path="/a b\n/\x9b31m" status=404"""


@pytest.mark.parametrize(
    "said",
    [
        {"event": f"a key {KEY} in the words"},
        {"event": "x", "authorization": "hunter2"},
        {"event": "x", "headers": {"Authorization": "Bearer hunter2", "Cookie": "hunter2"}},
        {"event": "x", "header": "Bearer hunter2"},
        {"event": "x", "list": ["Basic aHVudGVyMg==hunter2"]},
        {"event": "postgresql://me:hunter2@host/x is away"},
        {"event": "postgresql://me:hun:t@er/hunter2@host/x is away"},
        {"event": "x", "url": "postgresql://:hunter2@host/x"},
        {"event": "x", "url": "https://host/x?a=1&api_key=hunter2&b=2"},
        {"event": "x", "dsn": "host=h password=hunter2 user=me"},
        {"event": "x", "api_key": "hunter2"},
        {"event": "x", "secret": b"hunter2"},
        {"event": "x", "raw": b"token=hunter2"},
        {"event": "x", "prompt": "hunter2"},
        {"event": "INSERT failed [parameters: ('hunter2', 1)]"},
    ],
    ids=str,
)
@pytest.mark.parametrize("terminal", [False, True])
def test_secrets_and_prompts_are_starred(said: dict[str, Any], terminal: bool) -> None:
    """Wherever they stand, in words, in fields or inside them."""
    stream = Terminal() if terminal else io.StringIO()
    log = logs.begin(stream)
    log.info(**said)
    assert "***" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    assert KEY[8:] not in stream.getvalue()


def test_a_secret_in_a_traceback_is_starred(stream: io.StringIO) -> None:
    """The words of an exception are not ours."""
    log = logs.begin(stream)
    try:
        raise ValueError(f"postgresql://me:hunter2@host refused {KEY}")
    except ValueError:
        log.exception("broke")
    (line,) = told(stream)
    assert line["level"] == "error"
    assert "ValueError" in line["exception"]
    assert "hunter2" not in line["exception"]
    assert KEY not in line["exception"]


def test_what_libraries_log_comes_out_the_same_way(stream: io.StringIO) -> None:
    """Only from warnings up; their debug lines may hold anything."""
    logs.begin(stream)
    logging.getLogger("uvicorn.error").info("not this")
    logging.getLogger("uvicorn.error").warning("%s did %s", "somebody", KEY)
    (line,) = told(stream)
    assert (line["level"], line["logger"], line["event"]) == ("warning", "uvicorn.error", "somebody did imagen_***")


def test_a_line_of_the_app_carries_its_job_as_a_field(stream: io.StringIO) -> None:
    """So that all lines of one job can be found."""
    say = logs.lines(logs.begin(stream))
    say("job 01KAJ0000000000000000000ZZ was left by a worker that died")
    say("cannot claim, trying on")
    say("the database answers again")
    first, second, third = told(stream)
    assert first["job"] == "01KAJ0000000000000000000ZZ"
    assert "job" not in second
    assert [line["level"] for line in (first, second, third)] == ["warning", "warning", "info"]


def test_nobody_fills_the_disk_with_one_request(stream: io.StringIO) -> None:
    """Long values are cut."""
    logs.begin(stream).info("x", path="a" * 1_000_000)
    assert len(stream.getvalue()) < 3 * logs.LONGEST


def test_a_reader_that_went_away_stops_nothing() -> None:
    """A closed pipe, or a full disk behind it."""

    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    logs.begin(Gone()).info("x")
    closed = io.StringIO()
    log = logs.begin(closed)
    closed.close()
    log.info("x")


class TestAccess:
    """One line for each request."""

    async def _asked(self, stream: io.StringIO, path: str, *, status: int = 200, breaks: bool = False) -> None:
        async def inner(scope: Any, _receive: Any, send: Any) -> None:
            if breaks:
                raise ZeroDivisionError
            scope["imagen.caller"] = type("Caller", (), {"name": "ann"})()
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def nothing(*_: Any) -> Any:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"q=hunter2&key=hunter2", "headers": []}
        await logs.access(inner, logs.begin(stream))(scope, nothing, nothing)

    async def test_it_says_who_asked_for_what_and_how_it_went(self, stream: io.StringIO) -> None:
        """Method, path without its query, status, milliseconds, owner; nothing else."""
        await self._asked(stream, "/v1/jobs", status=202)
        (line,) = told(stream)
        assert set(line) == {"at", "level", "event", "method", "path", "status", "ms", "owner"}
        assert (line["method"], line["path"], line["status"], line["owner"]) == ("GET", "/v1/jobs", 202, "ann")
        assert "hunter2" not in stream.getvalue()

    async def test_what_machines_ask_all_day_is_told_only_when_it_fails(self, stream: io.StringIO) -> None:
        """A health check each second would bury the rest."""
        await self._asked(stream, "/healthz")
        assert told(stream) == []
        await self._asked(stream, "/readyz", status=503)
        assert [line["status"] for line in told(stream)] == [503]

    async def test_a_request_that_broke_is_told_too(self, stream: io.StringIO) -> None:
        """With status 0: there was no answer."""
        with pytest.raises(ZeroDivisionError):
            await self._asked(stream, "/v1/jobs", breaks=True)
        assert [line["status"] for line in told(stream)] == [0]


def test_structlog_does_not_bring_rich_along() -> None:
    """It would load it for tracebacks that we do not draw, and every server would carry it."""
    code = "import sys; from imagen.surfaces import logs; logs.begin().info('x'); print('rich' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
    assert json.loads(ran.stderr)["event"] == "x"


def test_rich_still_loads_afterwards() -> None:
    """It is only looked away from, not forbidden."""
    code = "from imagen.surfaces import logs; logs.begin(); import rich.console"
    subprocess.run([sys.executable, "-c", code], check=True)
