"""What each step of a job costs a PostgreSQL server: processor time and log; and what NOTIFY costs a fleet.

The figures that `fleet_sim.py` reckons with. Processor time is that of all processes of the server, as the kernel
counted it; the time to the disk is not in it. On a machine that is busy with other things it is up to twice as much.
"""

import argparse
import asyncio
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fleet.hearing import commits, fan_out, heard, turns
from benchmarks.fleet.server import Meter, Server
from tests import store_kit
from tests.postgres_kit import postgres

import imagen.models
from imagen.backends.comfyui import registration
from imagen.core import events
from imagen.core.ids import new_id
from imagen.core.job import StoredImage
from imagen.core.model import Model
from imagen.models.catalog import load_catalog
from imagen.store import intake, journal, numbers, order, presence, queue
from imagen.store.queue import Claim

ROUNDS = 300
CROWD = 1000  # workers in the list, and jobs that run at once
TOAST = 400  # previews over one row
PREVIEW_BYTES = 15_000  # a JPEG of 512 px
MODELS = ("flux1-schnell", "flux2-klein", "z-image-turbo", "sd35-medium", "hidream-o1", "qwen-image")


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
        turns(server.new_database(), 10 * rounds)
        commits(server.new_database(), seconds)
        await heard(server.new_database())
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
        wish = store_kit.wish(places=places, knows=knows, loaded=[model.name])

        def resolve(_draft: object) -> intake.NewJob:
            raise AssertionError("nothing comes by SQL here")

        def take(connection: Connection) -> Claim | None:
            return queue.claim(connection, wish, resolve=resolve, started=store_kit.started)

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
        await meter(
            "a log reads what became of its job",
            rounds,
            lambda number: db.read(numbers.happened_to, {claims[number].job: 1}),
        )
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
    """What `engine/drawing/live.py` writes for a step."""
    said: dict[str, Any] = {"job": claim.job, "seq": 2, "attempt": 1, "tick": tick}
    step = events.Progress(step=tick, total=4, eta_s=1.0, **said)
    return journal.set_live(connection, claim.job, 1, tick, events.Phase(phase="sampling", **said), step)


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
    said = events.Completed(job=claim.job, attempt=claim.attempt)
    queue.finish(connection, claim, said, timings={"sample": 1.0}, facts={"vram_peak_mib": 9})


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


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
