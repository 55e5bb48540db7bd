"""One device shared politely: pauses that last, a budget that is never exceeded, and nobody who waits for ever."""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update
from tests.store_kit import MODEL, OTHER, PLACE, WORKER, arrive, database, grammar, new, record, take

from imagen.core.device import Pause
from imagen.core.errors import HookFailed
from imagen.core.events import Completed, Requeued
from imagen.core.job import State
from imagen.core.model import Model
from imagen.store import devices, history, intake, presence, queue
from imagen.store.db import Database
from imagen.store.intake import NewJob
from imagen.store.order import Place, place_of, sharing
from imagen.store.queue import Claim, LeaseLost
from imagen.store.series import new_series
from imagen.store.tables import jobs, slots

CARD = "cuda:0@here"
BUDGET = 1000
SIZES = {"small": 300, "middle": 500, "large": 800, "huge": 5000, "unknown": None}
MODELS = {name: Model(name=name, backend="script", device=CARD, vram_mib=mib) for name, mib in SIZES.items()}
SHARED = sharing({name: place_of(model) for name, model in MODELS.items()}, {CARD: BUDGET})


def pause(reason: str = "a game", *, until: datetime | None = None) -> Pause:
    return Pause(reason=reason, by="ann", since=datetime.now(UTC), until=until)


async def end(db: Database, claim: Claim) -> None:
    await db.write(queue.finish, claim, Completed(job=claim.job, attempt=claim.attempt), timings={}, facts={})


async def share(db: Database, **how: Any) -> Claim | None:
    return await take(db, **{"places": SHARED, "knows": tuple(SHARED)} | how)


def held(connection: Connection) -> tuple[int, int]:
    """MiB that are held of the card, and by how many jobs."""
    taken = select(func.coalesce(func.sum(slots.c.vram_mib), 0), func.count()).where(slots.c.job_id.is_not(None))
    mib, count = connection.execute(taken).one()
    return int(mib), int(count)


async def test_nothing_is_begun_on_a_paused_device(place: str) -> None:
    """What runs there ends; what waits says why, and is drawn after `resume`. A restart changes nothing."""
    async with database(place) as db:
        first, second = await db.write(intake.submit, [new(), new()])
        running = await take(db)
        assert running is not None
        await db.write(devices.pause, PLACE.device, pause())
        await end(db, running)
    again = Database(place)
    await again.open()
    assert await take(again) is None
    waiting = await again.read(history.job, second)
    assert waiting.waits_for == "cpu@here: paused by ann: a game"
    assert await again.write(devices.resume, PLACE.device)
    assert not await again.write(devices.resume, PLACE.device)
    claim = await take(again)
    assert claim is not None
    assert claim.job == second
    assert (await again.read(history.job, first)).state is State.COMPLETED
    await again.close()


async def test_a_device_that_drew_nothing_yet_can_be_paused(place: str) -> None:
    """And slots that it is given later are paused with it."""
    wide = {"test": Place(device="cloud:x", slots=3)}
    async with database(place) as db:
        await db.write(devices.pause, "cloud:x", pause())
        await db.write(intake.submit, [new()])
        assert await take(db, places=wide) is None
        (device,) = await db.read(devices.listed, [], datetime.now(UTC))
        assert (device.name, device.slots, device.taken) == ("cloud:x", 3, 0)
        assert device.paused is not None
        assert (device.paused.reason, device.paused.by) == ("a game", "ann")
        await db.write(devices.resume, "cloud:x")
        assert await take(db, places=wide) is not None


async def test_another_device_takes_over_what_waits_for_a_paused_one(place: str) -> None:
    """Only when every device that draws a model is paused its jobs wait for that."""
    there = {"test": replace(PLACE, device="cpu@there")}
    async with database(place) as db:
        await db.write(presence.beat, WORKER, {"test": PLACE})
        await db.write(arrive, "worker-2")
        await db.write(presence.beat, "worker-2", there)
        await db.write(devices.pause, PLACE.device, pause())
        (job,) = await db.write(intake.submit, [new()])
        assert (await db.read(history.job, job)).waits_for is None
        await db.write(devices.pause, "cpu@there", pause("a film"))
        told = "cpu@here: paused by ann: a game; cpu@there: paused by ann: a film"
        assert (await db.read(history.job, job)).waits_for == told
        await db.write(devices.resume, "cpu@there")
        assert await take(db) is None
        assert await take(db, "worker-2", places=there) is not None


