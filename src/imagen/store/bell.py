"""The bell: wakes who waits for a topic, whether the news came from this process or from another.

A topic is a job's id, or `model:NAME` (a job waits for it), or `device:NAME` (a slot came free), or `webhooks:`.
SQLite cannot say what another process changed, only that something did: then everybody is woken. PostgreSQL says it
with NOTIFY, on two channels: what happens to jobs is heard only where somebody follows jobs. A thousand workers that
heard each step of each other would each spend a tenth of a core on it. PostgreSQL up to 18 wakes their connections all
the same, for it looks at the channel only then (docs/scale.md): so a process listens only while somebody in it wants
to hear.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import ColumnElement, Connection, false, func, literal_column

from imagen.store.postgresql import driver

if TYPE_CHECKING:
    from psycopg import AsyncConnection

WORK = "imagen"  # what workers and couriers wait for
JOBS = "imagen_jobs"  # what followers of jobs wait for
# Behind a commit and not before it: what has to notify as it commits waits for the disk alone, however many wait.
NOTIFY = (
    "select pg_notify(channel, topic) from unnest(%(channels)s::text[], %(topics)s::text[]) as said(channel, topic)"
)
NOTIFY_FOUND = f"select pg_notify('{JOBS}', job) from current_setting('imagen.found', true) as job where job <> ''"
POLL_S = 0.02  # how often another process's write to SQLite is looked for while somebody waits
AGAIN_S = 0.5  # between two tries to hear PostgreSQL again
# A process that rests for so long listens no more. To listen again, with the look that belongs to it, costs PostgreSQL
# as much as a tenth of a second of listening beside a thousand cards, or a second beside a hundred.
REST_S = 0.25
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


def found(job: ColumnElement[str]) -> ColumnElement[Any]:
    """For a statement that finds by itself which job it is about: what is said behind it reads it there."""
    return func.set_config(literal_column("'imagen.found'"), func.coalesce(job, literal_column("''")), false())


def announced(connection: Connection, *topics: str) -> None:
    """The other processes know; this one is told as of all others."""
    touch(connection, *topics)
    connection.info.setdefault("announced", set()).update(topics)


def behind(topics: Iterable[str]) -> tuple[str, dict[str, list[str]]]:
    """What is said behind a commit for the other processes to know, and what it has to be given."""
    named = sorted(topics)
    # What is too long for a notification (a device named by an address) wakes everybody.
    said = [topic if len(topic.encode()) < 8000 else "" for topic in named]
    return NOTIFY, {"channels": [channel_of(topic) for topic in named], "topics": said}


def announce(connection: Connection) -> None:
    """Commit, and tell the other processes in the same way to PostgreSQL. SQLite's find out by themselves."""
    topics = connection.info.get("touched", set()) - connection.info.get("announced", set())
    if topics and connection.dialect.name == "postgresql":
        words, given = behind(topics)
        driver.commit(connection, behind=words, given=given)


class Ear(Protocol):
    """Hears what other processes did, and rings; None means that nobody knows what."""

    async def listen(self, bell: "Bell") -> None:
        """Ring it until cancelled."""

    def attend(self) -> None:
        """Somebody wants to hear, now."""


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
        self._listeners = 0  # of those that wait
        self._resting_since: float | None = None

    def mark(self, *, jobs: bool = False) -> int:
        """Take this before looking, hand it to `wait`. Whoever waits for what happens to `jobs` says so."""
        for ear in (self._ear, self._jobs if jobs else None):
            if ear is not None and ear not in self._listening:
                self._listening[ear] = asyncio.create_task(ear.listen(self), name="imagen-bell")
        return self._rings

    def rest(self) -> None:
        """Who was told until now need not be told, until somebody waits here who wants to listen."""
        if self._resting_since is None:
            self._resting_since = time.monotonic()

    def rested_s(self) -> float:
        """For how long nobody has wanted to hear; 0 while somebody does, or may want to at any moment."""
        if self._resting_since is None or self._listeners:
            return 0.0
        return time.monotonic() - self._resting_since

    @property
    def waited(self) -> bool:
        """Does anybody wait at all?"""
        return bool(self._waiting)

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

    async def wait(
        self, mark: int, timeout_s: float, topics: frozenset[str] | None = None, *, listen: bool = True
    ) -> bool:
        """Return when something may have changed since `mark`, or after `timeout_s`; true when it surely did.

        Without `listen` it is heard what others here listen to, and what they do.
        """
        if topics is None and self._rings != mark:
            return True
        if topics is not None and any(self._rung.get(topic, 0) > mark for topic in topics):
            return True
        if self._all > mark:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[future] = topics
        self._listeners += listen
        if listen:
            self._resting_since = None
            for ear in self._listening:
                ear.attend()
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the bell.
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return False
        finally:
            del self._waiting[future]
            self._listeners -= listen

    async def close(self) -> None:
        for listening in self._listening.values():
            listening.cancel()
        await asyncio.gather(*self._listening.values(), return_exceptions=True)
        self.ring(None)


