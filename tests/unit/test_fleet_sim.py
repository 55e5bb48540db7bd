"""The simulation of a fleet: its queue is held against one whose waits are known, its choices against the store's."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from benchmarks.fleet.line import Line, Waiting, turn_of
from benchmarks.fleet.load import Habits, edges, sized, use
from benchmarks.fleet.play import Told, play
from benchmarks.fleet.world import DAY_S, KINDS, PRIORITIES, USUAL, Kind, World, arrivals, pools
from sqlalchemy import Connection, update
from tests import store_kit

from imagen.store import intake, order
from imagen.store.order import Turn
from imagen.store.tables import jobs

SMALL = World(gpus=20, jobs_a_day=2e5, shrink=40, bursts_an_hour=10, lives_s=3600, mends_s=60, seed=3)
PLAYED = play(SMALL)


@pytest.mark.parametrize(("cards", "busy"), [(1, 0.6), (8, 0.8)])
def test_waits_as_long_as_a_queue_whose_wait_is_known(cards: int, busy: float) -> None:
    """With one model, Poisson arrivals and exponential drawing the mean wait is Erlang's."""
    draw_s = 4.0
    rate = cards * busy / draw_s
    world = World(
        gpus=cards,
        jobs_a_day=rate * DAY_S,
        kinds=(Kind("one", 1.0, draw_s, 0.0, 4),),
        swing=0,
        bursts_an_hour=0,
        lives_s=0,
        shrink=DAY_S / (30_000 / rate),
        seed=5,
    )
    told = play(world, exponential=True)
    waits = [wait for found in told.waits.values() for wait in found]
    assert len(waits) > 25_000
    assert sum(waits) / len(waits) == pytest.approx(erlang_c(cards, busy) * draw_s / (cards * (1 - busy)), rel=0.15)


def erlang_c(servers: int, busy: float) -> float:
    """The probability of having to wait in an M/M/c queue."""
    offered = servers * busy
    last = offered**servers / math.factorial(servers) / (1 - busy)
    return last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)


async def test_chooses_what_the_store_would_choose(tmp_path: Path) -> None:
    """Of the same jobs, one after the other, whatever is loaded and however the bound decides."""
    dice = random.Random(11)
    names = ("a", "b", "c")
    place = order.Place(device="card@here")
    places = dict.fromkeys(names, place)
    since = datetime.now(UTC) - timedelta(hours=1)
    async with store_kit.database(tmp_path) as db:
        waiting: list[Waiting] = []
        line = Line(len(names), [level for level, _ in PRIORITIES])
        for number in range(60):
            kind, priority = dice.randrange(3), dice.choice((10, 0, 0, 0, -10))
            came = since + timedelta(seconds=number)
            model = replace(store_kit.MODEL, name=names[kind], device=place.device)
            job = replace(store_kit.new(model), id=f"{number:012d}", priority=priority)
            await db.write(intake.submit, [job])
            await db.write(change, f"{number:012d}", {"created_at": came})
            waiting.append(Waiting(number, float(number), kind, priority, turn_of(came, number, names[kind])))
        dice.shuffle(waiting)  # some come back late, into their old place
        for one in waiting:
            line.add(one)
        for _ in range(60):
            loaded, allowed = dice.randrange(3), dice.randrange(12)

            def may_pass(_oldest: Turn, _younger: Turn, count: int, allowed: int = allowed) -> bool:
                return count <= allowed

            def of_a_device(_device: str, oldest: Turn, younger: Turn, count: int) -> bool:
                return may_pass(oldest, younger, count)

            heads = await db.read(order.heads, names, datetime.now(UTC), None, take=False)
            theirs = await db.read(order.loaded_first, heads, places, [names[loaded]], of_a_device)
            ours = line.take(range(3), loaded, may_pass)
            assert ours is not None
            assert f"{ours.number:012d}" == theirs.id
            await db.write(change, theirs.id, {"state": "completed"})
    assert line.take(range(3), 0, may_pass) is None


async def test_leaves_to_others_what_the_store_says_is_new(tmp_path: Path) -> None:
    """Of any model whose jobs have all come since a moment, and of no other."""
    names = ("a", "b", "c")
    since = datetime.now(UTC) - timedelta(hours=1)
    dice = random.Random(12)
    async with store_kit.database(tmp_path) as db:
        line = Line(len(names), [level for level, _ in PRIORITIES])
        for number in range(12):
            kind, priority = dice.choices((0, 1), (3, 1))[0], dice.choice((10, 0, -10))
            came = since + timedelta(seconds=number)
            job = replace(store_kit.new(replace(store_kit.MODEL, name=names[kind])), priority=priority)
            (job_id,) = await db.write(intake.submit, [job])
            await db.write(change, job_id, {"created_at": came})
            line.add(Waiting(number, float(number), kind, priority))
        for second in (-1, 0, 1, 3, 5, 8, 11):
            theirs = await db.read(order.only_new, names, datetime.now(UTC), since + timedelta(seconds=second))
            assert theirs == {names[kind] for kind in range(3) if line.only_new(kind, float(second))}


