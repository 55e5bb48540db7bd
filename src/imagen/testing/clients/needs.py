"""An answer, held against what a client does with it.

A place is a path: `data[].b64_json` is that field of each item, `images[0]` one item, and `info{}.seed` a field of the
JSON that the text `info` holds. What may be asked of what is there:

`present`, `text`, `number`, `whole`, `list`, `absent` (missing or null), `picture` (raw base64 of a file that can be
opened), and `{equals: …}`, `{includes: …}` (one of all found is it), `{count: n}`, `{one_of: [a, b]}` (exactly one of
these fields is there), `{among: …}` (each is one of these).
"""

import base64
import binascii
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from imagen.testing.clients.recording import Need

_PART = re.compile(r"([^.\[\]{}]*)((?:\[\d*\]|\{\})*)(?:\.|$)")
_AFTER = re.compile(r"\[(\d*)\]|\{\}")
_SHOWN_CHARS = 60


class Unmet(Exception):
    """What a client needs and does not find; in words."""


def met(need: Need, answer: Any) -> str:
    """Raise Unmet where the answer is not like that; what there is to say of it otherwise."""
    if need.is_ == "absent":
        _absent(need.at, answer)
        return ""
    found = find(need.at, answer)
    if isinstance(need.is_, Mapping):
        ((kind, wanted),) = need.is_.items()
        _COMPARED[kind](need.at, found, wanted)
        return ""
    if need.is_ == "picture":
        sizes = [_picture(need.at, one) for one in found]
        if not sizes:
            raise Unmet(f"`{need.at}` is empty: no picture")
        return f"{len(sizes)} x {sizes[0]}" if len(sizes) > 1 else sizes[0]
    for one in found:
        if not _KINDS[need.is_](one):
            raise Unmet(f"`{need.at}` is {_shown(one)}, not {_WORDS[need.is_]}")
    return ""


def find(path: str, answer: Any) -> list[Any]:
    """Everything at a path; Unmet says which part of it is missing."""
    found, walked = [answer], ""
    for name, after in _PART.findall(path):
        if name:
            walked += f".{name}" if walked else name
            found = [_field(one, name, walked) for one in found]
        for part in _AFTER.finditer(after):
            walked += part[0]
            if part[0] == "{}":
                found = [_inner(one, walked) for one in found]
            elif part[1]:
                found = [_item(one, int(part[1]), walked) for one in found]
            else:
                found = [item for one in found for item in _items(one, walked)]
    return found


def picture_of(text: Any, place: str) -> str:
    """Width and height of the picture in raw base64; Unmet where it is none."""
    return _picture(place, text)


def _field(value: Any, name: str, path: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        there = f"; there are {', '.join(list(value)[:8]) or 'no fields'}" if isinstance(value, Mapping) else ""
        raise Unmet(f"there is no `{path}`{there}")
    return value[name]


def _items(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unmet(f"`{path.removesuffix('[]')}` is {_shown(value)}, not a list")
    return value


def _item(value: Any, number: int, path: str) -> Any:
    if not isinstance(value, list) or len(value) <= number:
        raise Unmet(f"there is no `{path}`")
    return value[number]


def _inner(value: Any, path: str) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        raise Unmet(f"`{path.removesuffix('{}')}` is {_shown(value)}, not JSON as text") from None


def _absent(path: str, answer: Any) -> None:
    try:
        found = find(path, answer)
    except Unmet:
        return
    if any(one is not None for one in found):
        raise Unmet(f"`{path}` is there")


def _picture(path: str, text: Any) -> str:
    if not isinstance(text, str) or not text:
        raise Unmet(f"`{path}` is {_shown(text)}, not a picture")
    if text.startswith("data:"):
        raise Unmet(f"`{path}` begins with `{text[:22]}`, and base64 alone is read")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            image.load()
            return f"{image.width}x{image.height}"
    except (binascii.Error, OSError, SyntaxError) as error:
        raise Unmet(f"`{path}` cannot be opened: {error}") from None


def _equals(path: str, found: Sequence[Any], wanted: Any) -> None:
    if any(one != wanted for one in found):
        raise Unmet(f"`{path}` is {_shown(found[0])}, not {_shown(wanted)}")


def _includes(path: str, found: Sequence[Any], wanted: Any) -> None:
    if wanted not in found:
        raise Unmet(f"none of `{path}` is {_shown(wanted)}")


def _count(path: str, found: Sequence[Any], wanted: int) -> None:
    number = len(found[0]) if isinstance(found[0], list) else -1
    if number != wanted:
        raise Unmet(f"`{path}` has {number if number >= 0 else 'no'} items, not {wanted}")


def _one_of(path: str, found: Sequence[Any], names: Sequence[str]) -> None:
    for one in found:
        there = [name for name in names if isinstance(one, Mapping) and one.get(name) is not None]
        if len(there) != 1:
            raise Unmet(f"`{path}` has {' and '.join(there) or 'none'} of {', '.join(names)}: one is needed")


def _among(path: str, found: Sequence[Any], names: Sequence[Any]) -> None:
    for one in found:
        if one not in names:
            raise Unmet(f"`{path}` is {_shown(one)}, not one of {', '.join(map(str, names))}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


_COMPARED: Mapping[str, Callable[[str, Sequence[Any], Any], None]] = {
    "equals": _equals,
    "includes": _includes,
    "count": _count,
    "one_of": _one_of,
    "among": _among,
}
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "present": lambda value: value is not None,
    "text": lambda value: isinstance(value, str),
    "number": _number,
    "whole": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
}
_WORDS = {
    "present": "anything",
    "text": "a text",
    "number": "a number",
    "whole": "a whole number",
    "list": "a list",
}
