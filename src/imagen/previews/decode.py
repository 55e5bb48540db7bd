"""Reads pictures made elsewhere without trusting them: known formats only, a limit on pixels, whole or not at all."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

# 8192 x 8192: more than any model draws, and 200 MB of pixels. A few bytes of hostile PNG can claim 4 billion.
MAX_PIXELS = 8192 * 8192
HEAD_BYTES = 12  # enough to tell the formats apart


class Unreadable(ValueError):
    """Not a picture, a damaged one or a far too large one; says which. Callers know whose fault it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A format of picture files."""

    mime: str
    extension: str
    reader: type[ImageFile.ImageFile]


PNG = Kind(mime="image/png", extension="png", reader=PngImagePlugin.PngImageFile)
JPEG = Kind(mime="image/jpeg", extension="jpg", reader=JpegImagePlugin.JpegImageFile)
WEBP = Kind(mime="image/webp", extension="webp", reader=WebPImagePlugin.WebPImageFile)


def kind_of(head: bytes) -> Kind | None:
    """The format by its first bytes; what a file name or a server says about it is often wrong."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    return None


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height as the header says; decodes nothing."""
    with _opened(data) as image:
        return image.size


def decode(source: bytes | Path, *, fit: tuple[int, int] | None = None) -> Image.Image:
    """The whole picture, upright; with `fit`, scaled down so that it lies inside that width and height.

    A JPEG is then decoded at a fraction of its size, which costs a fraction of the time.
    """
    with _opened(source) as image:
        if fit:
            image.draft(None, (2 * max(fit), 2 * max(fit)))
        image.load()
        upright = ImageOps.exif_transpose(image)
        return shrink(upright, fit) if fit else upright


def shrink(image: Image.Image, fit: tuple[int, int]) -> Image.Image:
    """A copy that lies inside `fit`, in RGB or RGBA; never larger than the picture was."""
    scale = min(fit[0] / image.width, fit[1] / image.height, 1)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    plain = image if image.mode in ("RGB", "RGBA") or size == image.size else _plain(image)
    # Averaging blocks first leaves the good filter a quarter of the pixels or less; two are kept for each wanted one.
    factor = int(min(image.width / size[0], image.height / size[1]) / 2)
    if factor > 1:
        plain = plain.reduce(factor)
    if size != plain.size:
        plain = plain.resize(size, Image.Resampling.LANCZOS)
    return _plain(plain)


def _plain(image: Image.Image) -> Image.Image:
    """8 bits a channel, RGB, or RGBA where anything is see-through."""
    if image.mode in ("RGB", "RGBA"):
        return image
    if image.mode.startswith("I"):  # 16 bits of grey: converting alone would cut off the bright ones
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


@contextmanager
def _opened(source: bytes | Path) -> Iterator[ImageFile.ImageFile]:
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
        kind = kind_of(stream.read(HEAD_BYTES))
        if kind is None:
            raise Unreadable("not a PNG, JPEG or WebP picture")
        stream.seek(0)
        try:
            image = kind.reader(stream)
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(
                    f"{image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS // 2**20} megapixels"
                )
            yield image
        except Unreadable:
            raise
        except Exception as exc:  # Pillow has no list of what damaged pictures raise: OSError, struct.error …
            raise Unreadable(f"a damaged {kind.extension.upper()} picture: {exc}") from exc
