"""Learns for `training.judge` what all the objects look like, and says how often it would be right.

    python -m training.judge_learn

Every picture of the art is bent, moved, blurred and recoloured a dozen times. The projection is the one in which these
differences, and those between the styles of one object, weigh least against the differences between objects (Fisher's
linear discriminants). Takes four minutes of one core and no torch. The same data gives the same file on one machine.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.judge import Judge, Wish
from training.shapes import Pixels, Reals, crumbless, ink, portrait, shape

DATA, OUT = Path(".training/data-64"), Path("benchmarks/data/tiny_judge.npz")
ROUNDS = 10  # variations of each picture that are learned from
TRIED = 600  # pictures, varied anew, that the result is tried on
SIZE = 128  # numbers that a shape is boiled down to
STYLES_WEIGH = 1.0  # how much a difference between styles is to be overlooked, against one between variations
RIDGE = 0.02  # of the mean variance, added to every direction: what never varied here may vary elsewhere
SMALL = 0.2  # of the variations are half as large, as in a picture of two things


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="(default: %(default)s)")
    options = parser.parse_args()
    art, labels = load(options.data)
    write(options.out, learn(art, labels), labels)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")
    report(Judge.load(options.out), art, labels)


def load(data: Path) -> tuple[Pixels, list[str]]:
    """All pictures on white paper, and what each shows."""
    layers = np.load(data / "pictures.npy")
    art = np.clip(layers[..., :3].astype(np.int16) + 255 - layers[..., 3:], 0, 255).astype(np.uint8)
    labels = [entry["label"] for entry in json.loads((data / "pictures.json").read_text(encoding="utf-8"))]
    return art, labels


def learn(art: Pixels, labels: Sequence[str]) -> dict[str, Reals]:
    """The projection, and where the pictures lie in it."""
    rng = np.random.default_rng(1)
    total = shapes(art).astype(np.float64)
    squares = total.T @ total
    for _ in range(ROUNDS):
        values = shapes([varied(picture, rng) for picture in art]).astype(np.float64)
        total += values
        squares += values.T @ values
    means = total / (ROUNDS + 1)
    within = squares / (ROUNDS + 1) - means.T @ means
    numbers = np.unique(labels, return_inverse=True)[1]
    objects = np.zeros((numbers.max() + 1, means.shape[1]))
    np.add.at(objects, numbers, means)
    apart = means - (objects / np.bincount(numbers)[:, None])[numbers]
    ignored = (within + STYLES_WEIGH * apart.T @ apart) / len(art)
    ignored += RIDGE * np.trace(ignored) / len(ignored) * np.eye(len(ignored))
    variances, axes = np.linalg.eigh(ignored)
    whitened = axes / np.sqrt(variances)
    middle = means.mean(axis=0)
    _, _, telling = np.linalg.svd((means - middle) @ whitened, full_matrices=False)
    projection = whitened @ telling[:SIZE].T
    references = (means - middle) @ projection
    return {name: value.astype(np.float32) for name, value in zip(
        ("middle", "projection", "references"), (middle, projection, references), strict=True
    )}  # fmt: skip


def write(path: Path, learned: dict[str, Reals], labels: Sequence[str]) -> None:
    """Keep what was learned, as small as it may be."""
    names, owner = np.unique(labels, return_inverse=True)
    references = learned["references"]
    references = references / np.abs(references).max(axis=1, keepdims=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        labels=np.frombuffer("\n".join(names).encode(), np.uint8),
        owner=owner.astype(np.uint16),
        middle=learned["middle"].astype(np.float16),
        projection=learned["projection"].astype(np.float16),
        references=np.rint(references * 127).astype(np.int8),
    )


def report(judge: Judge, art: Pixels, labels: Sequence[str]) -> None:
    """How often the judge is right where we know the answer: no score of a network can mean more than this."""
    rng = np.random.default_rng(2)
    chosen = rng.permutation(len(art))[:TRIED]
    noise = rng.normal(0, 8, art[chosen].shape)
    tried = {
        "as it is": list(art[chosen]),
        "bent, moved, recoloured": [varied(picture, rng) for picture in art[chosen]],
        "blurred by 2 pixels": [_blurred(picture, 2) for picture in art[chosen]],
        "blurred by 3 pixels": [_blurred(picture, 3) for picture in art[chosen]],
        "with noise of 8 levels": list(np.clip(art[chosen] + noise, 0, 255).astype(np.uint8)),
    }
    print(f"{'the art':<26} {'first':>6} {'five':>6}   of {TRIED}")
    for name, pictures in tried.items():
        guesses = [judge.guesses(picture, crumbless(ink(picture))) for picture in pictures]
        right = [labels[one] for one in chosen]
        first = np.mean([guess[:1] == [label] for guess, label in zip(guesses, right, strict=True)])
        near = np.mean([label in guess for guess, label in zip(guesses, right, strict=True)])
        print(f"{name:<26} {first:>6.1%} {near:>6.1%}")
    wanted = [Wish(kind="count", prompt="", labels=frozenset({labels[one]}), count=2) for one in chosen]
    told = [judge.verdict(wish, twice(art[one])) for wish, one in zip(wanted, chosen, strict=True)]
    first, near, count = (np.mean([getattr(one, name) for one in told]) for name in ("first", "near", "count"))
    print(f"{'two of it':<26} {first:>6.1%} {near:>6.1%}   counted right: {count:.1%}")


def twice(picture: Pixels) -> Pixels:
    """Two small copies, left and right, as close as the network was taught to draw them."""
    size = len(picture)
    side = round(0.52 * size)
    small = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX))
    paper = np.full_like(picture, 255)
    top = (size - side) // 2
    for left in (0, size - side):
        place = paper[top : top + side, left : left + side]
        np.minimum(place, small, out=place)
    return paper


def shapes(pictures: Sequence[Pixels] | Pixels) -> Reals:
    """The shape of every picture, a few at a time: their edges take much room."""
    seen = [portrait(picture, crumbless(ink(picture))) for picture in pictures]
    return np.concatenate([shape(np.stack(seen[at : at + 256])) for at in range(0, len(seen), 256)])


def varied(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """The same thing, as another hand might have drawn it."""
    size = len(picture)
    middles = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    down, across = np.meshgrid(middles, middles, indexing="ij")
    wide, high = np.exp(rng.normal(0, 0.06, 2)) * (1.85 if rng.random() < SMALL else 1)
    turn, slant = rng.normal(0, 0.08, 2)
    x = (across * np.cos(turn) + down * np.sin(turn)) * wide + slant * down + _waves(size, rng)
    y = (down * np.cos(turn) - across * np.sin(turn)) * high + _waves(size, rng)
    colours = _sampled(picture, (y + 1) / 2 * size - 0.5, (x + 1) / 2 * size - 0.5)
    chance = rng.random()
    if chance < 0.5:  # red, green and blue change places: on the paper's side, or the ink's
        places = np.roll(np.arange(3), rng.integers(3))
        colours = colours[..., places] if chance < 0.25 else 255 - (255 - colours)[..., places]
    colours = (255 * (colours / 255) ** float(np.exp(rng.normal(0, 0.25)))).astype(np.float32)
    if rng.random() < 0.5:
        colours = _blurred(colours.astype(np.uint8), rng.uniform(0, 1.2)).astype(np.float32)
    if rng.random() < 0.5:
        colours = colours + rng.normal(0, rng.uniform(0, 10), colours.shape).astype(np.float32)
    return np.clip(colours, 0, 255).astype(np.uint8)


def _waves(size: int, rng: np.random.Generator) -> Reals:
    coarse = Image.fromarray(rng.normal(0, 0.045, (5, 5)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _sampled(picture: Pixels, rows: NDArray[np.floating], columns: NDArray[np.floating]) -> Reals:
    """The picture's colours at places between its pixels; outside is white paper."""
    size = len(picture)
    wide = np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=255).astype(np.float32)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    lower, right = (rows - top)[..., None], (columns - left)[..., None]
    top, left = np.clip(top + 1, 0, size), np.clip(left + 1, 0, size)
    above = wide[top, left] * (1 - right) + wide[top, left + 1] * right
    below = wide[top + 1, left] * (1 - right) + wide[top + 1, left + 1] * right
    between: Reals = (above * (1 - lower) + below * lower).astype(np.float32)
    return between


def _blurred(picture: Pixels, radius: float) -> Pixels:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


if __name__ == "__main__":
    main()
