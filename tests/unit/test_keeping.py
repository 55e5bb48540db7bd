"""A finished picture on its way into the image store: patience with a place that is away, and nothing half done."""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imagen.core.errors import ImagenError, StorageAway, Unwritable
from imagen.engine import album, keeping
from imagen.engine.keeping import keep
from imagen.store.images import ImageStore

FILES = {"a.png": b"picture", "a.json": b"sidecar"}
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


async def kept(shelf: Shelf, clock: Clock) -> list[str]:
    told: list[str] = []

    async def waiting(message: str) -> None:
        told.append(message)

    await keep(shelf, FILES, waiting=waiting, monotonic=clock, sleep=clock.sleep)
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


async def test_what_cannot_be_stored_leaves_nothing() -> None:
    """A refusal is final: no patience, and the part that was stored goes again."""
    shelf, clock = Shelf(None, Unwritable("access is denied", hint="ask")), Clock()
    with pytest.raises(Unwritable):
        await kept(shelf, clock)
    assert (shelf.kept, clock.slept) == ({}, [])


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
