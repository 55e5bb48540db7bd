"""What a picture's own record asks for, and what is told when it comes out differently."""

import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from imagen.core.errors import RequestError
from imagen.core.job import StoredImage
from imagen.core.model import Model, ModelFile
from imagen.core.request import Request
from imagen.engine.pictures.reproduce import differences, draft_of, pixel_differences
from imagen.engine.pictures.sidecar import pixels_sha256, recipe

MODEL = Model(name="mine", backend="mock", device="cpu@here", files=(ModelFile(path="a.safetensors", sha256="1"),))
REQUEST = Request(prompt="a fox", model="mine", width=8, height=8, steps=4, seed=7, n=3, options={"slow": 0})


def _png(colour: tuple[int, int, int], size: tuple[int, int] = (8, 8), dot: bool = False) -> bytes:
    picture = Image.new("RGB", size, colour)
    if dot:
        picture.putpixel((0, 0), (255, 255, 255))
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    return packed.getvalue()


def _image(data: bytes) -> StoredImage:
    return StoredImage(
        index=0, id="I", url="u", width=8, height=8, seed=7, sha256="s", pixels_sha256=pixels_sha256(data)
    )


def test_one_picture_of_several_is_asked_for_alone() -> None:
    """The third of three has its own seed, and is one picture."""
    draft = draft_of(recipe(REQUEST, MODEL, 2))
    assert (draft.seed, draft.n, draft.prompt, draft.options) == (9, 1, "a fox", {"slow": 0})


@pytest.mark.parametrize(
    "shape", [{}, {"request": None}, {"request": {"prompt": "a fox", "model": [1]}}, {"request": []}]
)
def test_a_record_that_asks_for_nothing_is_refused(shape: dict[str, Any]) -> None:
    """A hint says which files can be drawn again."""
    with pytest.raises(RequestError):
        draft_of(shape)


def test_fields_nobody_knows_are_ignored() -> None:
    """A record of a later version may say more."""
    shape = recipe(REQUEST, MODEL, 0)
    shape["request"]["mood"] = "calm"
    assert draft_of(shape).seed == 7


def test_the_same_record_has_no_differences() -> None:
    """Drawn again with what it was drawn with."""
    told = recipe(REQUEST, MODEL, 0)
    assert differences(told, recipe(REQUEST, MODEL, 0)) == []


def test_what_changed_since_is_named() -> None:
    """Model record, file, version and a resolved field, each by its own name."""
    told = recipe(REQUEST, MODEL, 0)
    files = (ModelFile(path="a.safetensors", sha256="2"),)
    other = Model(name="mine", backend="mock", device="cpu@here", files=files, keys={"palette": "cool"})
    now = Request(prompt="a fox", model="mine", width=16, height=8, steps=4, seed=7, options={"slow": 0})
    later = recipe(now, other, 0) | {"engine": {"imagen": "99", "backend": "mock"}}
    found = {one.what for one in differences(told, later)}
    assert found == {"model record", "file a.safetensors", "imagen", "width"}
    (file,) = differences(recipe(REQUEST, MODEL, 0), recipe(REQUEST, replace(MODEL, files=files), 0))
    assert file.what == "file a.safetensors"  # by its own name, and by no other


def test_a_record_with_odd_values_is_read_as_far_as_it_goes() -> None:
    """What somebody wrote by hand is no reason to stop."""
    odd = {"request": {"prompt": "a fox"}, "model": [1], "engine": "x"}
    assert differences(odd, recipe(REQUEST, MODEL, 0)) == []


def test_pixels_are_measured_where_they_differ() -> None:
    """Same, one pixel apart, another size, and known only by its hash."""
    black = _png((0, 0, 0))
    assert pixel_differences(black, black, _image(black), None) == []
    (dotted,) = pixel_differences(_png((0, 0, 0), dot=True), black, _image(black), None)
    assert "1 changed" in str(dotted)
    (sized,) = pixel_differences(_png((0, 0, 0), (9, 8)), black, _image(black), None)
    assert str(sized) == "size: was 9x8, is 8x8"
    assert pixel_differences(None, black, _image(black), pixels_sha256(black)) == []
    (hashed,) = pixel_differences(None, black, _image(black), "0" * 64)
    assert hashed.what == "pixels"


def test_a_file_that_is_no_picture_is_refused() -> None:
    """A record beside something else is not compared with it."""
    black = _png((0, 0, 0))
    with pytest.raises(RequestError):
        pixel_differences(b"no picture", black, _image(black), None)
