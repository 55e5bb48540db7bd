"""What a daemon tells of itself: one line each on standard error, JSON for a journal, readable on a terminal.

Never a prompt, a body, a query or a secret. Nothing is kept in files: journald, or whoever starts us, does that.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from structlog.typing import FilteringBoundLogger

Log: TypeAlias = "FilteringBoundLogger"
Line = MutableMapping[str, Any]

ASKED_OFTEN = ("/healthz", "/readyz", "/metrics")  # by machines, every few seconds: only told when they fail
FIRST = ("at", "level", "event")
LONGEST = 2000  # letters of one value; a line is for reading, and nobody may fill the disk with one request

_SECRET = re.compile(r"authorization|password|passwd|secret|token|cookie|(^|_)key$|prompt|negative", re.IGNORECASE)
_MASKS = (
    (re.compile(r"\bimagen_[A-Za-z0-9_-]{16,}"), "imagen_***"),  # our keys, wherever they turn up
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+"), r"\1 ***"),
    (re.compile(r"\[parameters: .*"), "[parameters: ***]"),  # SQLAlchemy quotes a failed statement's values: prompts
    (re.compile(r"(\w://[^\s:/@]*):\S*@"), r"\1:***@"),  # to the last @: a password may hold anything
    (re.compile(r"(?i)\b((?:password|passwd|token|secret|api_?key|key)=)[^\s&;,\"']+"), r"\1***"),
)
# How lines end that tell of the end of a trouble: no warnings.
OVER = (" again",)
_JOB = re.compile(r"\bjob ([0-9A-Z]{26})\b")


def begin(stream: TextIO | None = None, *, level: int = logging.INFO) -> Log:
    """The log of this process; what libraries say with `logging` comes out of it too."""
    structlog = _structlog()
    stream = stream or sys.stderr
    shape = readable if stream.isatty() else structlog.processors.JSONRenderer(default=str)
    log: Log = structlog.wrap_logger(
        _Lines(stream),
        processors=[
            _stamp,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            mask,
            _order,
            shape,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_Handler(log)]
    root.setLevel(logging.WARNING)
    return log


def announce(log: Log, line: str, **fields: Any) -> None:
    """Say to a person that we are there; a journal gets the same words as an event."""
    if sys.stderr.isatty():
        sys.stderr.write(line + "\n")
    else:
        log.info(line, **fields)


def lines(log: Log) -> Callable[[str], None]:
    """For what only says lines, as the app does about trouble: the job that a line names becomes a field."""

    def say(line: str) -> None:
        found = _JOB.search(line)
        tell = log.info if line.endswith(OVER) else log.warning
        tell(line, **({"job": found[1]} if found else {}))

    return say


def access(asgi: "ASGIApp", log: Log) -> "ASGIApp":
    """One line for each request: method, path, status, milliseconds, owner."""

    async def logged(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await asgi(scope, receive, send)
            return
        began = time.monotonic()
        status = 0  # stays so when the client left before there was an answer

        async def sending(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await asgi(scope, receive, sending)
        finally:
            if status >= 500 or scope["path"] not in ASKED_OFTEN:
                owner = getattr(scope.get("imagen.caller"), "name", None)  # left there by the guard
                told = {"owner": owner} if owner else {}
                ms = round((time.monotonic() - began) * 1000, 1)
                log.info("request", method=scope["method"], path=scope["path"], status=status, ms=ms, **told)

    return logged


def mask(_log: Any, _method: str, line: Line) -> Line:
    """Star what must not be read: our keys, passwords in addresses, whatever is called a secret."""
    return {name: _masked(name, value) for name, value in line.items()}


def readable(_log: Any, _method: str, line: Mapping[str, Any]) -> str:
    """`12:00:00 info  what happened  job=…` for a terminal; nothing in a value can move the cursor."""
    at = datetime.fromisoformat(line["at"]).astimezone()
    rest = (f"{name}={_plain(value)}" for name, value in line.items() if name not in (*FIRST, "exception"))
    said = "  ".join([f"{at:%H:%M:%S} {line['level']:<5} {_printable(str(line['event']))}", " ".join(rest)]).rstrip()
    return said + (f"\n{_printable(line['exception'], keep=chr(10))}" if "exception" in line else "")


def _structlog() -> Any:
    # structlog loads rich, when it is there, for tracebacks we do not draw: 4 MiB and 25 ms of every server.
    absent = "rich" not in sys.modules
    if absent:
        sys.modules["rich"] = None  # type: ignore[assignment] # the documented way to say "cannot be imported"
    try:
        import structlog
    finally:
        if absent:
            del sys.modules["rich"]
    return structlog


class _Lines:
    """Where lines go. A reader that went away, or a full disk behind it, must not stop a server."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = exception = msg


class _Handler(logging.Handler):
    """What libraries say."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def _stamp(_log: Any, _method: str, line: Line) -> Line:
    # What is told later than it happened brings its time along.
    line["at"] = line.get("at") or datetime.now(UTC).isoformat(timespec="milliseconds")
    return line


def _order(_log: Any, _method: str, line: Line) -> Line:
    return {**{name: line[name] for name in FIRST}, **line}


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(name, item) for item in value]
    if _SECRET.search(name):
        return "***"
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str):
        return value
    for pattern, instead in _MASKS:
        value = pattern.sub(instead, value)
    longest = LONGEST if name != "exception" else 10 * LONGEST
    return value if len(value) <= longest else value[:longest] + "…"


def _plain(value: Any) -> str:
    text = _printable(str(value))
    return text if text and not re.search(r"[\s\"=]", text) else '"' + text.replace('"', '\\"') + '"'


def _printable(text: str, keep: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else ascii(letter)[1:-1] for letter in text)