class FileEar:
    """Another process's write to SQLite shows in what `version` says; None when there was no time to look."""

    def __init__(self, version: Callable[[], int | None]) -> None:
        self._version = version

    async def listen(self, bell: Bell) -> None:
        seen = self._version()
        while True:
            await asyncio.sleep(POLL_S)
            if bell.waited and (now := self._version()) is not None and now != seen:
                seen = now
                bell.ring(None)

    def attend(self) -> None:
        """It looks soon enough."""


class NotifyEar:
    """PostgreSQL says what changed, on one channel, to a connection of its own."""

    def __init__(self, channel: str, address: dict[str, Any], begin: str, *, rests: bool = False) -> None:
        """`begin` is said first on each connection. One that `rests` does so when its bell does."""
        self._channel = channel
        self._address = address
        self._begin = begin
        self._rests = rests
        self._stirred = asyncio.Event()
        self.hears = False  # while it does not, this process has to ring for itself

    async def listen(self, bell: Bell) -> None:
        import psycopg

        while True:
            with suppress(psycopg.Error, OSError):
                connection = await psycopg.AsyncConnection.connect(**self._address, autocommit=True)
                async with connection:
                    connection.add_notify_handler(lambda notice: bell.ring(_topics([notice.payload])))
                    await connection.execute(self._begin.encode())
                    while True:
                        self._stirred.clear()
                        await self._turn(connection, bell)
                        _tell(connection, bell)
                        await self._stir(connection, REST_S - bell.rested_s())
            self.hears = False
            bell.ring(None)
            await asyncio.sleep(AGAIN_S)

    def attend(self) -> None:
        """Somebody wants to hear, now."""
        if not self.hears:
            self._stirred.set()

    async def _turn(self, connection: "AsyncConnection[Any]", bell: Bell) -> None:
        """Begin to listen, or leave it, as it is wanted."""
        from psycopg import sql

        wanted = not self._rests or bell.rested_s() < REST_S
        channel = sql.Identifier(self._channel)
        if wanted and not self.hears:
            await connection.execute(sql.SQL("listen {}").format(channel))
            self.hears = True
            bell.ring(None)  # whatever happened while nobody listened
        elif self.hears and not wanted:
            self.hears = False  # first: what this process writes from here on it rings for itself
            await connection.execute(sql.SQL("unlisten {}").format(channel))

    async def _stir(self, connection: "AsyncConnection[Any]", rest_s: float) -> None:
        """Until something comes, or somebody wants to hear, or it may be time to rest."""
        # Not `connection.notifies()`: while that waits, nothing else can be said on its connection.
        loop, socket = asyncio.get_running_loop(), connection.fileno()
        loop.add_reader(socket, self._stirred.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s if self._rests and self.hears else None):
                    await self._stirred.wait()
        finally:
            loop.remove_reader(socket)


def _tell(connection: "AsyncConnection[Any]", bell: Bell) -> None:
    """Ring for what has come; raise when the connection is gone."""
    connection.pgconn.consume_input()
    said = []
    while notice := connection.pgconn.notifies():
        said.append(notice.extra.decode())
    if said:
        bell.ring(_topics(said))


def _topics(said: list[str]) -> list[str] | None:
    return None if "" in said else said
