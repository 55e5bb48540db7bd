"""What is remembered of each caller: its checkpoint, the job it asks about, and the one it wants stopped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests import NOWHERE

from imagen.app import App
from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.core.job import Job
from imagen.core.request import Draft
from imagen.surfaces.http.a1111.callers import MOST_CALLERS, MOST_JOBS, Callers, Onlookers, Seat
from imagen.surfaces.http.auth import LOCAL, Caller
from imagen.surfaces.http.foreign.visits import Visits

ADA, BOB = Caller(name="ada"), Caller(name="bob", admin=True)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    settings = load_settings(home=tmp_path, environ={"IMAGEN_COMFYUI_URL": NOWHERE})
    async with open_app(settings=settings) as opened:
        yield opened


async def submitted(app: App, seat: Seat, task: str | None = None) -> str:
    job = await app.submit(Draft(prompt="a fox", model="mock"))
    seat.begin(job.id, task)
    return job.id


def id_of(job: Job | None) -> str | None:
    return job.id if job else None


def test_a_caller_is_a_key_or_an_address() -> None:
    """Whoever has a key is the same from anywhere; where there are no keys, each address is somebody else."""
    callers = Callers()
    assert callers.seat(ADA, "10.0.0.1") is callers.seat(ADA, "10.0.0.2")
    assert callers.seat(ADA, "10.0.0.1") is not callers.seat(BOB, "10.0.0.1")
    assert callers.seat(LOCAL, "10.0.0.1") is callers.seat(LOCAL, "10.0.0.1")
    assert callers.seat(LOCAL, "10.0.0.1") is not callers.seat(LOCAL, "10.0.0.2")
    assert callers.seat(LOCAL, "ada") is not callers.seat(ADA, "ada")


def test_many_callers_are_forgotten_and_one_who_waits_is_not() -> None:
    """Those who were not there for longest go first."""
    callers = Callers()
    waits, idle = callers.seat(ADA, None), callers.seat(BOB, None)
    waits.begin("J", None)
    for number in range(MOST_CALLERS - 1):
        callers.seat(LOCAL, str(number))
    assert callers.seat(ADA, None) is waits
    assert callers.seat(BOB, None) is not idle


async def test_the_last_job_that_has_not_ended_is_told_of(app: App) -> None:
    """When it ends the one before it is, and then none; by its name each is found even then."""
    seat = Seat()
    assert await seat.job(app) is None
    first, last = await submitted(app, seat, "task(1)"), await submitted(app, seat)
    assert id_of(await seat.job(app)) == last
    await app.cancel(last)
    assert id_of(await seat.job(app)) == first
    await app.cancel(first)
    assert await seat.job(app) is None
    assert seat.open == []
    assert id_of(await seat.job(app, task="task(1)")) == first
    assert id_of(await seat.job(app, last)) == last
    assert await seat.job(app, "task(2)") is None


async def test_a_job_that_nobody_waits_for_is_meant_first(app: App) -> None:
    """Whoever wants it stopped has closed its request; otherwise the last one is meant."""
    seat, visits = Seat(), Visits()
    assert await seat.meant(app, visits) is None
    left, awaited = await submitted(app, seat), await submitted(app, seat)
    for job_id in (left, awaited):
        visits.enter(job_id, "ada")
    assert id_of(await seat.meant(app, visits)) == awaited
    visits.leave(left, "ada", answered=False)
    assert id_of(await seat.meant(app, visits)) == left
    await app.cancel(left)
    assert id_of(await seat.meant(app, visits)) == awaited


async def test_a_request_that_closes_just_after_is_waited_for(app: App) -> None:
    """Some clients send the interruption first, and close a moment later."""
    seat, visits = Seat(), Visits()
    left, awaited = await submitted(app, seat), await submitted(app, seat)
    for job_id in (left, awaited):
        visits.enter(job_id, "ada")
    asyncio.get_running_loop().call_later(0.05, lambda: visits.leave(left, "ada", answered=False))
    assert id_of(await seat.meant(app, visits)) == left


def test_what_is_remembered_of_one_caller_is_bounded() -> None:
    """A client that never waits for its answers fills nothing."""
    seat = Seat()
    for number in range(3 * MOST_JOBS):
        seat.begin(f"J{number}", f"task({number})")
    assert len(seat.open) == len(seat.tasks) == MOST_JOBS
    seat.end("J1")
    seat.end(seat.open[-1])
    assert len(seat.open) == MOST_JOBS - 1


def test_the_same_job_again_is_one_job() -> None:
    """The same key with the same body brings it again."""
    seat = Seat()
    seat.begin("J", None)
    seat.begin("J", None)
    assert seat.open == ["J"]


class _Watch:
    def __init__(self) -> None:
        self.ended = False
        self.looks = 0

    async def next(self, timeout_s: float) -> tuple[Any, ...]:
        self.looks += 1
        await asyncio.sleep(min(timeout_s, 0.01))
        return ()


class _Watched:
    """An app that only counts who watches."""

    def __init__(self) -> None:
        self.watches: list[_Watch] = []
        self.open = 0

    @asynccontextmanager
    async def watching(self, _job_id: str, *, previews: bool) -> AsyncIterator[_Watch]:
        assert previews
        self.open += 1
        self.watches.append(_Watch())
        try:
            yield self.watches[-1]
        finally:
            self.open -= 1


async def _until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", ["job", "patience", "server"])
async def test_an_onlooker_looks_as_long_as_somebody_asks(end: str) -> None:
    """One watch for however many questions, until the job ends, nobody asked for a while, or the server stops."""
    now = 0.0
    app, stopping = _Watched(), asyncio.Event()
    onlookers = Onlookers(clock=lambda: now)
    for _ in range(3):
        onlookers.look(app, "J", stopping)  # type: ignore[arg-type]  # all of an app that it needs
        await asyncio.sleep(0.02)
    assert (len(app.watches), app.open) == (1, 1)
    now = 8.0
    onlookers.look(app, "J", stopping)  # type: ignore[arg-type]  # all of an app that it needs
    now = 15.0
    await asyncio.sleep(0.05)
    assert app.open == 1
    match end:
        case "job":
            app.watches[0].ended = True
        case "patience":
            now = 30.0
        case _:
            stopping.set()
    await _until(lambda: app.open == 0)
    if end != "server":
        onlookers.look(app, "J", stopping)  # type: ignore[arg-type]  # all of an app that it needs
        await _until(lambda: app.open == 1)
        stopping.set()
        await _until(lambda: app.open == 0)