async def test_pausing_now_gives_back_what_runs_without_a_failure(place: str) -> None:
    """Whoever drew it can record nothing any more, and the reason stands in the record."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        claim = await take(db)
        assert claim is not None
        await db.write(devices.pause, PLACE.device, pause())
        assert await db.write(devices.give_back, PLACE.device, pause()) == [job]
        with pytest.raises(LeaseLost):
            await end(db, claim)
        back = await db.read(history.job, job)
        assert (back.state, back.failures) == (State.QUEUED, 0)
        assert await take(db) is None
        await db.write(devices.resume, PLACE.device)
        again = await take(db)
        assert again is not None
        assert (again.attempt, again.failures) == (2, 0)
        events = await record(db, job)
        grammar(events)
        (requeued,) = [event for event in events if isinstance(event, Requeued)]
        assert requeued.reason == "cpu@here was paused by ann: a game"


async def test_a_rest_ends_by_itself_and_gives_way_to_a_pause(place: str) -> None:
    """A hook that failed keeps a device for seconds; what somebody said is not undone by it."""
    now = datetime.now(UTC)
    async with database(place) as db:
        await db.write(intake.submit, [new(), new()])
        await db.write(devices.rest, PLACE.device, pause("a hook", until=now + timedelta(hours=1)))
        assert await take(db) is None
        await db.write(devices.resume, PLACE.device)
        await db.write(devices.rest, PLACE.device, pause("a hook", until=now - timedelta(seconds=1)))
        assert await db.read(devices.paused, datetime.now(UTC)) == {}
        claim = await take(db)
        assert claim is not None
        await end(db, claim)
        await db.write(devices.pause, PLACE.device, pause("a game"))
        await db.write(devices.rest, PLACE.device, pause("a hook", until=now + timedelta(hours=1)))
        (why,) = (await db.read(devices.paused, datetime.now(UTC))).values()
        assert (why.reason, why.until) == ("a game", None)


async def test_a_second_rest_takes_the_place_of_the_first(place: str) -> None:
    """Each failure says for itself when the next try is."""
    later = datetime.now(UTC) + timedelta(hours=2)
    async with database(place) as db:
        await db.write(devices.rest, CARD, pause("one", until=later - timedelta(hours=1)))
        await db.write(devices.rest, CARD, pause("two", until=later))
        (why,) = (await db.read(devices.paused, datetime.now(UTC))).values()
        assert why.reason == "two"


async def test_a_failure_of_the_device_is_none_of_the_job(place: str) -> None:
    """However often it happens; and it is told each time."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        error = HookFailed("the hook failed", hint="mend it")
        for _ in range(queue.MAX_FAILURES + 1):
            claim = await take(db)
            assert claim is not None
            await db.write(queue.give_back, claim, reason=error.message, error=error, counted=False)
        back = await db.read(history.job, job)
        assert (back.state, back.failures) == (State.QUEUED, 0)
        told = [event for event in await record(db, job) if isinstance(event, Requeued)]
        assert [event.error.code for event in told if event.error] == ["hook_failed"] * (queue.MAX_FAILURES + 1)


async def test_small_models_share_a_card(place: str) -> None:
    """As many as the budget holds, and each gives back what it held."""
    async with database(place) as db:
        await db.write(intake.submit, [new(MODELS["small"]) for _ in range(5)])
        claims = [await share(db) for _ in range(4)]
        assert [claim is not None for claim in claims] == [True, True, True, False]
        assert await db.read(held) == (900, 3)
        (device,) = await db.read(devices.listed, [], datetime.now(UTC))
        assert (device.slots, device.taken, device.vram_taken_mib) == (3, 3, 900)
        assert claims[0] is not None
        await end(db, claims[0])
        assert await db.read(held) == (600, 2)
        assert await share(db) is not None


@pytest.mark.parametrize(
    "alone",
    [
        new(MODELS["unknown"]),
        new(MODELS["huge"]),
        new(MODELS["small"], width=2048, height=2048),
    ],
    ids=["says no vram_mib", "more than there is", "larger than usual"],
)
async def test_what_may_need_more_takes_the_whole_card(place: str, alone: NewJob) -> None:
    """Nothing is drawn beside it, and it waits until it is alone."""
    async with database(place) as db:
        small = new(MODELS["small"])
        await db.write(intake.submit, [small, alone, small])
        first = await share(db)
        assert first is not None
        assert await share(db) is None, "the last one may not pass the one that waits for the whole card"
        await end(db, first)
        second = await share(db)
        assert second is not None
        assert second.model.name == alone.model.name
        assert await db.read(held) == (BUDGET, 1)
        assert await share(db) is None
        await end(db, second)
        assert await share(db) is not None


