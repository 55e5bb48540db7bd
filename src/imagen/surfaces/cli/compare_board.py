"""What a person sees while a comparison runs: a line for each finished cell, and a live one for each at work."""

import os
import time
from collections.abc import Container
from typing import Any, TextIO, assert_never

from imagen.core import events
from imagen.core.job import State
from imagen.engine.comparing.document import Document, Entry
from imagen.surfaces.cli.graphics import is_live
from imagen.surfaces.cli.terminal import PHASES

BAR = 20
LOOK_S = 0.1  # how often the live lines may be drawn anew


class Board:
    """Hears every event of every cell. Finished cells scroll away, so that any number of them fits."""

    shows_pictures = False

    def __init__(self, stream: TextIO, document: Document, kept: Container[int] = ()) -> None:
        self._stream = stream
        self._kept = kept
        self._cells = len(document.cells)
        self._named = (len(document.prompts) > 1, len(document.seeds) > 1)
        self._numbers = {prompt: number for number, prompt in enumerate(document.prompts, 1)}
        self._width = max((len(entry.model) for entry in document.cells), default=0)
        self._ended = 0
        self._running: dict[int, str] = {}
        self._drawn_at = 0.0
        self._live: Any = None
        if is_live(stream, os.environ):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=stream, highlight=False), auto_refresh=False, transient=True)
            self._live.start()

    def tell(self, entry: Entry, event: events.Event | None) -> None:
        """One event of a cell; None once the cell is settled."""
        if event is None:
            self._running.pop(entry.index, None)
            self._ended += 1
            kept = " (kept)" if entry.index in self._kept else ""
            self.line(
                f"[{self._ended:>{len(str(self._cells))}}/{self._cells}] {self._name(entry)}  {_end(entry)}{kept}"
            )
            return
        match event:
            case events.Started():
                self._running[entry.index] = f"{self._name(entry)}  starting"
            case events.Phase(phase=phase):
                self._running[entry.index] = f"{self._name(entry)}  {PHASES.get(phase, phase)}"
            case events.Progress(step=step, total=total):
                done = BAR * step // max(total, 1)
                self._running[entry.index] = (
                    f"{self._name(entry)}  {'━' * done}{'╌' * (BAR - done)}  step {step} of {total}"
                )
            case events.Requeued(reason=reason):
                self._running.pop(entry.index, None)
                self.line(f"{self._name(entry)}  starting again: {reason}")
            case events.Warning(message=message):
                self.line(f"{self._name(entry)}  warning: {message}")
            case events.Queued() | events.Preview() | events.Image():
                return
            case events.Completed():
                self._running[entry.index] = f"{self._name(entry)}  saving"
            case events.Failed() | events.Cancelled():
                self._running[entry.index] = f"{self._name(entry)}  {event.type}"
            case _:
                assert_never(event)
        self._refresh()

    def line(self, text: str) -> None:
        """A line that stays."""
        text = "".join(letter if letter.isprintable() else "�" for letter in text)
        if self._live is None:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        else:
            from rich.text import Text

            self._live.update(self._lines(), refresh=True)  # first, so that no line is seen both live and ended
            self._live.console.print(Text(text), soft_wrap=True)

    def waiting(self, document: Document) -> list[str]:
        """The first job of each model of which no cell is at work."""
        busy = {entry.model for entry in document.cells if entry.index in self._running}
        first: dict[str, str] = {}
        for entry in document.cells:
            if entry.state is State.QUEUED and entry.job is not None and entry.model not in busy:
                first.setdefault(entry.model, entry.job)
        return list(first.values())

    def on(self, event: events.Event) -> None:
        """Events come through `tell`, together with their cell."""

    def show(self, data: bytes, width: int, height: int) -> None:
        """The pictures meet on the sheet."""

    def close(self) -> None:
        """Leave the terminal with only the lines that stay."""
        if self._live is not None:
            self._live.stop()

    def _refresh(self) -> None:
        at = time.monotonic()
        if self._live is not None and at - self._drawn_at >= LOOK_S:
            self._drawn_at = at
            self._live.update(self._lines(), refresh=True)

    def _lines(self) -> Any:
        from rich.text import Text

        waiting = self._cells - self._ended - len(self._running)
        lines = [self._running[index] for index in sorted(self._running)]
        if waiting:
            lines.append(f"{waiting} waiting")
        return Text("\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis")

    def _name(self, entry: Entry) -> str:
        prompts, seeds = self._named
        parts = [entry.model.ljust(self._width)]
        if prompts:
            parts.append(f"prompt {self._numbers.get(entry.prompt, 0)}")
        if seeds:
            parts.append(f"seed {entry.seed}")
        return "  ".join(parts)


def _end(entry: Entry) -> str:
    match entry.state:
        case State.COMPLETED:
            if entry.error:
                return str(entry.error.get("message"))
            took = f"{entry.latency_s:.1f} s" if entry.latency_s is not None else "done"
            return f"{took}  {entry.file}" if entry.file else f"{took}  the picture was deleted"
        case State.FAILED:
            return f"failed: {(entry.error or {}).get('message', 'nobody said why')}"
        case State.CANCELLED:
            return "cancelled"
        case State.QUEUED | State.RUNNING:
            return "not drawn yet"
