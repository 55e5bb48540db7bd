"""A finished picture on its way into the image store: patience with a place that is away, and nothing half done."""

import asyncio
import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imagen.core.errors import DatabaseAway, DiskFull, ImagenError, StorageAway, Unwritable
from imagen.engine.drawing import keeping
from imagen.engine.drawing.keeping import keep, stored
from imagen.engine.pictures import album
from imagen.store.images import ImageStore
from imagen.store.queue import LeaseLost

FILES = {"a.png": b"picture", "a.json": b"sidecar"}
FULL = DiskFull("cannot store the picture a.png: the disk is full", hint="free some space")
AWAY = StorageAway("cannot store the picture a.png: the bucket does not answer", hint="see whether it runs")


class Shelf(ImageStore):
    """An image store in memory, whose next answers are told beforehand."""

    def __init__(self, *answers: ImagenError | None, patience_s: float = 60) -> None:
        super().__init__("s3://shelf", Path("unused"), patience_s=patience_s)
        self.kept: dict[str, bytes] = {}
        self.asked = 0
        self._answers = iter(answers)

    async def put(self, path: str, data: bytes) -> None:
        self.asked += 1
        if (error := next(self._answers, None)) is not None:
            raise error
        self.kept[path] = data

    async def delete_all(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.kept.pop(path, None)


class Ahead(Shelf):
    """One whose clock is so many seconds ahead of ours."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._ahead = timedelta(seconds=seconds)

    async def writable(self, *, quick: bool = False) -> datetime:
        return datetime.now(UTC) + self._ahead


class Clock:
    """Passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def kept(shelf: Shelf, clock: Clock, *, patient: bool = True) -> list[str]:
    told: list[str] = []

    async def waiting(message: str) -> None:
        told.append(message)

    await keep(shelf, FILES, waiting=waiting, monotonic=clock, sleep=clock.sleep, patient=patient)
    return told


async def test_a_place_that_comes_back_gets_everything() -> None:
    """What is there already is not sent again, and the reason is told once, however often it is tried."""
    shelf, clock = Shelf(None, AWAY, AWAY, AWAY), Clock()
    told = await kept(shelf, clock)
    assert shelf.kept == FILES
    assert shelf.asked == 5
    assert told == [f"the picture is drawn and waits to be stored: {AWAY.message}"]
    assert clock.slept == [1, 2, 4]


async def test_patience_has_an_end() -> None:
    """Then it is the error of the place, which is one to try again."""
    shelf, clock = Shelf(*itertools.repeat(AWAY, 100)), Clock()
    with pytest.raises(StorageAway) as away:
        await kept(shelf, clock)
    assert away.value.retryable
    assert clock.now <= 60
    assert clock.slept[-1] == keeping.LONGEST_S


async def test_a_command_that_somebody_waits_for_gives_up_sooner() -> None:
    """After a lease, however patient the settings are; that it waits is told all the same."""
    shelf, clock = Shelf(*itertools.repeat(AWAY, 100)), Clock()
    told: list[str] = []

    async def waiting(message: str) -> None:
        told.append(message)

    with pytest.raises(StorageAway):
        await keep(shelf, FILES, waiting=waiting, monotonic=clock, sleep=clock.sleep)
    assert clock.now <= keeping.HURRIED_S
    assert told == [f"the picture is drawn and waits to be stored: {AWAY.message}"]


async def test_what_cannot_be_stored_leaves_nothing() -> None:
    """A refusal is final: no patience, and the part that was stored goes again."""
    shelf, clock = Shelf(None, Unwritable("access is denied", hint="ask")), Clock()
    with pytest.raises(Unwritable):
        await kept(shelf, clock)
    assert (shelf.kept, clock.slept) == ({}, [])


async def test_a_full_disk_is_waited_for_by_a_worker_and_by_nobody_at_a_terminal() -> None:
    """Room comes back; but who waits for the answer hears at once, and can make it."""
    shelf, clock = Shelf(None, FULL, FULL), Clock()
    assert await kept(shelf, clock, patient=True) == [f"the picture is drawn and waits to be stored: {FULL.message}"]
    assert shelf.kept == FILES
    shelf, clock = Shelf(None, FULL), Clock()
    with pytest.raises(DiskFull):
        await kept(shelf, clock, patient=False)
    assert (shelf.kept, clock.slept) == ({}, [])


async def test_a_disk_that_stays_full_gets_its_room_back() -> None:
    """The job is drawn again later: what is there of its picture goes, and it is told as a place that is away."""
    shelf, clock = Shelf(None, *itertools.repeat(FULL, 100)), Clock()
    with pytest.raises(StorageAway, match="the disk is full") as away:
        await kept(shelf, clock, patient=True)
    assert (away.value.hint, away.value.retryable) == (FULL.hint, True)
    assert shelf.kept == {}


@pytest.mark.parametrize(
    ("flush", "record", "left"),
    [
        (None, None, FILES),
        (None, LeaseLost(), {}),  # another attempt has the job
        (AWAY, None, FILES),  # a fault that nobody thought of deletes nothing
        (DatabaseAway("the database does not answer", hint="see"), None, {}),
        (None, DatabaseAway("the database does not answer", hint="see"), FILES),  # it may have been recorded
    ],
)
async def test_what_nobody_will_record_does_not_stay(
    flush: Exception | None, record: Exception | None, left: dict[str, bytes]
) -> None:
    """A picture of a worker that was cut off, say; and what may be recorded is never taken away."""

    async def flushing() -> None:
        if flush:
            raise flush

    async def recording() -> int:
        if record:
            raise record
        return 7

    async def waiting(_message: str) -> None:
        raise AssertionError("nothing has to wait")

    shelf = Shelf()
    storing = stored(shelf, FILES, flush=flushing, record=recording, waiting=waiting, monotonic=Clock())
    (end,) = await asyncio.gather(storing, return_exceptions=True)
    assert end == (flush or record or 7)
    assert shelf.kept == left


@pytest.mark.parametrize("lost", [False, True])
async def test_who_is_cancelled_while_it_is_recorded_waits_for_what_became_of_it(lost: bool) -> None:
    """As a worker that was cut off: the word that the job is another's, and the refusal to record, come together."""
    recording, answer = asyncio.Event(), asyncio.Event()

    async def flush() -> None:
        """There is nothing left to say."""

    async def record() -> int:
        recording.set()
        await answer.wait()
        if lost:
            raise LeaseLost
        return 7

    async def waiting(_message: str) -> None:
        raise AssertionError("nothing has to wait")

    shelf = Shelf()
    storing = asyncio.create_task(stored(shelf, FILES, flush=flush, record=record, waiting=waiting, monotonic=Clock()))
    await recording.wait()
    storing.cancel()
    await asyncio.sleep(0)
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await storing
    assert shelf.kept == ({} if lost else FILES)


@pytest.mark.parametrize(
    ("apart_s", "fine"), [(-3600, False), (-90, False), (-20, True), (0, True), (20, True), (3600, False)]
)
async def test_clocks_that_differ_are_seen_before_a_bucket_refuses_everything(apart_s: float, fine: bool) -> None:
    """A minute is seen; a bucket bears fifteen."""
    if fine:
        assert await album.check(Ahead(apart_s)) == "s3://shelf"
        return
    with pytest.raises(ImagenError, match="s apart") as differs:
        await album.check(Ahead(apart_s))
    assert "NTP" in differs.value.hint


def test_two_that_begin_at_once_both_store(tmp_path: Path) -> None:
    """Each loads what it needs in a thread; neither gets a half of what the other is just loading."""
    program = """
        import asyncio, importlib.machinery, os, sys
        from pathlib import Path
        from imagen.store.images import ImageStore

        read = importlib.machinery.SourceFileLoader.get_data
        late = b"__import__('time').sleep(1)\\nfrom ._obstore import *"
        def slowly(self, path):
            data = read(self, path)
            return data.replace(b"from ._obstore import *", late) if path.endswith("obstore/__init__.py") else data
        importlib.machinery.SourceFileLoader.get_data = slowly

        async def main():
            stores = [ImageStore("local", Path(sys.argv[1])) for _ in range(2)]
            first = asyncio.create_task(stores[0].put("a.png", b"a"))
            await asyncio.sleep(0.5)
            await stores[1].put("b.png", b"b")
            await first

        asyncio.run(main())
    """
    # Without what was compiled before, so that the source is read.
    fresh = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "images")]
    ran = subprocess.run(command, env=fresh, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {file.name for file in (tmp_path / "images").iterdir()} == {"a.png", "b.png"}


def test_a_program_that_ends_with_its_last_answer_ends_well(tmp_path: Path) -> None:
    """The threads that brought the answer are not done with Python yet; an interpreter that ends then is aborted."""
    program = """
        import asyncio, sys
        from imagen.store.objects import library

        async def main():
            store = library().LocalStore(sys.argv[1])
            await asyncio.gather(*(store.head_async("a.png") for _ in range(8)))

        asyncio.run(main())
    """
    (tmp_path / "a.png").write_bytes(b"a")
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    # Without the wait, two of three were aborted.
    assert [subprocess.run(command, check=False).returncode for _ in range(8)] == [0] * 8
