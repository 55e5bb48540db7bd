"""Random drawings: what is said is what is drawn."""

from itertools import islice
from random import Random

import pytest

from training.captions import STYLES, Concept
from training.drawings import BACKGROUNDS, Drawing, Picture, Rates, drawings

NEVER = Rates(
    silent=0, tinted=0, natural=0, background=0, flipped=0, small=0, aside=0, two=0, three=0, pair=0, styles={"3d": 1}
)


def pictures() -> list[Picture]:
    """Two concepts in every style."""
    made = []
    for label, group in (("apple", 4), ("robot", 0)):
        concept = Concept(code=label, label=label, names=(), tags=(), group=group, weight=1)
        made += [Picture(concept=concept, style=style, hue=0, tintable=True) for style in STYLES]
    return made


def some(rates: Rates, count: int = 200) -> list[Drawing]:
    """A few hundred drawings."""
    return list(islice(drawings(pictures(), rates, Random(1)), count))


def with_rates(**changes: object) -> Rates:
    """Nothing but the edits named."""
    values = {name: getattr(NEVER, name) for name in NEVER.__dataclass_fields__}
    return Rates(**{**values, **changes})


def test_without_edits_a_drawing_is_one_whole_picture_on_white() -> None:
    """The plain case is the one that matters most."""
    for one in some(NEVER):
        (layer,) = one.layers
        assert (layer.scale, layer.x, layer.y, layer.flipped, layer.tint) == (1, 0, 0, False, None)
        assert one.background == "white"


def test_the_same_seed_gives_the_same_drawings() -> None:
    """So that a finding can be looked at again."""
    assert some(Rates()) == some(Rates())


def test_a_drawing_has_the_style_of_its_pictures() -> None:
    """Two styles never meet on one paper."""
    have = pictures()
    for one in some(Rates(pair=0.5), 500):
        assert {have[layer.picture].style for layer in one.layers} == {STYLES[one.style]}


@pytest.mark.parametrize(("edit", "word", "layers"), [("two", "two", 2), ("three", "three", 3), ("pair", " and ", 2)])
def test_a_number_said_is_the_number_drawn(edit: str, word: str, layers: int) -> None:
    """Also for two different things."""
    found = some(with_rates(**{edit: 1.0}))
    assert all(len(one.layers) == layers and word in one.caption for one in found)


def test_a_tint_is_always_said_and_a_background_too() -> None:
    """A blue apple without the word would teach that apples are blue."""
    for one in some(with_rates(tinted=1.0, background=1.0)):
        assert one.layers[0].tint is not None
        assert one.caption.endswith(f"on a {one.background} background")
        assert one.background in BACKGROUNDS


def test_some_captions_are_silent_for_guidance() -> None:
    """About as many as asked for."""
    silent = sum(one.caption == "" for one in some(with_rates(silent=0.1), 2000))
    assert 120 < silent < 280
