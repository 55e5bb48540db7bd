"""Ratings: known strengths come out again, and an interval holds the truth as often as it says."""

import math
import random
from collections import Counter

import pytest

from imagen.core.vote import Choice, Tally
from imagen.engine.voting.ratings import CONFIDENCE, MIDDLE, POINTS, Rating, rate
from imagen.surfaces.wire_votes import COLUMNS, ratings_csv, ratings_json

Strengths = dict[str, float]


def tally(left: str, right: str, choice: Choice, count: int = 1, prompt: str = "a fox") -> Tally:
    return Tally(left=left, right=right, choice=choice, prompt=prompt, count=count)


def voted(dice: random.Random, strengths: Strengths, each: int, *, ties: float = 0.5) -> list[Tally]:
    """What voters say who see the strengths through Davidson's chances, `each` times for every two models."""
    told: Counter[tuple[str, str, Choice]] = Counter()
    names = list(strengths)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            for _ in range(each):
                left, right = (one, other) if dice.random() < 0.5 else (other, one)
                half = (strengths[left] - strengths[right]) / 2
                chances = [math.exp(half), math.exp(-half), ties]
                (choice,) = dice.choices([Choice.LEFT, Choice.RIGHT, Choice.TIE], chances)
                told[left, right, choice] += 1
    return [tally(*said, count) for said, count in told.items()]


def drawn_strengths(dice: random.Random, count: int, spread: float) -> Strengths:
    told = [dice.gauss(0, spread) for _ in range(count)]
    mean = sum(told) / count
    return {f"m{index}": value - mean for index, value in enumerate(told)}


def rated(tallies: list[Tally]) -> dict[str, Rating]:
    (group,) = rate(tallies).groups
    return {one.model: one for one in group.models}


def width(one: Rating) -> float:
    return one.high - one.low


def test_known_strengths_come_out_again() -> None:
    """With many votes every rating is where it should be, and the order is right."""
    strengths = {"best": 1.2, "good": 0.4, "fair": -0.3, "poor": -1.3}
    found = rated(voted(random.Random(1), strengths, 2000))
    assert list(found) == list(strengths), "best first"
    for name, strength in strengths.items():
        assert found[name].rating == pytest.approx(MIDDLE + POINTS * strength, abs=15)


