"""What goes between the two processes: a JSON head and raw bytes, both with their length in front; never a pickle.

parent → child   hello · draw · check · next · close · answer · quit
child → parent   ready · refused · signal · ended · error · checked · ask
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from imagen.core.errors import BY_CODE, Check, ImagenError, code_of
from imagen.core.model import Model, ModelFile
from imagen.core.signals import Handle, Notice, Output, Phase, Preview, Signal, Step

MAX_HEAD = 2**20  # a prompt may have 100,000 characters, and each may be six bytes of JSON
MAX_BODY = 2**29  # 512 MiB: more than 13,000 x 13,000 pixels

_LENGTHS = struct.Struct(">II")
_SIGNALS: Mapping[str, type[Signal]] = {kind.__name__: kind for kind in (Phase, Step, Preview, Notice, Handle, Output)}


class Frame(NamedTuple):
    """One thing said."""

    head: dict[str, Any]
    body: bytes = b""


class BadFrameError(ValueError):
    """Bytes that are no frame, or more of them than anybody may send."""


def packed(head: Mapping[str, Any], body: bytes = b"") -> tuple[bytes, bytes]:
    """A frame as the two pieces to be written: a picture is not copied for it."""
    told = json.dumps(head).encode("ascii")
    if len(told) > MAX_HEAD or len(body) > MAX_BODY:
        raise BadFrameError(f"{len(told):,} and {len(body):,} bytes are too many for one frame")
    return _LENGTHS.pack(len(told), len(body)) + told, body


class Unpacking:
    """Makes frames of bytes, however they were cut on the way."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole with these bytes."""
        self._rest += data
        while len(self._rest) >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(self._rest)
            if head > MAX_HEAD or body > MAX_BODY:
                raise BadFrameError(f"{head:,} and {body:,} bytes are announced for one frame")
            start, end = _LENGTHS.size + head, _LENGTHS.size + head + body
            if len(self._rest) < end:
                return
            with memoryview(self._rest) as whole:
                told, raw = bytes(whole[_LENGTHS.size : start]), bytes(whole[start:end])
            del self._rest[:end]
            yield Frame(_head(told), raw)


def signal_told(signal: Signal) -> Frame:
    """A signal as a frame; its picture, if it is one, is the body."""
    if type(signal).__name__ not in _SIGNALS:
        raise TypeError(f"{type(signal).__name__} is no signal")
    told = {one.name: getattr(signal, one.name) for one in fields(signal)}
    body = told.pop("data", b"")
    if isinstance(signal, Output):
        told["facts"] = dict(signal.facts)
        if "files" in told["facts"]:
            told["facts"]["files"] = [asdict(file) for file in told["facts"]["files"]]
    return Frame({"kind": type(signal).__name__, "told": told}, bytes(body))


def signal_heard(frame: Frame) -> Signal:
    """The signal of such a frame."""
    kind, told = _SIGNALS[frame.head["kind"]], dict(frame.head["told"])
    if kind in (Preview, Output):
        told["data"] = frame.body
    if "files" in told.get("facts", ()):
        told["facts"]["files"] = tuple(ModelFile(**file) for file in told["facts"]["files"])
    return kind(**told)


def model_told(model: Model) -> dict[str, Any]:
    """A model with its graph, which its own record leaves out."""
    return {**model.as_dict(), "graph": model.graph}


def error_told(error: ImagenError) -> dict[str, Any]:
    """An error under the nearest name that the parent knows: a package from outside may have leaves of its own."""
    known = next(kind for kind in type(error).__mro__ if BY_CODE.get(code_of(kind)) is kind)
    return {**error.as_dict(), "code": code_of(known)}


def checks_told(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Checks, each with its error."""
    return [
        {"name": check.name, "note": check.note, "error": error_told(check.error) if check.error else None}
        for check in checks
    ]


def checks_heard(told: Sequence[Mapping[str, Any]]) -> list[Check]:
    """The checks of such a list."""
    return [
        Check(name=one["name"], note=one["note"], error=ImagenError.from_dict(one["error"]) if one["error"] else None)
        for one in told
    ]


def _head(told: bytes) -> dict[str, Any]:
    try:
        head = json.loads(told)
    except ValueError as exc:
        raise BadFrameError("the head of a frame is no JSON") from exc
    if not isinstance(head, dict) or not isinstance(head.get("say"), str):
        raise BadFrameError("the head of a frame does not say what it is")
    return head
