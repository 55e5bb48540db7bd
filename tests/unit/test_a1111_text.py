"""What stands in a picture about its making: ours, that of other programs, and what was made to break readers."""

import base64
import io
import time
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagen.core.errors import RequestError
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.engine.pictures.sidecar import parameters_text
from imagen.surfaces.http.a1111.text import settings_of, told_by

THEIRS = """a red fox, (snow:1.2)
second line
Negative prompt: blue, blurry
still negative
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 12345, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5, Lora hashes: "fur: 1234, ink: 5678", Version: v1.10.1"""


def picture(kind: str = "PNG", **more: Any) -> str:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, kind, **more)
    return base64.b64encode(stream.getvalue()).decode()


def test_our_own_text_comes_back() -> None:
    """Prompt, negative prompt and settings, by the names that clients look for."""
    request = Request(
        prompt='a "red" fox\nin snow',
        negative="blue",
        model="ink",
        width=640,
        height=512,
        steps=9,
        seed=7,
        guidance=3.5,
    )
    text = parameters_text(request, Model(name="ink", backend="mock", device="cpu"), 0)
    told = settings_of(text)
    assert told["Prompt"] == request.prompt
    assert told["Negative prompt"] == "blue"
    assert (told["Steps"], told["Seed"], told["CFG scale"], told["Model"]) == ("9", "7", "3.5", "ink")
    assert (told["Size-1"], told["Size-2"]) == ("640", "512")


def test_the_text_of_that_program_is_read() -> None:
    """With lines in the prompt, and commas inside quotes."""
    info = PngInfo()
    info.add_text("parameters", THEIRS)
    info.add_text("Software", "something else")
    told = told_by(f"data:image/png;base64,{picture(pnginfo=info)}")
    assert told["info"] == THEIRS
    assert told["items"] == {"Software": "something else"}
    settings = told["parameters"]
    assert settings["Prompt"] == "a red fox, (snow:1.2)\nsecond line"
    assert settings["Negative prompt"] == "blue, blurry\nstill negative"
    assert settings["Schedule type"] == "Karras"
    assert settings["Lora hashes"] == "fur: 1234, ink: 5678"
    assert settings["Version"] == "v1.10.1"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_other_formats_carry_it_as_a_comment(kind: str) -> None:
    """That program writes it there, in UTF-16."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + THEIRS.encode("utf-16-be")
    told = told_by(picture(kind, exif=exif))
    assert told["info"] == THEIRS
    assert told["parameters"]["Seed"] == "12345"


def test_a_picture_without_a_text_is_no_error() -> None:
    """It simply tells nothing."""
    for kind in ("PNG", "JPEG", "WEBP"):
        assert told_by(picture(kind)) == {"info": "", "items": {}, "parameters": {}}


@pytest.mark.parametrize("text", ["", "fox", "data:image/png;base64,", "Zm94", "data:text/html,<b>"])
def test_what_is_no_picture_is_refused(text: str) -> None:
    """With the name of the field."""
    with pytest.raises(RequestError) as refused:
        told_by(text)
    assert refused.value.param == "image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_cut_off_is_refused_or_tells_nothing(kind: str) -> None:
    """Wherever it ends."""
    data = base64.b64decode(picture(kind))
    for length in range(len(data)):
        try:
            told = told_by(base64.b64encode(data[:length]).decode())
        except RequestError:
            continue
        assert told["info"] == ""


def test_a_prompt_that_looks_like_settings_is_a_prompt() -> None:
    """Fewer than three settings are believed to be words."""
    assert settings_of("a sign: open, door: shut") == {"Prompt": "a sign: open, door: shut", "Negative prompt": ""}


@pytest.mark.parametrize("line", ["a" * 200_000, "a " * 100_000, 'k: "' * 50_000, "a:" * 100_000, " " * 200_000])
def test_long_lines_are_read_quickly(line: str) -> None:
    """However they were made."""
    began = time.monotonic()
    settings_of(f"a fox\n{line}")
    settings_of(f"a fox\n{line[:20_000]}")
    assert time.monotonic() - began < 2
