"""From latents to a small picture: a linear map from channels to colours, good enough to see what forms.

A decoder needs a hundred times as long. Whatever order a pipeline keeps its latents in, they are laid out as channels,
rows and columns first; that order follows from their shape, so a new pipeline needs no line here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, sqrt

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

COLOURS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """A linear map: three numbers for each channel of the latents, and what is added. -1 is black, 1 is white."""

    rows: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source: str  # where it comes from, in words
    rmse: float | None = None  # of a fitted one: how far off its colours are, in steps of 1/255

    @property
    def channels(self) -> int:
        return len(self.rows)


# For a model that draws pixels and has no latents.
PIXELS = Factors(rows=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), source="pixels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one picture's latents lie in a pipeline's array."""

    channels: int  # as the decoder counts them
    rows: int
    columns: int
    patch: int = 1  # so many rows and columns are kept together, as further channels
    tokens: bool = False  # a list of places, row by row, instead of a plane


def layout_of(shape: Sequence[int], channels: int, width: int, height: int) -> Layout | None:
    """The layout of an array with this shape, for a decoder with so many channels; None when it fits none known.

    The first dimension is the pictures; a dimension of one frame, as video decoders have it, is overlooked.
    Patches keep a channel's places together, then rows, then columns: the order of every pipeline of diffusers 0.42
    that packs pictures.
    """
    match [size for place, size in enumerate(shape) if not (place == 2 and len(shape) == 5 and size == 1)]:
        case [_, depth, rows, columns]:
            tokens = False
        case [_, places, depth]:
            tokens = True
            rows = round(sqrt(places * height / width))
            columns = places // rows if rows else 0
            if rows * columns != places:
                return None
        case _:
            return None
    patch = isqrt(depth // channels) if channels > 0 else 0
    if not rows * columns * patch or channels * patch * patch != depth:
        return None
    return Layout(channels=channels, rows=rows * patch, columns=columns * patch, patch=patch, tokens=tokens)


def unpack(latents: npt.NDArray[np.floating], layout: Layout) -> Array:
    """One picture's latents, without the dimension of the pictures, as channels, rows and columns."""
    patch, channels = layout.patch, layout.channels
    rows, columns = layout.rows // patch, layout.columns // patch
    if layout.tokens:
        apart = latents.reshape(rows, columns, channels, patch, patch).transpose(2, 0, 3, 1, 4)
    else:
        apart = latents.reshape(channels, patch, patch, rows, columns).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(apart, np.float32).reshape(channels, layout.rows, layout.columns)


def project(
    latents: npt.NDArray[np.floating], layout: Layout, factors: Factors, max_size: int
) -> tuple[bytes, int, int]:
    """RGB pixels of one picture's latents as they come, with width and height; never more pixels than latents.

    Raises ValueError for latents that are no numbers: the picture itself will be black then.
    """
    if layout.channels != factors.channels:
        raise ValueError(f"latents of {layout.channels} channels and a map of {factors.channels}")
    patch, rows, columns = layout.patch, layout.rows // layout.patch, layout.columns // layout.patch
    # Mapped before it is unpacked: what then has to be put in order is a tenth as much.
    weights = _weights(factors, patch)
    flat = np.asarray(latents, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number is told below
        if layout.tokens:
            places = flat.reshape(rows * columns, -1) @ weights
            colours = places.reshape(rows, columns, patch, patch, COLOURS).transpose(0, 2, 1, 3, 4)
        else:
            planes = weights.T @ flat.reshape(-1, rows * columns)
            colours = planes.reshape(patch, patch, COLOURS, rows, columns).transpose(3, 0, 4, 1, 2)
        total = colours.sum()
    if not np.isfinite(total):
        raise ValueError("the latents hold values that are no numbers")
    pixels = _bytes(colours, factors).reshape(layout.rows, layout.columns, COLOURS)
    return _shrunk(pixels, max_size)


def _weights(factors: Factors, patch: int) -> Array:
    """The map of a whole patch at once: each of its places has the same one."""
    apart = np.eye(patch * patch, dtype=np.float32)[None, :, :, None]
    rows = np.array(factors.rows, np.float32)[:, None, None, :]
    return (rows * apart).reshape(-1, patch * patch * COLOURS) * np.float32(127.5)


def _bytes(colours: Array, factors: Factors) -> npt.NDArray[np.uint8]:
    shown = colours + (np.array(factors.bias, np.float32) * 127.5 + 128).astype(np.float32)  # 127.5, and rounded
    return np.clip(shown, 0, 255, out=shown).astype(np.uint8)


def _shrunk(pixels: npt.NDArray[np.uint8], max_size: int) -> tuple[bytes, int, int]:
    height, width, _ = pixels.shape
    if max(width, height) <= max_size:
        return pixels.tobytes(), width, height
    from PIL import Image

    scale = max_size / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX).tobytes(), *size
