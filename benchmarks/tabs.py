"""Twelve jobs watched in three tabs of a real Chromium over HTTP/1.1: does anything stall?"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser_kit import chromium
from tests.service_kit import house as a_house
from tests.tabs_kit import watch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="shorter jobs")
    asked = parser.parse_args()
    with a_house(asked.database) as house, chromium() as browser:
        seen = watch(house, browser, slow_s=1.0 if asked.quick else 4.0)
    print(f"{seen.jobs} jobs in {len(seen.tabs)} tabs on {asked.database}, {seen.took_s:.0f} s")
    for number, tab in enumerate(seen.tabs, 1):
        print(
            f"  tab {number}: {len(tab['ends'])} ends, {sum(tab['kinds'].values())} events, of them"
            f" {tab['kinds'].get('preview', 0)} previews; beside it {tab['asked']} requests,"
            f" the slowest {tab['slowest_ms']:.0f} ms; broken streams {tab['broke']}"
        )
    for fault in seen.faults:
        print(f"  over: {fault}")
    print("  budget: every tab sees every end, no stream breaks, requests beside the streams go on")
    return int(bool(seen.faults))


if __name__ == "__main__":
    sys.exit(main())
