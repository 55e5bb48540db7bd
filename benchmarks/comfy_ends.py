"""A thousand jobs on a fake ComfyUI, a third of them disturbed: are there ends that are missing or wrong?"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.comfy_ends_kit import many

JOBS, QUICK = 1000, 100
BUDGET = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=JOBS, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="for what happens to which (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} jobs")
    asked = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        account = asyncio.run(many(QUICK if asked.quick else asked.jobs, Path(home), seed=asked.seed))
    happened = ", ".join(f"{number} {what}" for what, number in sorted(account.happened.items()))
    print(f"{account.jobs} jobs in {time.perf_counter() - begun:.0f} s, seed {asked.seed}: {happened}")
    for fault in account.wrong:
        print(f"  {fault}")
    over = len(account.wrong) > BUDGET
    print(f"  ends that are missing or wrong: {len(account.wrong)}   budget {BUDGET}{'   over' if over else ''}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
