"""Drawn again: the draft that a picture's own record asks for, and what differs between then and now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagen.core.errors import RequestError
from imagen.core.job import StoredImage
from imagen.core.request import Draft

FIELDS = ("prompt", "model", "negative", "width", "height", "steps", "seed", "guidance", "n", "options")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it was."""

    what: str
    then: Any
    now: Any

    def as_dict(self) -> dict[str, Any]:
        return {"what": self.what, "then": self.then, "now": self.now}

    def __str__(self) -> str:
        return f"{self.what}: was {self.then}, is {self.now}"


def draft_of(recipe: Mapping[str, Any]) -> Draft:
    """What to ask for to get this picture once more: exactly one, with everything said."""
    request = recipe.get("request")
    words = [request.get(name) for name in ("prompt", "model")] if isinstance(request, Mapping) else []
    if not isinstance(request, Mapping) or not all(isinstance(word, str) for word in words):
        raise RequestError(
            "the file does not say how its picture was made",
            hint="only pictures and sidecars written by imagen can be drawn again",
            param="file",
        )
    said = {name: request[name] for name in FIELDS if request.get(name) is not None}
    return Draft(**{**said, "n": 1})


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What is not as it was recorded, before a single pixel is looked at; both are recipes or sidecars."""
    then_files, now_files = (
        {
            str(_mapping(file).get("path")): _mapping(file).get("sha256")
            for file in _list(_mapping(told.get("model")), "files")
        }
        for told in (then, now)
    )
    named = (("model record", "model", "digest"), ("backend", "model", "backend"), ("imagen", "engine", "imagen"))
    pairs = [
        *((what, _mapping(then.get(part)).get(name), _mapping(now.get(part)).get(name)) for what, part, name in named),
        *((f"file {path}", then_files[path], now_files.get(path, "not there")) for path in then_files),
    ]
    asked, drawn = _mapping(then.get("request")), _mapping(now.get("request"))
    pairs += [(name, asked.get(name), drawn.get(name)) for name in FIELDS if name not in ("n", "prompt")]
    return [Difference(what=what, then=was, now=is_) for what, was, is_ in pairs if was is not None and was != is_]


def pixel_differences(then: bytes | None, now: bytes, image: StoredImage, expected: str | None) -> list[Difference]:
    """How the two pictures differ; nothing when every pixel is the same. `expected` is the recorded hash."""
    from imagen.engine.pictures.sidecar import pixels_sha256

    was = pixels_sha256(then) if then is not None else expected
    if was is None or was == image.pixels_sha256:
        return []
    if then is None:
        return [Difference(what="pixels", then=was[:16], now=image.pixels_sha256[:16])]
    return _measured(then, now)


def _measured(then: bytes, now: bytes) -> list[Difference]:
    import io

    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(then)) as first, Image.open(io.BytesIO(now)) as second:
        if first.size != second.size:
            sizes = ("x".join(map(str, picture.size)) for picture in (first, second))
            return [Difference(what="size", then=next(sizes), now=next(sizes))]
        before, after = (np.asarray(picture.convert("RGBA"), dtype=np.int16) for picture in (first, second))
    apart = np.abs(before - after)
    changed = int(np.count_nonzero(apart.any(axis=2)))
    share = changed / apart[..., 0].size
    return [
        Difference(
            what="pixels",
            then="all the same",
            now=f"{changed} changed ({share:.2%}), mean difference {apart.mean():.3f} of 255",
        )
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(shape: Mapping[str, Any], name: str) -> list[Any]:
    value = shape.get(name)
    return value if isinstance(value, list) else []