@pytest.mark.parametrize(
    ("count", "spread", "each", "ties"),
    [(4, 0.7, 30, 0.5), (4, 1.5, 2, 0.5), (2, 2.0, 6, 0.5), (8, 1.0, 4, 0.3), (4, 1.0, 10, 0.01), (4, 3.0, 10, 0.5)],
)
def test_an_interval_holds_the_truth_as_often_as_it_says(count: int, spread: float, each: int, ties: float) -> None:
    """Many votes or few, models alike or far apart, many ties or none: at least 93 and at most 99 of a hundred."""
    dice = random.Random(7)
    held = asked = 0
    for _ in range(800 // count):
        strengths = drawn_strengths(dice, count, spread)
        for name, one in rated(voted(dice, strengths, each, ties=ties)).items():
            held += one.low <= MIDDLE + POINTS * strengths[name] <= one.high
            asked += 1
    assert CONFIDENCE - 0.02 <= held / asked <= 0.99


def test_intervals_shrink_with_votes() -> None:
    """A hundred times the votes, about a tenth of the width."""
    strengths = {"a": 0.5, "b": 0.0, "c": -0.5}
    few, many = (rated(voted(random.Random(3), strengths, each)) for each in (30, 3000))
    for name in strengths:
        assert width(few[name]) / width(many[name]) == pytest.approx(10, rel=0.2)


def test_a_model_that_won_everything_is_not_infinitely_good() -> None:
    """Three wins of three say little: the interval is wide, and both ends are numbers."""
    found = rated([tally("a", "b", Choice.LEFT, 3)])
    assert found["a"].rating > found["b"].rating
    assert math.isfinite(found["a"].high)
    assert found["a"].low < MIDDLE, "it may well have been luck"
    assert rated([tally("a", "b", Choice.LEFT, 60)])["a"].low > MIDDLE


def test_ties_bring_models_together() -> None:
    """The same wins and losses with many ties between them: nearer to each other, and surer."""
    apart = [tally("a", "b", Choice.LEFT, 9), tally("a", "b", Choice.RIGHT, 3)]
    tied = [*apart, tally("a", "b", Choice.TIE, 40)]
    bare, with_ties = rated(apart), rated(tied)
    assert MIDDLE < with_ties["a"].rating <= bare["a"].rating
    assert (with_ties["a"].wins, with_ties["a"].losses, with_ties["a"].ties, with_ties["a"].votes) == (9, 3, 40, 52)
    only = rated([tally("a", "b", Choice.TIE, 10)])
    assert only["a"].rating == pytest.approx(MIDDLE)
    assert only["b"].rating == pytest.approx(MIDDLE)


def test_models_that_no_votes_connect_are_not_compared() -> None:
    """Two islands are two groups, each with a middle of its own; one vote across makes them one."""
    islands = [tally("a", "b", Choice.LEFT, 30), tally("c", "d", Choice.RIGHT, 3)]
    found = rate(islands)
    assert [[one.model for one in group.models] for group in found.groups] == [["a", "b"], ["d", "c"]]
    for group in found.groups:
        assert sum(one.rating for one in group.models) / len(group.models) == pytest.approx(MIDDLE)
    joined = rate([*islands, tally("b", "c", Choice.TIE)])
    assert len(joined.groups) == 1
    assert joined.votes == 34


def test_a_chain_is_surest_where_the_votes_are() -> None:
    """Models that met only through others are compared, with the doubt that this brings."""
    chain = [
        tally(one, other, choice, 20)
        for one, other in (("a", "b"), ("b", "c"), ("c", "d"))
        for choice in (Choice.LEFT, Choice.RIGHT)
    ]
    found = rated(chain)
    assert width(found["a"]) > width(found["b"])
    assert width(found["b"]) == pytest.approx(width(found["c"]))


def test_skipped_pairs_and_no_votes_say_nothing() -> None:
    """Neither a model nor a number comes of them."""
    assert rate([]).groups == ()
    found = rate([tally("a", "b", Choice.SKIP, 9)])
    assert (found.votes, found.groups, found.meetings) == (0, (), ())


def test_sides_and_meetings_and_prompts_are_counted() -> None:
    """Which side won, who met whom, and about how many prompts."""
    found = rate(
        [
            tally("a", "b", Choice.LEFT, 2, "one"),
            tally("b", "a", Choice.LEFT, 1, "two"),
            tally("b", "a", Choice.TIE, 4, "two"),
        ]
    )
    assert found.sides == {"left": 3, "right": 0, "tie": 4}
    (met,) = found.meetings
    assert (met.a, met.b, met.a_wins, met.b_wins, met.ties) == ("a", "b", 2, 1, 4)
    assert {one.prompts for one in found.groups[0].models} == {2}


def test_the_order_of_the_votes_changes_nothing() -> None:
    """The same votes, shuffled and mirrored, give the same numbers."""
    dice = random.Random(5)
    told = voted(dice, drawn_strengths(dice, 5, 1.0), 6)
    other = [
        tally(
            one.right,
            one.left,
            {Choice.LEFT: Choice.RIGHT, Choice.RIGHT: Choice.LEFT}.get(one.choice, one.choice),
            one.count,
        )
        for one in dice.sample(told, len(told))
    ]
    first, second = rated(told), rated(other)
    for name in first:
        assert second[name].rating == pytest.approx(first[name].rating, abs=1e-3)
        assert second[name].low == pytest.approx(first[name].low, abs=1e-3)


def test_a_hundred_models_are_rated_in_a_moment() -> None:
    """Newton's method needs a handful of steps, however many votes there are."""
    dice = random.Random(9)
    found = rated(voted(dice, drawn_strengths(dice, 100, 1.0), 1))
    assert len(found) == 100
    assert all(math.isfinite(one.low) and one.low < one.rating < one.high for one in found.values())


def test_an_export_is_a_line_for_each_model() -> None:
    """CSV and JSON tell the same; the group stands in the first column."""
    found = rate([tally("a", "b", Choice.LEFT, 2), tally("c", "d", Choice.TIE, 1)])
    head, *lines = ratings_csv(found).splitlines()
    assert head == ",".join(COLUMNS)
    assert [line.split(",")[:2] for line in lines] == [["1", "a"], ["1", "b"], ["2", "c"], ["2", "d"]]
    told = ratings_json(found)
    assert [one["model"] for group in told["groups"] for one in group["models"]] == ["a", "b", "c", "d"]
    assert (told["votes"], told["ties"], told["confidence"]) == (3, 1, 0.95)


def test_a_place_is_a_range_until_the_votes_tell() -> None:
    """Two votes leave every place open; many leave one."""
    few = rated([tally("a", "b", Choice.LEFT), tally("b", "c", Choice.LEFT)])
    assert {(one.best, one.worst) for one in few.values()} == {(1, 3)}
    many = rated(
        [tally(one, other, Choice.LEFT, 90) for one, other in ("ab", "bc")] + [tally("c", "b", Choice.LEFT, 9)]
    )
    assert [(name, one.best, one.worst) for name, one in many.items()] == [("a", 1, 1), ("b", 2, 2), ("c", 3, 3)]


def test_equals_are_seldom_put_in_order() -> None:
    """Of models that are equally good at most one in twenty pairs is taken for surely different."""
    dice = random.Random(11)
    wrong = asked = 0
    for _ in range(150):
        for one in rated(voted(dice, dict.fromkeys("abcd", 0.0), 8)).values():
            wrong += (one.best - 1) + (4 - one.worst)
            asked += 3
    assert 0 < wrong / asked < 0.06
