"""A picture tells how it was made, and `imagen reproduce` takes it at its word."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import both_doors

QUICK = ("--set", "slow=0", "--size", "64x64")


@pytest.fixture
def picture(imagen: Any) -> Path:
    run = imagen("generate", "a fox", "-n", "2", "--seed", "7", "-o", "fox.png", *QUICK)
    assert run.returncode == 0, run.stderr
    path: Path = imagen.here / "fox-2.png"
    return path


@both_doors
def test_a_picture_is_drawn_again_pixel_for_pixel(imagen: Any, picture: Path) -> None:
    """Same model, same request, same pixels: exit code 0."""
    run = imagen("reproduce", picture)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[0] == "same pixels"


def test_a_model_that_tells_its_files_is_the_same_model(imagen: Any) -> None:
    """What it was drawn with is recorded with each picture, and is no change of the model."""
    assert imagen("generate", "a red apple", "-m", "tiny-3d", "-o", "apple.png", "--size", "64x64").returncode == 0
    run = imagen("reproduce", imagen.here / "apple.png")
    said, path = run.stdout.splitlines()  # and between them whatever differs
    assert (run.returncode, said) == (0, "same pixels")
    assert path.endswith(".png")


def test_the_sidecar_is_as_good_as_the_picture(imagen: Any) -> None:
    """X.json beside X.png leads to the same comparison, also for a picture in the middle of a job."""
    run = imagen("generate", "a fox", "-n", "2", "--seed", "7", *QUICK)
    for line in run.stdout.splitlines():
        again = imagen("reproduce", Path(line).with_suffix(".json"))
        assert again.returncode == 0, again.stdout + again.stderr
        assert again.stdout.splitlines()[0] == "same pixels"


@both_doors
def test_what_differs_is_measured(imagen: Any, picture: Path) -> None:
    """A picture somebody painted on: exit code 1, and how many pixels."""
    from PIL import Image

    with Image.open(picture) as opened:
        told = dict(opened.text)  # type: ignore[attr-defined]  # of PNG files
        changed = opened.convert("RGB")
    changed.putpixel((3, 3), (255, 0, 255))
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in told.items():
        info.add_itxt(key, value)
    changed.save(picture, pnginfo=info)
    run = imagen("reproduce", picture)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 changed" in run.stdout


def test_another_model_record_is_named(imagen: Any) -> None:
    """When the model was edited meanwhile, that is said beside the pixels that moved."""

    def palette(name: str) -> None:
        (imagen.home / "config.yaml").write_text(f"models:\n  mine: {{backend: mock, palette: {name}}}\n")

    palette("cool")
    run = imagen("generate", "a fox", "-m", "mine", "--size", "64x64")
    palette("warm")
    again = imagen("reproduce", run.stdout.strip(), "--json")
    shape = json.loads(again.stdout)
    assert again.returncode == 1
    assert shape["same_pixels"] is False
    assert {"pixels", "model record"} <= {one["what"] for one in shape["differences"]}


def test_the_new_picture_can_be_kept(imagen: Any, picture: Path) -> None:
    """-o works as in `generate`."""
    run = imagen("reproduce", picture, "-o", "again.png")
    assert run.returncode == 0
    assert (imagen.here / "again.png").read_bytes() == picture.read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.png", None),
        ("empty.png", b""),
        ("text.png", b"this is no picture"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0"),
        ("other.json", b'{"a": 1}'),
        ("list.json", b"[1, 2]"),
        ("broken.json", b"{"),
        ("deep.json", b"[" * 100_000),
        ("odd.json", b'{"request": {"prompt": "x", "model": [1], "seed": "7"}}'),
        ("odder.json", b'{"request": {"prompt": "x", "model": "mock", "seed": "7", "options": 3, "n": []}}'),
        ("wrong.json", b'{"schema": 1, "request": {"prompt": 7}, "model": [], "image": 3}'),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(imagen: Any, name: str, content: bytes | None) -> None:
    """Exit code 2 or 3 with a hint, whatever somebody sends."""
    if content is not None:
        (imagen.here / name).write_bytes(content)
    run = imagen("reproduce", name)
    assert run.returncode in (2, 3), run.stdout + run.stderr
    assert "hint" in run.stderr
    assert "Traceback" not in run.stderr
    assert imagen.jobs() == []
