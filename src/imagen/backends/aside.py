"""Work that holds a thread, as the async iterator that a backend is: what it says is yielded, closing stops it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from typing import Protocol

from imagen.backends.to_its_end import to_its_end
from imagen.core.signals import Signal


class Stopped(BaseException):
    """Nobody wants the picture any more. Not an Exception, so that no library takes it for a failure of its own."""


class Say(Protocol):
    """What such work is given."""

    def __call__(self, signal: Signal) -> None:
        """Hand over a signal; raises Stopped when nobody listens any more."""

    def listening(self) -> None:
        """Raise Stopped when nobody listens any more: before something long about which there is nothing to say."""


async def aside(work: Callable[[Say], None], executor: Executor | None = None) -> AsyncGenerator[Signal]:
    """Run `work` in a thread and yield what it says. Closing waits until it has noticed and is gone."""
    voice = _Voice(asyncio.get_running_loop())
    running = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(executor, voice.of, work))
    running.add_done_callback(lambda _: voice.said.put_nowait(None))  # after all it said: the loop keeps the order
    try:
        while (signal := await voice.said.get()) is not None:
            yield signal
        running.result()
    finally:
        voice.stopped = True
        try:
            if not running.done():
                await to_its_end(asyncio.wait([running]))  # it ends at its next step
        finally:
            running.exception()  # looked at, so that nobody is told of it as of one that was forgotten


class _Voice:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.said: asyncio.Queue[Signal | None] = asyncio.Queue()
        self.stopped = False

    def __call__(self, signal: Signal) -> None:
        self.listening()
        self._loop.call_soon_threadsafe(self.said.put_nowait, signal)

    def listening(self) -> None:
        if self.stopped:
            raise Stopped

    def of(self, work: Callable[[Say], None]) -> None:
        try:
            work(self)
        except Stopped:
            if not self.stopped:
                raise
