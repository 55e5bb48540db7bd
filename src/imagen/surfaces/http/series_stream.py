"""A series as one stream: the events of its jobs, and what they come to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from imagen.core.events import Event, Queued, Requeued, Started
from imagen.core.job import Series, State
from imagen.surfaces.http.streams import Frames, Opened, Previews, Source, framed
from imagen.surfaces.wire import series_event_json

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.engine.following.tide import WatchAll

LOOK_S = 5.0  # how soon a stream notices models that were added after it began
QUIET_S = 1.0  # a series that is over and says nothing for so long has said everything


def series_events(
    app: "App", frames: Frames, series_id: str, *, after: int | None, previews: Previews, owner: str | None
) -> Opened:
    """The events of its jobs as they come, and `series` whenever the counts change; ends when it is over."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Source]:
        series = await app.series(series_id, owner=owner)
        async with AsyncExitStack() as stack:
            yield _OfSeries(app, frames, series, after, previews, stack)

    return opened


class _OfSeries:
    """Which jobs a series has may change while it is told: models are added, cells are tried again."""

    def __init__(
        self,
        app: "App",
        frames: Frames,
        series: Series,
        after: int | None,
        previews: Previews,
        stack: AsyncExitStack,
    ) -> None:
        self.ended = False
        self._app = app
        self._frames = frames
        self._rejoined = after is not None
        self._cursor = self._safe = after or 0
        self._previews = previews
        self._stack = stack
        self._watch: WatchAll | None = None
        self._seqs: dict[str, int] = {}  # the last durable event told of each job
        self._told_ends: set[str] = set()
        self._said: tuple[str, dict[str, int]] | None = None
        self._stands: dict[str, tuple[State, int]] = {}  # job -> where it stands, in which attempt
        self._look_at = 0.0
        self._note(series)

    async def next(self, timeout_s: float) -> bytes:
        """Events, then what they came to."""
        was_over = self._over
        watch = await self._watched()
        news = await watch.next(QUIET_S if was_over else min(timeout_s, LOOK_S))
        told = [self._told(cursor, event) for cursor, event in news if self._is_new(event)]
        if self._over or asyncio.get_running_loop().time() > self._look_at:
            # Reading a series costs as much as it has cells, so what changes is counted from the events in between.
            jobs = set(self._stands)
            self._note(await self._app.series(self._series.id))
            if jobs == set(self._stands):
                self._safe = self._cursor
                self.ended = self._over and (jobs <= self._told_ends or (was_over and not news))
        if self._to_say(bool(told)):
            told.append(self._state())
        return b"".join(told)

    @property
    def _over(self) -> bool:
        return all(state.terminal for state, _ in self._stands.values())

    def _note(self, series: Series) -> None:
        self._series = series
        stands = {cell.job.id: (cell.job.state, cell.job.attempt) for cell in series.cells if cell.job}
        if set(stands) != set(self._stands):
            self._watch = None
        self._stands = stands
        self._look_at = asyncio.get_running_loop().time() + LOOK_S

    async def _watched(self) -> "WatchAll":
        if self._watch is None:
            # From where the old jobs were all there were; what is told twice from there on is left out.
            await self._stack.aclose()
            self._watch = await self._stack.enter_async_context(
                self._app.watching_all(jobs=sorted(self._stands), after=self._safe, previews=self._previews != "none")
            )
        return self._watch

    def _is_new(self, event: Event) -> bool:
        if not event.durable:
            return event.seq >= self._seqs.get(event.job, 0)
        new = event.seq > self._seqs.get(event.job, 0)
        self._seqs[event.job] = max(event.seq, self._seqs.get(event.job, 0))
        if event.terminal:
            self._told_ends.add(event.job)
        self._move(event)
        return new

    def _move(self, event: Event) -> None:
        state, attempt = self._stands[event.job]
        if state.terminal or event.attempt < attempt:
            return  # the record was read after this happened
        match event:
            case Queued() | Requeued():
                state = State.QUEUED
            case Started():
                state = State.RUNNING
            case _ if event.terminal:
                state = State(event.type)
            case _:
                pass
        self._stands[event.job] = (state, event.attempt)

    def _told(self, cursor: int, event: Event) -> bytes:
        self._cursor = max(self._cursor, cursor)
        return b"id: %d\n%b" % (cursor, self._frames.of(event, self._previews))

    def _to_say(self, told: bool) -> bool:
        states = [state for state, _ in self._stands.values()]
        counts = {state.value: states.count(state) for state in State if state in states}
        now = (self._series.state if self._over else "running", counts)
        if now == self._said or (self._over and not self.ended):
            return False  # that it is over is said last
        if self.ended and not told and self._said is None and self._rejoined:
            return False  # it was over before this client came back: there is nothing to say
        self._said = now
        return True

    def _state(self) -> bytes:
        assert self._said is not None
        state, counts = self._said
        return b"id: %d\n%b" % (self._cursor, framed("series", series_event_json(self._series.id, state, counts)))
