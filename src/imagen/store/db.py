"""One database, two engines: short transactions in threads, and a bell that rings when something changed."""

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError

from imagen.core.errors import BadConfig, DatabaseAway, DiskFull, SetupError, Unwritable
from imagen.store import engines, schema
from imagen.store.bell import JOBS, POLL_S, WORK, Bell, FileEar, NotifyEar, announce, channel_of
from imagen.store.engines import BUSY_S, READERS, WRITERS

P = ParamSpec("P")
T = TypeVar("T")

AWAY_S = 15.0  # a PostgreSQL that restarts is back by then


class Database:
    """Runs functions that take a Connection: `await db.write(intake.submit, …)` is one transaction."""

    def __init__(
        self, url: str, *, full_sync: bool = False, away_s: float = AWAY_S, given_in: str = "`database:` of config.yaml"
    ) -> None:
        self._given_in = given_in  # where the address is set, in words for a hint
        self._away_s = away_s  # how long a PostgreSQL that is away is asked again
        self._file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
        self._inode: int | None = None
        self._ears: dict[str, NotifyEar] = {}
        self._writer: Connection | None = None
        self._writing = threading.Lock()
        if self._file is not None:
            self.engine = engines.sqlite(self._file, full_sync)
            self._bell = Bell(FileEar(self._version))
        else:
            self.engine = engines.postgresql(url)
            address = {**self.engine.dialect.create_connect_args(self.engine.url)[1], **engines.PATIENCE}
            # Most processes of a fleet are workers, and most of these draw and need not hear of more work.
            self._ears = {
                channel: NotifyEar(channel, address, engines.ITS_PATIENCE, rests=channel == WORK)
                for channel in (WORK, JOBS)
            }
            self._bell = Bell(self._ears[WORK], self._ears[JOBS])
        # SQLite lets one write at a time: one thread saves them from waiting for each other inside the library.
        self._writers = ThreadPoolExecutor(1 if self._file else WRITERS, thread_name_prefix="imagen-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="imagen-read")

    async def open(self) -> None:
        """Create the tables in a new database; refuse one of another version."""
        await self._run(self._writers, self._prepare, opening=True)

    async def check(self) -> None:
        """Raise what keeps it from being used: away, of another version than this program, or only to be read."""
        self._see_file()
        if self._file is not None and engines.read_only(self._file):
            raise self._unwritable(self._file, "it is read-only")
        await self.read(schema.check)

    async def upgrade(self) -> tuple[str | None, str | None]:
        """Bring the tables to this program's version, in one transaction; the versions before and after."""

        def transaction() -> tuple[str | None, str | None]:
            self._make_folder()
            with self.engine.begin() as connection:
                before = schema.version(connection)
                if before is not None and before > schema.HEAD:
                    schema.check(connection)
                schema.upgrade(connection)
                return before, schema.version(connection)

        return await self._run(self._writers, transaction, opening=True)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in one writing transaction. Once begun it ends, even if the caller is cancelled."""
        touched: set[str] = set()
        again = itertools.count()

        def transaction() -> T:
            self._see_file()
            touched.clear()
            with self._for_writing() as connection:
                connection.info.update(touched=touched, announced=set(), again=next(again) > 0)
                with connection.begin() as begun:
                    result = work(connection, *args, **kwargs)
                    try:
                        announce(connection)
                        begun.commit()  # where there was nothing to announce
                    except DBAPIError as exc:
                        # Nobody can tell whether it happened: doing it again might do it twice.
                        raise _Doubtful(exc) from exc
                return result

        running = asyncio.ensure_future(self._run(self._writers, transaction))
        running.add_done_callback(lambda done: done.cancelled() or done.exception())  # also if nobody waits any more
        result = await asyncio.shield(running)
        ears = self._ears
        if unheard := {topic for topic in touched if not (ears and ears[channel_of(topic)].hears)}:
            self._bell.ring(unheard)
        return result

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on one consistent view, without waiting for writers."""

        def transaction() -> T:
            with self._reading() as connection:
                return work(connection, *args, **kwargs)

        return await self._run(self._readers, transaction)

    def mark(self, *, jobs: bool = False) -> int:
        """Take this before looking, hand it to `changed`: nothing can slip between the two.

        Whoever waits for what happens to `jobs` says so: others are not told of it at once.
        """
        return self._bell.mark(jobs=jobs)

    async def changed(
        self, mark: int, timeout_s: float, topics: frozenset[str] | None = None, *, listen: bool = True
    ) -> bool:
        """Return when one of these topics (None: anything) may have changed since `mark`, or after `timeout_s`.

        True when it surely did, here or in another process. Without `listen` it is content with what others here
        listen to, and with what this process does.
        """
        return await self._bell.wait(mark, timeout_s, topics, listen=listen)

    def rest(self) -> None:
        """Say that nothing of the queues is of use here, until somebody waits who wants to `listen`."""
        self._bell.rest()

    @property
    def notifies(self) -> bool:
        """Does it cost all who listen when one is told? Then only what somebody waits for is worth telling."""
        return self._file is None

    def ring(self, *topics: str) -> None:
        """Wake who waits here for one of these."""
        self._bell.ring(topics)

    async def close(self) -> None:
        """Finish what was begun and let go of the database."""
        await self._bell.close()
        for pool in (self._writers, self._readers):
            await asyncio.to_thread(pool.shutdown)
        if self._writer is not None:
            self._writer.close()
        self.engine.dispose()

    @contextmanager
    def _for_writing(self) -> Iterator[Connection]:
        """On SQLite always the same connection: only that one can tell what others wrote from what we wrote."""
        if self._file is None:
            with self.engine.connect() as connection:
                yield connection
            return
        with self._writing:
            yield self._same()

    def _same(self) -> Connection:
        if self._writer is None or self._writer.closed or self._writer.invalidated:
            self._writer = self.engine.connect()
        return self._writer

    def _version(self) -> int | None:
        """Another number whenever another process wrote; None while we write ourselves, and nobody else can."""
        if not self._writing.acquire(blocking=False):
            return None
        try:
            raw: Any = self._same().connection.driver_connection
            ((version,),) = raw.execute("PRAGMA data_version").fetchall()
            return int(version)
        except (sqlite3.Error, DBAPIError):  # whoever reads or writes next says it, and says it better
            return None
        finally:
            self._writing.release()

    def _reading(self) -> Connection:
        connection = self.engine.connect().execution_options(reading=True)
        if self._file is None:
            return connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        return connection

    def _make_folder(self) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.exists()  # asks for the right to look into the folder
        except OSError as exc:
            raise Unwritable(
                f"cannot make the folder of the database, {self._file.parent}: {exc.strerror}",
                hint="set IMAGEN_HOME to a folder you may write to",
            ) from exc

    def _prepare(self) -> None:
        self._make_folder()
        schema.prepare(self.engine)
        if self._file is not None:
            self._inode = self._file.stat().st_ino

    def _see_file(self) -> None:
        """A file that was moved away goes on taking what is written, and nobody would ever find it again."""
        if self._file is None or self._inode is None:
            return
        try:
            there = self._file.stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise SetupError(
                f"the database {self._file} was moved or deleted while it was in use",
                hint="put it back, with the -wal file beside it, or start again to make a new one",
            )

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T], *, opening: bool = False) -> T:
        """In a thread, and again while the database is busy or away: the transaction was rolled back by then.

        Work that commits by itself (`driver.at_once`) may be done: it is told that it is asked again (`info["again"]`).
        """

        def patient() -> T:
            until = time.monotonic() + (BUSY_S if self._file else self._away_s)
            while True:
                try:
                    return work()
                except DBAPIError as exc:
                    if not self._passes(exc, opening) or time.monotonic() > until:
                        raise
                    time.sleep(POLL_S if self._file else 10 * POLL_S)

        try:
            return await asyncio.get_running_loop().run_in_executor(pool, patient)
        except _Doubtful as doubt:
            raise self._explain(doubt.reason) from doubt
        except (DatabaseError, InterfaceError) as exc:
            raise self._explain(exc) from exc

    def _passes(self, exc: DBAPIError, opening: bool) -> bool:
        """Is it worth trying again? SQLite does not always wait as long as it was told when it is locked."""
        if self._file is not None:
            return isinstance(exc, OperationalError) and "locked" in str(exc.orig)
        if opening:  # an address that was never right does not get right by waiting
            return "starting up" in str(exc.orig)
        # Whatever it says of a connection that is gone, what was begun on it is undone: that of one who slept too long.
        return exc.connection_invalidated or (isinstance(exc, OperationalError | InterfaceError) and _away(exc))

    def _explain(self, exc: DBAPIError) -> SetupError:
        said = str(exc.orig).strip()
        if "disk is full" in said or "disk I/O" in said or "No space left" in said:
            return DiskFull(
                f"no room for the database {self._name}: {said}",
                hint="free some space; what was recorded before this is safe",
            )
        if self._file is None:
            if exc.connection_invalidated or isinstance(exc, OperationalError | InterfaceError):
                # Not in the server's own words: they name user, host and database, and errors travel far.
                what, hint = next((told for words, *told in REASONS if words in said), AWAY)
                hint = hint.format(given_in=self._given_in)
                return DatabaseAway(f"the database {what}", hint=hint, retry_after_s=5.0)
            if "permission denied" in said:
                user = f"the user of {self._given_in}"
                hint = f"give {user} the right to CREATE in it, or make it the owner of the schema imagen"
                return SetupError(f"the database refuses: {said.splitlines()[0]}", hint=hint)
            return SetupError(f"the database failed: {said}", hint=FAILED)
        if isinstance(exc, OperationalError) and "locked" in said:
            return SetupError(
                f"the database {self._file} was busy for {BUSY_S:.0f} s",
                hint="another program holds it; see who with `fuser`, then try again",
            )
        if "readonly" in said or "unable to open" in said:
            return self._unwritable(self._file, said)
        if "not a database" in said or "malformed" in said:
            return BadConfig(
                f"{self._file} is not a database of imagen: {said}",
                hint="move the file away, a new one is made; or set IMAGEN_HOME to another folder",
            )
        return SetupError(f"the database failed: {said}", hint=FAILED)

    def _unwritable(self, file: Path, why: str) -> Unwritable:
        what = " and ".join(engines.read_only(file)) or f"{file} and its folder"
        hint = f"make {what} writable, or set IMAGEN_HOME to another folder"
        return Unwritable(f"cannot write the database {file}: {why}", hint=hint)

    @property
    def _name(self) -> str:
        return str(self._file) if self._file else self.engine.url.render_as_string(hide_password=True)


