"""The same network in plain numpy: what it costs to draw with nothing else installed.

It reads the .npz of `training.export`; arrays are picture, row, column, channel throughout.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # of float32; numpy's stubs lose the kind in every operation

PATCH = 4
HEAD = 64  # width of an attention head


class NumpyPainter:
    """Weights, and the way from noise to a guess of the clean picture."""

    def __init__(self, path: Path) -> None:
        self.w: dict[str, Array] = {}
        with np.load(path) as file:
            self.table, self.table_scale = file["table"], file["table_scale"]
            for name in file.files:
                if not name.startswith("table") and not name.endswith(":scale"):
                    scale = file[name + ":scale"] if name + ":scale" in file.files else None
                    self.w[name] = _widened(name, file[name], scale)
        self.length, self.width = self.w["word_place"].shape

    def read(self, words: npt.NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Words to tokens, their mean, and what attention adds for each."""
        there = words != 0
        rows = self.table[words].astype(np.float32) * self.table_scale[words][..., None]
        x = self._linear(rows, "word_in") + self.w["word_place"]
        mask = np.where(there, 0, -1e4).astype(np.float32)[:, None, None]
        for own in self._stack("text_blocks"):
            x = self._block(x, own, mask)
        x = _norm(x) * self.w["text_norm.gain"]
        weight = there[..., None].astype(np.float32)
        mean = (x * weight).sum(1) / np.maximum(weight.sum(1), 1)
        return x, self._linear(mean, "text_mean"), mask

    def paint(self, noisy: Array, time: float, read: tuple[Array, Array, Array], style: int) -> Array:
        """Guess the clean pictures; `noisy` is pictures × rows × columns × 3, one for each row of words."""
        tokens, mean, mask = read
        count, grid = len(noisy), noisy.shape[1] // PATCH
        hidden = _silu(self._linear(_waves(time), "time.0"))
        told = _silu(self._linear(hidden, "time.2") + mean + self.w["style.weight"][style])
        condition = self._linear(told, "condition").reshape(count, 6, -1)
        x = self._linear(_patches(noisy, PATCH), "stem")
        for own in self._stack("before"):
            x = self._convolutions(x, own, told)
        y = self._linear(_patches(x, 2).reshape(count, grid * grid // 4, -1), "merge") + self.w["token_place"]
        y = np.concatenate([tokens, y], 1)
        mask = np.pad(mask, ((0, 0), (0, 0), (0, 0), (0, grid * grid // 4)))
        for own in self._stack("blocks"):
            y = self._block(y, own, mask, condition)
        y = self._linear(_norm(y[:, self.length :]) * self.w["norm.gain"], "split")
        x = x + _unpatch(y.reshape(count, grid // 2, grid // 2, -1), 2)
        for own in self._stack("after"):
            x = self._convolutions(x, own, told)
        x = _norm(x)
        rough = _unpatch(self._linear(x, "out"), PATCH)
        fine = _unpatch(self._linear(x, "fine"), PATCH)
        return rough + self._convolve(np.concatenate([rough, _silu(fine)], -1), "smooth")

    def _linear(self, x: Array, name: str) -> Array:
        y = x @ self.w[name + ".weight"]
        bias = self.w.get(name + ".bias")
        return y if bias is None else y + bias

    def _block(self, x: Array, own: str, mask: Array, condition: Array | None = None) -> Array:
        if condition is None:
            x = x + self._attend(_norm(x) * self.w[own + "norm1.gain"], own, mask)
            return x + self._think(_norm(x) * self.w[own + "norm2.gain"], own)
        parts = (condition + self.w[own + "own"]).transpose(1, 0, 2)[:, :, None]
        scale1, shift1, gate1, scale2, shift2, gate2 = parts
        x = x + gate1 * self._attend(_norm(x) * (self.w[own + "norm1.gain"] * (1 + scale1)) + shift1, own, mask)
        x = x + gate2 * self._think(_norm(x) * (self.w[own + "norm2.gain"] * (1 + scale2)) + shift2, own)
        return np.asarray(x)

    def _attend(self, x: Array, own: str, mask: Array) -> Array:
        count, length, width = x.shape
        split = self._linear(x, own + "qkv").reshape(count, length, 3, width // HEAD, HEAD).transpose(2, 0, 3, 1, 4)
        q, k = _norm(split[0]) * (self.w[own + "norm_q.gain"] / 8), _norm(split[1]) * self.w[own + "norm_k.gain"]
        scores = q @ k.transpose(0, 1, 3, 2) + mask
        np.exp(scores - scores.max(-1, keepdims=True), out=scores)
        mixed = (scores @ split[2]) / scores.sum(-1, keepdims=True)
        return self._linear(mixed.transpose(0, 2, 1, 3).reshape(count, length, width), own + "mix")

    def _think(self, x: Array, own: str) -> Array:
        y = self._linear(x, own + "grow")
        np.maximum(y, 0, out=y)
        np.square(y, out=y)
        return self._linear(y, own + "shrink")

    def _convolutions(self, x: Array, own: str, told: Array) -> Array:
        tell = self._linear(told, own + "tell")[:, None, None]
        channels = x.shape[-1]
        y = self._convolve(_silu(_norm(x) * (1 + tell[..., :channels]) + tell[..., channels:]), own + "first")
        return x + self._convolve(_silu(y), own + "second")

    def _convolve(self, x: Array, name: str) -> Array:
        count, height, width, channels = x.shape
        padded = np.zeros((count, height + 2, width + 2, channels), np.float32)
        padded[:, 1:-1, 1:-1] = x
        around = np.empty((count, height, width, 9 * channels), np.float32)
        for i in range(9):
            row, column = divmod(i, 3)
            around[..., i * channels : (i + 1) * channels] = padded[:, row : row + height, column : column + width]
        return self._linear(around.reshape(-1, 9 * channels), name).reshape(count, height, width, -1)

    def _stack(self, name: str) -> Iterator[str]:
        number = 0
        while any(key.startswith(f"{name}.{number}.") for key in self.w):
            yield f"{name}.{number}."
            number += 1


def _widened(name: str, small: npt.NDArray[Any], scale: npt.NDArray[Any] | None) -> Array:
    value = small.astype(np.float32)
    if scale is not None:
        value *= scale.reshape(-1, *[1] * (value.ndim - 1))
    if value.ndim == 4:  # row, column, channel in, channel out: as _convolve gathers them
        value = value.transpose(2, 3, 1, 0).reshape(-1, len(value))
    elif value.ndim == 2 and name.endswith(".weight") and name != "style.weight":
        value = value.T
    return np.ascontiguousarray(value)


def _norm(x: Array) -> Array:
    mean = np.einsum("...c,...c->...", x, x)[..., None] * np.float32(1 / x.shape[-1])
    out: Array = x / np.sqrt(mean + np.float32(1e-6))
    return out


def _silu(x: Array) -> Array:
    out: Array = x / (1 + np.exp(-x))
    return out


def _waves(time: float) -> Array:
    angle = time * 1000 * np.exp(-np.log(1e4) * np.arange(64) / 64)
    return np.concatenate([np.cos(angle), np.sin(angle)])[None].astype(np.float32)


def _patches(x: Array, patch: int) -> Array:
    count, height, width, channels = x.shape
    x = x.reshape(count, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(count, height // patch, width // patch, -1)


def _unpatch(x: Array, patch: int) -> Array:
    count, height, width, _ = x.shape
    x = x.reshape(count, height, width, -1, patch, patch)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(count, height * patch, width * patch, -1)
