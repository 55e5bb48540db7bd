"""A model of mflux through the program itself: another process draws, and the record says how."""

import json
from pathlib import Path
from typing import Any

import pytest
import tests.mlx_kit as kit

from imagen.core.signals import PHASES

ROOT = str(Path(__file__).parents[2])


@pytest.mark.parametrize("family", ["z-image", "qwen-image"])
def test_a_picture_by_mlx_forms_and_is_the_same_watched_or_not(imagen: Any, family: str) -> None:
    """Phases in order, previews of the clean picture, the same bytes; and the sidecar names what drew it."""
    kit.model(imagen.home / "models", family)
    told = {"PYTHONPATH": ROOT}  # where the networks of the tests are
    asked = ("generate", "a fox", "-m", family, "--seed", "3")
    run = imagen(*asked, "-o", "watched.png", "--preview", "--json", environment=told)
    assert run.returncode == 0, run.stderr
    events = [json.loads(line) for line in run.stdout.splitlines()]
    previews = [event for event in events if event["type"] == "preview"]
    assert previews
    assert {preview["method"] for preview in previews} == {"latent_rgb"}
    phases = [event["phase"] for event in events if event["type"] == "phase"]  # short ones may be passed over
    assert phases[0] == "loading"
    assert phases == sorted(phases, key=PHASES.index)
    assert events[-1]["type"] == "completed"
    assert imagen(*asked, "-o", "alone.png", "--no-preview", environment=told).returncode == 0
    assert (imagen.here / "watched.png").read_bytes() == (imagen.here / "alone.png").read_bytes()
    job = imagen.job(events[-1]["job"])
    assert "of mflux" in json.dumps(job)
