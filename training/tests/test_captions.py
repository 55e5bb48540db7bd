"""What is drawn, and what it is called."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from training.captions import Concept, article, colourless, concepts, everyday, name, phrase, plural

APPLE = Concept(code="1F34E", label="red apple", names=("apple",), tags=("fruit", "food"), group=4, weight=2.0)


def test_everyday_names_are_read_one_concept_a_line() -> None:
    """A label alone is an everyday concept too."""
    assert everyday(["# why", "", "red apple: apple", "banana", "car: auto, motor"]) == {
        "red apple": ("apple",),
        "banana": (),
        "car": ("auto", "motor"),
    }


def test_no_label_is_listed_twice() -> None:
    """The later line would silently win."""
    lines = (Path(__file__).parents[1] / "everyday.txt").read_text(encoding="utf-8").splitlines()
    labels = [line.partition(":")[0] for line in lines if line and not line.startswith("#")]
    assert len(labels) == len(set(labels))


def test_flags_skin_tones_and_families_are_left_out_unless_they_are_everyday() -> None:
    """What cannot be told apart at 64 pixels only costs time."""
    entries: list[dict[str, Any]] = [
        {"label": "robot", "hexcode": "1", "group": 0},
        {"label": "flag: Chad", "hexcode": "2", "group": 9},
        {"label": "family: man, boy", "hexcode": "3", "group": 1},
        {"label": "pirate flag", "hexcode": "4", "group": 9},
        {"label": "regional indicator A", "hexcode": "5"},
    ]
    found = {one.label: one.weight for one in concepts(entries, {"pirate flag": ()})}
    assert found.keys() == {"robot", "pirate flag"}
    assert found["pirate flag"] > found["robot"]


@pytest.mark.parametrize(
    ("text", "said"), [("apple", "an apple"), ("red fox", "a red fox"), ("grapes", "grapes"), ("octopus", "an octopus")]
)
def test_an_article_fits_its_word(text: str, said: str) -> None:
    """By the rule of thumb that most English follows."""
    assert article(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("apple", "apples"),
        ("cherry", "cherries"),
        ("fox", "foxes"),
        ("key", "keys"),
        ("fish", None),
        ("cup of tea", None),
    ],
)
def test_several_are_named_only_where_the_rule_is_safe(text: str, said: str | None) -> None:
    """A wrong plural would teach a wrong word."""
    assert plural(text) == said


def test_a_name_gives_its_colour_away_but_never_everything() -> None:
    """A colour alone before a background must stay."""
    assert colourless("red apple") == "apple"
    assert colourless("light blue heart") == "heart"
    assert colourless("orange") == "orange"


def test_names_and_phrases_vary_and_always_hold_the_thing() -> None:
    """One picture, many ways to ask."""
    rng = Random(1)
    names = {name(APPLE, rng) for _ in range(300)}
    assert {"apple", "red apple"} < names
    phrases = {phrase("apple", rng) for _ in range(300)}
    assert {"apple", "an apple", "the apple"} < phrases
    assert all("apple" in text for text in phrases)