FAILED = "what was recorded before is safe; see that its machine has room and that its log is quiet, then try again"
WHERE = "see whether PostgreSQL runs, and whether {given_in} has its address: `imagen config show`"
AWAY = ["does not answer", WHERE]
REASONS = (
    ("password authentication failed", "does not take the password", "correct it in {given_in}"),
    (
        "resolve host",
        "is not found",
        "correct the host in {given_in}; signs such as @ : / # of a password are %40 %3A %2F",
    ),
    ("does not exist", "is not there", "make it with `createdb`, or correct its name in {given_in}"),
    ("timeout", "does not answer in time", WHERE),
    ("Connection refused", "is not running where it should be", WHERE),
)


class _Doubtful(Exception):
    """The connection broke during the commit."""

    def __init__(self, reason: DBAPIError) -> None:
        super().__init__()
        self.reason = reason


def _away(exc: DBAPIError) -> bool:
    """Would the same go well in a moment?

    PostgreSQL could be starting, stopping or unreachable: SQLSTATE class 08, 57P0x, or none at all. Or it took this
    transaction back for the sake of another one: 40001 could not be put in an order with it, 40P01 was a deadlock.
    """
    state = getattr(exc.orig, "sqlstate", None)
    return state is None or state.startswith(("08", "57P", "40001", "40P01"))
