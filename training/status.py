"""Say how the training stands: is it running, how far, how fast, how good, and where to look.

python -m training.status
"""

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path

SCRATCH = Path(__file__).parent.parent / ".training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=SCRATCH / "run")
    print("\n".join(status(parser.parse_args().run)))


def status(run: Path) -> list[str]:
    """What there is to say about a run, a line each."""
    lines = [f"process   {_process(run)}"]
    log = run / "log.csv"
    if log.exists():
        with log.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        last, some = rows[-1], rows[-20:]
        lines += [
            f"samples   {int(last['samples']):,} in {int(last['step']):,} steps, last heard of {last['at']}",
            f"speed     {_mean(some, 'samples_per_s'):.1f} samples/s over the last {len(some)} lines",
            f"loss      {_mean(rows[:20], 'loss'):.4f} at first, {_mean(some, 'loss'):.4f} now, rate {last['rate']}",
        ]
    for kind, pattern in (("weights", "*.pt"), ("sheets", "sheet-*.png")):
        found = sorted(run.glob(pattern), key=lambda path: path.stat().st_mtime)
        lines += [f"{kind:9} {path}" for path in found[-3:]]
    return lines


def _process(run: Path) -> str:
    path = run / "pid"
    if not path.exists():
        return "never started"
    number = int(path.read_text())
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return f"{number}, ended"
    return f"{number}, running"


def _mean(rows: Sequence[dict[str, str]], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)


if __name__ == "__main__":
    main()
