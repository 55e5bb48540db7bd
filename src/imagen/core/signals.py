"""What a backend says while it draws: six kinds, in any order, until it stops."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PhaseName = Literal["loading", "encoding", "sampling", "decoding", "saving"]
PHASES: tuple[PhaseName, ...] = ("loading", "encoding", "sampling", "decoding", "saving")

# Pixels nobody has encoded yet: width * height * 3 bytes, row by row. The runner encodes them, off the event loop.
RAW_RGB = "image/x-raw-rgb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What is being done now, so that nothing looks like a hang."""

    name: PhaseName
    # The next job may be begun on this device: what is left of this call can be done beside it.
    device_free: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Step `step` of `total` is done; `total` is real from the first one and covers this whole call."""

    step: int
    total: int
    image: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The picture as it is now: RAW_RGB pixels or an encoded image."""

    step: int
    total: int
    data: bytes = field(repr=False)
    mime: str = RAW_RGB
    width: int
    height: int
    image: int = 0
    method: str = "backend"
    estimate: bool = True  # shows the predicted clean picture, not the noisy one
    decode_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know: what was asked and could not be honoured."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """A name for outside work, said before that work starts, so that a crash can re-attach to it."""

    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One finished picture.

    `facts` may hold vram_peak_mib, vram_method, cost, timings, `drawn` (how, in words), and `files`: those that
    drew it, each a ModelFile, where the backend knows better than the model's data.
    """

    data: bytes = field(repr=False)
    mime: str = RAW_RGB
    width: int = 0  # needed for RAW_RGB; an encoded picture tells its own
    height: int = 0
    index: int = 0
    seed: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


Signal = Phase | Step | Preview | Notice | Handle | Output
