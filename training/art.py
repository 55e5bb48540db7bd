"""Render the art of each style to small pictures with premultiplied alpha."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

Pixels = npt.NDArray[np.uint8]  # height × width × 4, premultiplied


def bare(code: str) -> str:
    """A code point sequence without the sign that only asks for a coloured picture: sets disagree about writing it."""
    return code.lower().replace("-fe0f", "")


def gallery(style: str, folder: Path, size: int) -> Callable[[str], Pixels | None]:
    """What draws an emoji, named by its code points, in a style; None when the set lacks it."""
    return _photos(folder, size) if style == "3d" else _vectors(folder, size)


def shrink(picture: Image.Image, size: int) -> Pixels:
    """Bring a picture to `size` pixels; alpha is multiplied in first, so that no border colour bleeds."""
    pixels = np.asarray(picture.convert("RGBA"), np.float32) / 255
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], -1)
    method = Image.Resampling.BOX if picture.width % size == 0 else Image.Resampling.LANCZOS
    small = [np.asarray(Image.fromarray(pixels[..., i]).resize((size, size), method)) for i in range(4)]
    return (np.stack(small, -1).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _photos(folder: Path, size: int) -> Callable[[str], Pixels | None]:
    files = {bare(path.stem): path for path in (folder / "package" / "assets").glob("*.webp")}

    def draw(code: str) -> Pixels | None:
        path = files.get(bare(code))
        return None if path is None else shrink(Image.open(path), size)

    return draw


def _vectors(folder: Path, size: int) -> Callable[[str], Pixels | None]:
    package = folder / "package"
    icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    names = {bare(code): name for code, name in json.loads((package / "chars.json").read_text("utf-8")).items()}

    def draw(code: str) -> Pixels | None:
        icon = _icon(icons, names.get(bare(code), ""))
        if icon is None:
            return None
        svg = _svg(icon, icons.get("width", 16), icons.get("height", 16))
        png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * size, height=2 * size, skip_system_fonts=True)
        return shrink(Image.open(io.BytesIO(bytes(png))), size)

    return draw


def _icon(icons: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    alias = icons.get("aliases", {}).get(name)
    found: Mapping[str, Any] | None = icons["icons"].get(alias["parent"] if alias else name)
    return found


def _svg(icon: Mapping[str, Any], width: int, height: int) -> str:
    wide, high = icon.get("width", width), icon.get("height", height)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">{icon["body"]}</svg>'
    )
