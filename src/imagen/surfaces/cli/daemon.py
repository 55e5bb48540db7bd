"""What `imagen serve` and `imagen worker` share: leaving politely when asked, and at once when asked twice."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, Protocol

import click

from imagen.surfaces.cli.exits import INTERRUPTED

if TYPE_CHECKING:
    from imagen.surfaces.logs import Log

GRACE_S = 10.0  # a picture that is nearly done is finished; systemd waits 30 s before it kills
LEAVE_S = 8.0  # to give jobs back and to close the database, after the grace
HURRY_S = 2.0  # the same, for somebody who asked twice
SHOWN = 6  # names in one line

grace_option = click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(0, 3600),
    default=GRACE_S,
    show_default=True,
    metavar="S",
    help="When asked to stop, seconds for running jobs to finish before they are given back.",
)


class Drawing(Protocol):
    """A worker of this process, as `App.drawing` gives it."""

    def stop_claiming(self) -> None:
        """Take no further job."""

    async def idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs here, at most this long; whether that came true."""


class Leaving:
    """How this process is asked to stop. The first signal asks politely, the second wants it now."""

    def __init__(self, grace_s: float) -> None:
        self.asked = asyncio.Event()
        self.code = 0
        self._grace_s = grace_s
        self._hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)

    async def let_finish(self, worker: Drawing, log: "Log") -> None:
        """Claim nothing more, and give what runs the grace; what is left then is given back by closing the worker."""
        worker.stop_claiming()
        idle = asyncio.create_task(worker.idle(self._grace_s))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({idle, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        idle.cancel()
        (done,) = await asyncio.gather(idle, return_exceptions=True)
        if done is not True:
            log.info("giving back what is not finished")

    def _on_signal(self, number: int) -> None:
        again = self.asked.is_set()
        if number == signal.SIGINT and sys.stderr.isatty():
            sys.stderr.write("\n")  # behind the ^C
        self.code = INTERRUPTED if number == signal.SIGINT else 0
        # Whatever hangs (a backend's thread, a database that is away) holds nobody up for ever:
        # what this process still holds is swept by the next one.
        _end_after(HURRY_S if again else self._grace_s + LEAVE_S, 128 + number)
        if again:
            self._hurry.set()
        self.asked.set()


def run(main: Callable[[Leaving], Awaitable[None]], *, grace_s: float) -> NoReturn:
    """Run a daemon until a signal ends it; exit code 0 for SIGTERM, 130 for Ctrl-C."""
    from imagen.config import load_settings
    from imagen.engine.wiring import make_database_apart

    make_database_apart(load_settings())

    async def entered() -> int:
        leaving = Leaving(grace_s)
        await main(leaving)
        return leaving.code

    sys.exit(asyncio.run(entered()))


def _end_after(seconds: float, code: int) -> None:
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()
