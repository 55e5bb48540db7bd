"""Who comes, and what there is to draw with: models, arrivals over a day, bursts, a sudden fashion, cards that fail."""

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DAY_S = 86_400.0
URGENT, USUAL, PATIENT = 10, 0, -10
PRIORITIES = ((URGENT, 0.05), (USUAL, 0.85), (PATIENT, 0.10))  # and how many jobs have it
CELLS = 200  # of a comparison: all submitted at once, in the order of their models


@dataclass(frozen=True, slots=True)
class Kind:
    """A model: how many ask for it, and what it takes. Seconds are assumed, for one picture on one data centre card."""

    name: str
    share: float
    draw_s: float
    load_s: float
    steps: int


# A few large models for quality, and quick ones for most: 4.8 s of drawing for a job on the average.
KINDS = (
    Kind("flux1-schnell", 0.44, 2.0, 20.0, 4),
    Kind("flux2-klein", 0.24, 3.0, 15.0, 4),
    Kind("z-image-turbo", 0.15, 4.0, 15.0, 8),
    Kind("sd35-medium", 0.08, 8.0, 10.0, 28),
    Kind("hidream-o1", 0.06, 15.0, 40.0, 28),
    Kind("qwen-image", 0.03, 40.0, 60.0, 20),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A fleet and its day. A shrunk day has the same jobs a second, and passes as many times more quickly."""

    gpus: int = 1000
    jobs_a_day: float = 1e7
    kinds: Sequence[Kind] = KINDS
    swing: float = 0.5  # how much busier the busiest moment is than the average, as a share of it
    bursts_an_hour: float = 30.0
    fashion: str = "hidream-o1"  # asked for `craze` times as often between 60 and 70 % of the day
    craze: float = 3.0
    lives_s: float = 5 * DAY_S  # until a card fails, on the average; one in a thousand each seven minutes
    mends_s: float = 1800.0
    jitter: float = 0.15  # of how long drawing takes
    shrink: float = 20.0
    seed: int = 1

    @property
    def length_s(self) -> float:
        return DAY_S / self.shrink

    @property
    def rate(self) -> float:
        """Jobs a second, on the average, without the bursts."""
        return self.jobs_a_day / DAY_S

    def rate_at(self, now: float) -> float:
        """Low at the beginning and at the end, high in the middle."""
        return self.rate * (1 - self.swing * math.cos(2 * math.pi * now / self.length_s))

    def work_s(self) -> float:
        """Seconds of drawing for a job."""
        return sum(kind.share * kind.draw_s for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float
    kind: int
    priority: int


def arrivals(world: World) -> Iterator[Arrival]:
    """All that comes in a day, in order."""
    return heapq.merge(_stream(world), _bursts(world), key=lambda one: one.at)


def _stream(world: World) -> Iterator[Arrival]:
    dice = random.Random(f"stream-{world.seed}")
    most = world.rate * (1 + abs(world.swing))
    usual = [kind.share for kind in world.kinds]
    crazed = [kind.share * (world.craze if kind.name == world.fashion else 1.0) for kind in world.kinds]
    numbers = range(len(world.kinds))
    priorities, shares = [level for level, _ in PRIORITIES], [part for _, part in PRIORITIES]
    now = 0.0
    while (now := now + dice.expovariate(most)) < world.length_s:
        if dice.random() * most > world.rate_at(now):
            continue
        craze = 0.6 <= now / world.length_s < 0.7
        (kind,) = dice.choices(numbers, crazed if craze else usual)
        yield Arrival(now, kind, dice.choices(priorities, shares)[0])


def _bursts(world: World) -> Iterator[Arrival]:
    if not world.bursts_an_hour:
        return
    dice = random.Random(f"bursts-{world.seed}")
    now = 0.0
    while (now := now + dice.expovariate(world.bursts_an_hour / 3600)) < world.length_s:
        # Compared are the quick ones, most of all: half of the models, drawn by their shares.
        chosen: set[int] = set()
        while len(chosen) < max(1, len(world.kinds) // 2):
            chosen.update(dice.choices(range(len(world.kinds)), [kind.share for kind in world.kinds]))
        each = -(-CELLS // len(chosen))
        for kind in sorted(chosen):
            yield from [Arrival(now, kind, USUAL)] * each


def pools(world: World, flexible: float) -> list[tuple[int, ...]]:
    """Which models each card serves when most serve one: by how much work there is of each; the rest serve all."""
    every = range(len(world.kinds))
    fixed = round(world.gpus * (1 - flexible))
    due = [fixed * kind.share * kind.draw_s / world.work_s() for kind in world.kinds]
    counts = [max(1, math.floor(cards)) for cards in due]
    for kind in sorted(every, key=lambda kind: due[kind] - counts[kind], reverse=True)[: max(0, fixed - sum(counts))]:
        counts[kind] += 1
    served = [(kind,) for kind in every for _ in range(counts[kind])]
    return [*served, *[tuple(every)] * (world.gpus - len(served))]
