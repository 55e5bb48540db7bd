"""What a fleet asks of its PostgreSQL server, reckoned from what each step costs and how often it is done.

Measured by `fleet_costs.py` on two cores of an AMD EPYC at 2.6 GHz, PostgreSQL 15 with fsync, 22 November 2026. Other
figures of another machine go here; what breaks first hardly depends on them, for most of it grows with the square.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.fleet.play import Told
from benchmarks.fleet.world import DAY_S, World

from imagen.engine.drawing.live import LOOK_S
from imagen.engine.drawing.worker import IDLE_S
from imagen.engine.following.tide import BREATH_S
from imagen.store.bell import REST_S
from imagen.store.presence import HEARTBEAT_S
from imagen.surfaces.cli.daemon_log import LOOK_S as LOG_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Milliseconds of processor time of the server, and bytes of its log, for one of each."""

    submit_ms: float = 0.58
    claim_ms: float = 0.59
    miss_ms: float = 0.34  # a claim that finds nothing: another card was quicker
    look_ms: float = 0.41  # of a card that has nothing to do
    attention_ms: float = 0.16  # of a running job: is it cancelled, is it watched
    live_ms: float = 0.15  # a phase or a step, with the look at who follows
    preview_ms: float = 0.09  # more for one of 15 KB
    shown_ms: float = 0.33  # a server reads it for its watchers
    picture_ms: float = 0.31
    end_ms: float = 0.38
    beat_ms: float = 0.88  # a heartbeat beside one other worker, and for each other worker
    beat_each_ms: float = 0.0026
    woken_ms: float = 0.0088  # each that listens in the database, when many speak at once; 0.022 when it is one by one
    told_ms: float = 0.0008  # more where it listens to that channel
    turn_ms: float = 0.015  # to begin to listen, and to leave it again, beside 160 or 640 who listen
    log_ms: float = 0.20  # a daemon reads for its log what became of its job
    tide_ms: float = 2.31  # an open page: all that run, a thousand of them, at most fifty times a second
    wal_bytes: float = 3731 + 3945 + 1442 + 3571
    live_wal_bytes: float = 40  # a phase or a step: its row is not logged, its commit is
    kept_bytes: float = 4096 + 2222 + 616 + 375  # jobs, events, images, idempotency; with their indexes
    rows: float = 1 + 4 + 1 + 1  # jobs, events, images, idempotency
    connections: float = 4.1  # of a worker, the one that listens among them: seen in `fleet_sim.py --real`


# One channel for all; queues and devices; these while a card could begin something, as built; nothing: each looks.
Hears = Literal["all", "queues", "idle", "nothing"]

CPU_LIMIT = 0.7  # of the cores: beyond it waits for the database begin to grow
MOST_CARDS = 1_000_000
COMMITS_LIMIT = 1990.0  # logged transactions with NOTIFY a second: each waits for the disk alone; 400 on a busy one


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What is asked of a server in each second."""

    cores: dict[str, float]
    transactions: float
    notifying: float  # logged transactions that notify as they commit: submits, by the trigger that serves SQL, too
    notices: float
    woken: float  # transactions that notify times those that PostgreSQL wakes for each
    tide: float  # cores for each server that follows all jobs
    connections: float
    wal: float
    rows_a_day: float
    kept_a_day: float

    @property
    def cpu(self) -> float:
        return sum(self.cores.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a fleet works, as far as it matters to its database."""

    servers: int = 3
    hears: Hears = "idle"  # what workers listen to
    meant: bool = False  # PostgreSQL wakes those who listen to the channel, not all who listen in the database
    followed: float = 0.0  # of the jobs that run, how many somebody follows: only their steps are told
    watched: float = 0.0  # of the jobs that run, how many somebody watches with previews, and so follows


def use(world: World, told: Told, habits: Habits | None = None, costs: Costs | None = None) -> Use:
    """Of one day as it was played, on the average; for another size see `sized`."""
    habits, costs = habits or Habits(), costs or Costs()
    rate = told.begun / told.end
    busy = (told.drawing_s + told.loading_s) / told.end
    return reckon(
        world,
        rate=rate,
        busy=busy,
        idle=told.idle_s / told.end,
        wakes=told.wakes / told.end,
        changes=told.changes / told.begun,
        habits=habits,
        costs=costs,
    )


def sized(world: World, told: Told, gpus: int, habits: Habits | None = None, costs: Costs | None = None) -> Use:
    """The same fleet with so many cards and its share of the jobs."""
    part = gpus / world.gpus
    return reckon(
        replace(world, gpus=gpus),
        rate=told.begun / told.end * part,
        busy=(told.drawing_s + told.loading_s) / told.end * part,
        idle=told.idle_s / told.end * part,
        wakes=told.wakes / told.end * part * part,  # more jobs, and more idle cards that hear of each
        changes=told.changes / told.begun,
        habits=habits or Habits(),
        costs=costs or Costs(),
    )


def steps_of(world: World) -> float:
    """Steps of a job, on the average."""
    return sum(kind.share * kind.steps for kind in world.kinds)


