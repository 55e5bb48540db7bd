"""What a person sees while a job runs: the picture forming, one line of progress, and warnings that stay."""

import os
import struct
from collections.abc import Mapping
from typing import Any, TextIO, assert_never

from imagen.core import events
from imagen.surfaces.cli.graphics import Kind, Room, draw, erase, graphics_of, is_live

PHASES = {
    "loading": "loading the model",
    "encoding": "reading the prompt",
    "sampling": "drawing",
    "decoding": "finishing",
    "saving": "saving",
}

# A picture larger than this pushes what came before off the screen and says no more.
MAX_COLUMNS, MAX_ROWS = 64, 22
MIN_COLUMNS, MIN_ROWS = 12, 5
BAR_COLUMNS = 28

# Terminals that know it show everything between the two at once; the others ignore it.
_HOLD, _RELEASE = "\x1b[?2026h", "\x1b[?2026l"


class LiveView:
    """Follows one job on a terminal; elsewhere it writes a plain line for each thing worth telling."""

    def __init__(self, stream: TextIO, *, previews: bool, environ: Mapping[str, str] | None = None) -> None:
        self._stream = stream
        environ = os.environ if environ is None else environ
        self._live = is_live(stream, environ)
        self._kind: Kind = graphics_of(stream, environ) if previews else "none"
        self._colour = "NO_COLOR" not in environ
        self._true_colour = environ.get("COLORTERM", "") in ("truecolor", "24bit") or "direct" in environ.get(
            "TERM", ""
        )
        self._unicode = "utf" in (getattr(stream, "encoding", None) or "").lower()
        self._request: Mapping[str, Any] = {}
        self._words = ""
        self._progress: events.Progress | None = None
        self._picture: tuple[bytes, int, int] | None = None
        self._above = 0  # rows of picture over the status line, as they are on the screen now
        self._shown = False

    @property
    def shows_pictures(self) -> bool:
        """Whether previews would be seen at all, so that nobody asks for them in vain."""
        return self._kind != "none"

    def on(self, event: events.Event) -> None:
        """Show what this event changes."""
        match event:
            case events.Queued():
                pass  # what it waits for, if it waits, is said by whoever knows
            case events.Started():
                self._request = event.request
                self._words = "starting"
                self._tell(f"drawing with {_summary(event.request)}")
            case events.Phase(phase=phase):
                self._words = PHASES.get(phase, phase)
                self._status()
            case events.Progress():
                self._progress = event
                self._words = PHASES["sampling"]
                self._status()
            case events.Preview():
                self.show(event.data, event.target_width, event.target_height)
            case events.Warning(message=message):
                self.line(f"warning: {message}")
            case events.Image():
                self._status()
            case events.Requeued(reason=reason):
                self._progress = None
                self._words = "waiting to start again"
                self.line(f"starting again: {reason}")
            case events.Completed():
                drawing = sum(event.timings.get(part, 0.0) for part in ("encode", "sample", "decode"))
                took = f" · {drawing:.1f} s" if drawing else ""
                self._finish(f"{_summary(self._request)}{took}" if self._request else "")
            case events.Failed() | events.Cancelled():
                # Whoever called says why, once, in the words of the error.
                self._finish("")
            case _:
                assert_never(event)

    def show(self, data: bytes, width: int, height: int) -> None:
        """Show an encoded picture, shaped width x height, in place of the one before."""
        if self._kind == "none" or not (width > 0 and height > 0):
            return
        self._picture = (data, width, height)
        self._write(self._painted())

    def line(self, text: str) -> None:
        """Write a line that stays, above the picture."""
        text = _printable(text)
        if not self._live:
            self._write(f"{text}\n")
            return
        self._write(self._cleared() + text + "\n")
        self._above = 0
        if self._shown:
            self._write(self._painted())

    def close(self) -> None:
        """Leave the terminal as a program should: the picture stays, the cursor stands on a fresh line."""
        self._finish("")

    def _tell(self, text: str) -> None:
        """Something that a status line shows anyway: a line of its own only where there is none."""
        if self._live:
            self._words = self._words or _printable(text)
            self._status()
        else:
            self.line(text)

    def _status(self) -> None:
        if self._live:
            self._shown = True
            self._write(f"\r{self._status_text()}\x1b[K")

    def _finish(self, last: str) -> None:
        if not self._live:
            if last:
                self.line(f"done: {last}")
        elif self._shown:
            self._shown = False
            last = _printable(last)[: self._size()[0] - 1]
            self._write(f"\r\x1b[K{last}" + ("\n" if last else ""))
            self._above, self._picture = 0, None

    def _painted(self) -> str:
        """The whole live part again, over what is there now."""
        size = self._size()
        status = f"\r{self._status_text()}\x1b[K"
        self._shown = True
        if self._picture is None:
            return status
        columns, lines, cell = size
        room = Room(columns=min(columns - 1, MAX_COLUMNS), rows=min(lines - 2, MAX_ROWS), cell=cell)
        if room.columns < MIN_COLUMNS or room.rows < MIN_ROWS:
            return status
        data, width, height = self._picture
        wide, high = room.fit(width, height)
        try:
            picture = draw(data, self._kind, wide, high, cell, true_colour=self._true_colour)
        except (OSError, ValueError):
            # A preview that cannot be read is not worth a word here: the picture will come.
            return status
        up = ""
        if self._above != high:
            # Only when the shape changes is anything cleared: room is made by scrolling, then filled.
            up = self._cleared() + "\n" * high
            self._above = high
        up += f"\r\x1b[{high}A"
        return f"{_HOLD}{up}{picture}\r\x1b[{high}B{status}{_RELEASE}"

    def _cleared(self) -> str:
        """Back to where the live part begins, with nothing left of it."""
        if not self._shown:
            return ""
        return f"\r\x1b[{self._above}A{erase(self._kind)}\x1b[J" if self._above else "\r\x1b[K"

    def _status_text(self) -> str:
        columns = self._size()[0]
        told = [self._words or "waiting"]
        bar = ""
        if self._progress is not None:
            progress = self._progress
            bar = self._bar(progress.step / max(progress.total, 1))
            told.append(f"{progress.step}/{progress.total}")
            if progress.eta_s is not None and progress.step < progress.total:
                told.append(_time_left(progress.eta_s))
            count = self._request.get("n", 1)
            if isinstance(count, int) and count > 1:
                told.append(f"image {progress.image + 1} of {count}")
        first, rest = _printable(told[0]), _printable("  ".join(told[1:]))
        plain = len(first) + len(rest) + (BAR_COLUMNS + 2 if bar else 1)
        if not bar or plain >= columns:
            return f"{first} {rest}".strip()[: columns - 1]
        return f"{first} {bar} {rest}"

    def _bar(self, share: float) -> str:
        full, empty = ("━", "─") if self._unicode else ("#", "-")
        done = round(BAR_COLUMNS * min(max(share, 0.0), 1.0))
        if not self._colour:
            return full * done + empty * (BAR_COLUMNS - done)
        return f"\x1b[36m{full * done}\x1b[2;39m{empty * (BAR_COLUMNS - done)}\x1b[0m"

    def _size(self) -> tuple[int, int, tuple[int, int]]:
        return size_of(self._stream)

    def _write(self, text: str) -> None:
        # A terminal that went away must not end the job: somebody may follow it elsewhere.
        try:
            if not self._unicode:
                text = text.replace("·", "-").encode("ascii", "replace").decode("ascii")
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._live = False
            self._kind = "none"


def size_of(stream: TextIO) -> tuple[int, int, tuple[int, int]]:
    """Columns, lines, and the pixels of one cell where the terminal tells."""
    try:
        import fcntl
        import termios

        answer = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        lines, columns, wide, high = struct.unpack("HHHH", answer)
    except (ImportError, OSError, ValueError):
        lines = columns = wide = high = 0
    cell = (wide // columns, high // lines) if columns and lines and wide >= columns and high >= lines else (10, 20)
    return columns or 80, lines or 24, cell


def _summary(request: Mapping[str, Any]) -> str:
    """`mock · 768x768 · 20 steps · seed 7`."""
    return (
        f"{request.get('model', '?')} · {request.get('width', '?')}x{request.get('height', '?')}"
        f" · {request.get('steps', '?')} steps · seed {request.get('seed', '?')}"
    )


def _time_left(seconds: float) -> str:
    if seconds < 0.95:
        return "under 1 s left"
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left"


def _printable(text: str) -> str:
    """No control characters: a message may quote a prompt, and a prompt may hold escape sequences."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
