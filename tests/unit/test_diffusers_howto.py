"""docs/howto/use-diffusers.md is true: its entries are good ones, and it names every bundled model and every key."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from imagen.backends.diffusers import DiffusersKeys
from imagen.backends.diffusers.finding import get
from imagen.config import load_settings
from imagen.core.model import Model
from imagen.core.request import Draft
from imagen.engine.wiring import catalog_of
from imagen.models.resolve import resolve

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "use-diffusers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
NAMES = ["flux1-schnell", "flux2-klein", "qwen-image", "sd35-medium", "z-image-turbo"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    catalog = catalog_of(load_settings(home=tmp_path_factory.mktemp("home"), environ={}))
    assert not catalog.problems
    return {name: model for name, model in catalog.models.items() if model.backend == "diffusers"}


@pytest.mark.parametrize("block", BLOCKS)
def test_an_entry_of_the_page_is_a_good_one(block: str, tmp_path: Path) -> None:
    """As it stands, in a config.yaml."""
    (tmp_path / "config.yaml").write_text(block)
    settings = load_settings(home=tmp_path, environ={})
    catalog = catalog_of(settings)
    assert not settings.problems
    assert not catalog.problems
    assert settings.models or settings.backends
    assert all(catalog.models[name].backend == "diffusers" for name in settings.models)


def test_the_five_families_are_there_and_on_the_page(models: dict[str, Model]) -> None:
    """Each with the steps and guidance it is drawn with."""
    assert sorted(models) == [f"{name}-diffusers" for name in NAMES]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| \w+Pipeline \| ([^|]+) \|", PAGE, re.MULTILINE))
    for name, model in models.items():
        guidance = "none" if "guidance" in model.ignores else model.defaults.guidance
        assert rows[name] == f"{model.defaults.steps}, {guidance}"


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_is_its_twin_at_another_engine(name: str, models: dict[str, Model], tmp_path: Path) -> None:
    """The same licence, size and steps as the ComfyUI model of that name, so that the two can be compared."""
    twin = catalog_of(load_settings(home=tmp_path, environ={})).models[name]
    model = models[f"{name}-diffusers"]
    assert (model.licence, model.source) == (twin.licence, twin.source)
    assert model.defaults.steps == twin.defaults.steps
    assert (model.defaults.width, model.defaults.height) == (twin.defaults.width, twin.defaults.height)
    assert model.ignores == twin.ignores
    assert model.source.endswith(model.keys["weights"])
    assert not resolve(Draft(prompt="a fox"), model, lambda: 0).warnings
    assert get(model).startswith(f"hf download {model.keys['weights']} --include")
    assert 20 < len(model.notes.partition(". ")[0]) < 100


def test_every_key_is_on_the_page() -> None:
    """What can be written is explained, here or on the page about speed."""
    elsewhere = {"revision", "variant", "cache_threshold"}  # named in the reference alone
    missing = {item.name for item in fields(DiffusersKeys)} - set(re.findall(r"`?(\w+)`?", PAGE))
    assert missing <= elsewhere
