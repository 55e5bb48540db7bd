"""Waiting for the end of a job or a comparison, as long as the caller said, and telling how far it is meanwhile.

A wait that is over, cancelled or cut off ends here and nowhere else: the work goes on, and `status` finds it again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from imagen.core import events
from imagen.core.job import Job, Series

if TYPE_CHECKING:
    from imagen.surfaces.mcp.edge import Edge

LOOK_S = 0.5  # how soon the end of the process is noticed
CELL_S = 2.0  # how soon the end of another cell than the one that is watched
EVERY_S = 0.25  # between two notes on one phase: steps of some models take milliseconds
RISE = 0.001  # the protocol wants each note to be higher than the last; a new phase is no new step

Report = Callable[[float, float | None, str | None], Awaitable[None]]


class Notes:
    """Progress notes to whoever asked for them."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._value = -RISE
        self._at = float("-inf")
        self._said = ""

    async def say(self, value: float, total: float | None, message: str, *, now: bool = False) -> None:
        """One note, unless it repeats the last one or comes too soon after it."""
        clock = asyncio.get_running_loop().time()
        if message == self._said or (not now and clock - self._at < EVERY_S):
            return
        self._value = max(value, self._value + RISE)
        self._at, self._said = clock, message
        await self._report(self._value, total, message)


async def job_ended(edge: "Edge", job: Job, wait_s: float, notes: Notes) -> Job:
    """The job as it stands after its end or after the wait."""
    # Said before anything is waited for: a client that gives up on us knows the id then.
    await notes.say(0, None, f"job {job.id} is {job.state.value}", now=True)
    until = _until(edge, wait_s)
    if not job.state.terminal and wait_s > 0:
        phase = None
        async with edge.app.watching(job.id, previews=True) as watch:
            while not watch.ended and not edge.leaving() and (left := until - _now()) > 0:
                for event in await watch.next(min(left, LOOK_S)):
                    match event:
                        case events.Phase():
                            phase = event.phase
                            await notes.say(0, None, f"job {job.id}: {phase}", now=True)
                        case events.Progress(step=step, total=total):
                            await notes.say(step, total, f"job {job.id}: {phase or 'drawing'}, step {step} of {total}")
                        case _:
                            pass
    return await edge.app.job(job.id)


async def series_ended(edge: "Edge", series: Series, wait_s: float, notes: Notes) -> Series:
    """The comparison as it stands after its end or after the wait."""
    until = _until(edge, wait_s)
    await _count(series, notes)
    while series.state == "running" and not edge.leaving() and until > _now():
        unfinished = [cell.job.id for cell in series.cells if cell.job and not cell.job.state.terminal]
        # One of them: when it has ended, others may have as well, and all are looked at again.
        async with edge.app.watching(unfinished[0]) as watch:
            turn = min(until, _now() + CELL_S)
            while not watch.ended and not edge.leaving() and (left := turn - _now()) > 0:
                await watch.next(min(left, LOOK_S))
        series = await edge.app.series(series.id)
        await _count(series, notes)
    return series


async def _count(series: Series, notes: Notes) -> None:
    cells = len(series.cells)
    ended = sum(1 for cell in series.cells if cell.job and cell.job.state.terminal)
    await notes.say(ended, cells, f"comparison {series.id}: {ended} of {cells} pictures", now=True)


def _until(edge: "Edge", wait_s: float) -> float:
    # Over HTTP the owner of the server says how long a request may be held; here nobody is held up but who asks.
    return _now() + (wait_s if edge.here else min(wait_s, edge.limits.wait_s))


def _now() -> float:
    return asyncio.get_running_loop().time()
