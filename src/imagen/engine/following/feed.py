"""Who follows: one reader of a job for all its watchers here, each of whom is only a place in what was read.

A watcher that is slow holds nothing up and fills nothing: when it comes back it is given what is newest, every
durable event and the end.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from imagen.core.errors import ImagenError
from imagen.core.events import Ephemeral, Event, Phase, Preview, Progress, Started
from imagen.core.ids import new_id
from imagen.store import journal
from imagen.store.db import Database

LOOK_S = 2.0  # a follower looks at least this often, whatever the bell does


class Feeds:
    """The jobs that somebody here follows."""

    def __init__(self, db: Database, fault: Callable[[], BaseException | None]) -> None:
        self._db = db
        self._fault = fault
        self._feeds: dict[str, _Feed] = {}

    @asynccontextmanager
    async def watching(self, job_id: str, *, after: int, previews: bool) -> AsyncIterator["Watch"]:
        """Follow one job from its durable event `after` on."""
        feed = self._feeds.get(job_id)
        if feed is None or feed.broken is not None:
            feed = self._feeds[job_id] = _Feed(self._db, job_id, self._fault)
        watch = Watch(feed, after, previews)
        feed.enter(watch)
        try:
            yield watch
        finally:
            feed.exit(watch)
            if not feed.watches:
                if self._feeds.get(job_id) is feed:
                    del self._feeds[job_id]
                await feed.close()

    async def close(self) -> None:
        """Stop reading; whoever still follows gets nothing more."""
        for feed in tuple(self._feeds.values()):
            await feed.close()


class Watch:
    """One follower of one job. Ask `next` again only when the last answer was passed on."""

    def __init__(self, feed: "_Feed", after: int, previews: bool) -> None:
        self.ended = False
        self.previews = previews
        self._feed = feed
        self._seq = after
        self._tick = 0
        self._preview_tick = 0

    async def next(self, timeout_s: float) -> Sequence[Event]:
        """What is new, in order; nothing when nothing came in time, or when it has ended."""
        if self.ended:
            return ()
        until = time.monotonic() + timeout_s
        while True:
            if told := self._take():
                return told
            left = until - time.monotonic()
            if left <= 0 or self._feed.ended:
                return ()
            await self._feed.wait(left)

    def _take(self) -> Sequence[Event]:
        feed = self._feed
        if feed.broken is not None:
            raise feed.broken
        if not feed.loaded:
            return ()
        if self._seq > feed.seq:
            self._seq = 0  # a number that was never given out: better twice than never
        told = feed.batch(self._seq, self._tick, self._preview_tick if self.previews else None)
        self._seq = feed.seq
        self._tick = max(self._tick, feed.tick)
        if self.previews:
            self._preview_tick = max(self._preview_tick, feed.preview_tick)
        self.ended = feed.ended
        return told


class _Feed:
    def __init__(self, db: Database, job_id: str, fault: Callable[[], BaseException | None]) -> None:
        self.durable: list[Event] = []  # in order; the number of one that a later version told is missing
        self.seq = 0  # up to which all was read
        self.loaded = False
        self.tick = 0
        self.preview_tick = 0
        self.ended = False
        self.broken: BaseException | None = None
        self.watches: set[Watch] = set()
        self._db = db
        self._job = job_id
        self._fault = fault
        self._live: dict[str, Phase | Progress] = {}
        self._previews: list[Preview] = []
        self._watcher = new_id()
        self._said = False
        self._renew_at = 0.0
        self._follow_at = 0.0
        self._release_at = 0.0
        self._look = asyncio.Event()
        self._waiting: dict[asyncio.Future[None], float] = {}  # until when each wants to wait
        self._batches: dict[tuple[int, int, int | None], tuple[Event, ...]] = {}
        self._task = asyncio.create_task(self._read(), name=f"feed-{job_id}")

    def enter(self, watch: Watch) -> None:
        self.watches.add(watch)
        if watch.previews:
            self._look.set()

    def exit(self, watch: Watch) -> None:
        self.watches.discard(watch)

    def batch(self, seq: int, tick: int, preview_tick: int | None) -> tuple[Event, ...]:
        """What is newer than these (None: no previews), in order; the very same answer for all who stand there."""
        place = (seq, tick, preview_tick)
        if place not in self._batches:
            self._batches[place] = self._newer(*place)
        return self._batches[place]

    async def wait(self, timeout_s: float) -> None:
        """Until there is news, or about so long."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[future] = time.monotonic() + timeout_s
        # The reader looks every LOOK_S who has waited long enough: a timer for each would cost more than its news.
        timer = loop.call_later(timeout_s, _let_go, future) if timeout_s < 2 * LOOK_S else None
        try:
            await future
        finally:
            self._waiting.pop(future, None)
            if timer is not None:
                timer.cancel()

    def _newer(self, seq: int, tick: int, preview_tick: int | None) -> tuple[Event, ...]:
        told = [event for event in self.durable if event.seq > seq]
        if self.ended and not told:
            return ()  # the end was told before; whatever was live before it is old
        end = told[-1] if told and told[-1].terminal else None
        lively: list[Event] = [event for event in self._live.values() if event.tick > tick]
        if preview_tick is not None:
            lively += [preview for preview in self._previews if preview.tick > preview_tick]
        # Whatever was live when the end was written belongs before the end, and each after its durable event.
        return tuple(sorted((*told, *(event for event in lively if end is None or event.seq < end.seq)), key=_order))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        # Nobody reads any more: whoever still waits would wait for ever.
        self.loaded = self.ended = True
        self._wake()
        said, self._said = self._said, False  # once: the last watcher closes again as it leaves
        if said:
            with suppress(ImagenError):
                await self._db.write(journal.unwatch, self._watcher, f"{self._watcher}-steps")

    async def _read(self) -> None:
        try:
            while not self.ended:
                mark = self._db.mark(jobs=True)
                self._look.clear()
                wanted = any(watch.previews for watch in self.watches)
                if wanted and time.monotonic() >= self._renew_at:
                    # Rows with an expiry: whoever dies is drawn previews for only a little longer.
                    self._renew_at = time.monotonic() + journal.WATCH_S / 2
                    self._said = True
                    await self._db.write(journal.watch, self._watcher, self._job, datetime.now(UTC))
                shown = self.preview_tick if wanted else None
                news = await self._db.read(journal.news, self._job, self.seq, self.tick, preview_tick=shown)
                self._note(news)
                self._release()
                if not self.ended:
                    if (fault := self._fault()) is not None:
                        raise fault
                    if not wanted and self._db.notifies and time.monotonic() >= self._follow_at:
                        # Whose steps nobody waits for are not told. What was written before this is told then.
                        self._follow_at = time.monotonic() + journal.FOLLOW_S / 2
                        self._said = True
                        looks = {f"{self._watcher}-steps": journal.steps_of(self._job)}
                        await self._db.write(journal.follow, looks, datetime.now(UTC))
                    await self._pause(mark)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            self.broken = exc
            self._wake()

    async def _pause(self, mark: int) -> None:
        rung = asyncio.ensure_future(self._db.changed(mark, LOOK_S, frozenset((self._job,))))
        looked = asyncio.ensure_future(self._look.wait())
        try:
            await asyncio.wait((rung, looked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            rung.cancel()
            looked.cancel()

    def _note(self, news: journal.News) -> None:
        for event in news.events:
            match event:
                case Preview():
                    if not news.promised:
                        self._previews.clear()
                    self._previews.append(event)
                    self.preview_tick = event.tick
                case Phase() | Progress():
                    self._live[event.type] = event
                    self.tick = max(self.tick, event.tick)
                case _:
                    self.durable.append(event)
                    if isinstance(event, Started):
                        self._live.clear()  # a new attempt starts with a clean screen
                        self._previews.clear()
        self.seq = news.seq
        self._batches.clear()
        first, self.loaded = not self.loaded, True
        # A row that somebody inserted as ended has no events at all.
        self.ended = self.durable[-1].terminal if self.durable else news.ended
        if news.events or first:
            self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            _let_go(future)
        self._waiting = {}

    def _release(self) -> None:
        now = time.monotonic()
        if now >= self._release_at:
            self._release_at = now + LOOK_S / 2
            for future, until in self._waiting.items():
                if until <= now:
                    _let_go(future)


def _let_go(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _order(event: Event) -> tuple[int, int]:
    return (event.seq, event.tick if isinstance(event, Ephemeral) else 0)
