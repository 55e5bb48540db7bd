"""Blind votes: two pictures of one prompt side by side, and what somebody said of them before the names were told."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Choice(StrEnum):
    """What a voter can say of a pair. A skipped pair says nothing about the models, and comes back."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """One side of a pair, whose model is not told yet."""

    id: str  # says nothing: neither the model nor what was drawn first
    image: str  # the stored picture; for us only
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindFile:
    """A picture as a voter may see it: nothing in or around it tells the model."""

    id: str
    data: bytes = field(repr=False)
    mime: str
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two pictures of one prompt by two models, with their sides drawn by lot."""

    prompt: str
    left: Hidden
    right: Hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """Where a voter stands in a series: how many pairs of this round are done, and the one that comes next.

    Of a round that nobody has begun only the pairs skipped before are `waiting`: they come first in it.
    """

    series: str
    round: int
    done: int
    waiting: int
    total: int
    pair: Pair | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a pair that was voted on."""

    image: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What was said of one pair, once."""

    id: str
    series: str
    voter: str
    round: int
    left: Side
    right: Side
    choice: Choice
    created_at: datetime

    @property
    def pair(self) -> str:
        """The two pictures, whichever side each was on."""
        return pair_name(self.left.image, self.right.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How often something was said of two models about one prompt; the sides are as they were shown."""

    left: str
    right: str
    choice: Choice
    prompt: str
    count: int


def pair_name(one: str, other: str) -> str:
    """One name for two pictures, in whatever order they are given."""
    return "+".join(sorted((one, other)))
