"""Who follows everything: one reader of all jobs for those who want the events of many jobs on one stream."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from imagen.core.errors import ImagenError
from imagen.core.events import Ephemeral, Event, Phase, Preview, Progress, Requeued, Started
from imagen.core.ids import new_id
from imagen.store import journal
from imagen.store.db import Database

LOOK_S = 2.0  # as in feed.py
BREATH_S = 0.02  # between two reads, however loudly a fleet rings
WINDOW = 5000  # events kept for all; whoever is further behind reads for himself
PAGE = 500
HOLE_S = 5.0  # a position missing this long belongs to a transaction that was rolled back


@dataclass(frozen=True, slots=True)
class _Placed:
    cursor: int  # everything up to here was told: where a follower may join again
    pos: int
    owner: str
    event: Event


@dataclass(slots=True)
class _Lively:
    owner: str
    now: dict[str, Phase | Progress] = field(default_factory=dict)
    preview: Preview | None = None


class Tides:
    """Opens and closes the one reader with its first and last follower."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._tide: _Tide | None = None

    @asynccontextmanager
    async def watching(
        self, *, owner: str | None, jobs: Sequence[str] | None, after: int | None, previews: bool
    ) -> AsyncIterator["WatchAll"]:
        """Follow every job of an owner (None: of everybody), or only `jobs`, from position `after` on.

        `after=None` is from now on.
        """
        if self._tide is None or self._tide.broken is not None:
            self._tide = _Tide(self._db)
        tide = self._tide
        watch = WatchAll(self._db, tide, owner, frozenset(jobs) if jobs is not None else None, after, previews)
        tide.enter(watch)
        try:
            yield watch
        finally:
            tide.watches.discard(watch)
            if not tide.watches:
                if self._tide is tide:
                    self._tide = None
                await tide.close()

    async def close(self) -> None:
        """Stop reading."""
        if self._tide is not None:
            await self._tide.close()


class WatchAll:
    """One follower of many jobs. Ask `next` again only when the last answer was passed on."""

    def __init__(
        self,
        db: Database,
        tide: "_Tide",
        owner: str | None,
        jobs: frozenset[str] | None,
        after: int | None,
        previews: bool,
    ) -> None:
        self.previews = previews
        self._db = db
        self._tide = tide
        self._owner = owner
        self._jobs = jobs
        self._behind = after  # the position to catch up from; None when we are up to date
        self._place = -1  # in the tide's count; -1 until we joined
        self._cursor = after or 0
        self._again: set[int] = set()  # positions we read for ourselves and will meet again in the window
        self._ticks: dict[str, tuple[int, int]] = {}  # job -> newest tick and preview tick we told

    @property
    def steps(self) -> frozenset[str]:
        """Of whose steps it wants to be told."""
        if self._jobs is None:
            return frozenset((journal.steps_of_all(self._owner),))
        return frozenset(journal.steps_of(job) for job in self._jobs)

    def wants(self, owner: str, job: str) -> bool:
        """Is this job one of those followed?"""
        return (self._owner is None or owner == self._owner) and (self._jobs is None or job in self._jobs)

    async def joined(self) -> int:
        """The cursor from which this follower begins: what it has when nothing happened yet."""
        while not self._tide.loaded and not self._tide.closed and self._tide.broken is None:
            await self._tide.beat.wait()
        self._join()
        return self._cursor

    async def next(self, timeout_s: float) -> Sequence[tuple[int, Event]]:
        """What is new, with the cursor to join again after it; nothing when nothing came in time."""
        until = time.monotonic() + timeout_s
        while True:
            beat = self._tide.beat
            if self._tide.broken is not None:
                raise self._tide.broken
            if self._tide.loaded:
                self._join()
                if told := await self._catch_up() if self._behind is not None else self._take():
                    return told
                if self._behind is not None:
                    continue
            left = until - time.monotonic()
            if left <= 0:
                return ()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await beat.wait()

    def _join(self) -> None:
        if self._place < 0:
            self._place = self._tide.count
            self._cursor = self._cursor if self._behind is not None else self._tide.safe

    async def _catch_up(self) -> list[tuple[int, Event]]:
        assert self._behind is not None
        rows = await self._db.read(journal.since, self._behind, owner=self._owner, only=self._jobs, limit=PAGE)
        self._again.update(pos for pos, _, _ in rows if pos > self._tide.safe)
        if len(rows) < PAGE:
            self._behind = None
        if rows:
            self._cursor = max(self._cursor, rows[-1][0])
            if self._behind is not None:
                self._behind = rows[-1][0]
        return [(pos, event) for pos, _, event in rows if event is not None]

    def _take(self) -> list[tuple[int, Event]]:
        tide = self._tide
        if self._place < tide.count - len(tide.window):
            self._behind, self._place = self._cursor, tide.count  # too far behind: read again from where we were
            return []
        new = [tide.window[number] for number in range(len(tide.window) - (tide.count - self._place), len(tide.window))]
        self._place = tide.count
        waiting = self._lively()
        told: list[tuple[int, Event]] = []
        for item in new:
            if not self.wants(item.owner, item.event.job) or item.pos in self._again:
                continue
            # What was live before this event belongs before it.
            early = [event for event in waiting if event.job == item.event.job and event.seq < item.event.seq]
            waiting = [event for event in waiting if event not in early]
            told += [(self._cursor, event) for event in early if not item.event.terminal]
            self._cursor = max(self._cursor, item.cursor)
            told.append((self._cursor, item.event))
            if item.event.terminal:
                self._ticks.pop(item.event.job, None)
        if self._again and min(self._again) <= tide.safe:
            self._again = {pos for pos in self._again if pos > tide.safe}
        return told + [(self._cursor, event) for event in waiting]

    def _lively(self) -> list[Ephemeral]:
        told: list[Ephemeral] = []
        for job, lively in self._tide.live.items():
            if not self.wants(lively.owner, job):
                continue
            tick, shown = self._ticks.get(job, (0, 0))
            told += [event for event in lively.now.values() if event.tick > tick]
            if self.previews and lively.preview is not None and lively.preview.tick > shown:
                told.append(lively.preview)
                shown = lively.preview.tick
            self._ticks[job] = (max([tick, *(event.tick for event in lively.now.values())]), shown)
        return sorted(told, key=lambda event: event.tick)


