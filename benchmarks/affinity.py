"""How often the model on a device is changed on a mixed trace, over first come, first served; and who pays for it.

The real worker, queue and runner on a clock that only drawing and loading move, so that an hour passes in seconds.
Then, in real time, how far `eta_s` is off after a third of the steps.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import store_kit
from tests.service_kit import databases

from imagen.core.errors import Check
from imagen.core.events import Completed, Progress
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.signals import Output, Phase, Signal, Step
from imagen.engine.drawing.worker import Worker
from imagen.store import intake, journal
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.intake import NewJob

JOBS, MODELS = 240, 4
BUDGET_SWITCHES, BUDGET_LATER_S = 1 / 5, 60.0
ETA_JOBS, BUDGET_ETA = 20, 0.30
DEVICE = "card@here"


@dataclass(frozen=True, slots=True)
class Trace:
    """Who comes when, and what it costs."""

    name: str
    load_s: float
    draw_s: float
    arrivals: Sequence[tuple[float, str]]  # seconds, model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=JOBS, help="jobs of a trace (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="for the arrivals (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a quarter of the jobs, and no waiting for the disk")
    asked = parser.parse_args()
    count = asked.jobs // 4 if asked.quick else asked.jobs
    told = traces(count, asked.seed)
    print(f"{count} jobs of {MODELS} models on one device, {asked.database}, seed {asked.seed}")
    missed = False
    with (
        tempfile.TemporaryDirectory(prefix="imagen-affinity-") as folder,
        databases(asked.database, len(told) + 1, Path(folder), durable=not asked.quick) as addresses,
    ):
        for trace, address in zip(told, addresses, strict=False):
            missed |= report(trace, asyncio.run(play(trace, address, Path(folder) / trace.name)))
        missed |= asyncio.run(guesses(addresses[-1], Path(folder) / "eta"))
    return int(missed)


def traces(count: int, seed: int) -> list[Trace]:
    """All at once and in turn; and a queue that builds up, drains and builds up again."""
    dice = random.Random(seed)
    names = [f"model-{number}" for number in range(MODELS)]
    at_once = [(0.0, names[number % MODELS]) for number in range(count)]
    waves: list[tuple[float, str]] = []
    moment = 0.0
    for number in range(count):
        if number % 60 == 0:
            moment += 120.0
        moment += dice.expovariate(1 / 1.5)
        waves.append((moment, dice.choice(names)))
    return [
        Trace("in turn, small models", 4.0, 1.0, at_once),
        Trace("in turn, large models", 8.0, 4.0, at_once),
        Trace("in waves, at random", 8.0, 3.0, waves),
    ]


# One trace


@dataclass(frozen=True, slots=True)
class Outcome:
    """In which order the jobs of a trace were begun, and when."""

    switches: int
    starts: Sequence[float]  # by place in the trace
    end: float


def first_come(trace: Trace) -> Outcome:
    """What a queue without affinity does: nothing to measure, only to count."""
    now, switches, loaded = 0.0, 0, ""
    starts = []
    for arrival, model in trace.arrivals:
        now = max(now, arrival)
        starts.append(now)
        if model != loaded:
            now += trace.load_s
            switches, loaded = switches + 1, model
        now += trace.draw_s
    return Outcome(switches, starts, now)


class Card:
    """A backend whose work takes no time but moves the clock; while it works, others come and queue up."""

    def __init__(self, trace: Trace, db: Database) -> None:
        self.now = 0.0
        self.switches = 0
        self.starts: dict[int, float] = {}
        self.done = asyncio.Event()
        self._trace = trace
        self._db = db
        self._came = 0
        self._loaded = ""

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: object, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        self.starts[request.seed] = self.now
        if model.name != self._loaded:
            yield Phase(name="loading")
            self.now += self._trace.load_s
            self.switches, self._loaded = self.switches + 1, model.name
        yield Step(step=1, total=1)
        self.now += self._trace.draw_s
        await self.arrive()
        yield Output(data=bytes(192), width=8, height=8)

    async def aclose(self) -> None:
        pass

    async def arrive(self) -> None:
        """Submit who has come by now; when nobody waits, time passes until somebody comes."""
        arrivals = self._trace.arrivals
        if self._came == len(self.starts) and self._came < len(arrivals):
            self.now = max(self.now, arrivals[self._came][0])
        while self._came < len(arrivals) and arrivals[self._came][0] <= self.now:
            model = replace(store_kit.MODEL, name=arrivals[self._came][1], device=DEVICE)
            # The seed is the job's place in the trace: that is how the card knows whom it draws.
            await self._db.write(intake.submit, [store_kit.new(model, seed=self._came)])
            self._came += 1
        if len(self.starts) == len(arrivals):
            self.done.set()


async def play(trace: Trace, address: str, folder: Path) -> Outcome:
    """The trace through a real worker."""
    async with opened(address) as db:
        card = Card(trace, db)
        catalog = {name: replace(store_kit.MODEL, name=name, device=DEVICE) for _, name in trace.arrivals}
        worker = Worker(
            db,
            ImageStore("local", folder),
            resolve=never,
            backend_for=lambda _model: card,
            catalog=lambda: catalog,
            version="0",
            monotonic=lambda: card.now,
        )
        await card.arrive()
        working = asyncio.create_task(worker.run())
        done = asyncio.create_task(card.done.wait())
        await asyncio.wait({working, done}, return_when=asyncio.FIRST_COMPLETED, timeout=600)
        assert card.done.is_set(), f"{len(card.starts)} of {len(trace.arrivals)} were drawn"
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return Outcome(card.switches, [card.starts[place] for place in range(len(trace.arrivals))], card.now)


def report(trace: Trace, ours: Outcome) -> bool:
    """Print one trace's figures; true when a budget is missed."""
    theirs = first_come(trace)
    later = [mine - plain for mine, plain in zip(ours.starts, theirs.starts, strict=True)]
    share = ours.switches / theirs.switches
    over = share > BUDGET_SWITCHES or max(later) > BUDGET_LATER_S
    print(f"  {trace.name} (load {trace.load_s:g} s, draw {trace.draw_s:g} s)" + ("   over" if over else ""))
    print(
        f"    switches {ours.switches} over {theirs.switches}: {share:.2f}   budget {BUDGET_SWITCHES:.2f};"
        f" all done after {ours.end:.0f} s over {theirs.end:.0f} s"
    )
    print(
        f"    waits longer than first come, first served: {max(0.0, max(later)):.0f} s at most   budget"
        f" {BUDGET_LATER_S:.0f} s; median {statistics.median(later):.0f} s"
    )
    return over


