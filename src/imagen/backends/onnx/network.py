"""The files of a model: found below the folders of models, opened once, asked in threads."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import imagen
from imagen.backends.onnx.paper import Pixels
from imagen.core.errors import BadConfig, MissingFile
from imagen.core.model import Model

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = npt.NDArray[Any]  # of float32; numpy's stubs lose the kind in every operation

BUNDLED = Path(imagen.__file__).parent / "models"
ROLES = ("noisy", "time", "words")  # what every network is given; other inputs are the model's own
QUIET = 3  # errors only: what onnxruntime warns about, nobody here can change


def find(name: str, model: Model) -> Path:
    """A file that a model names: beside its model.yaml or config.yaml, below a folder of models, or anywhere."""
    for place in places(name, model):
        if place.is_file():
            return place
    raise MissingFile(
        f"{name} of the model {model.name} is not there",
        hint=f"put it to one of: {', '.join(map(str, places(name, model)))}",
        param="network",
    )


def places(name: str, model: Model) -> Sequence[Path]:
    """Where such a file may lie, the first that is there counts."""
    file, _, line = model.origin.rpartition(":")
    origin = Path(file if line.isdigit() else model.origin)
    # Of models/NAME/model.yaml the folder above holds all models; beside a config.yaml lies the folder `models`.
    models = origin.parent.parent if origin.name == "model.yaml" else origin.parent / "models"
    return list(dict.fromkeys(folder / Path(name).expanduser() for folder in (origin.parent, models, BUNDLED)))


class Network:
    """What guesses the clean picture, and what makes pixels of it."""

    def __init__(self, model: Model, threads: int) -> None:
        keys = model.keys
        self._path = find(keys["network"], model)
        self._network = _opened(self._path, threads)
        self._decoder = _opened(find(keys["decoder"], model), threads) if keys["decoder"] else None
        self._names = {role: keys["inputs"].get(role, role) for role in ROLES}
        self._kinds = {one.name: one.type for one in self._network.get_inputs()}
        shapes = {one.name: one.shape for one in self._network.get_inputs()}
        self.shape = self._fixed(shapes, "noisy", 4)[1:]  # channels, rows, columns of what it draws
        self.length = self._fixed(shapes, "words", 2)[1]  # word pieces it reads
        self.further = tuple(name for name in shapes if name not in self._names.values())

    def guess(self, noisy: Array, time: float, words: Sequence[Sequence[int]], further: Mapping[str, Any]) -> Array:
        """What the network says, once for each row of words, all from the same noisy picture."""
        count = len(words)
        told = {
            self._names["noisy"]: np.repeat(noisy[None], count, 0),
            self._names["time"]: np.full(count, time),
            self._names["words"]: np.asarray(words),
            **{name: np.full(count, further[name]) for name in self.further},
        }
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
        feeds = {name: value.astype(kinds.get(self._kinds[name], np.float32)) for name, value in told.items()}
        said: Array = self._network.run(None, feeds)[0]
        return said

    def pixels(self, drawn: Array) -> Pixels:
        """Rows, columns, colours of something drawn."""
        if self._decoder is not None:
            drawn = self._decoder.run(None, {self._decoder.get_inputs()[0].name: drawn[None]})[0][0]
        return as_bytes(drawn)

    def _fixed(self, shapes: Mapping[str, Sequence[Any]], role: str, count: int) -> tuple[int, ...]:
        """The shape of an input: as many sides as it should have, all but the first of them numbers."""
        name = self._names[role]
        shape = shapes.get(name, ())
        if len(shape) != count or not all(isinstance(side, int) for side in shape[1:]):
            raise BadConfig(
                f"{self._path} has no input {name!r} of {count} sides that are fixed but the first",
                hint=f"its inputs are {', '.join(shapes)}: name them with `inputs: {{{role}: …}}`, and export the "
                "network for one size",
                param="network",
            )
        return (0, *map(int, shape[1:]))


def as_bytes(drawn: Array) -> Pixels:
    """Colours, rows, columns from -1 to 1 as rows, columns, colours from 0 to 255."""
    pixels: Pixels = ((drawn.transpose(1, 2, 0).clip(-1, 1) * 0.5 + 0.5) * 255 + 0.5).astype(np.uint8)
    return pixels


def _opened(path: Path, threads: int) -> "InferenceSession":
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = QUIET
    try:
        return onnxruntime.InferenceSession(os.fspath(path), settings, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime has no list of what it raises for a damaged file
        raise BadConfig(
            f"{path} cannot be opened as an ONNX network: {' '.join(str(exc).split())[:300]}",
            hint="fetch or export it again",
            param="network",
        ) from exc
