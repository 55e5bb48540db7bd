"""The model in the box, as somebody meets it who has installed the program and nothing else."""

import base64
import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import NOWHERE

STYLES = ["tiny-3d", "tiny-flat", "tiny-noto"]


@pytest.fixture
def fresh(imagen: Any) -> dict[str, str]:
    """The environment of somebody who has set nothing."""
    return {"IMAGEN_DEFAULT_MODEL": "", "IMAGEN_COMFYUI_URL": NOWHERE}


def pixels(file: Path | io.BytesIO) -> Any:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def test_a_red_apple_is_red_in_the_middle_and_lies_on_white(imagen: Any, fresh: dict[str, str]) -> None:
    """Whoever draws the first picture gets the thing and its colour, and no warning about a mock."""
    run = imagen("generate", "a red apple", "--seed", "1", "-o", "apple.png", environment=fresh)
    assert run.returncode == 0, run.stderr
    assert "tiny-3d" in run.stderr
    assert "warning" not in run.stderr
    picture = pixels(imagen.here / "apple.png")
    assert picture.shape == (256, 256, 3)
    red, green, blue = picture[96:192, 80:176].mean((0, 1))
    assert red > 150
    assert red > 1.8 * max(green, blue)
    assert picture[:8, :8].min() > 230


def test_colours_are_followed(imagen: Any, fresh: dict[str, str]) -> None:
    """The words decide, not the seed."""
    for name, channel in (("red", 0), ("green", 1), ("blue", 2)):
        assert (
            imagen("generate", f"a {name} apple", "--seed", "1", "-o", f"{name}.png", environment=fresh).returncode == 0
        )
        assert pixels(imagen.here / f"{name}.png")[96:192, 80:176].mean((0, 1)).argmax() == channel


def test_the_same_seed_gives_the_same_bytes_watched_or_not(imagen: Any, fresh: dict[str, str]) -> None:
    """In another home too; another seed gives another picture."""
    for name, *more in (("a", "--no-preview"), ("b", "--preview"), ("c", "--no-preview")):
        home = imagen.here / name
        run = imagen(
            "generate",
            "a cat",
            "--seed",
            "3",
            "-o",
            f"{name}.png",
            *more,
            environment=fresh | {"IMAGEN_HOME": str(home)},
        )
        assert run.returncode == 0, run.stderr
    one, two, three = ((imagen.here / f"{name}.png").read_bytes() for name in "abc")
    assert one == two == three
    assert imagen("generate", "a cat", "--seed", "4", "-o", "d.png", environment=fresh).returncode == 0
    assert (imagen.here / "d.png").read_bytes() != one


def test_each_preview_is_nearer_to_the_picture(imagen: Any, fresh: dict[str, str]) -> None:
    """What forms is the picture: real estimates of real denoising."""
    run = imagen(
        "generate", "a red apple", "--seed", "1", "-o", "apple.png", "--preview=inline", "--preview-stride=3", "--json",
        environment=fresh,
    )  # fmt: skip
    shown = [json.loads(line) for line in run.stdout.splitlines()]
    previews = [event for event in shown if event["type"] == "preview"]
    assert [event["step"] for event in previews] == [3, 6, 9, 12, 15, 18]
    final = pixels(imagen.here / "apple.png").reshape(64, 4, 64, 4, 3).mean((1, 3))
    away = [np.abs(pixels(io.BytesIO(base64.b64decode(event["data"]))) - final).mean() for event in previews]
    assert all(later < earlier for earlier, later in pairwise(away)), away
    assert away[-1] < away[0] / 2  # what is left is the packing of the preview and what the enlarger mends


def test_a_comparison_with_nothing_configured_has_the_three_styles(imagen: Any, fresh: dict[str, str]) -> None:
    """No mock among them, and three different pictures."""
    run = imagen("compare", "a happy robot", "--seed", "1", "-o", "robots", "--json", environment=fresh)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["models"] == STYLES
    pictures = [pixels(imagen.here / "robots" / f"a-happy-robot_{style}.png") for style in STYLES]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(pictures[one] - pictures[other]).mean() > 2


def test_what_it_cannot_do_is_said(imagen: Any, fresh: dict[str, str]) -> None:
    """A word it never learned, a size that is no square, and in the sidecar how large it really drew."""
    run = imagen(
        "generate", "a red zzyzx apple", "--size", "384x256", "--seed", "1", "-o", "wide.png", environment=fresh
    )
    assert run.returncode == 0, run.stderr
    assert "zzyzx" in run.stderr
    assert "256x256 in the middle" in run.stderr
    assert pixels(imagen.here / "wide.png").shape == (256, 384, 3)
    (beside,) = imagen.home.rglob("images/**/*.json")
    assert json.loads(beside.read_text())["run"]["drawn"].startswith("drawn 64x64, 256x256 by its decoder")


NO_NETWORK = """
import socket


def refuse(*_arguments, **_options):
    raise AssertionError("the network was asked for")


socket.getaddrinfo = socket.create_connection = socket.socket.connect = socket.socket.connect_ex = refuse
"""


def test_no_network_is_needed(imagen: Any, fresh: dict[str, str]) -> None:
    """Whoever asks for it in this process fails."""
    (imagen.here / "cut").mkdir()
    (imagen.here / "cut/sitecustomize.py").write_text(NO_NETWORK)
    cut = {"PYTHONPATH": str(imagen.here / "cut")}
    asking = [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"]
    told = subprocess.run(asking, env=imagen.environment | cut, capture_output=True, text=True, check=False)
    assert "the network was asked for" in told.stderr, "or this test would see nothing"
    run = imagen("generate", "a red apple", "-o", "apple.png", environment=fresh | cut)
    assert run.returncode == 0, run.stderr
    assert (imagen.here / "apple.png").exists()


def test_a_setting_that_forbids_to_draw_is_told_at_once(imagen: Any) -> None:
    """One error with what to correct, and not three attempts."""
    run = imagen("generate", "a fox", "-m", "tiny-3d", environment={"IMAGEN_ONNX_THREADS": "two"})
    assert run.returncode == 3
    assert "threads" in run.stderr
    assert "Traceback" not in run.stderr
    assert "Task exception" not in run.stderr
    (job,) = imagen.jobs()
    assert (job["state"], job["attempt"]) == ("failed", 1)
