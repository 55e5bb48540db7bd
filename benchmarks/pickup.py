"""From submitting a job to its backend being started, one job at a time, with random pauses in between.

The budget is for one process (`imagen serve` with its own worker is one); over HTTP, and with a worker that is
another process, is told beside it.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.http_kit import get, post
from tests.service_kit import House
from tests.service_kit import house as a_house

import imagen
from imagen.config import load_settings
from imagen.core.job import State
from imagen.core.request import Draft

ROUNDS = 60
BUDGET_MS = {"sqlite": 5.0, "postgres": 15.0}
SMALL: dict[str, Any] = {"width": 16, "height": 16, "steps": 1, "options": {"slow": 0.0}}
PAUSE_S = (0.02, 0.4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="jobs of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="for the pauses (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="15 jobs of each kind")
    asked = parser.parse_args()
    rounds = 15 if asked.quick else asked.rounds
    dice = random.Random(asked.seed)
    budget = BUDGET_MS[asked.database]
    print(f"submit to backend start on {asked.database}, n = {rounds} each, one at a time")
    with a_house(asked.database) as house:
        inside = asyncio.run(one_process(house, rounds, dice))
        over = statistics.median(inside) > budget
        tell("one process", inside, f"   budget p50 {budget:.0f} ms" + ("   over" if over else ""))
        server = house.serve()
        tell("HTTP, one process", over_http(server.url, rounds, dice))
        server.stop()
        worker = house.start("worker")
        server = house.serve("--no-worker")
        tell("HTTP, another process", over_http(server.url, rounds, dice))
        for program in (worker, server):
            program.stop()
    return int(over)


async def one_process(house: House, rounds: int, dice: random.Random) -> list[float]:
    """Milliseconds from the call of `submit` to the call of the backend."""
    settings = load_settings(environ=house.environment)
    begun = 0.0
    started = asyncio.Event()
    taken = []
    async with imagen.open(settings=settings) as app:
        backend: Any = app.backend_for(app.catalog.get("mock"))
        plain = backend.generate

        def noting(*told: Any, **more: Any) -> Any:
            nonlocal begun
            begun = time.perf_counter()
            started.set()
            return plain(*told, **more)

        backend.generate = noting
        async with app.drawing():
            for number in range(rounds + 3):
                submitted = time.perf_counter()
                job = await app.submit(Draft(prompt="a fox", model="mock", seed=number, **SMALL))
                await asyncio.wait_for(started.wait(), 30)  # nobody follows meanwhile: that would be measured too
                started.clear()
                if number >= 3:  # the first few load code
                    taken.append((begun - submitted) * 1000)
                async for event in app.follow(job.id):
                    assert event.type != "failed", event
                await asyncio.sleep(dice.uniform(*PAUSE_S))
    return taken


def over_http(url: str, rounds: int, dice: random.Random) -> list[float]:
    """Milliseconds from sending the request to the moment the record says it was started."""
    taken = []
    for number in range(rounds + 3):
        submitted = time.time()
        job = post(f"{url}/v1/jobs", SMALL | {"prompt": "a fox", "model": "mock", "seed": number})
        while job["state"] not in (State.COMPLETED, State.FAILED):
            time.sleep(0.02)
            job = get(f"{url}/v1/jobs/{job['id']}")
        assert job["state"] == State.COMPLETED, job
        if number >= 3:
            taken.append((datetime.fromisoformat(job["started_at"]).timestamp() - submitted) * 1000)
        time.sleep(dice.uniform(*PAUSE_S))
    return taken


def tell(what: str, taken: list[float], more: str = "") -> None:
    taken = sorted(taken)
    print(
        f"  {what:<22} p50 {statistics.median(taken):6.1f} ms  p90 {taken[int(len(taken) * 0.9)]:6.1f} ms"
        f"  worst {taken[-1]:6.1f} ms{more}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