def test_cards_that_know_of_each_other_change_their_model_less() -> None:
    """And nobody waits longer for it."""
    world = replace(SMALL, gpus=40)
    alone, together = (play(world, policy=policy, pools=pools(world, 0.5)) for policy in ("each alone", "as built"))
    assert together.changes < alone.changes * 0.6
    assert mean(together, USUAL) < mean(alone, USUAL)


def change(connection: Connection, job: str, values: dict[str, object]) -> None:
    """Make a job's row what the case needs."""
    connection.execute(update(jobs).where(jobs.c.id == job).values(values))


def test_no_job_is_lost_or_drawn_twice() -> None:
    """What came was begun or waits still; those begun twice are those whose card failed."""
    came = sum(1 for _ in arrivals(SMALL))
    told = play(SMALL, whole=True)
    assert told.lost > 0
    assert told.begun == came + told.lost


def test_the_same_seed_brings_the_same_day() -> None:
    """And another one another."""
    assert play(SMALL) == PLAYED
    assert play(replace(SMALL, seed=4)) != PLAYED


def test_time_is_accounted_for() -> None:
    """Cards draw, load, wait or are broken; nothing is counted twice."""
    told = play(replace(SMALL, lives_s=0))
    spent = told.drawing_s + told.loading_s + told.idle_s
    over = SMALL.gpus * max(kind.draw_s * 2 + kind.load_s for kind in KINDS)  # begun before the end, counted whole
    assert told.end * SMALL.gpus <= spent + 1e-6 <= told.end * SMALL.gpus + over


def test_a_pool_draws_only_what_it_serves() -> None:
    """Cards of one model never change it: there is one load for each card that worked."""
    told = play(replace(SMALL, lives_s=0), pools=pools(SMALL, 0.0))
    assert told.changes <= SMALL.gpus
    assert set(told.by_kind) == set(range(len(KINDS)))


def test_strict_on_priority() -> None:
    """Where there is a queue, whoever is urgent waits less than others, and others less than the patient."""
    means = {level: mean(PLAYED, level) for level, _ in PRIORITIES}
    assert means[10] < means[USUAL] < means[-10]


def mean(told: Told, level: int) -> float:
    waits = [wait for (priority, _), found in told.waits.items() if priority == level for wait in found]
    return sum(waits) / len(waits)


def test_what_grows_with_the_square() -> None:
    """Twice the cards are woken by twice the news: four times as often, while jobs cost twice as much."""
    few, many = (sized(SMALL, PLAYED, gpus, Habits(servers=0)) for gpus in (1000, 2000))
    assert many.woken == pytest.approx(4 * few.woken)
    assert many.cores["idle cards race"] == pytest.approx(4 * few.cores["idle cards race"])
    assert many.cores["jobs"] == pytest.approx(2 * few.cores["jobs"])
    assert use(SMALL, PLAYED) == sized(SMALL, PLAYED, SMALL.gpus)


def test_a_channel_of_its_own_saves_the_telling_and_not_the_waking() -> None:
    """A PostgreSQL that wakes all who listen wakes workers for news of jobs, too."""
    one, two, meant, none = (
        sized(SMALL, PLAYED, 1000, habits)
        for habits in (
            Habits(hears="all", followed=1),
            Habits(hears="queues", followed=1),
            Habits(hears="queues", followed=1, meant=True),
            Habits(hears="nothing", followed=1),
        )
    )
    assert one.woken == two.woken > 5 * meant.woken > 5 * none.woken
    assert one.cores["NOTIFY"] > two.cores["NOTIFY"] > meant.cores["NOTIFY"]


def test_who_draws_is_not_woken_and_steps_ring_where_somebody_follows() -> None:
    """Both together, for each alone leaves most of it; and what listening anew costs is in it."""
    before, quiet, busy, both = (
        sized(SMALL, PLAYED, 1000, habits)
        for habits in (Habits(hears="queues", followed=1), Habits(hears="queues"), Habits(followed=1), Habits())
    )
    assert before.woken > quiet.woken > both.woken
    assert before.woken > busy.woken > both.woken
    assert both.cores["listening begun and left"] > 0 == before.cores["listening begun and left"]
    assert both.connections == before.connections, "a worker that rests keeps its line"
    assert sized(SMALL, PLAYED, 1000, Habits(watched=1)).woken > busy.woken, "whoever watches follows, too"


def test_an_edge_is_where_it_breaks() -> None:
    """With one card more than an edge says, the server has more to do than it may."""
    found: Mapping[str, int] = {edge.name: edge.cards for edge in edges(SMALL, PLAYED, 16)}
    cards = found["all of these together"]
    used: Sequence[float] = [sized(SMALL, PLAYED, gpus).cpu for gpus in (cards, cards + 1)]
    assert used[0] <= 0.7 * 16 < used[1]
    assert min(found.values()) <= cards