# How good the guess is


class Sleeper:
    """A backend that takes real time: loading, steps of uneven length, decoding."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self.load_s = 2.0 if seed % 5 == 0 else self._dice.uniform(0, 0.3)
        self.steps = self._dice.choice((6, 9, 20, 30))
        self.step_s = self._dice.uniform(1.5, 4.0) / self.steps

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: object, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        yield Phase(name="loading")
        await asyncio.sleep(self.load_s)
        yield Phase(name="encoding")
        await asyncio.sleep(0.1)
        yield Phase(name="sampling")
        for step in range(1, self.steps + 1):
            await asyncio.sleep(self.step_s * self._dice.uniform(0.9, 1.1))
            yield Step(step=step, total=self.steps)
        yield Phase(name="decoding")
        await asyncio.sleep(
            self.step_s
        )  # as long as a step: about the worst a decoder does to a model with few of them
        yield Output(data=bytes(192), width=8, height=8)

    async def aclose(self) -> None:
        pass


async def guesses(address: str, folder: Path) -> bool:
    """Twenty jobs side by side in real time; prints how far off the guess was after a third of the steps."""
    cards = {f"model-{number}": Sleeper(number) for number in range(ETA_JOBS)}
    catalog = {name: replace(store_kit.MODEL, name=name, device=f"{name}@here") for name in cards}
    async with opened(address) as db:
        worker = Worker(
            db,
            ImageStore("local", folder),
            resolve=never,
            backend_for=lambda model: cards[model.name],
            catalog=lambda: catalog,
            version="0",
        )
        ids = await db.write(intake.submit, [store_kit.new(model) for model in catalog.values()])
        working = asyncio.create_task(worker.run())
        try:
            errors = await asyncio.gather(*(off(db, job, card) for job, card in zip(ids, cards.values(), strict=True)))
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    slow = [error for error, card in zip(errors, cards.values(), strict=True) if card.load_s >= 2]
    worst, middle = max(errors), statistics.median(errors)
    print(f"eta_s after a third of the steps, {ETA_JOBS} jobs, {len(slow)} of them with a slow load")
    print(
        f"    off by {middle:.0%} in the middle, {worst:.0%} at worst ({max(slow):.0%} after a slow load)"
        f"   budget {BUDGET_ETA:.0%}" + ("   over" if worst > BUDGET_ETA else "")
    )
    return worst > BUDGET_ETA


async def off(db: Database, job: str, card: Sleeper) -> float:
    """How far the first guess after a third of the steps was from the truth, as a share of the truth."""
    third = -(-card.steps // 3)
    seq = tick = 0
    guess: tuple[float, float] | None = None
    while True:
        mark = db.mark()
        news = await db.read(journal.news, job, seq, tick)
        seq, tick = news.seq, news.tick
        for event in news.events:
            if isinstance(event, Progress) and event.step >= third and guess is None and event.eta_s is not None:
                guess = (event.at.timestamp(), event.eta_s)
            if isinstance(event, Completed):
                assert guess is not None, "no guess was made"
                truth = event.at.timestamp() - guess[0]
                return abs(guess[1] - truth) / truth
        assert not news.ended or news.events, "it did not complete"
        await db.changed(mark, 0.05)


def never(_draft: Draft) -> NewJob:
    raise AssertionError("nothing comes by SQL here")


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Database]:
    """A database for a block."""
    db = Database(address)
    await db.open()
    try:
        yield db
    finally:
        await db.close()


if __name__ == "__main__":
    sys.exit(main())
