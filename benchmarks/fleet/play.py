"""A day of the fleet, event by event: who waits how long, how often models are changed, and what was asked of whom.

The policy is the real one, `engine/turns.py`, one for each card. Only time is made up, and that the database keeps up.
"""

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from benchmarks.fleet.line import Line, Waiting, turn_of
from benchmarks.fleet.world import PRIORITIES, Arrival, World, arrivals

from imagen.engine.turns import Turns
from imagen.store.order import Turn
from imagen.store.presence import LEASE_S
from imagen.store.queue import BACK_OFF_S, Claim

Policy = Literal["first come", "as built", "shared"]
Hurry = Literal["race", "loaded first"]

CLAIM_S = 0.010  # from a wake-up to the first signal of the backend, and from the last one to the next claim
SWEEP_S = LEASE_S + 3.0  # until the job of a dead worker waits again
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Told:
    """What a day came to."""

    # By priority and model; those still in line at the end count with what they waited so far.
    waits: dict[tuple[int, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    changes: int = 0
    begun: int = 0
    lost: int = 0  # begun on a card that then failed
    drawing_s: float = 0.0
    loading_s: float = 0.0
    idle_s: float = 0.0
    end: float = 0.0
    longest_line: int = 0
    left: int = 0  # waited still when the last one came
    wakes: int = 0  # cards that had nothing to do, told of a job: each looks
    by_kind: dict[int, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(slots=True)
class _Model:
    name: str
    device: str


@dataclass(slots=True)
class _Held:
    """What `Turns` looks at of a claim."""

    job: str
    model: _Model
    turn: Turn


@dataclass(slots=True)
class _Card:
    number: int
    served: tuple[int, ...]
    turns: Turns
    loaded: int | None = None
    held: _Held | None = None
    job: Waiting | None = None
    run: int = 0  # rises with each job and each failure: an end that was foreseen before is void
    free_since: float = 0.0
    broken: bool = False


def play(
    world: World,
    *,
    policy: Policy = "as built",
    hurry: Hurry = "race",
    pools: Sequence[Sequence[int]] | None = None,
    jobs: Iterable[Arrival] | None = None,
    exponential: bool = False,
    whole: bool = False,
) -> Told:
    """One day. `pools` says which models each card serves (None: all of them).

    `shared` is the bound of `as built`, with the jobs that wait divided by the cards that serve them. `hurry` says
    which of the idle cards gets a job: whoever asks first, or one that has the model loaded. `exponential` is for
    the comparison with a queue whose waits are known. A day ends when its last job comes, or `whole`, is drawn.
    """
    return _Day(world, policy, hurry, pools, exponential).play(arrivals(world) if jobs is None else jobs, whole)


class _Day:
    def __init__(
        self,
        world: World,
        policy: Policy,
        hurry: Hurry,
        pools: Sequence[Sequence[int]] | None,
        exponential: bool,
    ) -> None:
        self.now = 0.0
        self.world = world
        self.policy = policy
        self.hurry = hurry
        self.exponential = exponential
        self.told = Told()
        every = tuple(range(len(world.kinds)))
        served = [every] * world.gpus if pools is None else [tuple(pool) for pool in pools]
        self.cards = [_Card(number, pool, Turns(lambda: self.now)) for number, pool in enumerate(served)]
        self.sharers = {kind: sum(kind in card.served for card in self.cards) for kind in every}
        # A set that can be drawn from at random: by model served, the cards that have nothing to do.
        self.idle: dict[int, _Idle] = {kind: _Idle() for kind in every}
        self.warm: dict[int, _Idle] = {kind: _Idle() for kind in every}
        self.line = Line(len(world.kinds), [level for level, _ in PRIORITIES])
        self.dice = random.Random(f"day-{world.seed}")
        self.events: list[tuple[float, int, str, Any, int]] = []
        self.order = itertools.count()
        for card in self.cards:
            self._rest(card)
            self._later(self.dice.expovariate(1 / world.lives_s) if world.lives_s else float("inf"), "break", card)

    def play(self, coming: Iterable[Arrival], whole: bool) -> Told:
        events = self.events
        numbers = itertools.count()
        stream = iter(coming)
        arrival = next(stream, None)
        while arrival is not None or self.line.size or any(card.job for card in self.cards):
            if arrival is not None and (not events or arrival.at <= events[0][0]):
                self.now = arrival.at
                number = next(numbers)
                turn = turn_of(START + timedelta(seconds=arrival.at), number, self.world.kinds[arrival.kind].name)
                self._come(Waiting(number, arrival.at, arrival.kind, arrival.priority, turn))
                arrival = next(stream, None)
                if arrival is None:
                    self.told.left, self.told.end = self.line.size, self.now
                    if not whole:
                        break
                continue
            at, _, what, subject, run = heapq.heappop(events)
            self.now = at
            if what == "end":
                self._end(subject, run)
            elif what == "break":
                self._break(subject)
            elif what == "mended":
                subject.broken = False
                subject.free_since = at
                self._look(subject)
            else:
                self._come(subject)
        return self._close()

    def _close(self) -> Told:
        for job in self.line:
            # How long they wait in the end nobody knows; to leave them out would flatter whoever begins nothing.
            self.told.waits[job.priority, job.kind].append(self.now - job.at)
        for card in self.cards:
            if card.job is None and not card.broken:
                self.told.idle_s += self.now - card.free_since
        return self.told

    def _later(self, wait_s: float, what: str, subject: object, run: int = 0) -> None:
        if wait_s != float("inf"):
            heapq.heappush(self.events, (self.now + wait_s, next(self.order), what, subject, run))

    def _come(self, job: Waiting) -> None:
        """A job waits; the idle cards that serve it hear of it and race for it."""
        idle = self.idle[job.kind]
        self.told.wakes += len(idle)
        self.line.add(job)
        self.told.longest_line = max(self.told.longest_line, self.line.size)
        if len(idle):
            first = self.warm[job.kind] if self.hurry == "loaded first" else idle
            self._look(self.cards[(first if len(first) else idle).any(self.dice)])

    def _look(self, card: _Card) -> None:
        """A card that is free claims what it may."""
        loaded = card.loaded
        if self.policy == "first come" or (loaded is not None and self._name(loaded) not in card.turns.preferred()):
            loaded = None
        device = str(card.number)

        def may_pass(oldest: Turn, younger: Turn, waiting: int) -> bool:
            # Whoever shares a queue with many is not the only one to work on it.
            share = waiting // self.sharers[cast(int, loaded)] if self.policy == "shared" else waiting
            return card.turns.may_pass(device, oldest, younger, share)

        job = self.line.take(card.served, loaded, may_pass)
        if job is None:
            card.turns.rest()
            self._rest(card)
            return
        self._begin(card, job)

    def _begin(self, card: _Card, job: Waiting) -> None:
        told, kind = self.told, self.world.kinds[job.kind]
        told.idle_s += self.now - card.free_since
        self._stir(card)
        told.waits[job.priority, job.kind].append(self.now - job.at)
        told.begun += 1
        told.by_kind[job.kind] += 1
        load_s = 0.0
        if card.loaded != job.kind:
            load_s = kind.load_s
            told.changes += 1
        card.loaded, card.job = job.kind, job
        card.held = _Held(str(job.number), _Model(kind.name, str(card.number)), job.turn)
        card.turns.begin(cast(Claim, card.held))
        if self.exponential:
            draw_s = self.dice.expovariate(1 / kind.draw_s)
        else:
            draw_s = max(0.2, self.dice.gauss(1.0, self.world.jitter)) * kind.draw_s + CLAIM_S
        told.drawing_s += draw_s
        told.loading_s += load_s
        card.run += 1
        self._later(load_s + draw_s, "end", card, card.run)

    def _end(self, card: _Card, run: int) -> None:
        if run != card.run or card.held is None:
            return
        card.turns.end(cast(Claim, card.held))
        card.held = card.job = None
        card.free_since = self.now
        self._look(card)

    def _break(self, card: _Card) -> None:
        """A card fails: its job comes back after a lease, it itself when somebody has mended it."""
        job, card.job, card.held = card.job, None, None
        if job is None:
            self.told.idle_s += self.now - card.free_since
        else:
            self.told.lost += 1
            job.failures += 1
            job.at = self.now  # what it waited before is counted; it waits again from here
            self._later(SWEEP_S + BACK_OFF_S[min(job.failures, len(BACK_OFF_S)) - 1], "again", job)
        self._stir(card)
        card.run += 1
        card.broken, card.loaded, card.turns = True, None, Turns(lambda: self.now)
        self._later(self.world.mends_s, "mended", card)
        self._later(self.world.mends_s + self.dice.expovariate(1 / self.world.lives_s), "break", card)

    def _rest(self, card: _Card) -> None:
        for kind in card.served:
            self.idle[kind].add(card.number)
        if card.loaded is not None:
            self.warm[card.loaded].add(card.number)

    def _stir(self, card: _Card) -> None:
        for kind in card.served:
            self.idle[kind].discard(card.number)
        if card.loaded is not None:
            self.warm[card.loaded].discard(card.number)

    def _name(self, kind: int) -> str:
        return self.world.kinds[kind].name


class _Idle:
    """A set one can draw from at random, in constant time."""

    def __init__(self) -> None:
        self._all: list[int] = []
        self._place: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, number: int) -> None:
        if number not in self._place:
            self._place[number] = len(self._all)
            self._all.append(number)

    def discard(self, number: int) -> None:
        place = self._place.pop(number, None)
        if place is None:
            return
        last = self._all.pop()
        if last != number:
            self._all[place] = last
            self._place[last] = place

    def any(self, dice: random.Random) -> int:
        return self._all[int(dice.random() * len(self._all))]
