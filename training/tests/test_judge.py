"""The judge of small pictures: what it is asked, what it sees, and what it must not see."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from training.captions import STYLES, Concept, spoken
from training.data import SAID, load
from training.judge import KINDS, Judge, Wish, has_colour, wishes
from training.judge_learn import twice, varied, write
from training.shapes import CELLS, Pixels, crumbless, ink, parts, portrait, separated, shape

HERE = Path(__file__).parents[1]
DATA, LEARNED = HERE.parent / ".training/data-64", HERE.parent / "benchmarks/data/tiny_judge.npz"
PROMPTS = wishes((HERE / "prompts.txt").read_text(encoding="utf-8").splitlines())

needs_art = pytest.mark.skipif(not (DATA / "pictures.npy").exists(), reason="python -m training.prepare was not run")

INKS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 20, 20),
    "orange": (250, 140, 20),
    "yellow": (250, 220, 40),
    "green": (40, 160, 60),
    "blue": (40, 100, 230),
    "purple": (130, 50, 220),
    "pink": (250, 150, 200),
    "brown": (120, 70, 30),
    "black": (20, 20, 22),
    "white": (245, 245, 247),
    "gray": (130, 130, 130),
}


def paper(*boxes: tuple[int, int, int, int], colour: tuple[int, int, int] = INKS["blue"]) -> Pixels:
    """White paper with rectangles: top, left, height, width."""
    picture = np.full((64, 64, 3), 255, np.uint8)
    for top, left, high, wide in boxes:
        picture[top : top + high, left : left + wide] = colour
    return picture


def test_a_wish_is_read_with_all_it_expects() -> None:
    """What is left out has its plainest meaning."""
    lines = ["# why", "", "[plain] names", "a dog | dog, dog face", "[count]", "two red apples | red apple | red | 2"]
    assert wishes(lines) == [
        Wish(kind="plain", prompt="a dog", labels=frozenset({"dog", "dog face"})),
        Wish(kind="count", prompt="two red apples", labels=frozenset({"red apple"}), colour="red", count=2),
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["a dog | dog"], "line 1: a .kind. must come"),
        (["[plain]", "# ok", "a dog"], "line 3: expected"),
        (["[plain]", "a dog | "], "line 2: a prompt and at least one label"),
        (["[plain]", "a dog | dog | mauve"], "line 2: no colour is called 'mauve'"),
        (["[plain]", "a dog | dog | - | many"], "line 2: the count is 1, 2 or 3, not 'many'"),
        (["[plain]", "a dog | dog | - | 2 | 3"], "line 2: expected"),
        (["[odd]"], "line 1: no kind of prompts is called 'odd'"),
    ],
)
def test_a_wrong_line_is_named(lines: list[str], told: str) -> None:
    """Two hundred lines are too many to search."""
    with pytest.raises(ValueError, match=told):
        wishes(lines)


def test_the_list_holds_what_the_measure_promises() -> None:
    """A prompt taken away would make the next score incomparable."""
    assert Counter(wish.kind for wish in PROMPTS) == dict(zip(KINDS, (80, 50, 20, 50), strict=True))
    assert len({wish.prompt for wish in PROMPTS}) == 200
    assert all((wish.kind == "colour") == (wish.colour is not None) for wish in PROMPTS)
    assert all((wish.kind == "count") == (wish.count > 1) for wish in PROMPTS)


@needs_art
def test_every_label_is_drawn_in_every_style() -> None:
    """What no picture shows could never be recognised."""
    shown = {(one.concept.label, one.style) for one in load(DATA).pictures}
    for wish in PROMPTS:
        assert wish.labels <= {label for label, _ in shown}, wish
        assert all(any((label, style) in shown for label in wish.labels) for style in STYLES), wish


@needs_art
def test_unseen_words_are_in_no_caption() -> None:
    """Else they would measure how well captions were learned, which the other kinds do."""
    concepts: list[Concept] = [one.concept for one in load(DATA).pictures]
    heard = spoken(concepts) | {word for text in SAID for word in text.split()}
    heard |= {word + "s" for word in heard}
    for wish in PROMPTS:
        words = [word for word in re.findall(r"[a-z0-9]+", wish.prompt.lower()) if word not in ("a", "an", "the")]
        if wish.kind == "unseen":
            assert heard.isdisjoint(words), wish.prompt


@pytest.mark.parametrize("colour", INKS)
def test_a_rectangle_has_the_colour_it_was_given(colour: str) -> None:
    """And none of the plain ones beside."""
    drawn = paper((10, 10, 40, 40), colour=INKS[colour])[10:50, 10:50].reshape(-1, 3)
    assert has_colour(drawn, colour)
    near = {"red": {"orange"}, "brown": {"orange"}, "white": {"gray"}}
    assert not any(has_colour(drawn, other) for other in INKS if other not in {colour, *near.get(colour, ())})


def test_a_small_coloured_part_gives_no_colour() -> None:
    """A gray elephant under a green leaf is not green, and nothing has no colour."""
    picture = paper((10, 10, 40, 40), colour=INKS["gray"])
    picture[10:14, 10:30] = INKS["green"]
    pixels = picture[ink(picture)]
    assert not has_colour(pixels, "green")
    assert has_colour(pixels, "gray")
    assert not any(has_colour(pixels[:0], colour) for colour in INKS)


def test_things_are_counted_and_crumbs_are_not() -> None:
    """From left to right."""
    picture = paper((10, 40, 16, 16), (10, 4, 20, 20), (50, 50, 3, 3))
    things = parts(ink(picture))
    assert [int(thing.sum()) for thing in things] == [400, 256]
    assert crumbless(ink(picture)).sum() == 656
    assert parts(ink(paper())) == []


def test_things_that_touch_are_two_where_two_are_asked_for() -> None:
    """A bridge of a few pixels makes no single thing; one whole thing stays one."""
    touching = ink(paper((10, 4, 24, 24), (10, 32, 24, 24), (20, 28, 3, 4)))
    assert len(parts(touching)) == 1
    left, right = separated(touching, 2)
    assert left[20, 10]
    assert right[20, 50]
    assert not (left & right).any()
    assert (left | right).sum() == touching.sum()
    assert len(separated(touching, 1)) == 1
    assert len(separated(ink(paper((10, 4, 24, 50))), 2)) == 1


def test_the_paper_may_have_a_colour() -> None:
    """It is what the border shows."""
    picture = np.full((64, 64, 3), INKS["blue"], np.uint8)
    picture[20:40, 20:40] = 255
    assert ink(picture).sum() == 400


def test_place_size_and_colour_do_not_change_a_shape() -> None:
    """But another shape does."""
    large, small = paper((4, 4, 40, 20)), paper((30, 30, 20, 10), colour=INKS["red"])
    wide = paper((10, 4, 20, 40))
    one, same, other = shape(np.stack([portrait(it, ink(it)) for it in (large, small, wide)]))
    edges = CELLS * CELLS * 9
    assert np.abs(one - same)[:edges].mean() < 0.02
    assert np.abs(one - other)[:edges].mean() > 0.06


def test_a_judge_knows_what_it_was_shown_and_nothing_in_noise(tmp_path: Path) -> None:
    """Read from its file, with a projection that leaves shapes as they are."""
    tall, flat = paper((4, 22, 56, 20)), paper((22, 4, 20, 56))
    shapes = shape(np.stack([portrait(it, ink(it)) for it in (tall, flat)]))
    middle = shapes.mean(axis=0)
    projection = np.eye(len(middle), dtype=np.float32)
    write(
        tmp_path / "judge.npz",
        {"middle": middle, "projection": projection, "references": shapes - middle},
        ["tower", "plank"],
    )
    judge = Judge.load(tmp_path / "judge.npz")
    assert judge.guesses(tall, ink(tall)) == ["tower"]
    wish = Wish(kind="colour", prompt="a blue plank", labels=frozenset({"plank"}), colour="blue")
    assert judge.verdict(wish, flat).right
    assert not judge.verdict(wish, paper((22, 4, 20, 56), colour=INKS["red"])).right
    assert not judge.verdict(wish, tall).first
    nothing = judge.verdict(wish, paper())
    assert (nothing.near, nothing.right, nothing.seen) == (False, False, "nothing")


@needs_art
def test_the_art_is_recognised_though_it_be_bent_and_noise_is_not() -> None:
    """What the judge was made for."""
    data, judge, rng = load(DATA), Judge.load(LEARNED), np.random.default_rng(3)
    layers = data.pixels.permute(0, 2, 3, 1).numpy()
    right, doubled = [], []
    for number in rng.permutation(len(layers))[:60]:
        label = data.pictures[number].concept.label
        picture = layers[number, ..., :3] + (255 - layers[number, ..., 3:])
        bent = varied(picture, rng)
        right.append(label in judge.guesses(bent, crumbless(ink(bent))))
        pair = Wish(kind="count", prompt="", labels=frozenset({label}), count=2)
        doubled.append(judge.verdict(pair, twice(picture)).right)
    assert np.mean(right) > 0.95
    assert np.mean(doubled) > 0.7
    seen = []
    for wish in PROMPTS[:80]:
        noise = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        seen.append(judge.verdict(wish, noise).near)
    assert np.mean(seen) < 0.03
