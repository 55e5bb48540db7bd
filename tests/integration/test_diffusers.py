"""Pipelines of diffusers as somebody meets them who runs `imagen`: with files on this machine, and no network."""

import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import inprocess_kit as kit
from tests.serve_kit import Until, drawing, ended, submit
from tests.service_kit import House

HEAVY = ("torch", "diffusers", "transformers")
LONGEST_S = 300.0  # loading these takes seconds, and minutes where other tests take all of the processor

pytestmark = pytest.mark.timeout(2 * LONGEST_S)

# For one who has not installed the extra.
WITHOUT = """
import importlib.machinery

find = importlib.machinery.PathFinder.find_spec


def find_spec(name, *more):
    return None if name.partition(".")[0] in ("torch", "diffusers", "transformers", "accelerate") else find(name, *more)


importlib.machinery.PathFinder.find_spec = find_spec
"""


@pytest.fixture(autouse=True)
def _patient(imagen: Any) -> None:
    imagen.longest_s = LONGEST_S


@pytest.fixture
def until() -> Until:
    """Waits for a condition as long as loading may take."""

    def wait(condition: Callable[[], Any]) -> Any:
        give_up = time.monotonic() + LONGEST_S
        while not (value := condition()):
            assert time.monotonic() < give_up, "it did not happen"
            time.sleep(0.05)
        return value

    return wait


def names(imagen: Any, *families: str, **keys: Any) -> list[str]:
    return [kit.model(imagen.home / "models", family, **keys) for family in families]


def pixels(file: Path | io.BytesIO) -> Any:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def has_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_every_family_is_drawn_and_recorded(family: str, imagen: Any) -> None:
    """With nothing but a folder on this machine."""
    (name,) = names(imagen, family)
    run = imagen("generate", "a red fox", "-m", name, "--seed", "7", "-o", "fox.png")
    assert run.returncode == 0, run.stderr
    assert pixels(imagen.here / "fox.png").shape == (kit.SIZE, kit.SIZE, 3)
    (beside,) = [json.loads(file.read_text()) for file in imagen.home.rglob("images/**/*.json")]
    assert beside["run"]["drawn"].endswith("Pipeline, float32, on cpu")
    assert {"load", "encode", "sample", "decode"} <= set(beside["run"]["timings"])
    assert "transformer/diffusion_pytorch_model.safetensors" in [file["path"] for file in beside["model"]["files"]]


def test_one_model_makes_room_for_the_next_in_a_comparison(imagen: Any) -> None:
    """Each in a process that gives its memory back."""
    models = names(imagen, "flux", "qwen")
    run = imagen("compare", "a red fox", "--models", ",".join(models), "--seed", "7", "-o", "sheet", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["models"] == models
    for name in models:
        assert pixels(imagen.here / "sheet" / f"a-red-fox_{name}.png").shape == (kit.SIZE, kit.SIZE, 3)


def test_previews_come_nearer_and_change_nothing(imagen: Any) -> None:
    """As a stream of events, and the file is the same without them."""
    (name,) = names(imagen, "flux", preview_method="vae")
    asking = ("generate", "a red fox", "-m", name, "--seed", "3", "--steps", "10")
    run = imagen(*asking, "-o", "watched.png", "--preview=inline", "--preview-stride=1", "--json")
    assert run.returncode == 0, run.stderr
    said = [json.loads(line) for line in run.stdout.splitlines()]
    shown = [event for event in said if event["type"] == "preview"]
    # The newest wins: on a busy machine a step is over before somebody saw the one before it.
    steps = [event["step"] for event in shown]
    assert steps == sorted(set(steps))
    assert set(steps) <= set(range(1, 10))
    assert len(steps) >= 4
    final = pixels(imagen.here / "watched.png")
    away = [np.abs(pixels(io.BytesIO(base64.b64decode(event["data"]))) - final).mean() for event in shown]
    assert away[-1] < away[0], away
    assert not [event for event in said if event["type"] == "warning"]
    assert imagen(*asking, "-o", "alone.png", "--no-preview").returncode == 0
    assert (imagen.here / "alone.png").read_bytes() == (imagen.here / "watched.png").read_bytes()


def test_a_server_has_torch_only_next_door(tmp_path: Path, until: Until) -> None:
    """Not before its first picture, and not after it; and one that was cancelled leaves the next one alone."""
    with House(folder=tmp_path) as house:
        name = kit.model(house.home / "models", "flux", limits={"min": 32, "max": 512, "steps": [1, 500]})
        server = house.serve()
        assert not has_torch(server.pid)
        done = ended(server, submit(server, model=name, seed=3, options={}), until)
        assert done["state"] == "completed"
        assert not has_torch(server.pid)
        assert any(has_torch(child) for child in _children(server.pid))
        long = submit(server, model=name, width=512, height=512, steps=500, options={})
        drawing(server, long, until)
        assert house.run("jobs", "cancel", long).returncode == 0
        assert ended(server, long, until)["state"] == "cancelled"
        again = ended(server, submit(server, model=name, seed=3, options={}), until)
        assert [image["sha256"] for image in again["images"]] == [image["sha256"] for image in done["images"]]
        assert server.stop() == 0


def test_one_is_decoded_while_the_next_is_drawn(tmp_path: Path, until: Until) -> None:
    """Through the queue and the child process: one process draws them all, each as it is without that."""
    with House(folder=tmp_path) as house:
        pixels_of = {}
        for overlap in ("off", "on"):
            kit.model(house.home / "models", "flux", f"overlap-{overlap}", overlap=overlap)
        server = house.serve()
        for overlap in ("off", "on"):
            jobs = [submit(server, model=f"overlap-{overlap}", seed=seed, options={}) for seed in range(6)]
            done = [ended(server, job, until) for job in jobs]
            assert [job["state"] for job in done] == ["completed"] * 6
            pixels_of[overlap] = [image["pixels_sha256"] for job in done for image in job["images"]]
        assert pixels_of["on"] == pixels_of["off"]
        told = [json.loads(file.read_text())["run"]["drawn"] for file in house.home.rglob("images/**/*.json")]
        assert sum("decoded beside the next job" in words for words in told) == 6
        assert server.stop() == 0


@pytest.mark.parametrize("command", [["--help"], ["models"], ["models", "check", "tiny-flux"]], ids=" ".join)
def test_no_command_that_draws_nothing_loads_torch(imagen: Any, command: list[str]) -> None:
    """Listing and checking models costs what it always did."""
    names(imagen, "flux")
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "imagen", *command],
        cwd=imagen.here, env=imagen.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines() if "|" in line}
    assert "imagen" in loaded, "or this test would see nothing"
    assert not loaded & set(HEAVY)


