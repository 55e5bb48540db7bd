"""The pictures of the fake ComfyUI: the same values give the same pixels, other values others."""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

PREVIEW_PX = 512  # the longer side of every preview, also of a small picture's
NOISE = 8  # a latent pixel stands for that many


def paint(name: str, width: int, height: int) -> Image.Image:
    """A soft cloud of colours that only this name has."""
    seed = hashlib.sha256(name.encode()).digest()
    few = Image.frombytes("RGB", (4, 2), seed[:24])
    return few.resize((max(1, width), max(1, height)), Image.Resampling.BICUBIC)


def preview(name: str, width: int, height: int, step: int, total: int) -> bytes:
    """The picture as it forms: a JPEG whose longer side is 512, noise at first and the cloud at the end."""
    small = max(1, width // NOISE), max(1, height // NOISE)
    noise = Image.effect_noise(small, 160).convert("RGB")
    formed = Image.blend(noise, paint(name, *small), min(1.0, step / max(1, total)))
    shown = ImageOps.contain(formed, (PREVIEW_PX, PREVIEW_PX), Image.Resampling.BILINEAR)
    return _saved(shown, "JPEG", quality=95)


def png(picture: Image.Image, graph: Mapping[str, Any], extra: Mapping[str, Any], *, compress_level: int) -> bytes:
    """A PNG with the texts that the real server writes into it: the graph, and whatever the client sent along."""
    texts = PngInfo()
    texts.add_text("prompt", json.dumps(graph))
    for key, value in extra.items():
        texts.add_text(key, json.dumps(value))
    return _saved(picture, "PNG", pnginfo=texts, compress_level=compress_level)


def as_asked(data: bytes, query: Mapping[str, str]) -> tuple[bytes, str]:
    """What /view gives for `preview=` and `channel=`; otherwise the bytes as they are."""
    if "preview" not in query and query.get("channel") not in ("rgb", "a"):
        return data, "image/png"
    with Image.open(io.BytesIO(data)) as opened:
        if "preview" in query:
            kind, *rest = query["preview"].split(";")
            kind = kind if kind in ("webp", "jpeg") else "webp"
            quality = int(rest[-1]) if rest and rest[-1].isdigit() else 90
            return _saved(opened.convert("RGB"), kind.upper(), quality=quality), f"image/{kind}"
        if query["channel"] == "rgb":
            return _saved(opened.convert("RGB"), "PNG"), "image/png"
        alpha = Image.new("RGBA", opened.size)
        alpha.putalpha(opened.convert("RGBA").getchannel("A"))
        return _saved(alpha, "PNG"), "image/png"


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    into = io.BytesIO()
    picture.save(into, kind, **options)
    return into.getvalue()
