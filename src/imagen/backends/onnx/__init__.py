"""ONNX: networks that turn noise into a picture, drawn on the processor; the model in the box is one of them.

Nothing is loaded here until a picture is really drawn, so that a list of models costs nothing. Read on in this order:
`backend.py` (the methods), `painting.py` (from noise to a picture, one step after the other), `network.py` (the files),
`words.py` (from a prompt to numbers), `paper.py` (from what the network draws to the size that was asked for).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from imagen.backends.base import Backend, Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxKeys:
    """The model keys of this backend; files are looked for below the folders of models."""

    network: str  # the file that guesses: a noisy picture, a time and words in, the clean picture out
    words: str  # its vocabulary: words.json, or one word piece a line
    decoder: str = ""  # the file that makes pixels, or more pixels, of what the network draws
    predicts: Literal["clean", "velocity"] = "clean"
    noise_at: Literal[0, 1] = 0  # the time at which all is noise
    guided_until: Annotated[float, Ge(0), Le(1)] = (
        1.0  # share of the way after which guidance is left off: by then only details change
    )
    held_within: Annotated[float, Gt(0)] | None = (
        None  # a guess is kept between this and its negative, where guidance drives it out
    )
    # The network's own names for what it is given, where they are others. Further inputs get the option of their name.
    inputs: Mapping[Literal["noisy", "time", "words"], str] = field(default_factory=dict)


def create(settings: Mapping[str, Any]) -> Backend:
    """The backend, with the settings of `backends: {onnx: …}`."""
    from imagen.backends.onnx.backend import Onnx

    return Onnx(settings)


registration = Registration(create=create, keys=OnnxKeys, settings=frozenset({"threads"}))
