"""How long the command line takes to say hello: `imagen --help` and `imagen models` over `python -c pass`."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 30
BUDGETS = {"imagen --help": 6.0, "imagen models": 12.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is started (default: %(default)s)")
    rounds = parser.parse_args().rounds
    # The interpreter that `imagen` itself starts: another one, or a version manager's shim, may start up slower
    # (its own site-packages, 70-200 ms for the shim) and would flatter the ratio.
    python = sys.executable
    imagen = str(Path(sys.executable).with_name("imagen"))
    commands = {"python -c pass": [python, "-c", "pass"], **{name: [imagen, *name.split()[1:]] for name in BUDGETS}}

    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "IMAGEN_HOME": home}
        for command in commands.values():  # byte code and the model cache are there from the second start on
            _start(command, environment)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):  # interleaved, so that what else the machine does falls on all alike
            for name, command in commands.items():
                times[name].append(_start(command, environment))

    base = times["python -c pass"]
    print(f"{'command':<16} {'median':>9} {'ratio':>7} {'budget':>7}   n = {rounds}, paired, interleaved")
    print(f"{'python -c pass':<16} {statistics.median(base) * 1000:>6.1f} ms")
    missed = False
    for name, budget in BUDGETS.items():
        ratio = statistics.median(mine / bare for mine, bare in zip(times[name], base, strict=True))
        missed |= ratio > budget
        print(
            f"{name:<16} {statistics.median(times[name]) * 1000:>6.1f} ms {ratio:>6.1f}x {budget:>6.0f}x"
            + ("   over" if ratio > budget else "")
        )
    return int(missed)


def _start(command: list[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
