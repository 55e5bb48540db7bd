"""One database, two engines: short transactions in threads, and a bell that rings when something changed."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError

from imagen.core.errors import BadConfig, DiskFull, SetupError, Unwritable
from imagen.store import schema

P = ParamSpec("P")
T = TypeVar("T")

POLL_S = 0.02  # how often another process's write to SQLite is looked for while somebody waits
BUSY_S = 30.0  # SQLite has one writer; under a crowd the last in line waits this long at most
READERS = 4


class Database:
    """Runs functions that take a Connection: `await db.write(intake.submit, …)` is one transaction."""

    def __init__(self, url: str, *, full_sync: bool = False) -> None:
        self._file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
        if self._file is None:
            raise BadConfig(
                f"the database {url.split(':', 1)[0]!r} is not known",
                hint="use `database: sqlite`",
                param="database",
            )
        self.engine = _sqlite(self._file, full_sync)
        # SQLite lets one write at a time: one thread saves them from waiting for each other inside the library.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="imagen-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="imagen-read")
        self._bell = _Bell(self._file)

    async def open(self) -> None:
        """Create the tables in a new database; refuse one of another version."""
        await self._run(self._writer, self._prepare)

    async def upgrade(self) -> tuple[str | None, str | None]:
        """Bring the tables to this program's version, in one transaction; the versions before and after."""

        def transaction() -> tuple[str | None, str | None]:
            with self.engine.begin() as connection:
                before = schema.version(connection)
                schema.upgrade(connection)
                return before, schema.version(connection)

        return await self._run(self._writer, transaction)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in one writing transaction. Once begun it ends, even if the caller is cancelled."""

        def transaction() -> T:
            with self.engine.begin() as connection:
                return work(connection, *args, **kwargs)

        result = await asyncio.shield(self._run(self._writer, transaction))
        self._bell.ring()
        return result

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on one consistent view, without waiting for writers."""

        def transaction() -> T:
            with self.engine.connect().execution_options(reading=True) as connection:
                return work(connection, *args, **kwargs)

        return await self._run(self._readers, transaction)

    def mark(self) -> int:
        """Take this before looking, hand it to `changed`: nothing can slip between the two."""
        self._bell.listen()
        return self._bell.rings

    async def changed(self, mark: int, timeout_s: float) -> None:
        """Return when anything may have changed since `mark`, here or in another process, or after `timeout_s`."""
        await self._bell.wait(mark, timeout_s)

    async def close(self) -> None:
        """Finish what was begun and let go of the file."""
        await self._bell.close()
        for pool in (self._writer, self._readers):
            await asyncio.to_thread(pool.shutdown)
        self.engine.dispose()

    def _prepare(self) -> None:
        assert self._file is not None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.exists()  # asks for the right to look into the folder
        except OSError as exc:
            raise Unwritable(
                f"cannot make the folder of the database, {self._file.parent}: {exc.strerror}",
                hint="set IMAGEN_HOME to a folder you may write to",
            ) from exc
        schema.prepare(self.engine)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """In a thread, and again while SQLite says "locked": it does not always wait as long as it was told."""

        def patient() -> T:
            until = time.monotonic() + BUSY_S
            while True:
                try:
                    return work()
                except OperationalError as exc:
                    # The transaction is rolled back by now, and `work` only talks to the database.
                    if "locked" not in str(exc.orig) or time.monotonic() > until:
                        raise
                    time.sleep(POLL_S)

        try:
            return await asyncio.get_running_loop().run_in_executor(pool, patient)
        except DatabaseError as exc:
            raise self._explain(exc) from exc

    def _explain(self, exc: DatabaseError) -> SetupError:
        said = str(exc.orig)
        if "disk is full" in said or "disk I/O" in said:
            return DiskFull(
                f"no room for the database {self._file}: {said}",
                hint="free some space; what was recorded before this is safe",
            )
        if isinstance(exc, OperationalError) and "locked" in said:
            return SetupError(
                f"the database {self._file} was busy for {BUSY_S:.0f} s",
                hint="another program holds it; see who with `fuser`, then try again",
            )
        if "readonly" in said or "unable to open" in said:
            return Unwritable(
                f"cannot write the database {self._file}: {said}",
                hint="make the file and its folder writable, or set IMAGEN_HOME to another folder",
            )
        if "not a database" in said or "malformed" in said:
            return BadConfig(
                f"{self._file} is not a database of imagen: {said}",
                hint="move the file away, a new one is made; or set IMAGEN_HOME to another folder",
            )
        return SetupError(f"the database failed: {said}", hint="run `imagen doctor`")


def _sqlite(file: Path, full_sync: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{file}",
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
        pool_size=READERS + 1,
        execution_options={"schema_translate_map": {"imagen": None}},
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the library would begin on its own, and too late
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if full_sync else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that reads first and writes later fails under SQLite when somebody wrote in between.
        reading = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


class _Bell:
    """Wakes waiters on a write here, and on a write of another process by SQLite's data_version."""

    def __init__(self, file: Path) -> None:
        self.rings = 0
        self._file = file
        self._waiting: set[asyncio.Future[None]] = set()
        self._watch: asyncio.Task[None] | None = None

    def ring(self) -> None:
        self.rings += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def listen(self) -> None:
        if self._watch is None:
            connection = sqlite3.connect(self._file, timeout=BUSY_S)
            self._watch = asyncio.create_task(self._look(connection, _version(connection)), name="imagen-bell")

    async def wait(self, mark: int, timeout_s: float) -> None:
        if self.rings != mark:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the bell.
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(future)

    async def _look(self, connection: sqlite3.Connection, seen: int) -> None:
        try:
            while True:
                await asyncio.sleep(POLL_S)
                if not self._waiting:
                    continue
                now = _version(connection)
                if now != seen:
                    seen = now
                    self.ring()
        finally:
            connection.close()

    async def close(self) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self.ring()


def _version(connection: sqlite3.Connection) -> int:
    row = connection.execute("PRAGMA data_version").fetchone()
    return int(row[0])
