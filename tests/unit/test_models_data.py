"""The bundled models of ComfyUI as data: every slot filled, every file named, every default possible."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imagen.backends.comfyui.workflow import fill
from imagen.config import load_settings
from imagen.core.model import Model
from imagen.core.request import Draft
from imagen.core.template import Template
from imagen.engine.weights.hub import repository
from imagen.engine.wiring import catalog_of
from imagen.models.resolve import resolve

NAMES = (
    "flux1-schnell",
    "flux2-klein",
    "flux2-klein-base",
    "hidream-o1",
    "qwen-image",
    "sd35-medium",
    "z-image-turbo",
)
DISTILLED = ("flux1-schnell", "flux2-klein", "hidream-o1", "z-image-turbo")

# As the authors state them on the pages of their models.
LICENCES = {
    "flux1-schnell": "Apache-2.0",
    "flux2-klein": "Apache-2.0",
    "flux2-klein-base": "Apache-2.0",
    "hidream-o1": "MIT",
    "qwen-image": "Apache-2.0",
    "sd35-medium": "Stability AI Community License",
    "z-image-turbo": "Apache-2.0",
}

# The first ComfyUI that has the nodes, or knows the text encoder.
REQUIRES = {
    "flux1-schnell": "0.3.45",
    "flux2-klein": "0.9.2",
    "flux2-klein-base": "0.9.2",
    "hidream-o1": "0.21.1",
    "qwen-image": "0.3.49",
    "sd35-medium": "0.3.45",
    "z-image-turbo": "0.3.74",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    catalog = catalog_of(load_settings(home=tmp_path_factory.mktemp("home"), environ={}))
    assert not catalog.problems
    assert not catalog.notices
    return {name: model for name, model in catalog.models.items() if model.backend == "comfyui"}


def test_the_six_families_are_there(models: dict[str, Model]) -> None:
    """FLUX.2 [klein] twice: distilled and base."""
    assert sorted(models) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_slot_is_filled_from_a_prompt_alone(name: str, models: dict[str, Model]) -> None:
    """With its own type: numbers stay numbers, and nothing that looks like a slot is left."""
    model = models[name]
    request = resolve(Draft(prompt="a ${seed} fox"), model, lambda: 2**63).request
    graph = fill(model, request, "the-id")
    left = json.dumps(graph)
    assert left.count("${") == left.count("a ${seed} fox") > 0
    assert 2**63 in [value for node in graph.values() for value in node["inputs"].values()]


@pytest.mark.parametrize("name", NAMES)
def test_its_files_are_those_its_workflow_names(name: str, models: dict[str, Model]) -> None:
    """Each file once, in a folder, with its hub path, size and licence; and no file key without a file."""
    model = models[name]
    named = {value for value in model.keys.values() if str(value).endswith(".safetensors")}
    assert named == {file.path for file in model.files}
    assert len(named) == len(model.files)
    for file in model.files:
        assert file.folder in {"checkpoints", "diffusion_models", "text_encoders", "vae"}
        assert repository(file.hub)[1].rpartition("/")[2] == file.path
        assert file.size is not None
        assert 10**8 < file.size < 10**11
        assert file.licence
    assert max(model.files, key=lambda file: file.size or 0).licence == model.licence


def test_files_of_the_same_name_are_the_same_file(models: dict[str, Model]) -> None:
    """So that a text encoder of two models is fetched once."""
    seen: dict[tuple[str, str], int | None] = {}
    for model in models.values():
        for file in model.files:
            assert seen.setdefault((file.folder, file.path), file.size) == file.size


@pytest.mark.parametrize("name", NAMES)
def test_its_defaults_are_within_its_limits(name: str, models: dict[str, Model]) -> None:
    """A prompt alone is drawn as the model wants it, without a warning."""
    model = models[name]
    resolved = resolve(Draft(prompt="a fox"), model, lambda: 0)
    assert not resolved.warnings
    assert (resolved.request.width, resolved.request.height) == (model.defaults.width, model.defaults.height)
    assert model.limits.multiple_of % 16 == 0
    assert all(w % model.limits.multiple_of == h % model.limits.multiple_of == 0 for w, h in model.limits.sizes)
    assert {(h, w) for w, h in model.limits.sizes} == set(model.limits.sizes)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_people_want_to_know(name: str, models: dict[str, Model]) -> None:
    """Licence and address as the authors give them, a note that fits a list, and the ComfyUI it needs."""
    model = models[name]
    assert model.licence == LICENCES[name]
    assert model.keys["requires"] == REQUIRES[name]
    assert urlsplit(model.source).hostname == "huggingface.co"
    assert len(urlsplit(model.source).path.strip("/").split("/")) == 2
    assert 20 < len(model.notes.partition(". ")[0]) < 100
    for option in model.options.values():
        assert option.help
        assert option.default is not None
        assert not option.choices or option.default in option.choices


@pytest.mark.parametrize("name", NAMES)
def test_what_a_distilled_model_cannot_use_is_ignored(name: str, models: dict[str, Model]) -> None:
    """A negative prompt or a guidance that a front end always sends is a warning, and the picture is not spoiled."""
    model = models[name]
    resolved = resolve(Draft(prompt="a fox", negative="grey", guidance=7.5), model, lambda: 0)
    if name in DISTILLED:
        assert [warning.code for warning in resolved.warnings] == ["ignored", "ignored"]
        assert (resolved.request.guidance, resolved.request.negative) == (1.0, "")
    else:
        assert not resolved.warnings
        assert (resolved.request.guidance, resolved.request.negative) == (7.5, "grey")


def test_flux1_schnell_has_the_node_ids_of_the_seed(models: dict[str, Model]) -> None:
    """Workflows and scripts that name its nodes go on working."""
    graph = models["flux1-schnell"].graph
    assert graph is not None
    assert {name: node["class_type"] for name, node in graph.items()} == {
        "6": "CLIPTextEncode",
        "8": "VAEDecode",
        "9": "SaveImage",
        "10": "VAELoader",
        "11": "DualCLIPLoader",
        "12": "UNETLoader",
        "13": "ConditioningZeroOut",
        "27": "EmptySD3LatentImage",
        "30": "ModelSamplingAuraFlow",
        "31": "KSampler",
    }


def test_a_link_leads_to_a_node_of_its_graph(models: dict[str, Model]) -> None:
    """And every graph ends in one SaveImage."""
    for model in models.values():
        assert model.graph is not None
        for node in model.graph.values():
            assert set(node) == {"class_type", "inputs", "_meta"}
            for value in node["inputs"].values():
                assert not isinstance(value, list) or value[0] in model.graph
        kinds = [node["class_type"] for node in model.graph.values()]
        assert kinds.count("SaveImage") == 1
        assert Template(model.graph).slots >= {"prompt", "seed", "steps", "width", "height", "model"}


def test_hidream_draws_the_sizes_it_knows(models: dict[str, Model]) -> None:
    """The trained ones and a square small enough for a comparison; any other is refused with the nearest."""
    sizes = models["hidream-o1"].limits.sizes
    trained = {(2048, 2048), (2304, 1728), (2304, 1792), (2496, 1664), (2560, 1440), (3104, 1312)}
    assert trained | {(1024, 1024)} <= set(sizes)


def test_the_folders_hold_nothing_else() -> None:
    """A model is a model.yaml and, for this engine, a workflow.json."""
    import imagen.models

    root = Path(imagen.models.__file__).parent
    for name in NAMES:
        assert sorted(path.name for path in (root / name).iterdir()) == ["model.yaml", "workflow.json"]


def test_the_page_about_them_is_true(models: dict[str, Model], tmp_path: Path) -> None:
    """docs/backends.md: every entry it shows is a good one, and its tables name every model and every file."""
    page = (Path(__file__).parents[2] / "docs" / "backends.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    assert len(blocks) >= 4
    for block in blocks:
        (tmp_path / "config.yaml").write_text(block)
        settings = load_settings(home=tmp_path, environ={})
        catalog = catalog_of(settings)
        assert not settings.problems
        assert not catalog.problems
        for name in settings.models:
            model = catalog.models[name]
            assert {text for text in model.keys.values() if str(text).endswith(".safetensors")} <= {
                file.path for file in model.files
            }
    for name, model in models.items():
        assert f"| `{name}` | " in page
        assert f"| {model.licence} | {model.keys['requires']} |" in page
        for file in model.files:
            repo, inside = repository(file.hub)
            assert f"| `{name}` | `{file.folder}/{file.path}` | {repo} : {inside} | " in page
