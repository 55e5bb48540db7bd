"""A worker that lost its job shows nothing of it any more, on both databases."""

from dataclasses import replace

from sqlalchemy import select
from tests.store_kit import database, new, take

from imagen.core import events, signals
from imagen.core.request import PreviewPolicy
from imagen.engine.drawing.live import Live
from imagen.store import intake, journal, queue
from imagen.store.db import Database
from imagen.store.queue import Claim
from imagen.store.tables import previews

WISH = PreviewPolicy(stride=1)


async def lost(db: Database) -> tuple[Claim, Claim]:
    """A job that somebody draws who does not know yet that another one has it now."""
    await db.write(intake.submit, [new(preview=WISH)])
    old = await take(db)
    assert old is not None
    await db.write(queue.give_back, old, reason="it was taken for dead")
    anew = await take(db)
    assert anew is not None
    assert (anew.job, anew.attempt) == (old.job, 2)
    return old, anew


async def show(live: Live, step: int) -> None:
    await live.preview(signals.Preview(step=step, total=4, data=bytes([step]) * 192, width=8, height=8), 0)
    await live.flush()


async def seen(db: Database, job: str) -> list[tuple[int, int]]:
    """Attempt and step of every preview that is kept."""
    query = select(previews.c.body).where(previews.c.job_id == job)
    bodies = await db.read(lambda connection: connection.execute(query).scalars().all())
    return [(body["attempt"], body["step"]) for body in bodies]


async def test_who_lost_a_job_does_not_paint_over_its_successor(place: str) -> None:
    """Neither over what the other one shows, nor on the screen that was cleared for it."""
    async with database(place) as db:
        old, anew = await lost(db)
        mine, others = Live(db, old, WISH), Live(db, anew, WISH)
        await show(mine, 3)
        assert mine.lost
        assert await seen(db, old.job) == []
        await show(others, 1)
        await show(mine, 3)
        assert await seen(db, old.job) == [(2, 1)]


async def test_a_preview_of_an_older_attempt_never_takes_the_place_of_a_newer_one(place: str) -> None:
    """Not even where the job was lost after the look whether it is still ours, in the very same transaction."""
    async with database(place) as db:
        old, anew = await lost(db)
        await show(Live(db, anew, WISH), 1)
        frame = events.Preview(
            step=3,
            total=4,
            mime="image/jpeg",
            width=8,
            height=8,
            target_width=8,
            target_height=8,
            method="x",
            estimate=True,
            data=b"old",
            job=old.job,
            attempt=old.attempt,
            tick=old.attempt * 1_000_000 + 7,
        )
        await db.write(journal.set_preview, frame, keep=False)
        assert await seen(db, old.job) == [(2, 1)]
        newer = replace(frame, attempt=anew.attempt, tick=anew.attempt * 1_000_000 + 7)
        await db.write(journal.set_preview, newer, keep=False)
        assert await seen(db, old.job) == [(2, 3)]
