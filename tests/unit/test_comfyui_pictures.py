"""Pictures as bytes."""

import io

import pytest
from PIL import Image, PngImagePlugin

from imagen.backends.comfyui import pictures


def encoded(kind: str, size: tuple[int, int] = (30, 20), **said: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(out, kind, **said)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_known_by_its_first_bytes(kind: str) -> None:
    """Whatever its name says."""
    assert pictures.mime_of(encoded(kind)) == f"image/{kind.lower()}"
    assert pictures.mime_of(b"<html>") is None


@pytest.mark.parametrize("said", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(200), "comment": b"hello"}])
def test_a_jpeg_tells_its_size(said: dict[str, object]) -> None:
    """Wherever it stands in it."""
    assert pictures.size_of(encoded("JPEG", (640, 30), **said)) == (640, 30)


def test_a_png_tells_its_size_and_others_none() -> None:
    """A broken head is no error."""
    data = encoded("PNG", (7, 3))
    assert pictures.size_of(data) == (7, 3)
    assert [pictures.size_of(one) for one in (data[:18], b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\x00", b"GIF89a")] == [
        None
    ] * 5


def test_texts_are_taken_out_and_the_pixels_stay() -> None:
    """Three kinds of them; every other chunk is as it was."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", '{"1": {}}')
    texts.add_text("workflow", "x" * 5000, zip=True)
    texts.add_itxt("parameters", "ü")
    with_texts = encoded("PNG", pnginfo=texts, dpi=(72, 72))
    plain = pictures.without_texts(with_texts)
    with Image.open(io.BytesIO(plain)) as image, Image.open(io.BytesIO(with_texts)) as before:
        assert image.tobytes() == before.tobytes()
        assert set(image.info) == {"dpi"}
    assert pictures.without_texts(plain) == plain


def test_what_is_no_png_is_left_alone() -> None:
    """A custom saver may write anything."""
    data = encoded("JPEG")
    assert pictures.without_texts(data) is data
