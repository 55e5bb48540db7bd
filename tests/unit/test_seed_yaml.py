"""YAML as owners of the program before this one wrote it: the same words, and the graphs they meant."""

import json
from pathlib import Path
from typing import Any

import pytest

from imagen.backends.comfyui.workflow import fill
from imagen.config import load_settings
from imagen.core.errors import BadConfig
from imagen.core.request import Draft
from imagen.engine.wiring import catalog_of
from imagen.models.catalog import Catalog
from imagen.models.resolve import resolve

GOLDEN = Path(__file__).parents[1] / "golden" / "comfyui"

# No workflow is named: then it is flux1-schnell's. clip_t5 is another name of clip.
SCHNELL = """\
  flux-schnell-local:
    backend: comfyui
    url: http://127.0.0.1:8188
    model: flux1-schnell-fp8.safetensors
    clip_l: clip_l.safetensors
    clip_t5: t5xxl_fp8_e4m3fn.safetensors
    vae: ae.safetensors
    dtype: fp8_e4m3fn
    defaults: {width: 768, height: 768, steps: 4}
"""

# `guidance` set a node that has no effect on this model, and is not in the graph any more.
KLEIN = """\
  flux2-klein-local:
    backend: comfyui
    workflow: flux2-klein
    model: flux-2-klein-base-4b-fp8.safetensors
    clip: qwen_3_4b.safetensors
    vae: flux2-vae.safetensors
    guidance: 4.0
    defaults: {width: 1024, height: 1024, steps: 20}
"""

# The checkpoint brings its text encoders, so their names fill nothing.
SD35 = """\
  sd35-medium-local:
    backend: comfyui
    workflow_template: sd35-medium
    model: sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors
    clip_l: clip_l.safetensors
    clip_t5: t5xxl_fp8_e4m3fn_scaled.safetensors
    dtype: default
    shift: 2.5
    defaults: {width: 1024, height: 768, steps: 30, guidance: 5.0}
"""

YAML = {"flux-schnell-local": SCHNELL, "flux2-klein-local": KLEIN, "sd35-medium-local": SD35}

UNUSED = {
    "flux-schnell-local": [],
    "flux2-klein-local": ["`guidance`"],
    "sd35-medium-local": ["`clip_l`", "`clip`", "`dtype`"],
}


def catalog(home: Path, text: str) -> Catalog:
    (home / "config.yaml").write_text(f"models:\n{text}")
    return catalog_of(load_settings(home=home, environ={}))


@pytest.mark.parametrize("name", YAML)
def test_the_graph_is_the_one_that_was_meant(name: str, tmp_path: Path) -> None:
    """To the last value and its type. The files are changed by hand, on purpose."""
    found = catalog(tmp_path, YAML[name])
    assert not found.problems
    draft = Draft(prompt='a "red" fox, 100 ${percent}', negative="grey", seed=1_234_567)
    request = resolve(draft, found.models[name], lambda: 0).request
    graph = fill(found.models[name], request, "00000000-0000-4000-8000-000000000001")
    assert _typed(graph) == _typed(json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", YAML)
def test_a_knob_that_fills_nothing_is_one_notice(name: str, tmp_path: Path) -> None:
    """It names the model, the line, and every such knob; a model without one gets none."""
    told = [notice for notice in catalog(tmp_path, YAML[name]).notices if name in notice]
    assert len(told) == bool(UNUSED[name])
    for notice in told:
        assert notice.startswith(str(tmp_path / "config.yaml"))
        assert all(knob in notice for knob in UNUSED[name])


@pytest.mark.parametrize(("name", "line"), [("flux-schnell-local", 11), ("flux2-klein-local", 10)])
def test_any_other_key_is_an_error_with_its_line(name: str, line: int, tmp_path: Path) -> None:
    """A typo never becomes a silent default."""
    broken = catalog(tmp_path, YAML[name] + "    vea: other.safetensors\n").broken[name]
    assert isinstance(broken, BadConfig)
    assert broken.message.startswith(f"{tmp_path / 'config.yaml'}:{line}")
    assert "did you mean 'vae'" in broken.message


def test_all_three_live_in_one_file(tmp_path: Path) -> None:
    """Beside the models that come along, and what they leave open they have from those."""
    found = catalog(tmp_path, SCHNELL + KLEIN + SD35)
    assert not found.problems
    assert set(YAML) <= set(found.models)
    assert found.default == "flux-schnell-local"
    assert found.models["sd35-medium-local"].licence == "Stability AI Community License"
    assert found.models["sd35-medium-local"].options["shift"].default == 2.5
    assert found.models["flux-schnell-local"].options["dtype"].default == "fp8_e4m3fn"


def test_a_value_that_the_workflow_cannot_have_is_refused(tmp_path: Path) -> None:
    """Before anything is asked for."""
    assert "dtype" in catalog(tmp_path, SCHNELL.replace("fp8_e4m3fn\n", "fp9\n")).broken["flux-schnell-local"].message


def _typed(value: Any) -> Any:
    """4 and 4.0 are equal to Python and not the same to a server."""
    match value:
        case dict():
            return {key: _typed(item) for key, item in value.items()}
        case list():
            return [_typed(item) for item in value]
        case _:
            return type(value).__name__, value
