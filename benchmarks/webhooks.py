"""What webhooks cost whoever asks for none, and how many messages one process tells in a second.

The same submit, claim and end on two databases of this version: one as it is, one without the trigger that writes
deliveries, which is what it was before. Then jobs that ended are told to a receiver on this machine.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from sqlalchemy import text
from tests import store_kit
from tests.service_kit import databases
from tests.webhook_kit import Receiver

from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.core.events import Cancelled
from imagen.core.webhook import Webhook
from imagen.store import intake, queue
from imagen.store.db import Database
from imagen.surfaces.webhooks.courier import delivering

ROUNDS, MESSAGES, BUDGET = 1000, 400, 1.05


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each kind (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=MESSAGES, help="told (default: %(default)s)")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="imagen-webhooks-") as folder,
        databases(asked.database, 3, Path(folder), durable=False) as addresses,
    ):
        missed = await compare(addresses[0], addresses[1], asked.rounds)
        await deliver(addresses[2], Path(folder), asked.messages)
    return int(missed)


async def compare(with_it: str, without: str, rounds: int) -> bool:
    """Print what each step costs, paired; true when the budget is missed."""
    async with AsyncExitStack() as stack:
        now, before = Database(with_it), Database(without)
        for db in (now, before):
            await db.open()
            stack.push_async_callback(db.close)
            await db.write(store_kit.arrive, store_kit.WORKER)
        on = " on imagen.jobs" if before.engine.dialect.name == "postgresql" else ""
        await before.write(lambda connection: connection.execute(text(f"drop trigger jobs_ended{on}")))
        took: dict[Database, dict[str, list[float]]] = {db: {} for db in (now, before)}
        for number in range(rounds + 5):
            # Interleaved, each first in turn: what else the machine does falls on both alike.
            for db in (now, before) if number % 2 else (before, now):
                for name, seconds in (await once(db)).items():
                    if number >= 5:  # the first few prepare statements and fill caches
                        took[db].setdefault(name, []).append(seconds)
    missed = False
    print(f"{now.engine.dialect.name}: n = {rounds} of each, without any webhook")
    for name in took[now]:
        pairs = zip(took[now][name], took[before][name], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        a, b = (statistics.median(took[db][name]) * 1000 for db in (before, now))
        print(f"  {name:<8} {a:6.2f} ms before {b:6.2f} ms now {ratio:6.3f} x   budget {BUDGET} x")
        missed |= ratio > BUDGET
    return missed


async def once(db: Database) -> dict[str, float]:
    """A job through its life; the seconds of each step."""
    told = {"submit": await timed(lambda: db.write(intake.submit, [store_kit.new()]))}
    begin = time.perf_counter()
    claim = await store_kit.take(db)
    told["claim"] = time.perf_counter() - begin
    assert claim is not None

    end = Cancelled(job=claim.job, attempt=claim.attempt, by="benchmark")
    told["end"] = await timed(lambda: db.write(queue.finish, claim, end, timings={}, facts={}))
    return told


async def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    await work()
    return time.perf_counter() - begin


async def deliver(address: str, home: Path, count: int) -> None:
    """Print how fast jobs that ended are told."""
    settings = load_settings(home=home, environ={})
    settings = replace(settings, database=address if address.startswith("postgres") else "sqlite")
    async with open_app(settings=settings) as app:
        with Receiver() as receiver:
            hook = Webhook(url=receiver.url)
            for _ in range(count):
                (job,) = await app._db.write(intake.submit, [replace(store_kit.new(), webhook=hook)])
                await app.cancel(job)
            begin = time.perf_counter()
            async with delivering(app):
                await asyncio.to_thread(receiver.until, count)
                seconds = time.perf_counter() - begin
    print(f"  told {count} ends to one receiver in {seconds:.2f} s: {count / seconds:.0f} a second")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
