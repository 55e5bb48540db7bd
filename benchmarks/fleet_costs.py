"""What each step of a job costs a PostgreSQL server: processor time and log; and what NOTIFY costs a fleet.

The figures that `fleet_sim.py` reckons with. Processor time is that of all processes of the server, as the kernel
counted it; the time to the disk is not in it. On a machine that is busy with other things it is up to twice as much.
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, text

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fleet.server import Meter, Server, plain
from tests import store_kit
from tests.postgres_kit import postgres

import imagen.models
from imagen.backends.comfyui import registration
from imagen.core import events
from imagen.core.ids import new_id
from imagen.core.job import State, StoredImage
from imagen.core.model import Model
from imagen.models.catalog import load_catalog
from imagen.store import intake, journal, order, presence, queue
from imagen.store.bell import Bell, touch
from imagen.store.db import Database
from imagen.store.queue import Claim

ROUNDS = 300
CROWD = 1000  # workers in the list, and jobs that run at once
CLIENTS = 8
LISTENERS = (0, 160, 640)
TOAST = 400  # previews over one row
PREVIEW_BYTES = 15_000  # a JPEG of 512 px
MODELS = ("flux1-schnell", "flux2-klein", "z-image-turbo", "sd35-medium", "hidream-o1", "qwen-image")
HEARD = 20_000
SETTLE_S = 1.5  # until nothing of what was asked is under way any more


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each step (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few rounds, and no waiting for the disk")
    asked = parser.parse_args()
    rounds = 40 if asked.quick else asked.rounds
    with postgres(durable=not asked.quick, settings=("max_connections=800",)) as server:
        await steps(server.new_database(), rounds)
        seconds = 2.0 if asked.quick else 5.0
        await fan_out(server.new_database(), rounds, seconds)
        commits(server.new_database(), seconds)
    await heard()
    return 0


async def steps(address: str, rounds: int) -> None:
    """Through the same functions that servers and workers call, one after the other."""
    print(f"one PostgreSQL server, {rounds} of each")
    async with store_kit.database(address) as db:
        server = Server(address)
        meter = Meter(server)
        models = bundled()
        places = {name: order.place_of(model) for name, model in models.items()}
        model = next(iter(models.values()))
        knows = tuple(places)

        def resolve(_draft: object) -> intake.NewJob:
            raise AssertionError("nothing comes by SQL here")

        def take(connection: Connection) -> Claim | None:
            assert presence.listed(connection, store_kit.WORKER)
            return queue.claim(
                connection,
                worker=store_kit.WORKER,
                places=places,
                resolve=resolve,
                knows=knows,
                started=store_kit.started,
                loaded=[model.name],
            )

        async def submit(number: int) -> None:
            job = replace(store_kit.new(model, prompt="a fox in the snow, " * 8), id=new_id())
            once = intake.Once(route="/v1/jobs", key=new_id(), body_hash="0" * 64)
            await db.write(intake.submit_once, [job], once=once, queue_limit=10**6)

        before = {table: server.bytes_of(table) for table in ("jobs", "events", "images", "idempotency")}
        await meter("submit (over HTTP, with its key)", rounds + 3, submit)
        claims: list[Claim] = []

        async def claim(number: int) -> None:
            # Finished in between, without being counted: the next claim needs the slot.
            found = await db.write(take)
            assert found is not None
            claims.append(found)
            await db.write(lambda connection: _unslot(connection, found))

        with_unslot = "claim (6 models), and its slot given up"
        await meter(with_unslot, rounds, claim)

        async def unslot(number: int) -> None:
            await db.write(lambda connection: _unslot(connection, claims[number]))

        await meter("of that, the slot given up", rounds, unslot)
        looked = datetime.now(UTC)
        await meter(
            "a running job looks up (cancelled, watched?)",
            rounds,
            lambda number: db.read(journal.attention, claims[number].job, looked),
        )
        await meter("progress", rounds, lambda number: db.write(progress, claims[number], number + 9))
        data = os.urandom(PREVIEW_BYTES)
        await meter("progress and a preview", rounds, lambda number: db.write(preview, claims[0], number + 9, data))
        small = server.bytes_of("previews")
        for number in range(TOAST):
            await db.write(preview, claims[0], 10**6 + number, data)
        swollen = (server.bytes_of("previews") - small) / TOAST
        print(
            f"  the table of previews grew by {swollen:,.0f} B for each of {TOAST} over one row, until it is vacuumed"
        )
        await meter(
            "a server reads news of a job, no preview",
            rounds,
            lambda number: db.read(journal.news, claims[0].job, 2, 0),
        )
        await meter(
            "a server reads news of a job, and a preview",
            rounds,
            lambda number: db.read(journal.news, claims[0].job, 2, 0, preview_tick=0),
        )
        await meter("picture", rounds, lambda number: db.write(picture, claims[number]))
        await meter("end", rounds, lambda number: db.write(end, claims[number]))
        await db.write(_empty)
        kept = {table: (server.bytes_of(table) - before[table]) / (rounds + 6) for table in before}
        print("  bytes kept for each job: " + ", ".join(f"{table} {size:.0f}" for table, size in kept.items()))

        await meter("a job and all of it deleted", rounds // 2, lambda number: db.write(_delete, claims[number].job))

        async def nothing(number: int) -> None:
            assert await db.write(take) is None

        await meter("claim, nothing waits", rounds, nothing)
        await meter("look, nothing waits", rounds, lambda number: db.read(order.anything, places, knows))
        for count in (1, CROWD):
            await db.write(_crowd, count, list(models))
            await meter(
                f"heartbeat: is another dead, of {count}",
                rounds // 4,
                lambda number: db.read(presence.everyone),
            )
            await meter(
                f"heartbeat: bury nobody, of {count}",
                rounds // 4,
                lambda number: db.write(presence.bury, [], datetime.now(UTC), knows),
            )
        await meter(
            "heartbeat: alive",
            rounds,
            lambda number: db.write(presence.beat, store_kit.WORKER, places, [model.name]),
        )
        await meter("heartbeat: what is left over", rounds, lambda number: db.read(order.left_over, knows))
        await meter("heartbeat: what do we hold", rounds, lambda number: db.read(presence.holds, store_kit.WORKER))
        ids = await db.write(_running, CROWD, model)
        await meter(f"all jobs on one stream: {CROWD} running", rounds // 4, lambda number: db.read(journal.lively, {}))
        print(f"  connections of one program: {server.connections()}; {len(ids)} ran")
        server.close()


def bundled() -> dict[str, Model]:
    """Six models as they are, all on one card."""
    catalog = load_catalog(
        folders=[Path(folder) for folder in imagen.models.__path__],
        configured={},
        default_model="flux1-schnell",
        backends={"comfyui": registration},
        backend_settings={},
        host="here",
    )
    return {name: replace(catalog.models[name], device="cuda:0@here") for name in MODELS}


def _unslot(connection: Connection, claim: Claim) -> None:
    queue.free_device(connection, claim)


def progress(connection: Connection, claim: Claim, tick: int) -> object:
    """What `engine/live.py` writes for a step."""
    said: dict[str, Any] = {"job": claim.job, "seq": 2, "attempt": 1, "tick": tick}
    step = events.Progress(step=tick, total=4, eta_s=1.0, **said)
    journal.set_live(connection, claim.job, 1, tick, events.Phase(phase="sampling", **said), step)
    return journal.attention(connection, claim.job, datetime.now(UTC))


def preview(connection: Connection, claim: Claim, tick: int, data: bytes) -> object:
    """What it writes for a step with a preview."""
    told = progress(connection, claim, tick)
    frame = events.Preview(
        job=claim.job,
        seq=2,
        attempt=1,
        tick=tick,
        step=1,
        total=4,
        mime="image/jpeg",
        width=512,
        height=512,
        target_width=1024,
        target_height=1024,
        method="latent_rgb",
        estimate=True,
        data=data,
    )
    journal.set_preview(connection, frame, keep=False)
    return told


def picture(connection: Connection, claim: Claim) -> None:
    """One finished picture."""
    name = new_id()
    image = StoredImage(
        index=0,
        id=name,
        url=f"s3://bucket/{name}.png",
        width=1024,
        height=1024,
        seed=7,
        sha256="0" * 64,
        pixels_sha256="0" * 64,
    )
    said = events.Image(job=claim.job, attempt=claim.attempt, image=image)
    queue.add_image(connection, claim, said, path=f"2026/11/21/{name}.png", mime="image/png")


def end(connection: Connection, claim: Claim) -> None:
    """Completed."""

    def said(images: tuple[StoredImage, ...]) -> events.Completed:
        return events.Completed(job=claim.job, attempt=claim.attempt, images=images, timings={}, preview_cost={})

    queue.finish(connection, claim, State.COMPLETED, said, timings={"sample": 1.0}, facts={"vram_peak_mib": 9})


def _empty(connection: Connection) -> None:
    connection.execute(text("update imagen.jobs set state = 'completed' where state <> 'completed'"))


def _delete(connection: Connection, job: str) -> None:
    connection.execute(text("delete from imagen.jobs where id = :job"), {"job": job})


def _crowd(connection: Connection, count: int, models: list[str]) -> None:
    """So many workers in the list."""
    for _ in range(count - len(presence.everyone(connection))):
        presence.arrive(
            connection,
            f"worker-{new_id()}",
            version="0",
            serves={name: order.Place(device="cuda:0@there") for name in models},
            solo=False,
            now=datetime.now(UTC),
        )


def _running(connection: Connection, count: int, model: Any) -> list[str]:
    ids = intake.submit(connection, [store_kit.new(model) for _ in range(count)])
    connection.execute(text("update imagen.jobs set state = 'running', attempt = 1 where state = 'queued'"))
    for job in ids:
        said: dict[str, Any] = {"job": job, "seq": 2, "attempt": 1, "tick": 9}
        journal.set_live(
            connection,
            job,
            1,
            9,
            events.Phase(phase="sampling", **said),
            events.Progress(step=1, total=4, **said),
        )
    return ids


# NOTIFY


async def fan_out(address: str, rounds: int, seconds: float) -> None:
    """Processor time for each notification, by how many listen. Where many come, listeners take several at once."""
    print("a notification in a transaction of its own, heard by all: one by one / in a stream / from eight at once")
    db = Database(address)
    await db.open()
    server = Server(address)
    seen: list[tuple[int, list[float]]] = []
    for listeners in LISTENERS:
        with ExitStack() as stack:
            for _ in range(listeners):
                ear = stack.enter_context(psycopg.connect(plain(address), autocommit=True))
                ear.execute("listen imagen")
            costs = [await _said(db, server, rounds, gap_s) for gap_s in (0.003, 0.0)]
            cpu = server.cpu_s()
            said = await asyncio.to_thread(crowd, address, seconds, lambda number: "select pg_notify('imagen', 'job')")
            await asyncio.sleep(SETTLE_S)
            costs.append((server.cpu_s() - cpu) / said * 1000)
            seen.append((listeners, costs))
            told = " / ".join(f"{cost:7.3f}" for cost in costs)
            print(f"  {listeners:4} listeners: {told} ms cpu; {said / seconds:,.0f} a second from eight", flush=True)
    (few, low), *more = seen
    for many, high in more:
        each = " / ".join(f"{(b - a) / (many - few) * 1000:.1f}" for a, b in zip(low, high, strict=True))
        print(f"  for each of {many} listeners: {each} us cpu")
    server.close()
    await db.close()


async def _said(db: Database, server: Server, rounds: int, gap_s: float) -> float:
    await asyncio.sleep(SETTLE_S)
    cpu = server.cpu_s()
    for number in range(rounds):
        await db.write(_say, number)
        if gap_s:
            await asyncio.sleep(gap_s)
    await asyncio.sleep(SETTLE_S)
    return (server.cpu_s() - cpu) / rounds * 1000


def _say(connection: Connection, number: int) -> None:
    touch(connection, f"job-{number}")


def commits(address: str, seconds: float) -> None:
    """How many transactions a second eight clients commit: with NOTIFY they wait for each other's disk."""
    with psycopg.connect(plain(address), autocommit=True) as connection:
        for kind in ("", "unlogged"):
            make = f"create {kind} table t{kind} as select g as id, 0 as n from generate_series(1, {CLIENTS}) g"
            connection.execute(make.encode())
    print("transactions a second, eight clients, one small update each")
    for name, table in (("logged", "t"), ("unlogged", "tunlogged")):
        for how, order_ in (
            ("", "update {table} set n = n + 1 where id = {number}"),
            (
                ", with NOTIFY",
                "begin; update {table} set n = n + 1 where id = {number}; select pg_notify('x', 'y'); commit",
            ),
        ):

            def said(number: int, order_: str = order_, table: str = table) -> str:
                return order_.format(table=table, number=number + 1)

            print(f"  {name + how:<24} {crowd(address, seconds, said) / seconds:8.0f}")


def crowd(address: str, seconds: float, said: Callable[[int], str]) -> int:
    """Eight clients that say it again and again; how often they did."""
    done = [0] * CLIENTS
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        with psycopg.connect(plain(address), autocommit=True) as connection:
            while time.monotonic() < until:
                connection.execute(said(number).encode(), prepare=False)
                done[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


async def heard() -> None:
    """What one notification costs a worker that has nothing to do with it."""
    bell = Bell(_Deaf())
    waiting = asyncio.ensure_future(bell.wait(bell.mark(), 60, frozenset({"model:a", "model:b"})))
    await asyncio.sleep(0)
    begin = time.process_time()
    for number in range(HEARD):
        bell.ring([f"job-{number % 2000}"])
    took = time.process_time() - begin
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    print(f"one that hears what is not for it: {took / HEARD * 1e6:.1f} us cpu, reading the socket not counted")


class _Deaf:
    async def listen(self, ring: Any, waiting: Any) -> None:
        """Nothing comes from elsewhere."""


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
