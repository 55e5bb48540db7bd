"""What a fleet asks of its PostgreSQL server, reckoned from what each step costs and how often it is done.

Measured by `fleet_costs.py` on two cores of an AMD EPYC at 2.6 GHz, PostgreSQL 15 with fsync, November 2026. Other
figures of another machine go here; what breaks first hardly depends on them, for most of it grows with the square.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.fleet.play import Told
from benchmarks.fleet.world import DAY_S, World

from imagen.engine.live import LOOK_S
from imagen.engine.tide import BREATH_S
from imagen.engine.worker import IDLE_S
from imagen.store.presence import HEARTBEAT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Milliseconds of processor time of the server, and bytes of its log, for one of each."""

    submit_ms: float = 0.73
    claim_ms: float = 0.81
    miss_ms: float = 0.25  # a claim that finds nothing: another card was quicker
    look_ms: float = 0.47  # of a card that has nothing to do
    attention_ms: float = 0.18  # of a running job: is it cancelled, is it watched
    live_ms: float = 0.22  # a phase or a step
    preview_ms: float = 0.10  # more for one of 15 KB
    shown_ms: float = 0.44  # a server reads it for its watchers
    picture_ms: float = 0.41
    end_ms: float = 0.53
    beat_ms: float = 0.98  # a heartbeat beside one other worker, and for each other worker
    beat_each_ms: float = 0.0027
    heard_ms: float = 0.0092  # for each that listens, when many speak at once; 0.025 when it is one by one
    tide_ms: float = 2.25  # an open page: all that run, a thousand of them, at most fifty times a second
    wal_bytes: float = 3731 + 3945 + 2194 + 3889
    live_wal_bytes: float = 40  # a phase or a step: its row is not logged, its commit is
    kept_bytes: float = 4926 + 2222 + 616 + 375  # jobs, events, images, idempotency; with their indexes
    rows: float = 1 + 4 + 1 + 1  # jobs, events, images, idempotency
    connections: float = 4.1  # of a worker, the one that listens among them: seen in `fleet_sim.py --real`


CPU_LIMIT = 0.7  # of the cores: beyond it waits for the database begin to grow
MOST_CARDS = 1_000_000
COMMITS_LIMIT = 2150.0  # logged transactions with NOTIFY a second: each waits for the disk alone; 400 on a busy one


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What is asked of a server in each second."""

    cores: dict[str, float]
    transactions: float
    notifying: float  # logged transactions with NOTIFY
    notices: float
    heard: float  # notices times those that listen
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
    hears: str = "all"  # what workers listen to: "all", or "queues" if they were told of queues and devices alone
    watched: float = 0.0  # of the jobs that run, how many somebody watches with previews


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
    listening = workers + habits.servers
    # By topic: a queue and a job are told of each submit, a job of each claim, step and picture, a device of each end.
    notices = rate * (2 + 1 + 1 + 2) + lively + previews
    to_workers = notices if habits.hears == "all" else rate * 2
    heard = to_workers * workers + notices * habits.servers
    cores = {
        "jobs": rate * (costs.submit_ms + costs.claim_ms + costs.picture_ms + costs.end_ms),
        "progress": lively * costs.live_ms,
        "previews": previews * (costs.live_ms + costs.preview_ms + costs.shown_ms),
        "running jobs look up": attention * costs.attention_ms,
        "heartbeats": beats * (costs.beat_ms + costs.beat_each_ms * workers),
        "idle cards look": idle / IDLE_S * costs.look_ms,
        "idle cards race": wakes * costs.miss_ms,
        "NOTIFY heard": heard * costs.heard_ms,
    }
    transactions = rate * 4 + lively + attention + beats * 5 + idle / IDLE_S + wakes + previews
    return Use(
        cores={name: ms / 1000 for name, ms in cores.items()},
        transactions=transactions,
        notifying=rate * 4,
        notices=notices,
        heard=heard,
        tide=min(1 / BREATH_S, notices) * costs.tide_ms / 1000 * busy / 1000,
        connections=listening * costs.connections,
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
