"""Asks the server, every few seconds, what became of a prompt; and sees to it that the line goes on telling.

The line may be down, may have missed the end, or may be open and silent: a server that took a new socket for an old
one tells nothing more to it. So the keeper believes only what the server answers when it is asked.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from imagen.backends.comfyui import errors
from imagen.backends.comfyui.line import Cut, Line, LineError, Message
from imagen.backends.comfyui.server import Server
from imagen.backends.comfyui.story import Story
from imagen.core.errors import ImagenError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a server is asked, and how long it is waited for; seconds."""

    ask_s: float = 2.5  # between two questions, while the line tells what happens
    ask_without_line_s: float = 0.5
    again_s: float = 0.3  # after an answer that has to be heard twice
    silent_s: float = 10.0  # of a prompt that runs and says nothing: it loads, or the server has lost our line
    silent_most_s: float = 120.0
    away_s: float = 60.0  # of the server, in the middle of a prompt: it may be busy, or come back with it
    gone_s: float = 30.0  # until a cancelled prompt has left; loading a model cannot be interrupted
    cancel_again_s: float = 5.0


class Keeper:
    """Knows where one prompt is."""

    def __init__(self, server: Server, line: Line, story: Story, *, prompt_id: str, model: str, pace: Pace) -> None:
        self.begun = asyncio.Event()  # the prompt does not wait for others any more
        self._server = server
        self._line = line
        self._story = story
        self._id = prompt_id
        self._model = model
        self._pace = pace
        self._cut = asyncio.Event()
        self._over = asyncio.Event()
        self._cuts = line.cuts
        self._quiet_since = time.monotonic()
        self._silent_s = pace.silent_s
        self._open_at = 0.0
        self._closed_s = pace.ask_without_line_s

    @property
    def deaf(self) -> bool:
        """True while the line has never been up."""
        return not self._line.up and self._line.cuts == self._cuts

    def hear(self, message: Message) -> None:
        """To be called with each message, once the story has it."""
        self._quiet_since = time.monotonic()
        if self._story.begun:
            self.begun.set()
        if self._story.over:
            self._over.set()
        if isinstance(message, Cut):
            self._cut.set()

    async def keep(self, *, found: bool) -> None:
        """Returns when the prompt is over, well or not; an error says why it never will be.

        One that was `found` on the server, and not handed over now, is asked after at once.
        """
        pause_s = 0.0 if found else self._usual_pause_s()
        away_since: float | None = None
        nowhere = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._cut.wait()
            self._cut.clear()
            await self._listen_again()
            now = time.monotonic()
            try:
                where = await self._server.where(self._id)
            except ImagenError:
                away_since = now if away_since is None else away_since
                if now - away_since > self._pace.away_s:
                    raise
                pause_s = self._pace.again_s
                continue
            away_since = None
            nowhere = nowhere + 1 if where == "nowhere" else 0
            match where:
                case "nowhere" if nowhere == 2:
                    raise self._missing()
                case "ended":
                    await self._let_it_be_told()
                    return
                case "running":
                    await self._mind_silence()
                case _:
                    pass  # nothing is told of one that waits, and nothing is wrong with that
            pause_s = self._pace.again_s if nowhere else self._usual_pause_s()

    def _usual_pause_s(self) -> float:
        return self._pace.ask_s if self._line.up else self._pace.ask_without_line_s

    async def _listen_again(self) -> None:
        """Open the line when it is down; less and less often where that does not work."""
        if self._line.up or time.monotonic() < self._open_at:
            return
        try:
            await self._line.open()
            self._quiet_since, self._closed_s = time.monotonic(), self._pace.ask_without_line_s
        except LineError:
            self._open_at = time.monotonic() + self._closed_s
            self._closed_s = min(self._closed_s * 2, self._pace.silent_most_s)

    async def _mind_silence(self) -> None:
        """Listen anew when the prompt runs and nothing was told of it for long; less and less often."""
        if not self.begun.is_set():
            self.begun.set()
            self._quiet_since = time.monotonic()
        if self._line.up and time.monotonic() - self._quiet_since > self._silent_s:
            with suppress(LineError):
                await self._line.reopen()
            self._quiet_since = time.monotonic()
            self._silent_s = min(self._silent_s * 2, self._pace.silent_most_s)

    async def _let_it_be_told(self) -> None:
        """The line that has not told of the end, a moment later, is one that the server has forgotten."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.again_s / 3):
                await self._over.wait()
        if not self._over.is_set():
            self._line.close()

    def _missing(self) -> ImagenError:
        """Why the server does not know the prompt any more."""
        unbroken = self._line.up and self._line.cuts == self._cuts
        if unbroken and not self.begun.is_set():
            return errors.stopped(self._model)  # it was there all the time: somebody took it out of its queue
        return errors.lost(self._server.url)