async def test_a_comparison_is_drawn_alone(place: str) -> None:
    """It is measured."""
    async with database(place) as db:
        cell = replace(new(MODELS["small"]), cell=0)
        made: dict[str, Any] = {"prompts": ["x"], "models": ["small"], "seeds": [7], "settings": {}, "owner": "local"}
        await db.write(new_series, "s", new=[replace(cell, series="s")], **made)
        await db.write(intake.submit, [new(MODELS["small"])])
        assert await share(db) is not None
        assert await db.read(held) == (BUDGET, 1)
        assert await share(db) is None


async def test_one_that_waits_for_room_says_by_whom_it_is_taken(place: str) -> None:
    """A free slot alone is not enough."""
    async with database(place) as db:
        small, large = await db.write(intake.submit, [new(MODELS["small"]), new(MODELS["large"])])
        assert await share(db) is not None
        assert await share(db) is None
        waiting = await db.read(history.job, large)
        assert waiting.waits_for == f"{CARD}: held by job {small[-8:]} (small)"


async def test_priority_and_a_larger_one_are_not_passed_for_ever(place: str) -> None:
    """The order stays strict: small ones that come later wait behind a large one."""
    async with database(place) as db:
        first, large, urgent = await db.write(
            intake.submit, [new(MODELS["small"]), new(MODELS["large"]), replace(new(MODELS["small"]), priority=5)]
        )
        one, two = await share(db), await share(db)
        assert one is not None
        assert two is not None
        assert [one.job, two.job] == [urgent, first]
        await db.write(intake.submit, [new(MODELS["small"])])
        assert await share(db) is None
        await end(db, one)
        assert await share(db) is None
        await end(db, two)
        three = await share(db)
        assert three is not None
        assert three.job == large


async def test_whoever_knows_of_no_budget_is_alone(place: str) -> None:
    """A job that was begun without one holds the whole card for those that share it."""
    plain = {name: place_of(model) for name, model in MODELS.items()}
    async with database(place) as db:
        await db.write(intake.submit, [new(MODELS["small"]) for _ in range(3)])
        assert await share(db, places=plain) is not None
        assert await share(db) is None


async def test_other_devices_go_on_beside_a_full_card(place: str) -> None:
    """One that waits for room holds nobody up elsewhere."""
    places = SHARED | {"test": PLACE}
    async with database(place) as db:
        await db.write(intake.submit, [new(MODELS["small"]), new(MODELS["large"]), new()])
        claims = [await share(db, places=places, knows=tuple(places)) for _ in range(3)]
        assert [claim and claim.model.name for claim in claims] == ["small", "test", None]


def test_slots_follow_from_the_budget() -> None:
    """As often as the smallest model fits; other devices keep theirs, and a model's own `slots` is the least."""
    places = {name: place_of(model) for name, model in MODELS.items()} | {"test": PLACE}
    shared = sharing(places, {CARD: BUDGET})
    assert {name: place.slots for name, place in shared.items()} == dict.fromkeys(SIZES, 3) | {"test": 1}
    assert shared["test"] == PLACE
    assert sharing({"unknown": place_of(MODELS["unknown"])}, {CARD: BUDGET})["unknown"].slots == 1
    assert sharing({"x": replace(PLACE, slots=4)}, {PLACE.device: BUDGET})["x"].slots == 4


