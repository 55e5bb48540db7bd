"""Who waits for which job at a door for programs of others; one that asks again is given the job it has already.

The client libraries of OpenAI repeat a request whose connection broke, without a key by which it could be known. But
they say that they repeat (`x-stainless-retry-count`), and they send the same body. So such a repetition takes up the
newest job that the very same body brought, if nobody waits for that job and nobody was given its answer.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from imagen.config import Limits
from imagen.core.device import BY_ITSELF
from imagen.core.errors import DatabaseAway, DevicePaused, ImagenError, NobodyDraws, TooMany
from imagen.core.events import Cancelled, Event, Queued, Requeued, Started
from imagen.core.job import Job, State
from imagen.door import Watching
from imagen.surfaces.http.connection import SET

if TYPE_CHECKING:
    from imagen.app import App

LATE = timedelta(seconds=150)  # the libraries wait up to two minutes before they ask again
LOOK_S = 2.0  # how soon whoever waits hears that the device was paused
LATER_S = 120.0  # when to ask again where somebody has to do something first
REMEMBERED = 1000  # jobs whose answer was given

log = logging.getLogger(__name__)


class Visits:
    """All clients of this process that wait at this door."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._there: Counter[str] = Counter()
        self._callers: Counter[str] = Counter()
        self._answered: OrderedDict[str, float] = OrderedDict()

    def check_room(self, caller: str, limits: Limits) -> None:
        """TooMany when this caller, or all of them, have as many requests waiting as they may have streams open."""
        theirs, all_ = self._callers[caller], self._callers.total()
        for name, count, whose in (("streams_per_key", theirs, f" of {caller!r}"), ("streams", all_, "")):
            most: int | None = getattr(limits, name)
            if most is not None and count >= most:
                raise TooMany(
                    f"{count:,} requests{whose} wait for their pictures; the limit is {most:,}",
                    hint=f"wait until some are answered; {SET.format(name)}",
                )

    @contextmanager
    def arriving(self, caller: str, limits: Limits) -> Iterator[None]:
        """Room for one who has no job yet: of a thousand who come at once, not all are let in uncounted."""
        self.check_room(caller, limits)
        self._callers[caller] += 1
        try:
            yield
        finally:
            self._callers -= Counter((caller,))

    def enter(self, job_id: str, caller: str) -> None:
        """Somebody waits for this job."""
        self._there[job_id] += 1
        self._callers[caller] += 1

    def leave(self, job_id: str, caller: str, *, answered: bool) -> bool:
        """Somebody no longer does; true when that was the last one."""
        self._there -= Counter((job_id,))
        self._callers -= Counter((caller,))
        if answered:
            self._answered[job_id] = time.monotonic()
            while len(self._answered) > REMEMBERED:
                self._answered.popitem(last=False)
        return not self._there[job_id]

    def awaited(self, job_id: str) -> bool:
        """Whether somebody waits for this job."""
        return bool(self._there[job_id])

    def owed(self, job: Job) -> bool:
        """Whether somebody who lost the connection may come back for this job."""
        if self._there[job.id] or job.id in self._answered or job.state is State.CANCELLED:
            return False
        return job.finished_at is None or self._clock() - job.finished_at < LATE


async def taken_up(visits: Visits, app: "App", *, owner: str, route: str, body_hash: str) -> Job | None:
    """The job that this repetition of a request is about; None when there is none, and it has to be submitted."""
    alike = await app.submitted_alike(owner=owner, route=route, body_hash=body_hash)
    return next((job for job in alike if visits.owed(job)), None)


class Visit:
    """One client that waits for one job, until it was answered or left."""

    def __init__(
        self,
        visits: Visits,
        app: "App",
        job: Job,
        *,
        cancels: bool,
        by: str,
        route: str,
        key: str | None = None,
    ) -> None:
        self.job = job
        self._route = route
        self._key = key
        self._visits = visits
        self._app = app
        self._cancels = cancels
        self._by = by
        visits.enter(job.id, by)

    @asynccontextmanager
    async def watching(self, *, previews: bool = False) -> AsyncIterator["Vigil"]:
        """Follow the job for as long as there is something to wait for."""
        async with self._app.watching(self.job.id, previews=previews) as watch:
            yield Vigil(watch, self._turn_away)

    async def _turn_away(self) -> None:
        with suppress(DatabaseAway):  # the next look says it, if it lasts
            await self._app.devices.turn_away(self.job.id, owner=self._by, route=self._route, key=self._key)

    async def over(self, *, answered: bool, left: bool) -> None:
        """The end of it; where the client left, and it said so before, of the job as well."""
        last = self._visits.leave(self.job.id, self._by, answered=answered)
        if left and last and self._cancels:
            try:
                await self._app.cancel(self.job.id, by=self._by)
            except ImagenError as error:
                log.warning("a client left, and its job %s goes on: %s", self.job.id, error.message)


class Vigil:
    """A watch that ends with DevicePaused, and the job with it, once nothing is begun where it would be drawn.

    Whoever comes then is refused at once; so is whoever came before and waits for the same. It ends with NobodyDraws
    when nobody has come for a while who can draw it.
    """

    def __init__(self, watch: "Watching", turn_away: Callable[[], Awaitable[None]]) -> None:
        self._watch = watch
        self._turn_away = turn_away
        self._waits = True
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._ended or self._watch.ended

    async def next(self, timeout_s: float) -> Sequence[Event]:
        """What is new, in order."""
        news = await self._watch.next(min(timeout_s, LOOK_S) if self._waits else timeout_s)
        for event in news:
            if isinstance(event, Queued | Requeued | Started):
                self._waits = not isinstance(event, Started)
            if isinstance(event, Cancelled) and event.by == BY_ITSELF:
                # Another request for the same job was told why; this one is to come again as well.
                self._ended = True
                raise _turned_away()
        # Where something happens, it is not this that is waited for.
        if self._waits and not self.ended and (not news or isinstance(news[-1], Requeued)):
            try:
                await self._turn_away()
            except (DevicePaused, NobodyDraws):
                self._ended = True
                raise
        return news


def _turned_away() -> DevicePaused:
    return DevicePaused(
        "nothing is begun now where this would be drawn",
        hint="ask again later, or for another model; a job sent to POST /v1/jobs waits until then",
        retry_after_s=LATER_S,
    )
