"""Many jobs on a fake ComfyUI to which something happens now and then: how each has to end, and how it ended."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagen
from imagen.app import App
from imagen.testing.comfyui import Fake
from tests.drawing_kit import Told, followed, opened, submitted, until

# What happens to a job, of a hundred; the others are left alone.
HAPPENINGS = {
    "cancelled": 8,
    "out of memory": 3,
    "a node breaks": 3,
    "interrupted by somebody": 3,
    "deleted by somebody": 3,
    "the socket breaks": 6,
    "the answer is lost": 3,
    "a stranger goes first": 4,
    "the server restarts": 1,
}
ENDS: dict[str, tuple[type[imagen.Event], str]] = {
    "cancelled": (imagen.Cancelled, ""),
    "out of memory": (imagen.Failed, "out_of_memory"),
    "a node breaks": (imagen.Failed, "crashed"),
    "interrupted by somebody": (imagen.Failed, "rejected"),
    "deleted by somebody": (imagen.Failed, "rejected"),
}


@dataclass(slots=True)
class Account:
    """What happened, and everything that was not as it has to be."""

    jobs: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def many(jobs: int, home: Path, *, seed: int) -> Account:
    """Draw so many, one after the other."""
    dice, fake, account = random.Random(seed), Fake(), Account()
    async with fake.serving() as url, opened(home, url, patience_s=None) as app, app.drawing():
        for number in range(jobs):
            shares = [*HAPPENINGS.values(), 100 - sum(HAPPENINGS.values())]
            what = dice.choices([*HAPPENINGS, "nothing"], weights=shares)[0]
            before = len(fake.prompts)
            async with asyncio.timeout(60):
                told = await _one(app, fake, what, number, steps=dice.randint(1, 4))
            ours = [one for one in fake.prompts[before:] if not one.stranger]
            account.jobs += 1
            account.happened[what] += 1
            account.wrong += [f"job {number}, {what}: {fault}" for fault in _faults(told, what, fake, ours)]
    return account


async def _one(app: App, fake: Fake, what: str, number: int, *, steps: int) -> Told:
    if what == "the answer is lost":
        fake.lose_reply()
    elif what == "out of memory":
        fake.out_of_memory()
    elif what == "a node breaks":
        fake.fail("it broke", node="VAEDecode")
    elif what == "a stranger goes first":
        fake.stranger(steps=2)
    held = what in ("cancelled", "interrupted by somebody", "the socket breaks", "the server restarts")
    if held or what == "deleted by somebody":
        fake.hold("sampling" if held else "queued")
    job = await submitted(app, seed=number, steps=steps)
    following = asyncio.create_task(followed(app, job))
    if held:
        await until(lambda: fake.held)
    match what:
        case "cancelled":
            await app.cancel(job)
        case "interrupted by somebody":
            fake.somebody_interrupts()
        case "deleted by somebody":
            await until(lambda: fake.engine.queue)
            fake.somebody_deletes()
        case "the socket breaks":
            fake.drop_sockets()
        case "the server restarts":
            await fake.restart()
        case _:
            pass
    fake.go_on()
    return await following


def _faults(told: Told, what: str, fake: Fake, ours: list[Any]) -> list[str]:
    faults = []
    kind, code = ENDS.get(what, (imagen.Completed, ""))
    ends = [event for event in told.events if event.terminal]
    if len(ends) != 1 or ends[0] is not told.events[-1] or not isinstance(ends[0], kind):
        faults.append(f"ended {[event.type for event in ends]}")
    elif isinstance(ends[0], imagen.Failed) and ends[0].error.code != code:
        faults.append(f"failed as {ends[0].error.code}")
    elif isinstance(ends[0], imagen.Completed) and len(ends[0].images) != 1:
        faults.append(f"{len(ends[0].images)} pictures")
    durable = [event.seq for event in told.events if event.durable]
    if durable != list(range(1, len(durable) + 1)):
        faults.append(f"events {durable}")
    names = {one.id for one in ours}
    if kind is imagen.Completed and sum(one in names for one in fake.sampled) != 1:
        faults.append("not drawn exactly once")
    if any(one.state in ("pending", "running") for one in ours):
        faults.append("left at the server")
    return faults
