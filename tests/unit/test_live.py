"""What is true only now: never out of its bounds, and out of the way when it is told to stop."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from tests.store_kit import database, new, take

from imagen.core.request import PreviewPolicy
from imagen.core.signals import Preview as Shown
from imagen.engine.drawing.live import Live
from imagen.store import intake, journal
from imagen.store.db import Database
from imagen.store.queue import Claim


async def claimed(db: Database, **changes: Any) -> Claim:
    """A job in our hands that wants to be seen."""
    await db.write(intake.submit, [new(preview=PreviewPolicy(count=9), **changes)])
    claim = await take(db)
    assert claim is not None
    return claim


@pytest.mark.parametrize(
    ("step", "total", "told"),
    [(2, 4, (6, 8)), (9, 4, (8, 8)), (-3, 4, (4, 8)), (-9, -4, (0, 0)), (0, 0, (0, 0)), (10**12, 4, (8, 8))],
)
async def test_the_step_of_a_preview_is_bounded_as_any_other(
    tmp_path: Path, step: int, total: int, told: tuple[int, int]
) -> None:
    """It is one of the job's, of which a half is drawn already, whatever a backend says."""
    async with database(tmp_path) as db:
        claim = await claimed(db, n=2)
        live = Live(db, claim, PreviewPolicy(count=9))
        live.share(done=1, n=2, now=1)
        await live.preview(Shown(step=step, total=total, data=bytes(192), width=8, height=8), 1)
        await live.flush()
        (frame,) = await db.read(journal.shown, {claim.job: 0})
        assert (frame.step, frame.total) == told


async def test_who_waits_for_its_end_can_be_cancelled(tmp_path: Path) -> None:
    """A cancellation that comes meanwhile is not taken for the writer's own."""
    looking, closing, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow:
        async def read(self, *_asked: object) -> journal.Attention:
            looking.set()
            try:
                await closed.wait()
            finally:
                closing.set()
                await closed.wait()
            raise AssertionError("it is never answered")

    async with database(tmp_path) as db:
        claim = await claimed(db)
    live = Live(cast(Database, Slow()), claim, PreviewPolicy())
    live.start(on_cancel=lambda: None)
    async with asyncio.timeout(10):
        await looking.wait()
        stopping = asyncio.create_task(live.stop())
        await closing.wait()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping


async def test_a_writer_that_broke_is_not_hushed_up(tmp_path: Path) -> None:
    """Whoever stops it hears why it ended before."""
    looked = asyncio.Event()

    class Broken:
        async def read(self, *_asked: object) -> journal.Attention:
            looked.set()
            raise ZeroDivisionError("a fault of ours")

    async with database(tmp_path) as db:
        claim = await claimed(db)
    live = Live(cast(Database, Broken()), claim, PreviewPolicy())
    live.start(on_cancel=lambda: None)
    async with asyncio.timeout(10):
        await looked.wait()
    with pytest.raises(ZeroDivisionError):
        await live.stop()
