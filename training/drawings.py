"""What to draw next, and how somebody would ask for it: one random drawing after the other, as plain values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from training.captions import FOOD, NATURE, PEOPLE, STYLES, TRAVEL, Concept, article, colourless, name, phrase, plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Tint:
    """A colour to give to a picture's main hue: its own hue in degrees, and factors for strength and brightness."""

    hue: float
    strength: float = 1.0
    brightness: float = 1.0
    lift: float = 0.0  # added to the brightness


TINTS: Mapping[str, Tint] = {
    "red": Tint(hue=0),
    "orange": Tint(hue=28),
    "yellow": Tint(hue=50),
    "green": Tint(hue=120),
    "blue": Tint(hue=218),
    "purple": Tint(hue=275),
    "pink": Tint(hue=330, strength=0.55, lift=0.15),
    "brown": Tint(hue=25, strength=0.8, brightness=0.6),
    "black": Tint(hue=220, strength=0.2, brightness=0.3),
    "white": Tint(hue=220, strength=0.08, brightness=0.3, lift=0.68),
    "gray": Tint(hue=220, strength=0.05, brightness=0.7),
}

BACKGROUNDS: Mapping[str, tuple[float, float, float]] = {
    "white": (1, 1, 1),
    "black": (0.05, 0.05, 0.05),
    "red": (0.9, 0.2, 0.2),
    "orange": (1, 0.6, 0.2),
    "yellow": (1, 0.9, 0.35),
    "green": (0.35, 0.75, 0.35),
    "blue": (0.25, 0.5, 0.95),
    "purple": (0.6, 0.35, 0.85),
    "pink": (1, 0.7, 0.8),
    "gray": (0.55, 0.55, 0.55),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One picture on the paper; `x` and `y` are its middle, from -1 to 1."""

    picture: int
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0
    flipped: bool = False
    tint: Tint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A picture to learn from, and its caption; an empty caption teaches what guidance is measured against."""

    caption: str
    style: int
    layers: tuple[Layer, ...]
    background: str = "white"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of the data, and what may be done with it."""

    concept: Concept
    style: str
    hue: float  # its main hue in degrees
    tintable: bool  # enough of it has that hue


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often each edit is made. Small numbers: what is plain must be learned first."""

    silent: float = 0.1
    tinted: float = 0.25  # of what can be tinted
    natural: float = 0.1  # the colour it has anyway, said
    background: float = 0.1
    flipped: float = 0.2
    small: float = 0.04
    aside: float = 0.015
    two: float = 0.035
    three: float = 0.015
    pair: float = 0.02
    styles: Mapping[str, float] = field(default_factory=lambda: {"3d": 0.45, "flat": 0.25, "noto": 0.3})


def drawings(pictures: Sequence[Picture], rates: Rates, rng: Random) -> Iterator[Drawing]:
    """Drawings without end."""
    shelves = {style: [i for i, one in enumerate(pictures) if one.style == style] for style in STYLES}
    heaps = {style: list(accumulate(pictures[i].concept.weight for i in shelf)) for style, shelf in shelves.items()}
    styles, shares = list(rates.styles), list(accumulate(rates.styles.values()))
    while True:
        style = rng.choices(styles, cum_weights=shares)[0]
        picture, other = rng.choices(shelves[style], cum_weights=heaps[style], k=2)
        yield _drawing(pictures, picture, other, rates, rng)


def _drawing(pictures: Sequence[Picture], index: int, other: int, rates: Rates, rng: Random) -> Drawing:
    picture = pictures[index]
    concept = picture.concept
    words = name(concept, rng)
    tint = None
    if picture.tintable and concept.group != PEOPLE and rng.random() < rates.tinted:
        colour = rng.choice(list(TINTS))
        tint, words = TINTS[colour], f"{colour} {colourless(words)}"
    elif picture.tintable and rng.random() < rates.natural:
        words = f"{_nearest(picture.hue)} {colourless(words)}"
    flipped = concept.group in (NATURE, FOOD, TRAVEL) and rng.random() < rates.flipped
    layer = Layer(picture=index, tint=tint, flipped=flipped)
    layers, words = _arranged(layer, words, pictures[other].concept, other, rates, rng)
    background = "white"
    if rng.random() < rates.background:
        background = rng.choice(list(BACKGROUNDS))
        words += f" on a {background} background"
    if rng.random() < rates.silent:
        words = ""
    return Drawing(caption=words, style=STYLES.index(picture.style), layers=layers, background=background)


def _arranged(
    layer: Layer, words: str, beside: Concept, other: int, rates: Rates, rng: Random
) -> tuple[tuple[Layer, ...], str]:
    """Where the picture goes on the paper, how many there are, and the words for it."""
    many = plural(words)
    odds = {
        "small": rates.small,
        "aside": rates.aside,
        "two": rates.two if many else 0.0,
        "three": rates.three if many else 0.0,
        "pair": rates.pair,
    }
    kind = rng.choices(["whole", *odds], [1 - sum(odds.values()), *odds.values()])[0]
    if kind == "whole":
        return (layer,), phrase(words, rng)
    if kind == "small":
        x, y = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)
        text = phrase(f"{rng.choice(('small', 'tiny', 'little'))} {words}", rng)
        return (_moved(layer, rng.uniform(0.4, 0.55), x, y),), text
    if kind == "aside":
        side = rng.choice((-1, 1))
        text = f"{phrase(words, rng)} on the {'left' if side < 0 else 'right'}"
        return (_moved(layer, 0.5, side * 0.47, rng.uniform(-0.2, 0.2)),), text
    if kind == "two":
        return (_moved(layer, 0.52, -0.48, 0), _moved(layer, 0.52, 0.48, 0)), f"two {many}"
    if kind == "three":
        places = ((-0.48, 0.45), (0.48, 0.45), (0, -0.45))
        return tuple(_moved(layer, 0.5, x, y) for x, y in places), f"three {many}"
    second = Layer(picture=other)
    return (
        (_moved(layer, 0.52, -0.48, 0), _moved(second, 0.52, 0.48, 0)),
        f"{article(words)} and {article(name(beside, rng))}",
    )


def _moved(layer: Layer, scale: float, x: float, y: float) -> Layer:
    return Layer(picture=layer.picture, scale=scale, x=x, y=y, flipped=layer.flipped, tint=layer.tint)


def _nearest(hue: float) -> str:
    plain = {colour: tint.hue for colour, tint in TINTS.items() if tint.strength == 1}
    return min(plain, key=lambda colour: abs((plain[colour] - hue + 180) % 360 - 180))
