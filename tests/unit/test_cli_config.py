"""`imagen config`: what is in force and why, and a sample that is true."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.cli_kit import imagen

from imagen.backends.comfyui.address import DEFAULT
from imagen.backends.comfyui.backend import ComfyUI
from imagen.config import load_settings
from imagen.config.keys import KEYS
from imagen.engine.wiring import catalog_of
from imagen.surfaces.cli.config_sample import BACKENDS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path))
    return tmp_path


def uncommented(sample: str) -> str:
    """The sample with every setting in force."""
    return re.sub(r"^# ", "", sample, flags=re.MULTILINE)


def test_show_tells_each_value_and_where_it_came_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`imagen config` is `imagen config show`."""
    file = home / "config.yaml"
    file.write_text(
        "storage: local\nlimits:\n  queued: 5\nbackends:\n  mock: {url: http://u:hunter2@host, token: hunter2}\n"
    )
    monkeypatch.setenv("IMAGEN_DEFAULT_MODEL", "mock-warm")
    monkeypatch.setenv("IMAGEN_MOCK_API_KEY", "hunter2")
    ran = imagen("config", "show", "--json")
    told = json.loads(ran.out)["settings"]
    assert told["database"] == {"value": "sqlite", "from": "default"}
    assert told["storage"] == {"value": "local", "from": f"{file}:1"}
    assert told["default_model"] == {"value": "mock-warm", "from": "environment IMAGEN_DEFAULT_MODEL"}
    assert told["server.port"] == {"value": 8450, "from": "default"}
    assert told["limits.queued"] == {"value": 5, "from": f"{file}:3"}
    assert told["backends.mock.url"] == {"value": "http://u:***@host", "from": f"{file}:5"}
    assert told["backends.mock.token"]["value"] == "***"
    assert told["backends.mock.api_key"] == {"value": "***", "from": "environment IMAGEN_MOCK_API_KEY"}
    assert told["data_folder"] == {"value": str(home), "from": "environment IMAGEN_HOME"}
    plain = imagen("config")
    assert "hunter2" not in plain.out + plain.err + ran.out
    assert plain.out == imagen("config", "show").out
    assert imagen("config", "--json").out == ran.out


def test_path_prints_the_file(home: Path) -> None:
    """Whether it exists or not."""
    assert imagen("config", "path").out == f"{home / 'config.yaml'}\n"


def test_check_names_every_mistake(home: Path) -> None:
    """Exit code 3 with file and line, 0 when all is well."""
    assert imagen("config", "check").code == 0
    file = home / "config.yaml"
    file.write_text("stroage: local\nmodels:\n  mine: {backend: mock, licens: MIT}\n")
    ran = imagen("config", "check")
    assert ran.code == 3
    assert f"error: {file}:1: 'stroage'" in ran.err
    assert f"error: {file}:3: 'licens'" in ran.err
    told = imagen("config", "check", "--json")
    assert told.code == 3
    assert [problem["code"] for problem in json.loads(told.out)["problems"]] == ["bad_config", "bad_config"]
    file.write_text("storage: local\n")
    assert imagen("config", "check").code == 0
    file.write_text("backends:\n  diffusers: {memory_limit_mib: lots}\n")
    ran = imagen("config", "check")
    assert ran.code == 3
    assert "`memory_limit_mib` of the backend diffusers" in ran.err


def test_a_broken_file_leaves_show_and_init_working(home: Path) -> None:
    """What is wrong goes to standard error."""
    (home / "config.yaml").write_text("a: [\n")
    for arguments in (("config",), ("config", "init"), ("config", "path")):
        assert imagen(*arguments).code == 0
    assert "config.yaml:2" in imagen("config").err


def test_the_sample_sets_nothing_as_it_is(home: Path) -> None:
    """Everything in it is a comment."""
    sample = imagen("config", "init").out
    assert yaml.safe_load(sample) is None
    assert all(re.search(rf"^# {name}:", sample, re.MULTILINE) for name in KEYS)


def test_the_sample_says_what_is_the_case(home: Path) -> None:
    """With every comment taken away it is read without a problem, and changes no model."""
    before = catalog_of(load_settings())
    (home / "config.yaml").write_text(uncommented(imagen("config", "init").out))
    settings = load_settings()
    after = catalog_of(settings)
    assert not after.problems
    assert set(settings.document.data) == set(KEYS)
    assert after.default == before.default
    for name, model in before.models.items():
        assert {**after.models[name].as_dict(), "origin": ""} == {**model.as_dict(), "origin": ""}


def test_what_the_sample_says_of_comfyui_is_what_it_does() -> None:
    """Its address and its patience are those of the backend."""
    told = {key: value for key, value, _ in BACKENDS["comfyui"]}
    assert told["url"] == DEFAULT
    assert told["patience_s"] == ComfyUI({}).pace.away_s
    backend = ComfyUI({key: value for key, value in told.items() if value is not None})
    assert (backend.pace, backend.unload_after_s) == (ComfyUI({}).pace, ComfyUI({}).unload_after_s)


def test_init_writes_once(home: Path) -> None:
    """Never over an existing file, nor through a link, and readable by its owner only."""
    file = home / "config.yaml"
    ran = imagen("config", "init", "--write")
    assert (ran.code, ran.out) == (0, f"{file}\n")
    assert file.read_text() == imagen("config", "init").out
    assert file.stat().st_mode & 0o077 == 0
    file.write_text("storage: local\n")
    ran = imagen("config", "init", "--write")
    assert ran.code == 3
    assert "hint:" in ran.err
    assert file.read_text() == "storage: local\n"
    file.unlink()
    file.symlink_to(home / "elsewhere")
    assert imagen("config", "init", "--write").code == 3
    assert not (home / "elsewhere").exists()


def test_init_says_where_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in place of the folder is the owner's turn."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path / "file" / "home"))
    ran = imagen("config", "init", "--write")
    assert ran.code == 3
    assert "cannot be written" in ran.err


def test_a_default_model_that_is_not_there_is_named_with_its_line(home: Path) -> None:
    """A slip in the settings is the owner's: exit code 3 wherever it shows."""
    (home / "config.yaml").write_text("storage: local\ndefault_model: mock-wram\n")
    said = f"error: {home / 'config.yaml'}:2: `default_model`: there is no model 'mock-wram'"
    for arguments in (("config", "check"), ("generate", "a fox")):
        ran = imagen(*arguments)
        assert ran.code == 3, arguments
        assert said in ran.err
        assert "did you mean 'mock-warm'" in ran.err
    assert imagen("generate", "--model", "nothere", "a fox").code == 2


def test_a_folder_in_the_place_of_the_settings_is_told(home: Path) -> None:
    """Its rights are not what is wrong with it."""
    (home / "config.yaml").mkdir()
    ran = imagen("config", "check")
    assert ran.code == 3
    assert "readable" not in ran.err
    assert "move that folder away" in ran.err


def test_a_wrong_port_says_what_it_should_be(home: Path) -> None:
    """In words that stand on their own."""
    (home / "config.yaml").write_text("server: {port: 99999}\n")
    assert "hint: what it is: the port to listen on; 0 takes any free one" in imagen("config", "check").err