def reckon(
    world: World,
    *,
    rate: float,
    busy: float,
    idle: float,
    wakes: float,
    changes: float,
    habits: Habits,
    costs: Costs,
) -> Use:
    """`busy` and `idle` are cards, `rate` and `wakes` are a second's, `changes` a job's."""
    workers = world.gpus  # one for each card
    # Encoding, sampling, decoding, saving; loading where the model changes. Each is written when it comes.
    lively = rate * (4 + changes + steps_of(world))
    attention = max(0.0, busy / LOOK_S - lively) + rate
    beats = workers / HEARTBEAT_S
    previews = habits.watched * rate * previews_of(world)
    # By topic: of a submit hear a queue and the job, of a claim and a picture the job, of an end the job and a device.
    steps = lively * max(habits.followed, habits.watched)
    of_work, of_jobs = rate * 2, rate * 4 + steps + previews
    spoken = of_jobs  # transactions that notify: all say something of a job
    # A worker listens on for a moment after it began a job, and once it is free it listens, and looks again.
    ears = {"nothing": 0.0, "idle": min(workers, idle + rate * REST_S)}.get(habits.hears, workers)
    turns = rate if habits.hears == "idle" else 0.0
    wanted = of_work + of_jobs if habits.hears == "all" else of_work  # by a worker
    told = ears * wanted + habits.servers * (of_work + of_jobs)
    # As soon as somebody follows jobs, a server listens with a connection for each channel.
    woken = told if habits.meant else spoken * (ears + 2 * habits.servers)
    if habits.hears == "nothing":
        wakes = 0.0
    cores = {
        "jobs": rate * (costs.submit_ms + costs.claim_ms + costs.picture_ms + costs.end_ms),
        "progress": lively * costs.live_ms,
        "previews": previews * (costs.live_ms + costs.preview_ms + costs.shown_ms),
        "running jobs look up": attention * costs.attention_ms,
        "heartbeats": beats * (costs.beat_ms + costs.beat_each_ms * workers),
        "idle cards look": idle / IDLE_S * costs.look_ms,
        "idle cards race": wakes * costs.miss_ms,
        "NOTIFY": woken * costs.woken_ms + told * costs.told_ms,
        "listening begun and left": turns * (costs.turn_ms + costs.look_ms),
        "logs": busy / LOG_S * costs.log_ms,
    }
    logs = busy / LOG_S
    transactions = (
        rate * 4
        + (spoken - rate)
        + lively
        + attention
        + beats * 5
        + idle / IDLE_S
        + wakes
        + previews
        + logs
        + turns * 3
    )
    return Use(
        cores={name: ms / 1000 for name, ms in cores.items()},
        transactions=transactions,
        notifying=rate,
        notices=of_work + of_jobs,
        woken=woken,
        tide=min(1 / BREATH_S, of_jobs) * costs.tide_ms / 1000 * busy / 1000,
        connections=(workers + habits.servers) * costs.connections + habits.servers - (0 if ears else workers),
        wal=rate * costs.wal_bytes + lively * costs.live_wal_bytes,
        rows_a_day=rate * DAY_S * costs.rows,
        kept_a_day=rate * DAY_S * costs.kept_bytes,
    )


def previews_of(world: World) -> float:
    """Previews of a job that is watched: eight at most, none of the last step, 150 ms apart."""
    made = 0.0
    for kind in world.kinds:
        made += kind.share * min(8, kind.steps - 1, kind.draw_s / 0.15)
    return made


@dataclass(frozen=True, slots=True)
class Edge:
    """Something that has an end."""

    name: str
    limit: str
    cards: int  # how many it carries


def edges(world: World, told: Told, cores: int, habits: Habits | None = None) -> Sequence[Edge]:
    """How many cards each part of one server carries, the weakest first, if all the others had no end."""

    def most(fits: Callable[[Use], bool]) -> int:
        low, high = 1, MOST_CARDS
        while low < high:
            middle = (low + high + 1) // 2
            if fits(sized(world, told, middle, habits)):
                low = middle
            else:
                high = middle - 1
        return low

    def part(name: str) -> Callable[[Use], bool]:
        return lambda used: used.cores[name] <= room

    def open_(limit: int) -> Callable[[Use], bool]:
        return lambda used: used.connections <= limit

    room = cores * CPU_LIMIT
    share = f"{CPU_LIMIT:.0%} of {cores} cores"
    used = [name for name, busy in sized(world, told, world.gpus, habits).cores.items() if busy]
    found = [Edge(name, share, most(part(name))) for name in used]
    found.append(Edge("all of these together", share, most(lambda used: used.cpu <= room)))
    peak = f"{COMMITS_LIMIT:.0f} a second at the peak"
    found.append(
        Edge("commits with NOTIFY", peak, most(lambda used: used.notifying * (1 + world.swing) <= COMMITS_LIMIT))
    )
    found += [Edge("connections", f"max_connections = {limit}", most(open_(limit))) for limit in (500, 5000)]
    return sorted(found, key=lambda edge: edge.cards)
