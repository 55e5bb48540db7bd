"""The files of a model: found below the folders of models, opened once, asked in threads."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import imagen
from imagen.backends.onnx.paper import Pixels
from imagen.core.errors import BadConfig, MissingFile
from imagen.core.model import Model, ModelFile

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = npt.NDArray[Any]  # of float32; numpy's stubs lose the kind in every operation

BUNDLED = Path(imagen.__file__).parent / "models"
ROLES = ("noisy", "time", "words")  # what every network is given; other inputs are the model's own
QUIET = (
    4  # nothing but its last words: what is an error reaches us as one, and of the rest nobody here can change anything
)
COLOURS = 3


def find(name: str, model: Model) -> Path:
    """A file that a model names: beside its model.yaml or config.yaml, below a folder of models, or anywhere."""
    for place in places(name, model):
        if place.is_file():
            return place
    raise MissingFile(
        f"{name} of the model {model.name} is not there",
        hint="it comes with imagen: install that again"
        if BUNDLED in Path(model.origin).parents
        else f"put it to one of: {', '.join(map(str, places(name, model)))}",
        param="network",
    )


def digested(name: str, model: Model) -> ModelFile:
    """A file as it is; where the model says which one it should be, no other."""
    with find(name, model).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    wanted = next((one.sha256 for one in model.files if one.path == name and one.sha256), sha256)
    if sha256 != wanted.lower():
        raise BadConfig(
            f"{find(name, model)} is not the file that {model.name} names: its sha256 is {sha256}",
            hint=f"fetch it again, or correct `files` of {model.origin}",
            param="files",
        )
    return ModelFile(path=name, size=size, sha256=sha256)


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
        if self._decoder is None and self.shape[0] != COLOURS:
            raise BadConfig(
                f"{self._path} draws {self.shape[0]} channels, and a picture has {COLOURS}",
                hint="name what makes pixels of them as `decoder:`",
                param="decoder",
            )
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
        return self._asked(self._network, feeds, (count, *self.shape))

    def pixels(self, drawn: Array) -> Pixels:
        """Rows, columns, colours of something drawn."""
        if self._decoder is not None:
            drawn = self._asked(self._decoder, {self._decoder.get_inputs()[0].name: drawn[None]}, (1, COLOURS))[0]
        return as_bytes(drawn)

    def _asked(self, network: "InferenceSession", feeds: Mapping[str, Array], wanted: Sequence[int]) -> Array:
        """The first thing that a network says, if its sides begin with those wanted and all of it is numbers."""
        which = self._path if network is self._network else f"the decoder of {self._path}"
        try:
            said: Array = network.run(None, dict(feeds))[0]
        except Exception as exc:  # onnxruntime has no list of what it raises for what a network cannot take
            why = " ".join(str(exc).split())[:300]
            told = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
            raise BadConfig(f"{which} cannot take what it is given: {why}", hint=f"it is given {told}") from exc
        if said.ndim != 4 or said.shape[: len(wanted)] != tuple(wanted):
            raise BadConfig(
                f"{which} gives {list(said.shape)}, where {[*wanted, '…'][:4]} is needed",
                hint="docs/howto/add-an-onnx-model.md says what a network is given and gives",
            )
        if not np.isfinite(said).all():
            raise BadConfig(
                f"{which} gives values that are no numbers", hint="export it in fp32, and look at `noise_at`"
            )
        return said

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
