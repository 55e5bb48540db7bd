"""What costs money: named by its owner, never chosen for anybody, and forbidden by one switch."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from imagen.app import App
from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.core.errors import BadConfig, NotConfigured, RequestError
from imagen.engine.wiring import catalog_of
from imagen.models.catalog import Catalog

FLUX = "backend: replicate\nmodel: some/flux\n"
NAMED = "models:\n  flux: {backend: replicate, model: some/flux}\n"
FORBIDDEN = "paid_calls: forbidden\n"


def catalog(home: Path, config: str = "", environ: Mapping[str, str] | None = None, *, folder: str = "") -> Catalog:
    """The catalog of a home with this config.yaml, and a folder `flux` with this model.yaml."""
    (home / "config.yaml").write_text(config)
    if folder:
        (home / "models" / "flux").mkdir(parents=True)
        (home / "models" / "flux" / "model.yaml").write_text(folder)
    return catalog_of(load_settings(home=home, environ=environ or {}))


def test_a_folder_alone_is_not_enough(tmp_path: Path) -> None:
    """Somebody may have copied it there; money is spent only on what config.yaml names."""
    found = catalog(tmp_path, folder=FLUX)
    assert found.models["flux"].paid
    with pytest.raises(RequestError, match="costs money") as caught:
        found.get("flux")
    assert "models: {flux: {enabled: true}}" in caught.value.hint
    (tmp_path / "config.yaml").write_text("models: {flux: {enabled: true}}")
    assert catalog_of(load_settings(home=tmp_path, environ={})).get("flux").paid


def test_it_is_never_the_default_by_itself(tmp_path: Path) -> None:
    """Whoever names no model spends no money, unless the owner said so in so many words."""
    assert catalog(tmp_path, NAMED).default == "tiny-3d"
    assert catalog(tmp_path, f"default_model: flux\n{NAMED}").default == "flux"


@pytest.mark.parametrize("said", ["config", "environment"])
def test_the_switch_turns_all_of_it_off(tmp_path: Path, said: str) -> None:
    """Everything else stays as it is."""
    config = NAMED + "  mine: {backend: openai, url: http://127.0.0.1:9/v1}\n"
    environ = {"IMAGEN_PAID_CALLS": "forbidden"} if said == "environment" else {}
    found = catalog(tmp_path, config + (FORBIDDEN if said == "config" else ""), environ)
    with pytest.raises(RequestError, match="forbidden") as caught:
        found.get("flux")
    assert "paid_calls" in caught.value.hint
    assert found.get("mine").enabled
    assert not found.get("mine").paid


@pytest.mark.parametrize(
    ("model", "paid"),
    [
        ("{backend: openai}", True),
        ("{backend: openai, paid: false}", True),
        ("{backend: openai, url: https://images.example.com/v1}", True),
        ("{backend: openai, url: https://images.example.com/v1, paid: false}", False),
        ("{backend: openai, url: http://gpu-box:8000/v1}", False),
        ("{backend: openai, url: http://gpu-box:8000/v1, paid: true}", True),
        ("{backend: replicate, url: http://gpu-box:5000}", False),
        ("{backend: replicate, url: https://cog.example.com}", True),
        ("{backend: mock}", False),
    ],
)
def test_what_costs_money_is_known_by_where_it_is(tmp_path: Path, model: str, paid: bool) -> None:
    """The services themselves always do; elsewhere the owner may say."""
    assert catalog(tmp_path, f"models:\n  mine: {model}\n").models["mine"].paid is paid


@pytest.mark.parametrize("said", ["config", "environment", "neither text nor a word"])
def test_a_spelling_mistake_in_the_switch_is_no_permission(tmp_path: Path, said: str) -> None:
    """It is refused with the words there are, and counts as forbidden until it is put right."""
    config = {"config": "paid_calls: forbiden\n", "neither text nor a word": "paid_calls: false\n"}.get(said, "")
    found = catalog(tmp_path, config + NAMED, {"IMAGEN_PAID_CALLS": "of"} if said == "environment" else {})
    assert any(isinstance(one, BadConfig) and "paid_calls" in one.message for one in found.problems)
    assert not found.models["flux"].enabled


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    (tmp_path / "config.yaml").write_text(FORBIDDEN + NAMED)
    async with open_app(home=tmp_path) as opened:
        yield opened


async def test_a_job_that_carries_such_a_model_gets_no_backend(app: App) -> None:
    """Whatever the job says of its model: it may be older than the switch."""
    with pytest.raises(NotConfigured, match="forbidden"):
        app.backend_for(app.catalog.models["flux"])


async def test_nobody_compares_with_it_without_naming_it(tmp_path: Path) -> None:
    """`imagen compare` without models draws with all that cost nothing."""
    (tmp_path / "config.yaml").write_text(NAMED)
    async with open_app(settings=load_settings(home=tmp_path, environ={})) as app:
        assert app.catalog.get("flux").enabled
        assert "flux" not in await app.usable_models()
