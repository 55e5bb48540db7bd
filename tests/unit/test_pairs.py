"""Blind pairs: every pair once, sides by lot, nothing that tells the model, and votes that are final."""

import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.store_kit import request

from imagen.core.errors import Conflict, UnknownImage, Unsupported
from imagen.core.ids import new_id
from imagen.core.job import Job, Series, State, StoredImage, cells_of
from imagen.core.vote import Choice, Vote
from imagen.engine.voting import pairs

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def picture(index: int = 0) -> StoredImage:
    return StoredImage(
        index=index, id=new_id(), url="", width=8, height=8, seed=7, sha256="0" * 64, pixels_sha256="0" * 64
    )


def series(models: int = 3, prompts: int = 1, seeds: int = 1, n: int = 1) -> Series:
    """One that is drawn, model after model."""
    names = [f"model-{index}" for index in range(models)]
    cells = cells_of([f"prompt {index}" for index in range(prompts)], names, list(range(seeds)))
    drawn = [
        replace(
            cell,
            job=Job(
                id=new_id(),
                state=State.COMPLETED,
                request=request(prompt=cell.prompt, model=cell.model, seed=cell.seed),
                images=tuple(picture(index) for index in range(n)),
                created_at=NOW,
            ),
        )
        for cell in cells
    ]
    return Series(id=new_id(), prompts=(), models=tuple(names), seeds=(), cells=tuple(drawn), created_at=NOW)


def without(whole: Series, index: int, state: State = State.FAILED) -> Series:
    """The same with one cell that came to nothing."""
    cells = [
        replace(cell, job=replace(cell.job, state=state, images=())) if cell.index == index and cell.job else cell
        for cell in whole.cells
    ]
    return replace(whole, cells=tuple(cells))


def say(whole: Series, cast: list[Vote], choice: Choice = Choice.LEFT, voter: str = "ann") -> Vote:
    """Vote on the next pair."""
    ballot = pairs.ballot(whole, cast, voter)
    assert ballot.pair is not None
    vote = pairs.new_vote(
        whole,
        cast,
        voter=voter,
        round_=ballot.round,
        left=ballot.pair.left.id,
        right=ballot.pair.right.id,
        choice=choice,
        now=NOW,
    )
    cast.append(vote)
    return vote


def said_of(whole: Series, cast: list[Vote], left: str, right: str, choice: Choice, *, round_: int = 1) -> Vote:
    """Vote on two pictures, whatever comes next."""
    blind = [pairs.blind_id(whole.id, image) for image in (left, right)]
    return pairs.new_vote(
        whole, cast, voter="ann", round_=round_, left=blind[0], right=blind[1], choice=choice, now=NOW
    )


