"""A day of the fleet, event by event: who waits how long, how often models are changed, and what was asked of whom.

The policy is the real one, `engine/drawing/turns.py`, one for each card. Only time is made up, and that the database
keeps up.
"""

import functools
import heapq
import itertools
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from benchmarks.fleet.line import Line, Waiting, turn_of
from benchmarks.fleet.world import PRIORITIES, Arrival, World, arrivals

from imagen.engine.drawing.fleet import Fleet
from imagen.engine.drawing.turns import ASIDE_S, Turns
from imagen.store.order import Place, Turn
from imagen.store.presence import HEARTBEAT_S, LEASE_S
from imagen.store.queue import BACK_OFF_S, Claim

# "each alone": the loaded model goes first, and no card knows of the others.
Policy = Literal["first come", "each alone", "as built"]

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

    @property
    def key(self) -> str:
        return self.job  # here each is drawn once


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
    aside: bool = False  # it looks again in a moment


def play(
    world: World,
    *,
    policy: Policy = "as built",
    pools: Sequence[Sequence[int]] | None = None,
    jobs: Iterable[Arrival] | None = None,
    exponential: bool = False,
    whole: bool = False,
) -> Told:
    """One day. `pools` says which models each card serves (None: all of them).

    `exponential` is for the comparison with a queue whose waits are known. A day ends when its last job comes, or
    `whole`, is drawn.
    """
    return _Day(world, policy, pools, exponential).play(arrivals(world) if jobs is None else jobs, whole)


class _Known(Fleet):
    """What all cards know of each other: what is loaded, as it was a beat ago."""

    def __init__(self, world: World, served: Sequence[Sequence[int]], clock: Callable[[], float]) -> None:
        super().__init__("")
        self._clock = clock
        self._held: deque[tuple[float, frozenset[str]]] = deque([(-HEARTBEAT_S, frozenset())])
        self._sharers = {kind.name: sum(number in pool for pool in served) for number, kind in enumerate(world.kinds)}

    def devices(self, model: str) -> int:
        return self._sharers[model]

    def hold(self, models: frozenset[str]) -> None:
        """From now on these are loaded somewhere."""
        if models != self._held[-1][1]:
            self._held.append((self._clock(), models))

    @property
    def loaded(self) -> frozenset[str]:
        while len(self._held) > 1 and self._held[1][0] <= self._clock() - HEARTBEAT_S:
            self._held.popleft()
        return self._held[0][1]


class _Day:
    def __init__(
        self,
        world: World,
        policy: Policy,
        pools: Sequence[Sequence[int]] | None,
        exponential: bool,
    ) -> None:
        self.now = 0.0
        self.world = world
        self.policy = policy
        self.exponential = exponential
        self.told = Told()
        every = tuple(range(len(world.kinds)))
        served = [every] * world.gpus if pools is None else [tuple(pool) for pool in pools]
        self.fleet = _Known(world, served, lambda: self.now) if policy == "as built" else Fleet("")
        self.cards = [_Card(number, pool, self._turns()) for number, pool in enumerate(served)]
        self.holders = dict.fromkeys(every, 0)  # how many cards have it loaded
        # Sets that can be drawn from at random: by model, the cards with nothing to do that begin a new job of it
        # at once, and those that would leave it for a moment to who has it loaded.
        self.idle: dict[int, _Idle] = {kind: _Idle() for kind in every}
        self.calm: dict[int, _Idle] = {kind: _Idle() for kind in every}
        self.numbers = {kind.name: number for number, kind in enumerate(world.kinds)}
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
            elif what == "aside":
                subject.aside = False
                if subject.job is None and not subject.broken:
                    self._stir(subject)
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
        """A job waits; the idle cards that serve it hear of it and race for it, or stand aside first."""
        self.line.add(job)
        self.told.longest_line = max(self.told.longest_line, self.line.size)
        idle = self.idle[job.kind]
        for number in list(self.calm[job.kind]):
            self._stand_aside(self.cards[number])
        self.told.wakes += len(idle)
        if len(idle):
            card = self.cards[idle.any(self.dice)]
            self._stir(card)
            self._look(card)

    def _stand_aside(self, card: _Card) -> None:
        """Look again when somebody else has had the time to begin; once for all that comes meanwhile."""
        if not card.aside:
            card.aside = True
            self._later(ASIDE_S, "aside", card)
            self.told.wakes += 1
            for kind in card.served:
                self.calm[kind].discard(card.number)

    def _look(self, card: _Card) -> None:
        """A card that is free claims what it may."""
        loaded = card.loaded
        if self.policy == "first come" or (loaded is not None and self._name(loaded) not in card.turns.preferred()):
            loaded = None
        new = {kind for kind in self._left(card) if self.line.only_new(kind, self.now - ASIDE_S)}
        job = self.line.take(
            [kind for kind in card.served if kind not in new],
            loaded,
            functools.partial(card.turns.may_pass, str(card.number)),
        )
        if job is None:
            card.turns.rest()
            self._rest(card)
            if new:
                self._stand_aside(card)
            return
        self._begin(card, job)

    def _left(self, card: _Card) -> set[int]:
        """The models whose new jobs this card leaves for a moment to others."""
        place = Place(device=str(card.number))
        better = card.turns.better_elsewhere({self._name(kind): place for kind in card.served})
        return {self.numbers[model] for model in better}

    def _begin(self, card: _Card, job: Waiting) -> None:
        told, kind = self.told, self.world.kinds[job.kind]
        told.idle_s += self.now - card.free_since
        told.waits[job.priority, job.kind].append(self.now - job.at)
        told.begun += 1
        told.by_kind[job.kind] += 1
        load_s = 0.0
        if card.loaded != job.kind:
            load_s = kind.load_s
            told.changes += 1
            self._hold(card, job.kind)
        card.job = job
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
        card.broken, card.turns = True, self._turns()
        self._hold(card, None)
        self._later(self.world.mends_s, "mended", card)
        self._later(self.world.mends_s + self.dice.expovariate(1 / self.world.lives_s), "break", card)

    def _turns(self) -> Turns:
        return Turns(self.fleet, lambda: self.now)

    def _hold(self, card: _Card, kind: int | None) -> None:
        """A card has another model loaded, or none."""
        for one, more in ((card.loaded, -1), (kind, 1)):
            if one is not None:
                self.holders[one] += more
        if isinstance(self.fleet, _Known):
            self.fleet.hold(frozenset(self._name(kind) for kind, cards in self.holders.items() if cards))
        card.loaded = kind

    def _rest(self, card: _Card) -> None:
        left = self._left(card)
        for kind in card.served:
            if kind not in left:
                self.idle[kind].add(card.number)
            elif not card.aside:
                self.calm[kind].add(card.number)

    def _stir(self, card: _Card) -> None:
        for kind in card.served:
            self.idle[kind].discard(card.number)
            self.calm[kind].discard(card.number)

    def _name(self, kind: int) -> str:
        return self.world.kinds[kind].name


class _Idle:
    """A set one can draw from at random, in constant time."""

    def __init__(self) -> None:
        self._all: list[int] = []
        self._place: dict[int, int] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._all)

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
