"""Says what a small picture shows, without any network: the object, its colour, and how many there are.

What the objects look like was learned from the art by `python -m training.judge_learn`; see there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.shapes import Mask, Pixels, Reals, crumbless, ink, portrait, separated, shape

KINDS = ("plain", "colour", "count", "unseen")
NEAR = 5  # an object counts as recognised when it is among so many guesses
LEAST = 0.4  # a guess is no guess when the shapes are less alike than this (cosine); two other things reach 0.4 to 0.5

# --- what is asked -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A prompt, and what a person would accept as an answer."""

    kind: str
    prompt: str
    labels: frozenset[str]
    colour: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a wish."""

    first: bool  # the nearest object is right
    near: bool  # one of the nearest few is
    colour: bool | None  # None where nobody asked for a colour
    count: bool | None  # None where one thing was asked for
    seen: str  # the nearest object, for people who look at the sheet

    @property
    def right(self) -> bool:
        """Everything that was asked for is there."""
        return self.near and self.colour is not False and self.count is not False


def wishes(lines: Iterable[str]) -> list[Wish]:
    """Read prompts.txt; a ValueError names the line that is wrong."""
    found: list[Wish] = []
    kind = ""
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            kind = line[1:].partition("]")[0]
            if kind not in KINDS:
                raise ValueError(f"line {number}: no kind of prompts is called {kind!r}; there are {', '.join(KINDS)}")
            continue
        if not kind:
            raise ValueError(f"line {number}: a [kind] must come before the first prompt")
        found.append(_wish(kind, line, number))
    return found


def _wish(kind: str, line: str, number: int) -> Wish:
    prompt, *rest = (part.strip() for part in line.split("|"))
    if not 1 <= len(rest) <= 3:
        raise ValueError(f"line {number}: expected 'prompt | labels | colour | count', the last two may be left out")
    labels = frozenset(label.strip() for label in rest[0].split(",") if label.strip())
    if not prompt or not labels:
        raise ValueError(f"line {number}: a prompt and at least one label are needed")
    colour = rest[1] if len(rest) > 1 and rest[1] != "-" else None
    if colour is not None and colour not in COLOURS:
        raise ValueError(f"line {number}: no colour is called {colour!r}; there are {', '.join(COLOURS)}")
    count = rest[2] if len(rest) > 2 else "1"
    if count not in ("1", "2", "3"):
        raise ValueError(f"line {number}: the count is 1, 2 or 3, not {count!r}")
    return Wish(kind=kind, prompt=prompt, labels=labels, colour=colour, count=int(count))


# --- which colour --------------------------------------------------------------------------------------------------

COLOURED = 0.25  # a weaker colour is a gray
DULL, SOME = 0.1, 0.15  # so vivid must a pixel be, and so many of all, before a picture has a colour at all
SHARE = 0.4  # of all that is vivid (of all pixels, for grays) must have the colour; a blue car has yellow lights

# Hue from and to, then the bounds of saturation and of brightness. They overlap, as the words do.
COLOURS: Mapping[str, tuple[float, float, float, float, float, float]] = {
    "red": (325, 16, 0.55, 1, 0.3, 1),
    "orange": (8, 44, 0.45, 1, 0.65, 1),
    "yellow": (38, 66, 0.3, 1, 0.65, 1),
    "green": (66, 172, 0.25, 1, 0.15, 1),
    "blue": (172, 252, 0.25, 1, 0.2, 1),
    "purple": (246, 312, 0.2, 1, 0.2, 1),
    "pink": (290, 14, 0.12, 0.75, 0.7, 1),
    "brown": (5, 45, 0.25, 1, 0.15, 0.78),
    "black": (0, 360, 0, 0.4, 0, 0.5),
    "white": (0, 360, 0, 0.15, 0.8, 1),
    "gray": (0, 360, 0, 0.2, 0.3, 0.9),
}
GRAYS = ("black", "white", "gray")


def hsv(pixels: NDArray[np.uint8]) -> Reals:
    """Hue in degrees, saturation and brightness of rows of pixels."""
    rgb = pixels.astype(np.float32) / 255
    high, low = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = high - low
    safe = np.maximum(spread, 1e-6)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hue = np.where(
        high == red,
        ((green - blue) / safe) % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return np.stack([hue * 60, spread / np.maximum(high, 1e-6), high], axis=-1)


def has_colour(pixels: NDArray[np.uint8], colour: str) -> bool:
    """Whether a person would call these pixels, as a whole, by that colour."""
    hue, strength, brightness = np.moveaxis(hsv(pixels), -1, 0)
    start, end, faint, strong, dark, light = COLOURS[colour]
    fits = (hue >= start) & (hue <= end) if start < end else (hue >= start) | (hue <= end)
    fits &= (strength >= faint) & (strength <= strong) & (brightness >= dark) & (brightness <= light)
    if colour in GRAYS:
        return bool(fits.mean() >= SHARE) if len(pixels) else False
    vivid = np.where((strength >= COLOURED) | fits, strength * brightness, 0)  # the dark edge of a wing counts little
    # A gray picture with one green leaf is not green.
    return bool((vivid > DULL).mean() >= SOME and vivid[fits].sum() >= SHARE * vivid.sum()) if len(pixels) else False


# --- which object --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Knows the shapes of the art: the nearest one tells the object."""

    labels: tuple[str, ...]
    owner: NDArray[np.uint16]  # which label each reference shows
    middle: Reals
    projection: Reals
    references: Reals  # one row a picture, of length 1

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """Read what `training.judge_learn` wrote."""
        with np.load(path) as kept:
            references = kept["references"].astype(np.float32)
            return cls(
                labels=tuple(kept["labels"].tobytes().decode().split("\n")),
                owner=kept["owner"],
                middle=kept["middle"].astype(np.float32),
                projection=kept["projection"].astype(np.float32),
                references=references / np.linalg.norm(references, axis=1, keepdims=True),
            )

    def guesses(self, picture: Pixels, mask: Mask, most: int = NEAR) -> list[str]:
        """What the masked thing looks like, the nearest label first."""
        seen = portrait(picture, mask)
        # Whichever way it faces: the art has one way, the network may draw the other.
        both = (shape(np.stack([seen, seen[:, ::-1]])) - self.middle) @ self.projection
        both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-6)
        nearness = np.full(len(self.labels), -1, np.float32)
        np.maximum.at(nearness, self.owner, (self.references @ both.T).max(axis=1))
        order = np.argsort(-nearness, kind="stable")[:most]
        return [self.labels[one] for one in order if nearness[one] >= LEAST]

    def verdict(self, wish: Wish, picture: Pixels) -> Verdict:
        """Compare a picture with what was asked for."""
        mask = ink(picture)
        things = separated(mask, wish.count) if wish.count > 1 else [crumbless(mask)]
        guesses = [self.guesses(picture, thing) for thing in things]
        return Verdict(
            first=all(not wish.labels.isdisjoint(guess[:1]) for guess in guesses),
            near=all(not wish.labels.isdisjoint(guess) for guess in guesses),
            colour=has_colour(picture[mask], wish.colour) if wish.colour else None,
            count=len(things) == wish.count if wish.count > 1 else None,
            seen=", ".join(dict.fromkeys(guess[0] if guess else "nothing" for guess in guesses)),
        )