class _Tide:
    def __init__(self, db: Database) -> None:
        self.window: deque[_Placed] = deque(maxlen=WINDOW)
        self.count = 0  # how many were ever put into the window
        self.safe = 0  # every position up to here is known
        self.live: dict[str, _Lively] = {}
        self.loaded = False
        self.closed = False
        self.broken: BaseException | None = None
        self.beat = asyncio.Event()
        self.watches: set[WatchAll] = set()
        self._db = db
        self._ahead: set[int] = set()  # known positions behind a hole
        self._hole_since = 0.0
        self._watcher = new_id()
        self._watched: set[str] = set()
        self._renew_at = 0.0
        self._followed: frozenset[str] = frozenset()
        self._follow_at = 0.0
        self._look = asyncio.Event()
        self._task = asyncio.create_task(self._read(), name="tide")

    def enter(self, watch: WatchAll) -> None:
        self.watches.add(watch)
        self._look.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.closed = True
        self._wake()
        said = self._watched | self._followed
        self._watched, self._followed = set(), frozenset()  # once: the last follower closes again as it leaves
        if looks := self._looks(said):
            with suppress(ImagenError):
                await self._db.write(journal.unwatch, *looks)

    async def _read(self) -> None:
        try:
            self.safe = await self._db.read(journal.position)
            while True:
                mark = self._db.mark(jobs=True)
                self._look.clear()
                await self._follow()
                rows = await self._db.read(journal.since, self.safe, limit=PAGE)
                news = self._note(rows)
                ticks = {
                    job: max((event.tick for event in one.now.values()), default=0) for job, one in self.live.items()
                }
                for owner, lively in await self._db.read(journal.lively, ticks):
                    self.live.setdefault(lively.job, _Lively(owner)).now[lively.type] = lively
                    news = True
                news = await self._previews() or news
                if news or not self.loaded:
                    self.loaded = True
                    self._wake()
                if len(rows) < PAGE:
                    await asyncio.sleep(BREATH_S)
                    await self._pause(mark)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            self.broken = exc
            self.beat.set()

    def _wake(self) -> None:
        self.beat.set()
        self.beat = asyncio.Event()

    async def _pause(self, mark: int) -> None:
        rung = asyncio.ensure_future(self._db.changed(mark, LOOK_S))
        looked = asyncio.ensure_future(self._look.wait())
        try:
            await asyncio.wait((rung, looked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            rung.cancel()
            looked.cancel()

    def _looks(self, whom: Iterable[str]) -> dict[str, str]:
        return {f"{self._watcher}-{one}": one for one in whom}

    async def _follow(self) -> None:
        """Say whose steps are waited for here: what nobody waits for is not told."""
        if not self._db.notifies:
            return
        wanted = frozenset(one for watch in self.watches for one in watch.steps)
        if left := self._followed - wanted:
            await self._db.write(journal.unwatch, *self._looks(left))
        new, self._followed = wanted - self._followed, wanted
        if wanted and (new or time.monotonic() >= self._follow_at):
            self._follow_at = time.monotonic() + journal.FOLLOW_S / 2
            await self._db.write(journal.follow, self._looks(wanted), datetime.now(UTC))

    def _note(self, rows: Sequence[tuple[int, str, Event | None]]) -> bool:
        fresh = [row for row in rows if row[0] not in self._ahead]
        positions = sorted({*self._ahead, *(pos for pos, _, _ in fresh)})
        for pos in positions:
            if pos > self.safe + 1:
                # PostgreSQL gave the numbers between to transactions that are still open, or were rolled back.
                now = time.monotonic()
                self._hole_since = self._hole_since or now
                if now - self._hole_since < HOLE_S:
                    break
            self._hole_since = 0.0
            self.safe = pos
        self._ahead = {pos for pos in positions if pos > self.safe}
        for pos, owner, event in fresh:
            if event is None:
                continue
            self.window.append(_Placed(min(pos, self.safe), pos, owner, event))
            self.count += 1
            if event.terminal or isinstance(event, Started | Requeued):
                self.live.pop(event.job, None)
        return bool(fresh)

    async def _previews(self) -> bool:
        """Fetch the newest previews of the jobs somebody wants to see, and say that they are looked at."""
        wanted = {
            job
            for job, lively in self.live.items()
            if any(watch.previews and watch.wants(lively.owner, job) for watch in self.watches)
        }
        if not wanted:
            return False
        if time.monotonic() >= self._renew_at or not wanted <= self._watched:
            self._renew_at = time.monotonic() + journal.WATCH_S / 2
            await self._db.write(journal.watch_each, self._looks(wanted), datetime.now(UTC))
            self._watched = wanted
        known = {job: self.live[job].preview for job in wanted}
        ticks = {job: preview.tick if preview else 0 for job, preview in known.items()}
        shown = await self._db.read(journal.shown, ticks)
        for preview in shown:
            self.live[preview.job].preview = preview
        return bool(shown)
