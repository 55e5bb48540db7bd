"""Chaos: jobs come in while workers and servers are killed and paused, and PostgreSQL restarts. Is the record sound?

Every job ends exactly once, none is lost, none is stuck, no picture is recorded twice, no zombie's write is
accepted, no device is used twice. Prints the seed, so that a run can be asked for again.
"""

import argparse
import asyncio
import secrets
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chaos_kit import Chaos, Plan
from tests.crowd_kit import raise_limit
from tests.postgres_kit import postgres
from tests.service_kit import House

JOBS, KILLS, PAUSES, RESTARTS, OVER_S = 500, 60, 4, 3, 200.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="(default: drawn)")
    parser.add_argument("--jobs", type=int, default=JOBS, help="(default: %(default)s)")
    parser.add_argument("--kills", type=int, default=KILLS, help="(default: %(default)s)")
    parser.add_argument("--restarts", type=int, default=RESTARTS, help="of PostgreSQL (default: %(default)s)")
    parser.add_argument("--over", type=float, default=OVER_S, metavar="S", help="seconds of it (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="50 jobs and 8 kills in 25 seconds")
    parser.add_argument("--keep", action="store_true", help="leave home and logs there when something broke")
    asked = parser.parse_args()
    small = asked.quick
    plan = Plan(
        seed=asked.seed,
        jobs=50 if small else asked.jobs,
        kills=8 if small else asked.kills,
        over_s=25.0 if small else asked.over,
        pauses=1 if small else PAUSES,
        restarts=0 if asked.database == "sqlite" else 1 if small else asked.restarts,
    )
    raise_limit()
    print(f"chaos on {asked.database}, seed {plan.seed}: {plan.jobs} jobs, {plan.kills} kills", flush=True)
    with ExitStack() as stack:
        server = stack.enter_context(postgres()) if asked.database == "postgres" else None
        house = stack.enter_context(House(server.url if server else None))
        told = asyncio.run(Chaos(plan, house, server).run())
        print(told)
        broken = bool(told.verdict.faults)
        if broken and asked.keep:
            house.keep()
            print(f"kept: {house.folder}")
    print(f"seed {plan.seed}, {told.took_s:.0f} s: {'BROKEN' if broken else 'sound'}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