@pytest.mark.parametrize("seed", [1, 2])
async def test_many_claimers_never_exceed_the_budget(place: str, seed: int) -> None:
    """Eight programs claim, end and give back as fast as they can, while somebody pauses; nobody is left over."""
    rng = random.Random(seed)
    jobs = 80
    # What is surely held, by job and attempt: noted after each claim, forgotten before each end.
    now_held: dict[tuple[str, int], int] = {}
    most, turn = [0], [0]  # of the pauser: while it is odd, the card is paused
    done: list[str] = []

    async def claimer(db: Database, worker: str) -> None:
        until = time.monotonic() + 60
        while len(done) < jobs and time.monotonic() < until:
            before = turn[0]
            claim = await share(db, worker=worker, places=SHARED | {"test": PLACE}, knows=(*SHARED, "test"))
            if claim is None:
                await asyncio.sleep(0.002)
                continue
            shared = claim.model.device == CARD
            assert not (before % 2 and before == turn[0] and shared), "begun after the pause was told"
            now_held[claim.job, claim.attempt] = min(claim.model.vram_mib or BUDGET, BUDGET) if shared else 0
            most[0] = max(most[0], sum(mib > 0 for mib in now_held.values()))
            assert sum(now_held.values()) <= BUDGET
            await asyncio.sleep(rng.uniform(0.02, 0.06))
            now_held.pop((claim.job, claim.attempt), None)
            try:
                if rng.random() < 0.15:
                    await db.write(queue.give_back, claim, reason="elsewhere")
                else:
                    await end(db, claim)
                    done.append(claim.job)
            except LeaseLost:
                assert shared, "only what was given back by a pause is lost"

    async def observer(db: Database) -> None:
        while len(done) < jobs:
            mib, _ = await db.read(held)
            assert mib <= BUDGET
            await asyncio.sleep(0.005)

    async def pauser(db: Database) -> None:
        while len(done) < jobs:
            await asyncio.sleep(0.3)
            await db.write(devices.pause, CARD, pause())
            turn[0] += 1
            lost = await db.write(devices.give_back, CARD, pause())
            for key in [key for key in now_held if key[0] in lost]:
                del now_held[key]
            await asyncio.sleep(0.03)
            turn[0] += 1
            await db.write(devices.resume, CARD)

    async with database(place) as db, AsyncExitStack() as stack:
        programs = [Database(place) for _ in range(4)]
        for number, one in enumerate(programs):
            await one.open()
            stack.push_async_callback(one.close)
            await one.write(arrive, f"w{number}")
            await one.write(arrive, f"v{number}")
        names = rng.choices([*["small"] * 9, "middle", "large", "unknown", "test"], k=jobs)
        await db.write(intake.submit, [new(MODELS.get(name, MODEL)) for name in names])
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for number, one in enumerate(programs):
                group.create_task(claimer(one, f"w{number}"))
                group.create_task(claimer(one, f"v{number}"))
            group.create_task(observer(db))
            group.create_task(pauser(db))
        assert len(set(done)) == jobs == len(done), "each is done once"
        assert await db.read(held) == (0, 0)
        assert most[0] >= 2, "and they did share"


def test_the_kit_has_two_models() -> None:
    """Both are drawn on the device that is paused here."""
    assert MODEL.device == OTHER.device == PLACE.device


async def test_a_job_says_that_whoever_draws_it_cannot_store_it(place: str) -> None:
    """As long as that holds for all who draw its model; one that can is enough for it to be about to be taken."""
    why = "the bucket s3://shelf does not answer"
    async with database(place) as db:
        await db.write(arrive, "w2", models=("test",))
        (job,) = await db.write(intake.submit, [new()])
        serves = {"test": PLACE}
        await db.write(presence.beat, "w2", serves, (), why)
        assert (await db.read(history.job, job)).waits_for == f"a worker that can store pictures: {why}"
        (device,) = await db.read(
            lambda connection: devices.listed(connection, presence.everyone(connection), datetime.now(UTC))
        )
        assert device.troubled == why
        await db.write(arrive, "w3", models=("test",))
        assert (await db.read(history.job, job)).waits_for is None
        await db.write(presence.beat, "w3", serves, (), why)
        assert why in ((await db.read(history.job, job)).waits_for or "")
        await db.write(presence.beat, "w2", serves)
        assert (await db.read(history.job, job)).waits_for is None


@pytest.mark.parametrize(("in_s", "said"), [(3596, "60 min"), (86_400 * 30, "30 d")])
async def test_a_job_whose_time_has_not_come_was_not_tried(place: str, in_s: float, said: str) -> None:
    """By its `run_after`; one that was tried waits for its next try."""
    later = datetime.now(UTC) + timedelta(seconds=in_s)
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new()])
        await db.write(lambda c: c.execute(update(jobs).values(run_after=later)))
        assert (await db.read(history.job, job)).waits_for == f"its time, in {said}"
        await db.write(lambda c: c.execute(update(jobs).values(attempt=1)))
        assert (await db.read(history.job, job)).waits_for == f"its next try in {said}"