def test_without_the_extra_everything_else_works(imagen: Any) -> None:
    """And whoever asks for such a model is told what to install."""
    (name,) = names(imagen, "flux")
    (imagen.here / "without").mkdir()
    (imagen.here / "without/sitecustomize.py").write_text(WITHOUT)
    bare = {"PYTHONPATH": str(imagen.here / "without")}
    check = imagen("models", "check", name, environment=bare)
    assert check.returncode == 3
    assert "pip install 'imagen-platform[diffusers]'" in check.stderr + check.stdout
    run = imagen("generate", "a fox", "-m", name, environment=bare)
    assert run.returncode == 3
    assert "pip install 'imagen-platform[diffusers]'" in run.stderr
    assert "Traceback" not in run.stderr
    assert imagen("generate", "a red apple", "-m", "tiny-3d", "-o", "apple.png", environment=bare).returncode == 0


def test_what_is_not_on_this_machine_is_not_fetched(imagen: Any) -> None:
    """One error with the command that would, and not three attempts."""
    run = imagen("generate", "a fox", "-m", "flux2-klein-diffusers")
    assert run.returncode == 3
    assert "hf download black-forest-labs/FLUX.2-klein-4B" in run.stderr
    (job,) = imagen.jobs()
    assert (job["state"], job["attempt"]) == ("failed", 1)


def test_a_lora_is_an_option_of_a_request(imagen: Any) -> None:
    """Of a file in the folder of LoRAs; another name is refused with those there are."""
    options = {"lora": {"type": "str", "default": ""}, "lora_scale": {"type": "float", "default": 1.0}}
    (name,) = names(imagen, "flux", options=options)
    kit.lora("flux", imagen.home / "models" / "loras" / "wild.safetensors", strength=3)
    asking = ("generate", "a red fox", "-m", name, "--seed", "3")
    assert imagen(*asking, "-o", "plain.png").returncode == 0
    run = imagen(*asking, "-o", "wild.png", "--set", "lora=wild")
    assert run.returncode == 0, run.stderr
    assert (pixels(imagen.here / "wild.png") != pixels(imagen.here / "plain.png")).any()
    refused = imagen(*asking, "--set", "lora=../../../etc/passwd")
    assert refused.returncode == 2
    assert "wild.safetensors" in refused.stderr


def _children(pid: int) -> list[int]:
    found = [
        int(one) for listing in Path(f"/proc/{pid}/task").glob("*/children") for one in listing.read_text().split()
    ]
    return found + [grandchild for child in found for grandchild in _children(child)]
