"""The judge of the chaos rounds is not blind: each way to spoil a sound record is found and named."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, update
from tests import store_kit
from tests.verdict_kit import Verdict, judge

from imagen.core.errors import Crashed
from imagen.core.events import Completed, Image
from imagen.core.job import StoredImage
from imagen.store import intake, queue
from imagen.store.tables import events, images, jobs

DEVICE = store_kit.MODEL.device
CAPACITY = {DEVICE: 1}


def _no_requeued(connection: Connection) -> None:
    connection.execute(delete(events).where(events.c.type == "requeued"))


def _no_end(connection: Connection) -> None:
    connection.execute(delete(events).where(events.c.type == "completed"))


def _second_end(connection: Connection) -> None:
    job = connection.execute(update(jobs).values(seq=jobs.c.seq + 1).returning(jobs.c.id, jobs.c.seq)).first()
    assert job is not None
    row = {"job_id": job.id, "seq": job.seq, "type": "completed", "at": datetime.now(UTC), "attempt": 2}
    connection.execute(insert(events).values(**row, body={"images": []}))


def _zombie(connection: Connection) -> None:
    """The last word of the first attempt after the second had begun."""
    connection.execute(update(events).where(events.c.type == "image").values(attempt=1))


def _stuck(connection: Connection) -> None:
    connection.execute(update(jobs).values(state="running"))


def _twice(connection: Connection) -> None:
    (other,) = intake.submit(connection, [store_kit.new(prompt="another fox")])
    body = {"device": DEVICE, "request": {}, "worker": "w"}
    row = {"pos": -1, "job_id": other, "seq": 2, "type": "started", "at": datetime.now(UTC), "attempt": 1}
    connection.execute(insert(events).values(**row, body=body))


def _other_bytes(connection: Connection) -> None:
    connection.execute(update(images).values(sha256="0" * 64))


def _elsewhere(connection: Connection) -> None:
    connection.execute(update(images).values(path="nowhere.png"))


def _lost(connection: Connection) -> None:
    connection.execute(update(jobs).values(prompt="a cat"))


def _no_reason(connection: Connection) -> None:
    connection.execute(update(jobs).values(state="failed", error=None))
    connection.execute(update(events).where(events.c.type == "completed").values(type="failed"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (None, None),
        (_no_requeued, "the numbers are"),
        (_no_end, "the numbers are"),
        (_second_end, "was told"),
        (_zombie, "image of attempt 1"),
        (_stuck, "is stuck"),
        (_twice, "at once, it takes 1"),
        (_other_bytes, "is not what was recorded"),
        (_elsewhere, "is recorded and not there"),
        (_lost, "0 jobs instead of 1"),
        (_no_reason, "failed without saying why"),
    ],
)
async def test_what_is_spoiled_is_named(
    tmp_path: Path, spoil: Callable[[Connection], None] | None, says: str | None
) -> None:
    """A job that was put back once and then completed is sound; the same record, spoiled, is not."""
    async with store_kit.database(tmp_path) as db:
        await db.write(_sound, tmp_path)
        if spoil is not None:
            await db.write(spoil)
        verdict: Verdict = await db.read(judge, tmp_path, CAPACITY, {"a fox"})
    if says is None:
        assert verdict.faults == []
        assert verdict.requeued.total() == 1
    else:
        assert any(says in fault for fault in verdict.faults), verdict.faults


def _sound(connection: Connection, store: Path) -> None:
    """One job: queued, started, put back, started, a picture, completed."""
    intake.submit(connection, [store_kit.new()])
    wish = store_kit.wish(places={"test": store_kit.PLACE}, knows=("test",))
    first = queue.claim(connection, wish, resolve=store_kit.resolve, started=store_kit.started)
    assert first is not None
    error = Crashed("the worker died while drawing", hint="try again")
    queue.give_back(connection, first, reason="worker 1 died", error=error)
    connection.execute(update(jobs).values(run_after=None))
    claim = queue.claim(connection, wish, resolve=store_kit.resolve, started=store_kit.started)
    assert claim is not None
    data = b"a picture"
    (store / "fox.png").write_bytes(data)
    image = StoredImage(
        index=0,
        id="fox",
        url="",
        width=8,
        height=8,
        seed=7,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels_sha256="",
    )
    queue.add_image(connection, claim, Image(job=claim.job, attempt=2, image=image), path="fox.png", mime="image/png")
    queue.finish(connection, claim, Completed(job=claim.job, attempt=2), timings={}, facts={})
