"""Settings: where each comes from, what wins, and what is said about a wrong one."""

from pathlib import Path

import pytest

from imagen.config import KEYS, load_settings, masked


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each value says where it came from."""
    seen = []
    file = tmp_path / "config.yaml"
    for text, environ, flags in (
        ("", {}, {}),
        ("storage: local\ndefault_model: of-file\n", {}, {}),
        ("default_model: of-file\n", {"IMAGEN_DEFAULT_MODEL": "of-environment"}, {}),
        ("default_model: of-file\n", {"IMAGEN_DEFAULT_MODEL": "of-environment"}, {"default_model": "of-flag"}),
    ):
        file.write_text(text)
        settings = load_settings(home=tmp_path, environ=environ, flags=flags)
        seen.append((settings.default_model, settings.provenance["default_model"]))
    assert seen == [
        (None, "default"),
        ("of-file", f"{file}:2"),
        ("of-environment", "environment IMAGEN_DEFAULT_MODEL"),
        ("of-flag", "flag --default-model"),
    ]


def test_an_empty_variable_sets_nothing(tmp_path: Path) -> None:
    """`IMAGEN_DEFAULT_MODEL= imagen …` is how a shell takes a setting away."""
    assert load_settings(home=tmp_path, environ={"IMAGEN_DEFAULT_MODEL": ""}).default_model is None


def test_imagen_home_puts_everything_under_one_folder(tmp_path: Path) -> None:
    """No file of ours lies elsewhere."""
    settings = load_settings(environ={"IMAGEN_HOME": str(tmp_path)})
    places = (
        settings.config_file,
        settings.models_folder,
        settings.database_file,
        settings.images_folder,
        settings.logs_folder,
        settings.cache_folder,
    )
    assert all(place.is_relative_to(tmp_path) for place in places)


def test_without_a_home_the_platform_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings, data and cache each go where the platform keeps such things."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    settings = load_settings(environ={})
    assert settings.config_file.name == "config.yaml"
    assert len({settings.config_file.parent, settings.data_folder, settings.cache_folder}) == 3


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("storage: local\nstroage: local\n", 2, "did you mean 'storage'"),
        ("\ndefault_model: [mock]\n", 2, "is text"),
        ("database: mysql://x\n", 1, "mysql"),
        ("preview: {count: 900}\n", 1, "from 1 to 64"),
        ("models: mock\n", 1, "is a mapping"),
        ("backends:\n  mock: yes\n", 2, "is a mapping"),
        ("models:\n  mock: [1]\n", 2, "is a mapping"),
        ("a: [\n", 2, "not YAML"),
    ],
)
def test_a_wrong_setting_is_a_problem_with_file_and_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    """It is named, and the rest stays usable."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    (problem,) = load_settings(home=tmp_path, environ={}).problems
    assert problem.message.startswith(f"{file}:{line}:")
    assert word in problem.message
    assert problem.hint
    assert problem.exit_code == 3


def test_a_wrong_key_leaves_the_others_alone(tmp_path: Path) -> None:
    """One typing mistake does not take the default model away."""
    (tmp_path / "config.yaml").write_text("databse: sqlite\ndefault_model: mock-warm\n")
    settings = load_settings(home=tmp_path, environ={})
    assert len(settings.problems) == 1
    assert settings.default_model == "mock-warm"


def test_the_environment_sets_a_key_of_a_backend(tmp_path: Path) -> None:
    """IMAGEN_COMFYUI_URL is `url` of comfyui, and wins over the file."""
    (tmp_path / "config.yaml").write_text("backends:\n  comfyui: {url: http://of-file, token: t}\n")
    settings = load_settings(home=tmp_path, environ={"IMAGEN_COMFYUI_URL": "http://of-environment"})
    assert settings.backend("comfyui") == {"url": "http://of-environment", "token": "t"}
    assert settings.backend("other") == {}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("token", "hunter2", "***"),
        ("api_key", "hunter2", "***"),
        ("database", "postgresql://me:hunter2@host/db", "postgresql://me:***@host/db"),
        ("url", "http://host:8188/a@b", "http://host:8188/a@b"),
        (
            "backends",
            {"x": {"password": "hunter2", "url": "http://host"}},
            {"x": {"password": "***", "url": "http://host"}},
        ),
        ("default_model", "mock", "mock"),
    ],
)
def test_secrets_are_starred(name: str, value: object, shown: object) -> None:
    """Wherever they stand in a value."""
    assert masked(name, value) == shown


def test_every_key_is_documented() -> None:
    """`config init` and the reference print these words."""
    assert all(help_ for _, _, help_ in KEYS.values())


def test_a_place_of_another_version_is_refused_wherever_it_is_said(tmp_path: Path) -> None:
    """By the environment as by the file, and no password is repeated."""
    address = "postgresql://me:secret@host/db"
    settings = load_settings(home=tmp_path, environ={"IMAGEN_DATABASE": address})
    (problem,) = settings.problems
    assert "IMAGEN_DATABASE" in problem.message
    assert "secret" not in problem.message
    assert settings.database == "sqlite"
