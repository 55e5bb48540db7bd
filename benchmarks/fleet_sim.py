"""A thousand cards and ten million jobs a day: who waits how long, what the database is asked, and what breaks first.

A day is played event by event, with the policy of the real worker, and its database is reckoned from what each step was
measured to cost (`fleet_costs.py`). `--real` plays a small trace and has real workers draw it on a real PostgreSQL.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fleet.load import Habits, edges, previews_of, sized, use
from benchmarks.fleet.play import Policy, Told, play
from benchmarks.fleet.world import PRIORITIES, World, pools

SHRINK, QUICK = 40.0, 240.0
FLEXIBLE = 0.2  # of the cards serve every model where the others serve one
SIZES = (100, 250, 500, 1000, 2000)
GROUP = 250  # cards that share a database, where there are several
CORES = 16
SERVERS = 3
LUCK = 8  # days of the same trace, for how much of a difference is luck
BUILT = Habits(servers=SERVERS)
HABITS = {
    "as built": BUILT,
    "as built, every job followed": replace(BUILT, followed=1.0),
    "all listen, every step is told": replace(BUILT, hears="queues", followed=1.0),
    "PostgreSQL wakes who is meant": replace(BUILT, meant=True),
    "workers look and do not listen": replace(BUILT, hears="nothing"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the fleet."""

    name: str
    policy: Policy
    flexible: float | None = None  # None: every card serves every model


WAYS = (
    Way("every card serves every model: first come, first served", "first come"),
    Way("every card serves every model: each card for itself", "each alone"),
    Way("every card serves every model: as built", "as built"),
    Way("four of five serve one model: first come, first served", "first come", FLEXIBLE),
    Way("four of five serve one model: each card for itself", "each alone", FLEXIBLE),
    Way("four of five serve one model: as built", "as built", FLEXIBLE),
)
OUTLOOK = (
    Way("half serve one model: as built", "as built", 0.5),
    Way("every card serves one model", "as built", 0.0),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1000, help="cards (default: %(default)s)")
    parser.add_argument("--jobs", type=float, default=1e7, help="a day (default: 1e7)")
    parser.add_argument("--cores", type=int, default=CORES, help="of the database server (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same one brings the same day (default: %(default)s)")
    parser.add_argument("--shrink", type=float, default=SHRINK, help="how much shorter a day is (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a day of six minutes")
    parser.add_argument("--outlook", action="store_true", help="also other ways to divide the cards")
    parser.add_argument("--real", action="store_true", help="only: a small trace, played and drawn by real workers")
    asked = parser.parse_args()
    if asked.real:
        return real()
    shrink = QUICK if asked.quick else asked.shrink
    world = World(gpus=asked.gpus, jobs_a_day=asked.jobs, shrink=shrink, seed=asked.seed)
    print(
        f"{world.gpus:,} cards, {world.jobs_a_day:,.0f} jobs a day ({world.rate:.0f} a second, at most"
        f" {world.rate * (1 + world.swing):.0f}), {world.work_s():.1f} s of drawing each; a day of"
        f" {world.length_s / 60:.0f} min, seed {world.seed}"
    )
    ways = (*WAYS, *(OUTLOOK if asked.outlook else ()))
    # Spawned: a fork of a process with threads may hang.
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as processes:
        days = list(processes.map(play_way, [world] * len(ways), ways))
    told = dict(zip([way.name for way in ways], days, strict=True))
    print(f"{'':<58}   p50 s   p99 s  changes    drawing loading  in line")
    for name, day in told.items():
        summary(name, world, day)
    best = told[WAYS[-1].name]
    waits(world, best)
    database(world, best, asked.cores)
    sweep(world, best, asked.cores)
    previews(world, best)
    return 0


def play_way(world: World, way: Way) -> Told:
    """One day, in a process of its own."""
    served = pools(world, way.flexible) if way.flexible is not None else None
    return play(world, policy=way.policy, pools=served)


def share(values: Sequence[float], part: float) -> float:
    """The value below which this part of all lies."""
    ordered = sorted(values)
    return ordered[int(part * (len(ordered) - 1))] if ordered else 0.0


def every(day: Told) -> list[float]:
    """The waits of all."""
    return [wait for found in day.waits.values() for wait in found]


def summary(name: str, world: World, day: Told) -> None:
    """A line for a way: changes of model are told for each card and hour, drawing and loading of the cards' time."""
    found = every(day)
    hours = day.end / 3600 * world.gpus
    spent = day.end * world.gpus
    print(
        f"  {name:<56} {share(found, 0.5):7.1f} {share(found, 0.99):7.0f} {day.changes / hours:8.1f}"
        f"      {day.drawing_s / spent:5.0%}   {day.loading_s / spent:5.0%}  {day.left:7,}"
    )


