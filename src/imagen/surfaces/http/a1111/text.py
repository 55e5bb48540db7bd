"""What stands inside a picture about how it was made: our text, and that of the programs whose form it has."""

import base64
import binascii
import io
import json
import re
from typing import Any

from imagen.core.errors import RequestError
from imagen.engine.pictures.sidecar import text_chunks
from imagen.previews.decode import PNG, kind_of

MOST_LINE = 20_000  # characters of the line with the settings
FEWEST = 3  # settings in a line that is believed to hold some
USER_COMMENT, EXIF_IFD = 0x9286, 0x8769
CODES = {b"UNICODE\0": ("utf-16-be", "utf-16-le"), b"ASCII\0\0\0": ("latin-1",)}
NEGATIVE = "Negative prompt:"

_SETTING = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")


def told_by(text: str) -> dict[str, Any]:
    """The answer to png-info for a picture as base64, with or without what stands before it in a page."""
    data = picture_of(text)
    items = dict(text_chunks(data)) if kind_of(data) is PNG else _comment(data)
    info = items.pop("parameters", "")
    return {"info": info, "items": items, "parameters": settings_of(info) if info else {}}


def picture_of(text: str) -> bytes:
    """The bytes of a picture that was sent as text."""
    text = text.strip()
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if kind_of(data) is None:
        raise RequestError("the image is no picture", hint="send a PNG, JPEG or WebP as base64", param="image")
    return data


def settings_of(text: str) -> dict[str, str]:
    """The settings by name, from the text that holds prompt, negative prompt and one line of settings."""
    *lines, last = text.strip().split("\n")
    pairs = _SETTING.findall(last) if len(last) <= MOST_LINE else []
    if len(pairs) < FEWEST:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    into = prompt
    for line in lines:
        line = line.strip()
        if line.startswith(NEGATIVE):
            into, line = negative, line.removeprefix(NEGATIVE).strip()
        into.append(line)
    told = {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative)}
    for name, value in pairs:
        value = _unquoted(value)
        if size := _SIZE.fullmatch(value):
            told[f"{name}-1"], told[f"{name}-2"] = size[1], size[2]
        else:
            told[name] = value
    return told


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _comment(data: bytes) -> dict[str, str]:
    """JPEG and WebP have no place for texts but a comment of the camera."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as image:
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
    except Exception:  # hostile files bring Pillow to raise nearly anything, and here nothing depends on one
        return {}
    if not isinstance(comment, bytes):
        return {"parameters": str(comment)}
    for encoding in CODES.get(comment[:8], ()):
        try:
            text = comment[8:].decode(encoding)
        except UnicodeDecodeError:
            continue
        if "Steps: " in text:
            return {"parameters": text}
    return {}