def test_every_pair_comes_once_before_any_comes_again() -> None:
    """Three models, two prompts, two seeds: 12 pairs, then the second round with the same ones."""
    whole, cast = series(3, 2, 2), list[Vote]()
    for number in range(24):
        ballot = pairs.ballot(whole, cast, "ann")
        assert (ballot.round, ballot.done, ballot.total) == (number // 12 + 1, number % 12, 12)
        say(whole, cast)
    assert set(Counter(vote.pair for vote in cast).values()) == {2}
    assert len({vote.pair for vote in cast[:12]}) == 12


def test_a_pair_differs_in_nothing_but_the_model() -> None:
    """The same prompt, the same seed, the same place among several pictures; two models."""
    whole, cast = series(3, 2, 2, n=2), list[Vote]()
    home = {
        image.id: (cell.prompt, cell.seed, image.index)
        for cell in whole.cells
        if cell.job is not None
        for image in cell.job.images
    }
    for _ in range(pairs.ballot(whole, [], "ann").total):
        vote = say(whole, cast)
        assert home[vote.left.image] == home[vote.right.image]
        assert vote.left.model != vote.right.model
    assert len(cast) == 24


def test_who_asks_again_sees_the_same_pair_on_the_same_sides() -> None:
    """A page that is loaded anew shows what it showed."""
    whole = series(4, 2)
    assert pairs.ballot(whole, [], "ann") == pairs.ballot(whole, [], "ann")


def test_sides_and_order_are_by_lot_and_differ_between_voters_and_rounds() -> None:
    """No model keeps to a side, and two voters do not go the same way."""
    whole = series(2, 60)
    ways = []
    for voter in ("ann", "ben"):
        cast: list[Vote] = []
        for _ in range(120):
            say(whole, cast, voter=voter)
        for part in (cast[:60], cast[60:]):
            left = sum(vote.left.model == "model-0" for vote in part)
            assert 15 <= left <= 45, "of 60; a fair coin is outside once in ten thousand"
            ways.append([(vote.left.image, vote.right.image) for vote in part])
    assert all(one != other for index, one in enumerate(ways) for other in ways[index + 1 :])


def test_a_voter_who_stops_early_has_compared_all_models() -> None:
    """The two models that were shown together least come first."""
    whole, cast = series(4, 5), list[Vote]()
    for _ in range(12):
        say(whole, cast)
    met = Counter(frozenset((vote.left.model, vote.right.model)) for vote in cast)
    assert set(met.values()) == {2}
    assert len(met) == 6


def test_a_blind_id_tells_neither_the_time_nor_the_picture() -> None:
    """Ids of pictures sort by time, and models are drawn one after the other; these do not."""
    whole = series(40)
    images = [cell.job.images[0].id for cell in whole.cells if cell.job is not None]
    blind = [pairs.blind_id(whole.id, image) for image in images]
    assert images == sorted(images)
    assert blind != sorted(blind)
    assert len(set(blind)) == 40
    assert not any(image in told for image, told in zip(images, blind, strict=True))
    assert pairs.picture_of(whole, blind[7]).id == images[7]
    with pytest.raises(UnknownImage):
        pairs.picture_of(whole, images[7])


@pytest.mark.parametrize("state", [State.FAILED, State.RUNNING, State.QUEUED, State.CANCELLED])
def test_only_finished_pictures_are_shown(state: State) -> None:
    """A cell without a picture is in no pair; with one model left there is none."""
    assert pairs.ballot(without(series(3), 1, state), [], "ann").total == 1
    alone = pairs.ballot(without(series(2), 1, state), [], "ann")
    assert (alone.round, alone.done, alone.total, alone.pair) == (1, 0, 0, None)


def test_a_model_that_comes_later_is_caught_up_on() -> None:
    """Its pairs are of the first round, and come before anything is shown twice."""
    whole, cast = series(3), list[Vote]()
    smaller = without(whole, 2)
    say(smaller, cast)
    assert pairs.ballot(smaller, cast, "ann").round == 2
    assert (pairs.ballot(whole, cast, "ann").round, pairs.ballot(whole, cast, "ann").done) == (1, 1)
    assert "model-2" in {say(whole, cast).left.model, cast[-1].right.model}


def test_the_same_vote_again_is_the_same_and_another_is_refused() -> None:
    """A request that is sent twice counts once, also mirrored; after the names are told nothing can be changed."""
    whole = series(2, 2)
    cast: list[Vote] = []
    vote = say(whole, cast)
    left, right = vote.left.image, vote.right.image
    assert said_of(whole, cast, left, right, Choice.LEFT) is vote
    assert said_of(whole, cast, right, left, Choice.RIGHT) is vote
    for choice in (Choice.RIGHT, Choice.TIE, Choice.SKIP):
        with pytest.raises(Conflict):
            said_of(whole, cast, left, right, choice)
    with pytest.raises(Conflict, match="not open in round 2"):
        said_of(whole, cast, left, right, Choice.LEFT, round_=2)


def test_pictures_of_two_prompts_are_no_pair() -> None:
    """What was not drawn for the same request is not comparable; nor is a picture with itself."""
    whole = series(2, 2)
    first, second, third, _ = [cell.job.images[0].id for cell in whole.cells if cell.job is not None]
    for other in (first, second):
        with pytest.raises(Unsupported):
            said_of(whole, [], first, other, Choice.TIE)
    assert said_of(whole, [], first, third, Choice.TIE).choice is Choice.TIE


def test_a_deleted_picture_is_not_shown() -> None:
    """Its votes stay; its pairs go."""
    whole = series(2)
    cell = whole.cells[0]
    assert cell.job is not None
    gone = replace(cell, job=replace(cell.job, images=tuple(replace(one, state="deleted") for one in cell.job.images)))
    assert pairs.ballot(replace(whole, cells=(gone, *whole.cells[1:])), [], "ann").total == 0


def test_a_hundred_thousand_pairs_are_counted_and_not_listed() -> None:
    """Two hundred models with five pictures each: the next pair and a vote take a moment, not seconds."""
    whole, cast = series(200, seeds=5), list[Vote]()
    began = time.process_time()
    assert pairs.ballot(whole, cast, "ann").total == 99_500
    say(whole, cast)
    assert (pairs.ballot(whole, cast, "ann").round, pairs.ballot(whole, cast, "ann").done) == (1, 1)
    assert time.process_time() - began < 5


def test_what_was_skipped_comes_back_first() -> None:
    """It is waiting before the next round is begun, and nothing else is."""
    whole, cast = series(3, 2), list[Vote]()
    skipped = {say(whole, cast, Choice.SKIP).pair for _ in range(2)}
    assert pairs.ballot(whole, cast, "ann").waiting == 4
    for _ in range(4):
        say(whole, cast)
    for waiting in (2, 1):
        ballot = pairs.ballot(whole, cast, "ann")
        assert (ballot.round, ballot.done, ballot.waiting) == (2, 2 - waiting, waiting)
        assert say(whole, cast).pair in skipped
    assert pairs.ballot(whole, cast, "ann").waiting == 0, "another round has to be asked for"
    assert say(whole, cast).pair not in skipped
    assert pairs.ballot(whole, cast, "ann").waiting == 3, "somebody did"
