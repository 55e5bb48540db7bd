"""A page of 50 out of a history of 1,000,000 jobs: the first, a deep one, one owner's, one model's, one state's."""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import bulk_kit, store_kit
from tests.service_kit import databases

from imagen.core.job import State
from imagen.store import history, intake
from imagen.store.db import Database
from imagen.store.tables import jobs

JOBS, PAGE, ROUNDS, BUDGET_MS = 1_000_000, 50, 50, 10.0
MODELS = [f"model-{number}" for number in range(20)]
OWNERS = [f"owner-{number}" for number in range(50)]
SINCE = datetime.now(UTC) - timedelta(days=400)
APART_S = 30.0


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=JOBS, help="length of the history (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pages of each kind (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a short history, and no waiting for the disk")
    asked = parser.parse_args()
    count = 50_000 if asked.quick else asked.jobs
    with (
        tempfile.TemporaryDirectory(prefix="imagen-history-") as folder,
        databases(asked.database, 1, Path(folder), durable=not asked.quick) as (address,),
    ):
        db = Database(address)
        await db.open()
        try:
            began = time.perf_counter()
            await db.write(fill, count)
            filled = time.perf_counter() - began
            print(f"{asked.database}: {count:,} jobs in {filled:.0f} s; pages of {PAGE}, n = {asked.rounds} each")
            middle = await db.read(middle_of, count // 2)
            missed = False
            for name, filters in pages(middle).items():
                missed |= await measure(db, name, filters, asked.rounds)
        finally:
            await db.close()
    return int(missed)


def pages(middle: str) -> Mapping[str, Mapping[str, Any]]:
    """What people ask for; the last one is the worst: rare, and nothing of it near the top."""
    return {
        "the first": {},
        "from the middle": {"before": middle},
        "one owner's": {"owner": OWNERS[7]},
        "one owner's, middle": {"owner": OWNERS[7], "before": middle},
        "one model's": {"model": MODELS[3]},
        "one state's": {"state": State.FAILED},
        "an owner's of a state": {"owner": OWNERS[7], "state": State.COMPLETED},
        "what runs (nothing)": {"state": State.RUNNING},
        "a new owner's (none)": {"owner": "nobody"},
        "one model's, rare": {"model": "rare"},
    }


async def measure(db: Database, name: str, filters: Mapping[str, Any], rounds: int) -> bool:
    """Print one kind of page; true when its median is over the budget."""
    taken: list[float] = []

    def page(connection: Connection) -> int:
        begin = time.perf_counter()
        found = history.jobs_list(connection, limit=PAGE, **filters)
        taken.append((time.perf_counter() - begin) * 1000)
        return len(found)

    for _ in range(rounds + 2):
        found = await db.read(page)
    taken = sorted(taken[2:])
    middle, worst = statistics.median(taken), taken[int(len(taken) * 0.99)]
    over = middle > BUDGET_MS
    print(
        f"  {name:<22} {found:>3} jobs  p50 {middle:7.2f} ms  p99 {worst:7.2f} ms   budget {BUDGET_MS:.0f} ms"
        + ("   over" if over else "")
    )
    return over


def fill(connection: Connection, count: int) -> None:
    (job,) = intake.submit(connection, [store_kit.new()])
    ended = {"completed": 90, "failed": 6, "cancelled": 4}
    states = [state for state, share in ended.items() for _ in range(share)]
    when = bulk_kit.moments(connection, SINCE, APART_S)
    bulk_kit.copies(
        connection,
        job,
        count - 1,
        state=bulk_kit.one_of(connection, states),
        model=bulk_kit.one_of(connection, MODELS),
        owner=bulk_kit.one_of(connection, OWNERS),
        created_at=when,
        started_at=when,
        finished_at=when,
        attempt=1,
        timings={"queue": 0.1, "load": 0.0, "encode": 0.1, "sample": 2.0, "decode": 0.1, "save": 0.1},
    )
    connection.execute(jobs.update().where(jobs.c.id == job).values(state="completed", model="rare", created_at=SINCE))
    bulk_kit.settle(connection)


def middle_of(connection: Connection, depth: int) -> str:
    order = select(jobs.c.id).order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
    found: str = connection.execute(order.offset(depth).limit(1)).scalar_one()
    return found


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
