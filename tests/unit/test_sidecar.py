"""What lies in and beside a picture: enough to draw it again, readable by others, safe to read from strangers."""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import imagen.engine
from imagen.core.errors import ImagenError, RequestError
from imagen.core.job import StoredImage
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import RAW_RGB, Output
from imagen.engine.pictures import sidecar
from imagen.previews.encode import PNG_SIGNATURE, png_chunk

MODEL = Model(name="m", backend="mock", device="cpu@here")
SCHEMA = Path(imagen.engine.__file__).parent / "schemas" / "sidecar.schema.json"
PIXELS = bytes(range(192))


def request(**changes: Any) -> Request:
    said: dict[str, Any] = {"prompt": "a fox", "model": "m", "width": 8, "height": 8, "steps": 4, "seed": 7, "n": 3}
    return Request(**(said | changes))


def finished(**changes: Any) -> sidecar.Finished:
    return sidecar.finish(Output(data=PIXELS, mime=RAW_RGB, width=8, height=8), request(**changes), MODEL, 1)


def test_a_picture_carries_what_reproduces_it() -> None:
    """The recipe inside is of this one picture: its own seed, and one of it."""
    texts = sidecar.text_chunks(finished().data)
    told = json.loads(texts["imagen"])
    assert (told["request"]["seed"], told["request"]["n"]) == (8, 1)
    assert told["model"]["digest"] == MODEL.digest()
    assert texts["parameters"].splitlines()[-1].startswith("Steps: 4, Seed: 8, Size: 8x8, Model: m, Version: imagen ")


def test_the_seed_a_backend_says_it_used_is_the_one_that_is_kept() -> None:
    """A server that chose its own seed can be asked for the same picture again."""
    output = Output(data=PIXELS, mime=RAW_RGB, width=8, height=8, seed=99)
    texts = sidecar.text_chunks(sidecar.finish(output, request(), MODEL, 1).data)
    assert json.loads(texts["imagen"])["request"]["seed"] == 99


def test_many_texts_together_are_bounded_too(tmp_path: Path) -> None:
    """Each within the limit, all of them far beyond it."""
    bomb = png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(3_000_000)))
    (tmp_path / "x").write_bytes(PNG_SIGNATURE + bomb * 100 + png_chunk(b"IEND", b""))
    with pytest.raises(RequestError):
        sidecar.read_recipe(tmp_path / "x")


def test_other_programs_read_the_texts() -> None:
    """Pillow finds both, in any script, and the pixels are the backend's."""
    prompt = 'лиса 狐狸, "quoted"\nsecond line'
    with Image.open(io.BytesIO(finished(prompt=prompt, negative="blur").data)) as image:
        image.load()
        assert image.tobytes() == PIXELS
        parameters = image.info["parameters"]
    assert parameters.startswith(prompt + "\nNegative prompt: blur\nSteps: 4")


def test_the_small_copies_are_small_pictures() -> None:
    """A thumbnail and a cell-sized copy, within their bounds and in shape."""
    big = Output(data=bytes(900 * 600 * 3), mime=RAW_RGB, width=900, height=600)
    done = sidecar.finish(big, request(), MODEL, 0)
    for data, size in ((done.thumbnail, (320, 213)), (done.cell, (512, 341))):
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == size


def test_an_encoded_picture_is_not_encoded_again() -> None:
    """A PNG keeps every one of its pixel bytes; a JPEG stays the very same file."""
    for format_ in ("PNG", "JPEG"):
        stream = io.BytesIO()
        Image.frombytes("RGB", (8, 8), PIXELS).save(stream, format_)
        made = stream.getvalue()
        done = sidecar.finish(Output(data=made, mime="image/whatever"), request(), MODEL, 0)
        if format_ == "PNG":
            assert made[made.index(b"IDAT") :] in done.data
            assert done.pixels_sha256 == sidecar.pixels_sha256(made)
        else:
            assert done.data == made


@pytest.mark.parametrize("junk", [b"", b"junk", PNG_SIGNATURE, PNG_SIGNATURE + b"\0\0\0\rIHDR"])
def test_what_is_no_picture_is_the_backends_error(junk: bytes) -> None:
    """Said with a hint, not raised as whatever the picture library raises."""
    with pytest.raises(ImagenError) as caught:
        sidecar.finish(Output(data=junk, mime="image/png"), request(), MODEL, 0)
    assert caught.value.hint


def test_texts_replace_their_older_selves() -> None:
    """Written twice, there is still one of each; others stay."""
    once = sidecar.with_text(finished().data, {"other": "kept", "imagen": "old"})
    twice = sidecar.with_text(once, {"imagen": "new"})
    assert twice.count(b"imagen\0") == 1
    assert sidecar.text_chunks(twice)["imagen"] == "new"
    assert sidecar.text_chunks(twice)["other"] == "kept"


def test_the_sidecar_is_what_its_schema_says() -> None:
    """The published schema holds for what is written."""
    image = StoredImage(
        index=1, id="i", url="file:///x.png", width=8, height=8, seed=8, sha256="0" * 64, pixels_sha256="1" * 64
    )
    run = {
        "job": "j",
        "attempt": 1,
        "worker": "w",
        "device": "d",
        "saved_at": "2026-01-01T00:00:00.000+00:00",
        "timings": {"total": 1.0},
        "vram_peak_mib": None,
        "vram_method": None,
        "cost": None,
        "preview_cost": {"frames": 0, "ms": 0.0},
    }
    told = json.loads(sidecar.as_bytes(sidecar.sidecar(request(), MODEL, image, run)))
    jsonschema.validate(told, json.loads(SCHEMA.read_text()))


def test_a_recipe_is_read_from_the_picture_and_from_its_sidecar(tmp_path: Path) -> None:
    """Both say the same request."""
    (tmp_path / "a.png").write_bytes(finished().data)
    told = sidecar.recipe(request(), MODEL, 1)
    (tmp_path / "a.json").write_bytes(sidecar.as_bytes(told))
    assert sidecar.read_recipe(tmp_path / "a.png") == sidecar.read_recipe(tmp_path / "a.json") == told


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"request": 7}',
        b'{"request": {}, "schema": 99}',
        b"\xff\xfe",
        PNG_SIGNATURE,
        PNG_SIGNATURE + png_chunk(b"IEND", b""),
        PNG_SIGNATURE + png_chunk(b"zTXt", b"imagen\0\0" + zlib.compress(bytes(50_000_000))) + png_chunk(b"IEND", b""),
        PNG_SIGNATURE + (2**31 - 1).to_bytes(4) + b"tEXtimagen",
        PNG_SIGNATURE + png_chunk(b"iTXt", b"imagen\0\1\0\0\0junk") + png_chunk(b"IEND", b""),
    ],
)
def test_hostile_files_are_refused_with_a_hint(tmp_path: Path, content: bytes) -> None:
    """No crash, no gigabyte, no traceback."""
    file = tmp_path / "x"
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        sidecar.read_recipe(file)
    assert caught.value.hint


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
def test_any_text_comes_back_as_it_went_in(text: str) -> None:
    """Property: what a prompt can hold, a PNG can hold."""
    assert sidecar.text_chunks(sidecar.with_text(finished().data, {"imagen": text}))["imagen"] == text
