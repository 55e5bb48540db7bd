"""Finds the map from latents to colours for a decoder that has none: a few made-up pictures, and least squares.

The backend has the decoder, and is asked for arrays: the `swatches` as latents, and what it makes of those again. That
is done once for each decoder, and the map is kept in a file.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from imagen.previews.latents import COLOURS, Array, Factors

SWATCHES = 16  # 4096 places for 33 unknowns at most; 8 to 64 pictures gave the same error within 3 %
SIDE = 128  # pixels: enough that most places are far from an edge, and a second's work even for a slow decoder
# Of a real decoder (docs/decisions/previews-in-process.md): soft fields of colour with a few discs in them gave a map
# with a quarter more error, and so did more colour, fewer discs, or discs with a grain.
DISCS = 400
SMALLEST = 3.0  # pixels, and a little more
GREY = 0.7
EVERY = 4  # each fourth picture is kept out of the fit and used to say how good it is
RIDGE = 1e-4  # keeps channels that hardly change from getting huge numbers


def swatches(count: int = SWATCHES, side: int = SIDE, seed: int = 0) -> Array:
    """Pictures of discs that lie over each other, always the same: (count, 3, side, side), from -1 to 1.

    Many small ones, few large ones, mostly grey: near and far, edges and plain places come as often as in photographs.
    """
    dice = np.random.default_rng(seed)
    down, across = np.mgrid[0:side, 0:side].astype(np.float32)
    made = np.zeros((count, COLOURS, side, side), np.float32)
    for picture in made:
        for _ in range(DISCS):
            radius = min(SMALLEST / dice.uniform(0.02, 0.3), side / 2)
            y, x = dice.random(2) * side
            # Wider than what is shown: a map must see bright colours too.
            colour = GREY * dice.uniform(-1, 1) + (1 - GREY) * dice.uniform(-1.6, 1.6, COLOURS)
            picture[:, (down - y) ** 2 + (across - x) ** 2 < radius**2] = colour[:, None]
    return made.clip(-1, 1)


def noise(count: int, channels: int, rows: int, columns: int, seed: int = 0) -> Array:
    """Latents for a decoder that comes without its encoder: soft fields of the spread that models are trained to."""
    dice = np.random.default_rng(seed)
    fields = []
    for _ in range(count):
        coarse = dice.standard_normal((channels, max(1, rows // 4), max(1, columns // 4))).astype(np.float32)
        fields.append(np.stack([_enlarged(plane, rows, columns) for plane in coarse]))
    made = np.stack(fields)
    spread: Array = made / made.std()
    return spread


def fit(latents: Sequence[Array] | Array, pictures: Sequence[Array] | Array, source: str = "fitted") -> Factors:
    """The map that comes nearest to these pictures (3, rows, columns; -1 is black, 1 is white, not clipped).

    Each picture belongs to the latents (channels, rows, columns) of the same number and is a whole number of times
    as large. The error is that of pictures which were not fitted to.
    """
    known = [_places(one, picture) for one, picture in zip(latents, pictures, strict=True)]
    if len(known) < EVERY:
        raise ValueError(f"{len(known)} pictures are too few to fit to")
    tried = _solved([pair for number, pair in enumerate(known) if number % EVERY])
    errors = [(given @ tried).clip(-1, 1) - wanted.clip(-1, 1) for given, wanted in known[::EVERY]]
    rmse = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)) * 127.5)
    if not np.isfinite(rmse):
        raise ValueError("the decoder gives values that are no numbers")
    *rows, bias = ((float(red), float(green), float(blue)) for red, green, blue in _solved(known).round(6))
    return Factors(rows=tuple(rows), bias=bias, source=source, rmse=round(rmse, 2))


def kept(folder: Path, digest: str, make: Callable[[], Factors]) -> Factors:
    """The map of the decoder with this digest, from the folder; made, and kept there, where it is not in it yet."""
    file = folder / f"{digest}.json"
    found = _read(file)
    if found is None:
        found = make()
        with suppress(OSError):  # where nothing can be kept it is made again next time
            _write(file, found)
    return found


def _read(file: Path) -> Factors | None:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        rows = tuple((float(red), float(green), float(blue)) for red, green, blue in told["rows"])
        red, green, blue = told["bias"]
        return Factors(rows=rows, bias=(red, green, blue), source=str(told["source"]), rmse=told["rmse"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(file: Path, factors: Factors) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{uuid4().hex}")  # two processes may fit the same decoder at once
    part.write_text(json.dumps(asdict(factors)), encoding="utf-8")
    os.replace(part, file)


def _places(latents: Array, picture: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What is known of each place of the latents: its channels and a one, and the mean colour of its pixels."""
    channels, rows, columns = latents.shape
    _, height, width = picture.shape
    if height % rows or width % columns:
        raise ValueError(f"a picture of {width}x{height} does not belong to latents of {columns}x{rows}")
    # Not clipped here: what a decoder says beyond black and white is still on the line.
    blocks = picture.astype(np.float64).reshape(COLOURS, rows, height // rows, columns, width // columns)
    given = np.concatenate([latents.reshape(channels, -1), np.ones((1, rows * columns))])
    return given.T.astype(np.float64), blocks.mean(axis=(2, 4)).reshape(COLOURS, -1).T


def _solved(known: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]) -> npt.NDArray[np.float64]:
    given = np.concatenate([pair[0] for pair in known])
    wanted = np.concatenate([pair[1] for pair in known])
    square = given.T @ given
    square += RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    return np.linalg.solve(square, given.T @ wanted)


def _enlarged(plane: Array, rows: int, columns: int) -> Array:
    """A plane made larger, with straight lines between its values."""
    down = np.linspace(0, plane.shape[0] - 1, rows)
    across = np.linspace(0, plane.shape[1] - 1, columns)
    wide = np.stack([np.interp(across, np.arange(plane.shape[1]), line) for line in plane])
    tall = np.stack([np.interp(down, np.arange(plane.shape[0]), line) for line in wide.T])
    return np.ascontiguousarray(tall.T, np.float32)
