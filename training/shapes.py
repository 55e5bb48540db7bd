"""What of a small picture is ink, what its separate things are, and the numbers that tell their shapes apart.

Everything here is plain numpy, so that a judge of pictures needs no torch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Reals = NDArray[np.float32]
Mask = NDArray[np.bool_]

INK = 0.10  # how far a pixel is from the paper, of 1, before it counts
ALIKE = 0.6  # two things that touch are about as large as each other; a head and its body are not
SPECK = 0.15  # a part smaller than this share of the largest is a crumb: a spark, the dot of an i


def ink(picture: Pixels) -> Mask:
    """Which pixels are not paper; the paper is what the border mostly shows."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    paper = np.median(border, axis=0)
    away: Mask = np.abs(picture - paper).max(axis=-1) > INK * 255
    return away


def parts(mask: Mask) -> list[Mask]:
    """The separate things of a picture, from left to right, without crumbs."""
    found = _connected(mask)
    most = max((one.sum() for one in found), default=0)
    found = [one for one in found if one.sum() >= SPECK * most]
    return sorted(found, key=lambda one: float(np.nonzero(one)[1].mean()))


def crumbless(mask: Mask) -> Mask:
    """The mask without crumbs."""
    whole = np.zeros_like(mask)
    for one in parts(mask):
        whole |= one
    return whole


def separated(mask: Mask, most: int) -> list[Mask]:
    """The separate things, where things that touch a little count as two; never more than `most` by that."""
    best = parts(mask)
    thin = mask
    for _ in range(3):
        thin = _eroded(thin)
        cores = parts(thin)
        sizes = [int(core.sum()) for core in cores]
        if len(best) < len(cores) <= most and min(sizes) > ALIKE * max(sizes):
            best = _grown(cores, mask)
    return best


def _connected(mask: Mask) -> list[Mask]:
    # Every pixel takes the highest number among its neighbours, until each thing has one number.
    number = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        wide = np.pad(number, 1)
        rows = np.maximum(np.maximum(wide[:-2], wide[1:-1]), wide[2:])
        grown = np.where(mask, np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]), 0)
        if (grown == number).all():
            return [number == one for one in np.unique(number) if one]
        number = grown


def _eroded(mask: Mask) -> Mask:
    wide = np.pad(mask, 1)
    inner: Mask = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:] & mask
    return inner


def _grown(cores: Sequence[Mask], mask: Mask) -> list[Mask]:
    """Give every pixel of the mask to the core whose middle is nearest."""
    rows, columns = np.indices(mask.shape)
    middles = [np.argwhere(core).mean(axis=0) for core in cores]
    away = np.stack([(rows - row) ** 2 + (columns - column) ** 2 for row, column in middles])
    nearest = away.argmin(axis=0)
    return [mask & (nearest == one) for one in range(len(cores))]


SIDE, MARGIN = 48, 2  # what is looked at: the thing alone, as large as it goes, with a little paper around
CELLS, ANGLES = 8, 9


def portrait(picture: Pixels, mask: Mask) -> Pixels:
    """The masked thing alone, on white paper, as large as it goes: where and how large it was does not matter."""
    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    if not mask.any():
        return canvas
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    around = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut = np.where(mask[around][..., None], picture[around], np.uint8(255))
    high, wide = cut.shape[:2]
    scale = (SIDE - 2 * MARGIN) / max(high, wide)
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    small = np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BILINEAR))
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small
    return canvas


def shape(portraits: Pixels) -> Reals:
    """Numbers that tell shapes apart whatever their colour: edges by place and angle, light and silhouette."""
    values = portraits.astype(np.float32) / 255
    across, down = np.gradient(values, axis=2), np.gradient(values, axis=1)
    strength = np.hypot(across, down)
    clearest = strength.argmax(axis=-1)[..., None]  # an edge between two colours of equal light is an edge
    across, down, strength = (np.take_along_axis(one, clearest, -1)[..., 0] for one in (across, down, strength))
    angle = (np.arctan2(down, across) / np.pi % 1) * ANGLES
    lower = angle.astype(int) % ANGLES
    upper_share = angle - np.floor(angle)
    edges = np.zeros((*strength.shape, ANGLES), np.float32)
    np.put_along_axis(edges, lower[..., None], (strength * (1 - upper_share))[..., None], -1)
    np.put_along_axis(edges, ((lower + 1) % ANGLES)[..., None], (strength * upper_share)[..., None], -1)
    cells = np.sqrt(_pooled(edges, CELLS))
    near = np.sqrt(_blurred((cells**2).sum(axis=-1)))[..., None]
    count = len(portraits)
    light = _pooled(values.mean(axis=-1)[..., None], 12).reshape(count, -1)
    spread = light.std(axis=1, keepdims=True)
    solid = _pooled((values.min(axis=-1) < 0.94)[..., None].astype(np.float32), 12).reshape(count, -1)
    return np.concatenate(
        [
            (cells / (near + 0.15)).reshape(count, -1),
            (light - light.mean(axis=1, keepdims=True)) / (spread + 0.05) * 0.25,
            solid,
        ],
        axis=1,
    ).astype(np.float32)


def _pooled(values: Reals, cells: int) -> Reals:
    count, high, wide, depth = values.shape
    pooled: Reals = values.reshape(count, cells, high // cells, cells, wide // cells, depth).mean(axis=(2, 4))
    return pooled


def _blurred(values: Reals) -> Reals:
    wide = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    blurred: Reals = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9
    return blurred
