"""Bytes out of pixels: exact where it must be, small and bounded where it may be."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagen.core.errors import Crashed
from imagen.core.signals import RAW_RGB
from imagen.previews.encode import encode_png, encode_preview


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def small(data: bytes, mime: str = RAW_RGB, size: tuple[int, int] = (64, 32), **how: object) -> object:
    said: dict[str, object] = {"max_size": 48, "format": "jpeg", "quality": 80}
    return encode_preview(data, mime, *size, **(said | how))  # type: ignore[arg-type]


@given(width=st.integers(1, 40), height=st.integers(1, 40), seed=st.randoms())
def test_a_png_holds_exactly_the_pixels(width: int, height: int, seed: object) -> None:
    """Property: any picture of any size comes back bit by bit."""
    pixels = seed.randbytes(width * height * 3)  # type: ignore[attr-defined]
    image = opened(encode_png(pixels, width, height))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))
    assert image.tobytes() == pixels


@pytest.mark.parametrize(("format", "mime"), [("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_a_preview_is_small_and_keeps_its_shape(format: str, mime: str) -> None:
    """The longest edge is the limit; what is said about it is true."""
    told = encode_preview(bytes(64 * 32 * 3), RAW_RGB, 64, 32, max_size=48, format=format, quality=80)
    assert (told.mime, told.width, told.height) == (mime, 48, 24)
    assert opened(told.data).size == (48, 24)


def test_a_small_encoded_preview_passes_untouched() -> None:
    """A server's own JPEG of display size is not made worse by a second encoding."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "JPEG")
    told = encode_preview(stream.getvalue(), "image/jpeg", 1, 1, max_size=48, format="webp", quality=80)
    assert (told.data, told.mime, told.width, told.height) == (stream.getvalue(), "image/jpeg", 40, 30)


def test_a_large_encoded_preview_is_made_small() -> None:
    """Whatever a backend sends, what is sent on is bounded."""
    stream = io.BytesIO()
    Image.new("RGBA", (400, 200), (255, 0, 0, 128)).save(stream, "PNG")
    told = encode_preview(stream.getvalue(), "image/png", 400, 200, max_size=48, format="jpeg", quality=80)
    assert (told.width, told.height) == (48, 24)


@pytest.mark.parametrize(
    ("data", "mime", "size"),
    [
        (b"", RAW_RGB, (8, 8)),
        (bytes(192), RAW_RGB, (0, 8)),
        (b"junk", "image/png", (8, 8)),
        (bytes(9), RAW_RGB, (-1, -3)),
    ],
)
def test_what_is_no_preview_is_said(data: bytes, mime: str, size: tuple[int, int]) -> None:
    """One error, with a hint, for every kind of nonsense."""
    with pytest.raises(Crashed) as caught:
        small(data, mime, size)
    assert caught.value.hint