def waits(world: World, day: Told) -> None:
    """By model and priority."""
    print(f"{WAYS[-1].name}: wait p50 / p99 in seconds, by priority")
    levels = [level for level, _ in PRIORITIES]
    print(f"  {'':<16}" + "".join(f"{level:>16}" for level in levels) + f"{'all':>16}        jobs")
    for number, name in enumerate([*(kind.name for kind in world.kinds), "all"]):
        kinds = [number] if number < len(world.kinds) else range(len(world.kinds))
        cells = [[wait for kind in kinds for wait in day.waits[level, kind]] for level in levels]
        together = [wait for cell in cells for wait in cell]
        told = [f"{share(cell, 0.5):.1f} / {share(cell, 0.99):.0f}" for cell in (*cells, together)]
        print(f"  {name:<16}" + "".join(f"{cell:>16}" for cell in told) + f"{len(together):12,}")
    print(f"  drawn again, because their card failed: {day.lost}; longest line {day.longest_line:,}")


def database(world: World, day: Told, cores: int) -> None:
    """What one PostgreSQL server is asked for all of it."""
    used = use(world, day, BUILT)
    print(f"one database for all, {SERVERS} servers, on the average of the day")
    for name, busy in sorted(used.cores.items(), key=lambda part: -part[1]):
        print(f"  {name:<24} {busy:8.2f} cores")
    print(
        f"  together {used.cpu:.1f} of {cores} cores; {used.transactions:,.0f} transactions/s, {used.notifying:,.0f} of"
        f" them logged and with NOTIFY; {used.notices:,.0f} notifications/s, which wake {used.woken:,.0f} times"
    )
    print(
        f"  {used.tide:.2f} cores more for each server on which a page is open\n"
        f"  {used.connections:,.0f} connections; log {used.wal / 1e6:.1f} MB/s, {used.wal * 86_400 / 1e9:.0f} GB a day;"
        f" {used.rows_a_day:,.0f} rows and {used.kept_a_day / 1e9:.0f} GB kept a day"
    )


def sweep(world: World, day: Told, cores: int) -> None:
    """The same fleet smaller and larger, and what would end first."""
    print("cores of the database by the size of the fleet, jobs in proportion")
    names = [*HABITS, f"groups of {GROUP}"]
    print(f"  {'cards':>6} " + "".join(f"{name:>34}" for name in names) + f"{'connections':>14}")
    for gpus in SIZES:
        asked = [sized(world, day, gpus, habits) for habits in HABITS.values()]
        groups = max(1.0, gpus / GROUP)
        grouped = sized(world, day, round(gpus / groups), BUILT).cpu * groups
        told = "".join(f"{cpu:34.1f}" for cpu in (*(used.cpu for used in asked), grouped))
        print(f"  {gpus:6,} {told}{asked[0].connections:14,.0f}")
    for name, habits in HABITS.items():
        print(f"what ends first, {name}: cards that each carries if nothing else had an end")
        for edge in edges(world, day, cores, habits):
            print(f"  {edge.name:<24} {edge.cards:9,} cards   ({edge.limit})")


def previews(world: World, day: Told) -> None:
    """What watching costs."""
    print(f"previews: {previews_of(world):.1f} of a job that is watched")
    for watched in (0.1, 0.5, 1.0):
        for name, habits in HABITS.items():
            plain = use(world, day, habits)
            used = use(world, day, replace(habits, watched=watched))
            print(
                f"  {watched:4.0%} watched, {name:<34} {used.notices - plain.notices:6,.0f} a second:"
                f" {used.cores['previews']:5.2f} cores for the rows,"
                f" {used.cores['NOTIFY'] - plain.cores['NOTIFY']:5.2f} for NOTIFY"
            )


def real() -> int:
    """The same trace, played and drawn."""
    from benchmarks.fleet import real as small

    coming, drawn, connections = small.both()
    played = [play(replace(small.WORLD, seed=seed), jobs=coming, whole=True) for seed in range(LUCK)]
    print(f"{small.CARDS} cards, {len(coming)} jobs in {small.LENGTH_S:.0f} s; played {LUCK} times with other luck")
    figures: tuple[tuple[str, Callable[[Told], float]], ...] = (
        ("changes of model", lambda day: day.changes),
        ("mean wait, s", lambda day: statistics.fmean(every(day))),
        ("p50 wait, s", lambda day: share(every(day), 0.5)),
        ("p90 wait, s", lambda day: share(every(day), 0.9)),
        ("p99 wait, s", lambda day: share(every(day), 0.99)),
        ("longest wait, s", lambda day: max(every(day))),
    )
    for name, figure in figures:
        found = [figure(day) for day in played]
        print(f"  {name:<18} played {min(found):6.2f} to {max(found):6.2f}   drawn {figure(drawn):6.2f}")
    print(f"  connections of a worker, at most: {connections:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
