"""The bell: wakes who waits for a topic, whether the news came from this process or from another.

A topic is a job's id, or `model:NAME` (a job waits for it), or `device:NAME` (a slot came free), or `webhooks:`.
SQLite cannot say what another process changed, only that something did: then everybody is woken. PostgreSQL says it
with NOTIFY, on two channels: what happens to jobs is heard only where somebody follows jobs. A thousand workers that
heard each step of each other would each spend a tenth of a core on it. PostgreSQL up to 18 wakes their connections all
the same, for it looks at the channel only then (docs/scale.md).
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from sqlalchemy import Connection

from imagen.store import driver

WORK = "imagen"  # what workers and couriers wait for
JOBS = "imagen_jobs"  # what followers of jobs wait for
NOTIFY = (
    "select pg_notify(channel, topic) from unnest(%(channels)s::text[], %(topics)s::text[]) as said(channel, topic)"
)
POLL_S = 0.02  # how often another process's write to SQLite is looked for while somebody waits
AGAIN_S = 0.5  # between two tries to hear PostgreSQL again
MANY = 4096  # topics remembered; beyond it everybody is woken once, which costs a look


def touch(connection: Connection, *topics: str) -> None:
    """Say what this transaction changes; the bell rings when it is committed."""
    connection.info.setdefault("touched", set()).update(topics)


def queue_of(model: str | None) -> str:
    """The topic of jobs that wait for a model."""
    return f"model:{model or ''}"


def slot_of(device: str | None) -> str:
    """The topic of slots that come free."""
    return f"device:{device or ''}"


def channel_of(topic: str) -> str:
    """Who hears of a topic; no id of a job has a colon in it."""
    return WORK if ":" in topic else JOBS


def announce(connection: Connection) -> None:
    """Tell the other processes, with the commit that follows. SQLite's find out by themselves."""
    topics = connection.info.get("touched")
    if topics and connection.dialect.name == "postgresql":
        channels = [channel_of(topic) for topic in sorted(topics)]
        # What is too long for a notification (a device named by an address) wakes everybody.
        said = [topic if len(topic) < 4000 else "" for topic in sorted(topics)]
        driver.run(connection, NOTIFY, {"channels": channels, "topics": said})


class Ear(Protocol):
    """Hears what other processes did, and rings; None means that nobody knows what."""

    async def listen(self, ring: Callable[[Iterable[str] | None], None], waiting: Callable[[], bool]) -> None: ...


class Bell:
    """Counts rings, so that nothing slips between looking and waiting."""

    def __init__(self, ear: Ear, jobs: Ear | None = None) -> None:
        """`jobs` hears what `ear` does not; it listens from when somebody first follows a job."""
        self._rings = 0
        self._all = 0  # when everybody was last woken
        self._rung: dict[str, int] = {}
        self._waiting: dict[asyncio.Future[bool], frozenset[str] | None] = {}
        self._ear = ear
        self._jobs = jobs
        self._listening: dict[Ear, asyncio.Task[None]] = {}

    def mark(self, *, jobs: bool = False) -> int:
        """Take this before looking, hand it to `wait`. Whoever waits for what happens to `jobs` says so."""
        for ear in (self._ear, self._jobs if jobs else None):
            if ear is not None and ear not in self._listening:
                listen = ear.listen(self.ring, lambda: bool(self._waiting))
                self._listening[ear] = asyncio.create_task(listen, name="imagen-bell")
        return self._rings

    def ring(self, topics: Iterable[str] | None) -> None:
        """Wake who waits for one of these; None wakes everybody."""
        self._rings += 1
        if topics is not None and len(self._rung) < MANY:
            said = frozenset(topics)
            self._rung.update(dict.fromkeys(said, self._rings))
        else:
            said = None
            self._all = self._rings
            self._rung.clear()
        for future, wanted in self._waiting.items():
            if not future.done() and (said is None or wanted is None or said & wanted):
                future.set_result(said is not None)

    async def wait(self, mark: int, timeout_s: float, topics: frozenset[str] | None = None) -> bool:
        """Return when something may have changed since `mark`, or after `timeout_s`; true when it surely did."""
        if topics is None and self._rings != mark:
            return True
        if topics is not None and any(self._rung.get(topic, 0) > mark for topic in topics):
            return True
        if self._all > mark:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[future] = topics
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the bell.
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return False
        finally:
            del self._waiting[future]

    async def close(self) -> None:
        for listening in self._listening.values():
            listening.cancel()
        await asyncio.gather(*self._listening.values(), return_exceptions=True)
        self.ring(None)


class FileEar:
    """Another process's write to SQLite shows in what `version` says; None when there was no time to look."""

    def __init__(self, version: Callable[[], int | None]) -> None:
        self._version = version

    async def listen(self, ring: Callable[[Iterable[str] | None], None], waiting: Callable[[], bool]) -> None:
        seen = self._version()
        while True:
            await asyncio.sleep(POLL_S)
            if waiting() and (now := self._version()) is not None and now != seen:
                seen = now
                ring(None)


class NotifyEar:
    """PostgreSQL says what changed, on one channel, to a connection of its own."""

    def __init__(self, channel: str, address: dict[str, Any], begin: str) -> None:
        """`begin` is said first on each connection."""
        self._channel = channel
        self._address = address
        self._begin = begin
        self.hears = False  # while it does not, this process has to ring for itself

    async def listen(self, ring: Callable[[Iterable[str] | None], None], waiting: Callable[[], bool]) -> None:
        import psycopg
        from psycopg import sql

        while True:
            with suppress(psycopg.Error, OSError):
                connection = await psycopg.AsyncConnection.connect(**self._address, autocommit=True)
                async with connection:
                    await connection.execute(self._begin.encode())
                    await connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
                    self.hears = True
                    ring(None)  # whatever happened while nobody listened
                    async for notice in connection.notifies():
                        ring([notice.payload] if notice.payload else None)
            self.hears = False
            ring(None)
            await asyncio.sleep(AGAIN_S)
