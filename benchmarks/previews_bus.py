"""A preview from a worker to a server: through a row of PostgreSQL and a notification, and through NATS.

Processor time of the database or the bus, and of both ends, for each preview; and how long it is under way. NATS is
measured where the program `nats-server` and the package `nats-py` are there: they are no part of imagen.
"""

import argparse
import asyncio
import importlib
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fleet.server import Server, cpu_s
from benchmarks.fleet_costs import PREVIEW_BYTES, preview
from tests import store_kit
from tests.postgres_kit import postgres
from tests.service_kit import free_port

from imagen.store import intake, journal
from imagen.store.db import Database

ROUNDS, RATE = 1500, 150  # a second: what thirty watched cards send
SUBJECT = "previews"
PATIENCE_S = 20.0


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="previews (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of them")
    asked = parser.parse_args()
    rounds = asked.rounds // 10 if asked.quick else asked.rounds
    print(f"{rounds} previews of {PREVIEW_BYTES:,} B, {RATE} a second, one worker and one server")
    print(f"{'':14} {'database or bus':>16} {'worker and server':>18} {'p50':>8} {'p99':>8}")
    await by_postgres(rounds)
    if importlib.util.find_spec("nats") and shutil.which("nats-server"):
        await by_nats(rounds)
    else:
        print("NATS: not measured; it needs `nats-server`, and `pip install nats-py`")
    return 0


async def by_postgres(rounds: int) -> None:
    """As it is: the row of the job is overwritten, and who follows the job reads it."""
    with postgres() as machine:
        address = machine.new_database()
        server = Server(address)
        async with store_kit.database(address) as worker:
            (job,) = await worker.write(intake.submit, [store_kit.new()])
            claim = await store_kit.take(worker)
            assert claim is not None
            reader = Database(address)
            await reader.open()
            sent: dict[int, float] = {}
            took: list[float] = []

            async def follow() -> None:
                tick = 10**6
                while True:
                    mark = reader.mark()
                    news = await reader.read(journal.news, job, 9, tick, preview_tick=tick)
                    if news.tick > tick:
                        tick = news.tick
                        took.append(time.perf_counter() - sent[tick])
                    await reader.changed(mark, 1.0, frozenset((job,)))

            async def send(number: int) -> None:
                tick = 10**6 + 1 + number
                sent[tick] = time.perf_counter()
                await worker.write(preview, claim, tick, os.urandom(PREVIEW_BYTES))

            following = asyncio.create_task(follow())
            await reader.write(journal.watch, "somebody", job, datetime.now(UTC))
            await asyncio.sleep(1)
            await measured("PostgreSQL", rounds, send, server.cpu_s, took)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await reader.close()
            server.close()


async def by_nats(rounds: int) -> None:
    """What would be in its place: published, kept nowhere."""
    nats = importlib.import_module("nats")
    with bus() as (pid, address):
        worker, reader = [await nats.connect(address) for _ in range(2)]
        sent: dict[int, float] = {}
        took: list[float] = []

        async def hear(message: Any) -> None:
            took.append(time.perf_counter() - sent[int.from_bytes(message.data[:4], "big")])

        async def send(number: int) -> None:
            sent[number] = time.perf_counter()
            await worker.publish(SUBJECT, number.to_bytes(4, "big") + os.urandom(PREVIEW_BYTES))
            await worker.flush()

        await reader.subscribe(SUBJECT, cb=hear)
        await reader.flush()
        await measured("NATS", rounds, send, lambda: cpu_s(pid), took)
        await worker.close()
        await reader.close()


@contextmanager
def bus() -> Iterator[tuple[int, str]]:
    """A NATS server of one's own: its process and its address."""
    port = free_port()
    command = ["nats-server", "-a", "127.0.0.1", "-p", str(port)]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE_S
        while not answers(port):
            assert time.monotonic() < until, "nats-server does not answer"
            time.sleep(0.05)
        yield program.pid, f"nats://127.0.0.1:{port}"
    finally:
        program.terminate()
        program.wait()


def answers(port: int) -> bool:
    """Does somebody listen there?"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def measured(
    name: str,
    rounds: int,
    send: Callable[[int], Awaitable[None]],
    serving: Callable[[], float],
    took: list[float],
) -> None:
    """Send them at an even pace, and print a line."""
    theirs, ours, begin = serving(), time.process_time(), time.perf_counter()
    for number in range(rounds):
        await asyncio.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
        await send(number)
    await asyncio.sleep(1)
    theirs, ours = (serving() - theirs) / rounds, (time.process_time() - ours) / rounds
    late = sorted(took)
    print(
        f"{name:14} {theirs * 1000:13.3f} ms {ours * 1000:15.3f} ms {statistics.median(late) * 1000:5.1f} ms"
        f" {late[int(0.99 * (len(late) - 1))] * 1000:5.1f} ms   {len(late)} of {rounds} seen, the rest overtaken"
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
