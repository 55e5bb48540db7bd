"""How soon `imagen serve` accepts jobs, and what it weighs when nobody asks for anything."""

import argparse
import http.client
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.service_kit import House, free_port
from tests.service_kit import house as a_house

ROUNDS, BUDGET_S, BUDGET_MIB = 10, 1.0, 80.0
SETTLE_S = 10.0  # the first sweeps and heartbeats are part of idling


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="starts of each kind (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 starts of each kind")
    asked = parser.parse_args()
    rounds = 3 if asked.quick else asked.rounds
    python: list[float] = []
    known: list[float] = []
    weights: list[float] = []
    with a_house(asked.database) as house:
        fresh = [start(house, settle=0)[0]]  # it makes the tables
        for number in range(rounds):
            python.append(bare())
            took, weight = start(house, settle=SETTLE_S if number == 0 else 0.2)
            known.append(took)
            weights.append(weight)
    fresh += [new_home(asked.database) for _ in range(rounds - 1)]
    base = statistics.median(python)
    missed = False
    print(f"imagen serve on {asked.database}, {rounds} starts of each kind; python -c pass takes {base * 1000:.0f} ms")
    for what, taken in (("a database that is there", known), ("a new database", fresh)):
        middle = statistics.median(taken)
        missed |= middle > BUDGET_S
        print(
            f"  ready with {what:<24} {middle:5.2f} s ({middle / base:4.0f} x python)   budget {BUDGET_S:.0f} s"
            + ("   over" if middle > BUDGET_S else "")
        )
    idle = weights[0]
    missed |= idle > BUDGET_MIB
    print(
        f"  idle after {SETTLE_S:.0f} s {idle:25.1f} MiB                  budget {BUDGET_MIB:.0f} MiB"
        + ("   over" if idle > BUDGET_MIB else "")
    )
    return int(missed)


def start(house: House, *, settle: float) -> tuple[float, float]:
    """Seconds until /readyz says 200, and MiB of memory after `settle` seconds of nothing."""
    port = free_port()
    begin = time.perf_counter()
    server = house.start("serve", "--port", str(port))
    while not ready(port):
        assert server.alive, server.said()
        assert time.perf_counter() - begin < 60, server.said()
        time.sleep(0.002)
    took = time.perf_counter() - begin
    time.sleep(settle)
    weight = server.rss_kib() / 1024
    server.stop()
    return took, weight


def new_home(database: str) -> float:
    """The very first start."""
    with a_house(database) as house:
        return start(house, settle=0)[0]


def ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def bare() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
