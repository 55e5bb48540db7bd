"""What is remembered of each caller of the A1111 door: the checkpoint it chose, and which job it may ask about.

That program serves one person: there is one checkpoint, one progress, and interrupting stops whatever runs. Here a
caller is a key, or without keys an address, and never sees or stops what another one asked for. It is kept in memory:
after a restart everybody has the default checkpoint again.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imagen.core.errors import ImagenError, UnknownJob
from imagen.core.job import Job
from imagen.surfaces.http.auth import LOCAL, Caller
from imagen.surfaces.http.foreign.visits import Visits

if TYPE_CHECKING:
    from imagen.app import App

log = logging.getLogger(__name__)

MOST_CALLERS = 1000  # anybody on a network without keys can be a new address
MOST_JOBS = 100  # of one caller, which are followed by name
CLOSED_S = 0.2  # by then a client that closes its request has done so, if it ever does
POLLED_S = 10.0  # somebody who asks for progress asks again within this time


@dataclass(slots=True)
class Seat:
    """One caller."""

    checkpoint: str | None = None  # None: the default
    tasks: OrderedDict[str, str] = field(default_factory=OrderedDict)  # job ids by the name they are followed by
    open: list[str] = field(default_factory=list)  # jobs that may not have ended yet, oldest first
    interrupted: set[str] = field(default_factory=set)

    def begin(self, job_id: str, task: str | None) -> None:
        """A job of this caller was submitted."""
        if job_id not in self.open:  # the same key brings the same job again
            self.open.append(job_id)
        del self.open[:-MOST_JOBS]
        for name in {job_id, task or job_id}:
            self.tasks[name] = job_id
            self.tasks.move_to_end(name)
        while len(self.tasks) > MOST_JOBS:
            self.tasks.popitem(last=False)

    def end(self, job_id: str) -> None:
        """It ended, as far as this caller is concerned."""
        if job_id in self.open:
            self.open.remove(job_id)
        self.interrupted.discard(job_id)

    async def job(self, app: "App", task: str | None = None) -> Job | None:
        """The job to tell of: the one of this name, or else the last one that has not ended."""
        if task is not None:
            return await _known(app, self.tasks.get(task))
        return next(iter(await self._unfinished(app)), None)

    async def meant(self, app: "App", visits: Visits) -> Job | None:
        """The job that somebody means who wants it stopped.

        Clients that stop close their request as well: a job that nobody waits for is meant before an awaited one.
        """
        jobs = await self._unfinished(app)
        if len(jobs) > 1 and all(visits.awaited(job.id) for job in jobs):
            await asyncio.sleep(CLOSED_S)
        return next((job for job in jobs if not visits.awaited(job.id)), jobs[0] if jobs else None)

    async def _unfinished(self, app: "App") -> list[Job]:
        """Newest first."""
        found = []
        for job_id in reversed(self.open[:]):
            job = await _known(app, job_id)
            if job is not None and not job.state.terminal:
                found.append(job)
            else:
                self.end(job_id)
        return found


class Callers:
    """The seats of this process."""

    def __init__(self) -> None:
        self._seats: OrderedDict[tuple[str, str], Seat] = OrderedDict()

    def seat(self, caller: Caller, address: str | None) -> Seat:
        """Whoever has a key is known by it, and where there are no keys by its address."""
        who = ("address", address or "") if caller == LOCAL else ("key", caller.name)
        seat = self._seats.setdefault(who, Seat())
        self._seats.move_to_end(who)
        if len(self._seats) > MOST_CALLERS:
            idle = next((one for one, other in self._seats.items() if not other.open), next(iter(self._seats)))
            del self._seats[idle]
        return seat


class Onlookers:
    """Those who ask for previews again and again, for each of whom a job is watched between two questions.

    A backend draws previews only while somebody looks, and these clients never stay to look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def look(self, app: "App", job_id: str, stopping: asyncio.Event) -> None:
        """Somebody wants to see this job now, and likely in a moment again."""
        new = job_id not in self._until
        self._until[job_id] = self._clock() + POLLED_S
        if new:
            task = asyncio.create_task(self._watch(app, job_id, stopping), name=f"onlooker-{job_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _watch(self, app: "App", job_id: str, stopping: asyncio.Event) -> None:
        stopped = asyncio.create_task(stopping.wait())
        try:
            async with app.watching(job_id, previews=True) as watch:
                while not watch.ended and not stopped.done():
                    left = self._until[job_id] - self._clock()
                    if left <= 0:
                        break
                    news = asyncio.ensure_future(watch.next(left))
                    await asyncio.wait({news, stopped}, return_when=asyncio.FIRST_COMPLETED)
                    if not news.cancel():
                        news.result()
        except ImagenError as error:  # whoever looks again is told
            log.debug("nobody can look at %s: %s", job_id, error.message)
        finally:
            stopped.cancel()
            del self._until[job_id]


async def _known(app: "App", job_id: str | None) -> Job | None:
    try:
        return None if job_id is None else await app.job(job_id)
    except UnknownJob:
        return None
