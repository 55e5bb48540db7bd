"""Drawings as tensors."""

import colorsys

import pytest

pytest.importorskip("torch")

import torch

from training.drawings import TINTS, Drawing, Layer
from training.edits import draw, main_hue, pack, tinted
from training.words import Words

SIZE = 16
WORDS = Words(["[PAD]"])


def disc(red: int, green: int, blue: int) -> torch.Tensor:
    """A square of one colour on nothing, as bytes."""
    picture = torch.zeros(4, SIZE, SIZE, dtype=torch.uint8)
    picture[:, 4:12, 4:12] = torch.tensor([red, green, blue, 255], dtype=torch.uint8)[:, None, None]
    return picture


def drawn(*layers: Layer, background: str = "white") -> torch.Tensor:
    """One drawing over a red picture, from 0 to 1."""
    pictures = disc(200, 20, 20)[None]
    batch = pack([Drawing(caption="", style=0, layers=layers, background=background)], WORDS)
    return draw(pictures, main_hue(pictures)[0], batch)[0] * 0.5 + 0.5


def test_a_plain_drawing_is_its_picture_on_its_paper() -> None:
    """Nothing is resampled."""
    picture = drawn(Layer(picture=0), background="black")
    assert picture[:, 8, 8] == pytest.approx([200 / 255, 20 / 255, 20 / 255], abs=1e-3)
    assert picture[:, 0, 0] == pytest.approx([0.05] * 3, abs=1e-3)


def test_a_small_copy_is_half_as_wide_and_where_it_was_put() -> None:
    """`x` to the right, `y` down."""
    dark = drawn(Layer(picture=0, scale=0.5, x=0.5, y=-0.5))[1] < 0.5
    rows, columns = torch.nonzero(dark, as_tuple=True)
    assert rows.float().mean() == pytest.approx(3.5, abs=0.6)
    assert columns.float().mean() == pytest.approx(11.5, abs=0.6)
    assert columns.max() - columns.min() + 1 == pytest.approx(4, abs=1)


def test_two_layers_leave_two_things() -> None:
    """One left, one right, paper between."""
    dark = drawn(Layer(picture=0, scale=0.5, x=-0.5), Layer(picture=0, scale=0.5, x=0.5))[1] < 0.5
    assert dark[8, 3]
    assert not dark[8, 8]
    assert dark[8, 12]


@pytest.mark.parametrize("colour", ["green", "blue", "purple", "yellow"])
def test_a_tint_gives_the_hue_it_names(colour: str) -> None:
    """Within a few degrees."""
    red, green, blue = drawn(Layer(picture=0, tint=TINTS[colour]))[:, 8, 8].tolist()
    assert colorsys.rgb_to_hsv(red, green, blue)[0] * 360 == pytest.approx(TINTS[colour].hue, abs=3)


def test_black_is_dark_and_white_is_light() -> None:
    """They are no hues, yet people ask for them."""
    assert drawn(Layer(picture=0, tint=TINTS["black"]))[:, 8, 8].max() < 0.35
    assert drawn(Layer(picture=0, tint=TINTS["white"]))[:, 8, 8].min() > 0.8


def test_a_tint_leaves_other_hues_alone() -> None:
    """The leaf of a blue apple stays green."""
    apple = disc(200, 20, 20)
    apple[:3, 4:6, 4:12] = torch.tensor([20, 160, 20], dtype=torch.uint8)[:, None, None]
    layers = apple[None].float() / 255
    tint = torch.tensor([[218.0, 1, 1, 0, 1]])
    after = tinted(layers, torch.tensor([0.0]), tint)[0]
    assert after[:, 4, 8] == pytest.approx(layers[0, :, 4, 8], abs=1e-2)
    assert after[2, 8, 8] > after[0, 8, 8]


def test_the_main_hue_is_measured_on_the_picture_not_on_nothing() -> None:
    """Where there is no alpha there is no colour."""
    hue, share = main_hue(torch.stack([disc(20, 20, 200), disc(128, 128, 128)]))
    assert hue[0] == pytest.approx(240, abs=1)
    assert share[0] == pytest.approx(1, abs=0.01)
    assert share[1] == 0
