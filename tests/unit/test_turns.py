"""Whose turn it is where several devices draw the same models."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from imagen.engine.drawing.fleet import Fleet
from imagen.engine.drawing.turns import PATIENCE_S, Turns
from imagen.store.order import Place, Turn
from imagen.store.queue import Claim

HERE = "card@here"
PLACES = {name: Place(device=HERE) for name in ("sd", "flux")}
CAME = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Row:
    """What a worker says of itself."""

    id: str
    places: dict[str, list[str]]
    loaded: list[str] | None = None
    solo: bool = False
    troubled: str | None = None


@dataclass
class Named:
    name: str
    device: str


@dataclass
class Held:
    """What is looked at of a claim."""

    job: str
    model: Named
    turn: Turn
    attempt: int = 1

    @property
    def key(self) -> tuple[str, int]:
        return self.job, self.attempt


def seen(*rows: Row, paused: tuple[str, ...] = ()) -> Fleet:
    """What the worker `me`, which draws both on one card, sees of these and itself."""
    fleet = Fleet("me")
    fleet.look(cast(Any, [Row("me", {HERE: ["flux", "sd"]}, ["sd"]), *rows]), paused)
    return fleet


def drawn(fleet: Fleet, *, load_s: float, device: str = HERE) -> Turns:
    """After some jobs of one second on our card, the last of them of `sd`; each change of the model took so long."""
    clock = [0.0]
    turns = Turns(fleet, lambda: clock[0])
    loaded = ""
    for number, model in enumerate([*["flux"] * 6, "sd", "flux", "sd"]):
        claim = cast(Claim, Held(str(number), Named(model, device), turn(number, model)))
        turns.begin(claim)
        clock[0] += 1.0 + (load_s if model != loaded else 0.0)
        turns.end(claim)
        loaded = model
    turns.rest()
    return turns


def turn(number: int, model: str) -> Turn:
    return Turn(CAME, f"{number:03d}", model)


def test_alone_until_somebody_is_seen() -> None:
    """Nothing is known of others: then nothing is counted on."""
    fleet = Fleet("me")
    assert fleet.devices("sd") == 1
    assert not fleet.loaded


def test_each_device_counts_once() -> None:
    """Two workers may draw on one card; what is on another machine is another one."""
    fleet = seen(Row("beside", {HERE: ["sd"]}), Row("far", {"card@there": ["sd"], "cpu@there": ["tiny"]}))
    assert fleet.devices("sd") == 2
    assert fleet.devices("flux") == 1
    assert fleet.devices("tiny") == 1


def test_a_model_that_could_not_be_loaded_is_not_loaded() -> None:
    """Nobody is to leave a job to this card for it; one that fails later has it nevertheless."""
    turns = Turns(Fleet("me"), lambda: 0.0)
    first, second = (cast(Claim, Held(str(n), Named("sd", HERE), turn(n, "sd"))) for n in range(2))
    turns.begin(first)
    turns.end(first)
    turns.fail(first)
    assert turns.loaded() == []
    turns.begin(first)
    turns.end(first)
    turns.begin(second)
    turns.end(second)
    turns.fail(second)
    assert turns.loaded() == ["sd"]


@pytest.mark.parametrize(
    ("row", "paused"),
    [
        (Row("far", {"card@there": ["flux"]}, ["flux"], solo=True), ()),
        (Row("far", {"card@there": ["flux"]}, ["flux"], troubled="the bucket is away"), ()),
        (Row("far", {"card@there": ["flux"]}, ["flux"]), ("card@there",)),
    ],
    ids=["draws only its own", "cannot store", "is paused"],
)
def test_who_begins_nothing_is_not_counted(row: Row, paused: tuple[str, ...]) -> None:
    """Neither as one of those that work off what waits, nor as one that has a model loaded."""
    fleet = seen(row, paused=paused)
    assert fleet.devices("flux") == 1
    assert not fleet.loaded
    assert seen(Row("far", {"card@there": ["flux"]}, ["flux"])).loaded == {"flux"}


def test_what_is_loaded_on_our_own_card_is_not_elsewhere() -> None:
    """A second worker that draws there waits for the same slot."""
    assert not seen(Row("beside", {HERE: ["flux"]}, ["flux"])).loaded


FAR = Row("far", {"card@there": ["flux"]}, ["flux"])


def test_a_model_that_would_have_to_be_loaded_is_better_drawn_where_it_is_loaded() -> None:
    """Only that one: what is loaded here, and what nobody has loaded, is begun at once."""
    assert drawn(seen(FAR), load_s=20).better_elsewhere(PLACES) == {"flux"}
    assert drawn(seen(), load_s=20).better_elsewhere(PLACES) == set()


def test_where_loading_is_cheap_nobody_stands_aside() -> None:
    """Nor where nothing was drawn yet, nor on a card that models share, which may have both loaded."""
    assert drawn(seen(FAR), load_s=0.5).better_elsewhere(PLACES) == set()
    assert Turns(seen(FAR)).better_elsewhere(PLACES) == set()
    shared = {name: replace(place, budget_mib=1000, slots=2) for name, place in PLACES.items()}
    assert drawn(seen(FAR), load_s=20).better_elsewhere(shared) == set()


def test_whoever_draws_the_oldest_works_off_what_waits_too() -> None:
    """Twice the devices, twice as many jobs that may be passed; the devices of the younger one do not matter."""
    oldest, younger = turn(100, "flux"), turn(900, "sd")

    def most(fleet: Fleet) -> int:
        turns = drawn(fleet, load_s=0)
        return max(waiting for waiting in range(1000) if turns.may_pass(HERE, oldest, younger, waiting))

    alone = most(seen())
    assert alone == pytest.approx(PATIENCE_S, abs=1)
    assert most(seen(FAR)) == pytest.approx(2 * alone, abs=1)
    assert most(seen(Row("far", {"card@there": ["sd"]}))) == alone


def test_what_this_card_drew_meanwhile_is_its_own() -> None:
    """Others passed the oldest as often, perhaps; what they did is not known, and not divided."""
    turns = drawn(seen(FAR), load_s=0)
    for number in range(200, 260):
        turns.begin(cast(Claim, Held(str(number), Named("sd", HERE), turn(number, "sd"))))
    assert not turns.may_pass(HERE, turn(100, "flux"), turn(900, "sd"), 1)
