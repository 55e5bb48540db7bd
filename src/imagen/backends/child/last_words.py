"""Why a process died: its exit code, the last lines it wrote, and whether the system was short of memory just then."""

import re
import signal
import traceback
from collections import deque
from contextlib import suppress
from pathlib import Path

from imagen.core.errors import Crashed, ImagenError, OutOfMemory

KEPT = 16 * 1024  # bytes of what it wrote; its end says what broke
LINES = 40  # room for where it was, and for what was said before that
MAX_LINE = 400
MAX_DETAIL = 4000

# How allocators say it, on the device or on the host.
_NO_MEMORY = re.compile(
    r"out of memory|out_of_memory|outofmemory|bad_alloc|memoryerror|can(?:no|')t allocate|failed to allocate",
    re.IGNORECASE,
)
_SECRETS = (
    (re.compile(r"\b(?:hf_|sk-|r8_|imagen_)[A-Za-z0-9_-]{16,}"), "***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+"), r"\1 ***"),
    (re.compile(r"(\w://[^\s:/@]*):[^\s@]*@"), r"\1:***@"),
    (re.compile(r"(?i)((?:password|passwd|token|secret|api_?key)\s*=\s*[\"']?)[^\s&;,\"']+"), r"\1***"),
)
# Two folders at least, so that a share such as 3/4 stays; what follows `://` is an address and no path.
_PATH = re.compile(r"(?<![:/\w])/(?:[^\s'\"<>|:*?,;()/]+/)+([^\s'\"<>|:*?,;()/]*)")

HINT = "it is tried again in a new process; if it stays so, its last lines are in `imagen jobs show`"
SMALLER = "ask for a smaller size or fewer pictures at once, or set the model up to need less memory"


class Tail:
    """The end of what a process wrote, however much it was."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        """It wrote this."""
        self._pieces.append(data)
        self._size += len(data)
        while self._size - len(self._pieces[0]) >= KEPT:
            self._size -= len(self._pieces.popleft())

    def text(self) -> str:
        """Its last lines; of a line that was written over, as progress bars do, what stood there last."""
        lines = b"".join(self._pieces).decode(errors="replace").split("\n")
        last = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines)
        return "\n".join([line[:MAX_LINE] for line in last if line][-LINES:])


def died(who: str, code: int, tail: str, *, starved: bool, why: str = "") -> ImagenError:
    """The error of a process that ended with this code (negative: by a signal) while it was needed.

    `starved`: the system killed something for memory meanwhile. `why`: it was ended by us, for this reason.
    """
    detail = masked(tail)[-MAX_DETAIL:] or None
    if why:
        return Crashed(f"{who} was ended: {why}", hint=HINT, retryable=True, detail=detail)
    if (code == -signal.SIGKILL and starved) or (code != 0 and out_of_memory(tail)):
        how = "the system killed it for that" if starved else "it could get no more"
        return OutOfMemory(f"{who} ran out of memory: {how}", hint=SMALLER, detail=detail)
    return Crashed(f"{who} died: {_how(code)}", hint=HINT, retryable=True, detail=detail)


def broke(who: str, exc: BaseException) -> ImagenError:
    """The error of a backend that raised something that is none of ours."""
    words = masked(" ".join(str(exc).split()) or "it said nothing more")
    detail = masked("".join(traceback.format_exception(exc)))[-MAX_DETAIL:]
    if isinstance(exc, MemoryError) or out_of_memory(f"{type(exc).__name__}: {words}"):
        return OutOfMemory(f"{who} ran out of memory: {words}", hint=SMALLER, detail=detail)
    return Crashed(
        f"{who} broke: {type(exc).__name__}: {words}",
        hint="a fault in the backend, not in the request; where it is: `imagen jobs show`",
        detail=detail,
    )


def out_of_memory(text: str) -> bool:
    """Do these words say that memory ran out?"""
    return _NO_MEMORY.search(text) is not None


def masked(text: str) -> str:
    """The same without secrets, and with paths reduced to their last part."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return _PATH.sub(lambda found: found[1] or "…", text)


def killed_for_memory() -> int:
    """How many processes this system ever killed because memory ran out, in any container; 0 where it does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/vmstat").read_text().split("oom_kill ", 1)[1].split()[0])
    return 0


def _how(code: int) -> str:
    if code >= 0:
        return f"it ended by itself with exit code {code}"
    with suppress(ValueError):
        return f"{signal.Signals(-code).name} ({signal.strsignal(-code)})"
    return f"signal {-code}"
