"""Claims per second beside procrastinate and pgqueuer, on one PostgreSQL, in one run.

Each claims as its own worker does: `JobManager.fetch_job`, `Queries.dequeue`, and our worker's transaction; claims
alone, then each claim with the end of its job, by one process and by four. Beside it what the server's processes had to
do for each: that is what one server of a fleet has to carry, whose workers are elsewhere. What pgqueuer takes ten at a
time is told and does not count: a worker with one device takes one job.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fleet.server import Server
from sqlalchemy import Connection, insert, text
from tests import bulk_kit, store_kit
from tests.service_kit import databases

from imagen.core.events import Completed
from imagen.engine.drawing.worker import Worker
from imagen.store import intake, presence, queue
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.queue import Claim
from imagen.store.tables import slots

PROCESSES, ROUNDS, CLAIMS, BACKLOG, BUDGET = (1, 4), 9, 400, 5_000, 1.5
WHAT = {"claims": "claims alone", "jobs": "claims, each with its end"}
PEERS = ("procrastinate", "pgqueuer")
UNCOUNTED = "pgqueuer, ten at a time"


class Queue(Protocol):
    """One of those that are compared, in the parent (`make`, `fill`) and in a claiming process (the others)."""

    async def make(self) -> None:
        """Its tables, in an empty database."""

    async def fill(self, count: int, claims: int) -> None:
        """So many waiting jobs and nothing else; each of the claiming processes is about to take `claims`."""

    async def open(self, number: int) -> None:
        """Ready to claim, as worker `number`."""

    async def claim(self) -> Sequence[Any]:
        """The next job, or the next few."""

    async def go_on(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """These are done; the next."""

    async def close(self) -> None:
        """Let go."""


class Ours:
    """The transaction with which a worker takes its next job. It has one device; for claims alone it has many."""

    def __init__(self, address: str) -> None:
        self._db = Database(address)
        self._device = ""
        self._taken = 0
        self._number = 0

    async def make(self) -> None:
        await self._db.open()

    async def fill(self, count: int, claims: int) -> None:
        await self._db.write(self._filled, count, claims)
        await _vacuum(self._db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False))

    def _filled(self, connection: Connection, count: int, claims: int) -> None:
        connection.execute(text("truncate imagen.jobs, imagen.slots cascade"))
        devices = [_device(number, taken) for number in range(max(PROCESSES)) for taken in range(claims)]
        connection.execute(insert(slots), [{"device": device, "slot": 0} for device in devices])
        (job,) = intake.submit(connection, [store_kit.new()])
        since = datetime.now(UTC) - timedelta(hours=1)
        bulk_kit.copies(connection, job, count - 1, created_at=bulk_kit.moments(connection, since, 0.01))

    async def open(self, number: int) -> None:
        self._number = number
        self._worker = Worker(
            self._db,
            ImageStore("local", Path(tempfile.gettempdir())),
            resolve=store_kit.resolve,
            backend_for=lambda _model: (_ for _ in ()).throw(NotImplementedError),
            catalog=lambda: {"test": replace(store_kit.MODEL, device=_device(self._number, self._taken))},
            version="0",
        )
        await self._db.open()
        await self._worker._images.writable()  # else it takes nothing
        if self._worker._offer.able is not None:
            await self._worker._offer.able.look(self._worker._offer.models)  # nor then
        await self._db.write(self._worker._arrive)
        self._worker._fleet.look(await self._db.read(presence.everyone), ())

    async def claim(self) -> Sequence[Claim]:
        claim = await self._db.write(self._worker._take)
        self._taken += 1  # the next one on another device, unless this one is given back first
        return [] if claim is None else [claim]

    async def go_on(self, jobs: Sequence[Claim]) -> Sequence[Claim]:
        (job,) = jobs
        timings = {"queue": job.waited_s}
        end = Completed(job=job.job, attempt=job.attempt, timings=timings)
        self._taken -= 1
        wish = self._worker._wish_at_once()
        claim = await self._db.write(queue.finish, job, end, timings=timings, facts={}, then=wish)
        if claim is None:
            return await self.claim()
        self._taken += 1
        return [claim]

    async def close(self) -> None:
        await self._db.close()


class Procrastinate:
    """`JobManager.fetch_job` and `finish_job`, with the connector that its documentation names first."""

    def __init__(self, address: str) -> None:
        import procrastinate

        self._address = address
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=address))
        self._draw = self._app.task(name="draw")(lambda **_said: None)

    async def make(self) -> None:
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()

    async def fill(self, count: int, claims: int) -> None:
        await _run(self._address, "truncate procrastinate_jobs cascade")
        for begin in range(0, count, 1000):
            await self._draw.batch_defer_async(*({"prompt": "a fox"} for _ in range(min(1000, count - begin))))
        await _vacuum(self._address)

    async def open(self, number: int) -> None:
        await self._app.open_async()
        self._id = await self._app.job_manager.register_worker()

    async def claim(self) -> Sequence[Any]:
        job = await self._app.job_manager.fetch_job(None, self._id)
        return [] if job is None else [job]

    async def go_on(self, jobs: Sequence[Any]) -> Sequence[Any]:
        from procrastinate.jobs import Status

        for job in jobs:
            await self._app.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
        return await self.claim()

    async def close(self) -> None:
        await self._app.close_async()


class Pgqueuer:
    """`Queries.dequeue` and `log_jobs` over asyncpg, on uvloop, as its own command runs them."""

    def __init__(self, address: str, batch: int = 1) -> None:
        self._address = address
        self._batch = batch

    async def make(self) -> None:
        await self.open(0)
        await self._queries.install()

    async def fill(self, count: int, claims: int) -> None:
        await _run(self._address, "truncate pgqueuer, pgqueuer_log")
        await self._queries.enqueue(["draw"] * count, [b'{"prompt": "a fox"}'] * count, [0] * count)
        await _vacuum(self._address)

    async def open(self, number: int) -> None:
        import uuid

        import asyncpg
        from pgqueuer.queries import EntrypointExecutionParameter, Queries

        self._connection = await asyncpg.connect(self._address)
        self._queries = Queries.from_asyncpg_connection(self._connection)
        self._id = uuid.uuid4()
        self._points = {"draw": EntrypointExecutionParameter(concurrency_limit=0)}

    async def claim(self) -> Sequence[Any]:
        jobs: Sequence[Any]
        jobs = await self._queries.dequeue(self._batch, self._points, self._id, None, timedelta(seconds=30))
        return jobs

    async def go_on(self, jobs: Sequence[Any]) -> Sequence[Any]:
        await self._queries.log_jobs([(job, "successful", None) for job in jobs])
        return await self.claim()

    async def close(self) -> None:
        await self._connection.close()


QUEUES: dict[str, Any] = {
    "imagen": Ours,
    "procrastinate": Procrastinate,
    "pgqueuer": Pgqueuer,
    UNCOUNTED: lambda address: Pgqueuer(address, batch=10),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each kind (default: %(default)s)")
    parser.add_argument("--claims", type=int, default=CLAIMS, help="of a process in a round (default: %(default)s)")
    parser.add_argument("--backlog", type=int, default=BACKLOG, help="jobs that wait (default: %(default)s)")
    parser.add_argument("--only", choices=[*PEERS, "imagen"], action="append", help="leave out the others")
    parser.add_argument("--quick", action="store_true", help="three short rounds, and no waiting for the disk")
    parser.add_argument("--claiming", nargs=3, metavar=("QUEUE", "ADDRESS", "NUMBER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.claiming:
        name, address, number = asked.claiming
        _on_its_loop(name, _claiming(QUEUES[name](address), int(number)))
        return 0
    if asked.quick:
        asked.rounds, asked.claims, asked.backlog = 3, 150, 1_000
    names = [name for name in QUEUES if not asked.only or name in asked.only]
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            databases("postgres", len(names), Path(folder), durable=not asked.quick) as addresses,
        ):
            places = dict(zip(names, addresses, strict=True))
            return asyncio.run(_compare(places, asked.rounds, asked.claims, asked.backlog))
    except ModuleNotFoundError as missing:
        print(f"not measured, {missing}: pip install {' '.join(PEERS)} asyncpg uvloop")
        return 0


async def _compare(places: dict[str, str], rounds: int, claims: int, backlog: int) -> int:
    queues: dict[str, Queue] = {name: QUEUES[name](address) for name, address in places.items()}
    for queue_ in queues.values():
        await queue_.make()
    rates: dict[tuple[int, str, str], list[float]] = {}
    costs: dict[tuple[int, str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        server = Server(next(iter(places.values())))
        stack.callback(server.close)
        crews = {
            name: [stack.enter_context(_process(name, address, number)) for number in range(max(PROCESSES))]
            for name, address in places.items()
        }
        for number in range(rounds + 1):
            for processes in PROCESSES:
                for what in WHAT:
                    # In turn, and each first in its turn: what else the machine does falls on all alike.
                    for name in _turned(list(queues), number):
                        await queues[name].fill(max(backlog, 2 * claims * processes), claims)
                        before_s = server.cpu_s()
                        rate = await asyncio.to_thread(_measured, crews[name][:processes], what, claims)
                        cost = 1000 * (server.cpu_s() - before_s) / (claims * processes)
                        if number:  # the first round prepares statements and fills caches
                            rates.setdefault((processes, what, name), []).append(rate)
                            costs.setdefault((processes, what, name), []).append(cost)
    for queue_ in queues.values():
        await queue_.close()
    print(f"{backlog:,} jobs wait; {rounds} rounds, {claims} jobs a process in each; a second, medians:")
    return int(_told(rates, costs))


def _told(rates: dict[tuple[int, str, str], list[float]], costs: dict[tuple[int, str, str], list[float]]) -> bool:
    """Print the figures; true when the budget is missed."""
    missed = False
    for processes in PROCESSES:
        for what, words in WHAT.items():
            here = {name: took for (p, w, name), took in rates.items() if (p, w) == (processes, what)}
            medians = {name: statistics.median(took) for name, took in here.items()}
            print(f"  {words}, {processes} process{'es' if processes > 1 else ''}")
            for name, rate in medians.items():
                low, high, ms = min(here[name]), max(here[name]), statistics.median(costs[processes, what, name])
                print(f"    {name:<24} {rate:8,.0f}   {f'({low:,.0f} to {high:,.0f})':<20} server {ms:.2f} ms each")
            others = [name for name in PEERS if name in medians]
            if "imagen" in medians and others:
                best = max(others, key=lambda name: medians[name])
                ratio = statistics.median(a / b for a, b in zip(here["imagen"], here[best], strict=True))
                counts = what == "claims"
                over = counts and ratio < BUDGET
                missed |= over
                budget = f"   budget {BUDGET} x" if counts else ""
                print(f"    imagen over {best:<12} {ratio:8.2f} x{budget}{'   missed' if over else ''}")
    return missed


def _turned(names: list[str], number: int) -> list[str]:
    begin = number % len(names)
    return names[begin:] + names[:begin]


def _measured(crew: list["subprocess.Popen[str]"], what: str, claims: int) -> float:
    """Jobs a second of all processes together, from the first that began to the last that ended."""
    for process in crew:
        assert process.stdin is not None
        process.stdin.write(json.dumps([what, claims]) + "\n")
        process.stdin.flush()
    told: list[tuple[int, float, float]] = []
    for process in crew:
        assert process.stdout is not None
        told.append(json.loads(process.stdout.readline()))
    return sum(done for done, _, _ in told) / (max(end for _, _, end in told) - min(begin for _, begin, _ in told))


@contextlib.contextmanager
def _process(name: str, address: str, number: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, __file__, "--claiming", name, address, str(number)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline(), f"{name} did not open"
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


async def _claiming(queue_: Queue, number: int) -> None:
    """A claiming process: measure each time it is asked to, until nobody asks any more."""
    await queue_.open(number)
    print("ready", flush=True)
    while line := sys.stdin.readline():
        what, claims = json.loads(line)
        begin, done = time.perf_counter(), 0  # one clock for all processes of a machine
        jobs: Sequence[Any] = ()
        while done < claims:
            jobs = await (queue_.go_on(jobs) if jobs and what == "jobs" else queue_.claim())
            assert jobs, "the backlog ran out"
            done += len(jobs)
        print(json.dumps([done, begin, time.perf_counter()]), flush=True)
        if isinstance(queue_, Ours):
            queue_._taken = 0  # before the next round, everything is free again
    await queue_.close()


def _on_its_loop(name: str, work: Any) -> None:
    if name.startswith("pgqueuer"):
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)


def _device(number: int, taken: int) -> str:
    return f"gpu{taken}@worker{number}"


async def _run(address: str, *statements: str) -> None:
    import psycopg

    async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
        for statement in statements:
            await connection.execute(statement.encode())


async def _vacuum(address: str) -> None:
    """As the database does by itself in time; and no checkpoint of one falls into the round of the next."""
    await _run(address, "vacuum analyze")


if __name__ == "__main__":
    sys.exit(main())
