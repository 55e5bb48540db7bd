"""`imagen models`: the list, one model, and the checks; quick because what did not change is not read again."""

import json
import os
import sys
from pathlib import Path

import pytest
from tests.cli_kit import imagen

from imagen.models.cache import cached
from imagen.surfaces.cli.output import columns


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path))
    return tmp_path


def write_model(home: Path, name: str, text: str) -> Path:
    file = home / "models" / name / "model.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_the_list_marks_the_default_and_is_whole_in_a_pipe(home: Path) -> None:
    """`imagen models` is `imagen models list`."""
    write_model(home, "mine", "backend: mock\ntitle: 狐" + "x" * 90 + "\nlicence: MIT\nenabled: false\n")
    (home / "config.yaml").write_text("default_model: mock-warm\n")
    ran = imagen("models")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["NAME", "TITLE", "BACKEND", "LICENCE", "NOTE"]
    assert [line.split()[0] for line in lines if "*" in line] == ["mock-warm"]
    assert any("switched off" in line for line in lines)
    assert any("狐" + "x" * 90 in line for line in lines)
    assert imagen("models", "list").out == ran.out


def test_as_json_it_is_one_document(home: Path) -> None:
    """Wherever the option stands."""
    for arguments in (("models", "--json"), ("models", "list", "--json"), ("models", "--json", "list")):
        told = json.loads(imagen(*arguments).out)
        assert told["default"] == "tiny-3d"
        assert "steps" in told["models"][0]["defaults"]


@pytest.mark.parametrize("times", [1, 2], ids=["cold", "warm"])
def test_what_is_broken_is_named_and_the_rest_listed(home: Path, times: int) -> None:
    """Also when it is read from the cache."""
    (home / "config.yaml").write_text("default_model: mock-warm\nstroage: local\n")
    file = write_model(home, "mine", "backend: mock\nlicense: MIT\n")
    for _ in range(times):
        ran = imagen("models")
    assert ran.code == 0
    assert f"{file}:2" in ran.err
    assert f"{home / 'config.yaml'}:2" in ran.err
    assert "mock-warm *" in ran.out
    assert imagen("models", "show", "mock").code == 0
    assert imagen("models", "check", "mock").code == 0


def test_every_change_reaches_the_list(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file, a changed one, a removed one, the config and the environment."""

    def names() -> dict[str, str]:
        return {model["name"]: model["title"] for model in json.loads(imagen("models", "--json").out)["models"]}

    assert "mine" not in names()
    file = write_model(home, "mine", "backend: mock\ntitle: One\n")
    assert names()["mine"] == "One"
    file.write_text("backend: mock\ntitle: Two\n")
    assert names()["mine"] == "Two"
    file.unlink()
    assert "mine" not in names()
    (home / "config.yaml").write_text("models: {mine: {workflow: mock, title: Three}}\n")
    assert names()["mine"] == "Three"
    monkeypatch.setenv("IMAGEN_DEFAULT_MODEL", "mock-cool")
    assert json.loads(imagen("models", "--json").out)["default"] == "mock-cool"


def test_a_cache_that_cannot_be_read_or_written_only_costs_time(home: Path) -> None:
    """A torn file, a folder in its place: the list is the same."""
    want = imagen("models").out
    cache = home / "cache" / "models.json"
    for text in ("", "{", "[]", '{"asked": 1}', "null"):
        cache.write_text(text)
        assert imagen("models").out == want
    cache.unlink()
    cache.mkdir()
    assert imagen("models").out == want


def test_the_cache_holds_no_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the environment are compared by their hash."""
    monkeypatch.setenv("IMAGEN_MOCK_TOKEN", "hunter2")
    imagen("models")
    assert "hunter2" not in (home / "cache" / "models.json").read_text()


def test_what_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """The files are looked at before they are read, not after."""
    source, cache = tmp_path / "source", tmp_path / "cache.json"
    source.write_text("1")

    def read() -> str:
        text = source.read_text()
        if text == "1":
            source.write_text("22")
        return text

    assert cached(cache, {}, lambda: [source], read) == "1"
    assert cached(cache, {}, lambda: [source], read) == "22"
    assert cached(cache, {}, lambda: [source], lambda: "not asked") == "22"
    assert cached(cache, {"IMAGEN_X": "1"}, lambda: [source], lambda: "other setting") == "other setting"


def test_one_model_is_shown_with_its_options(home: Path) -> None:
    """Defaults, limits, and each option with what it takes; also of one that is switched off."""
    ran = imagen("models", "show", "mock")
    assert "768x768" in ran.out
    assert "slow: float, 0 to 3600, default 1.0" in " ".join(ran.out.split())
    assert all(columns(line) <= 80 for line in ran.out.splitlines() if not line.startswith("from"))
    assert json.loads(imagen("models", "show", "mock", "--json").out)["default"] is False
    assert json.loads(imagen("models", "show", "tiny-3d", "--json").out)["default"] is True
    write_model(home, "off", "backend: mock\nenabled: false\n")
    assert "switched off" in imagen("models", "show", "off").out


def test_a_model_that_is_not_there_is_said(home: Path) -> None:
    """With a suggestion; a broken one with its own error."""
    ran = imagen("models", "show", "mock-wram")
    assert ran.code == 2
    assert "did you mean 'mock-warm'" in ran.err
    write_model(home, "mine", "backend: mock\nlicense: MIT\n")
    assert imagen("models", "show", "mine").code == 3


def test_checks_name_what_fails(home: Path) -> None:
    """All of them is a report; one that is named decides the exit code."""
    ran = imagen("models", "check")
    assert ran.code == 0
    verdicts = {line.split()[0]: line.split()[1] for line in ran.out.splitlines()[1:]}
    assert verdicts["mock"] == "ok"
    assert verdicts["mock-broken"] == "fails"
    assert imagen("models", "check", "mock").code == 0
    ran = imagen("models", "check", "mock-broken", "--json")
    assert ran.code == 3
    (told,) = json.loads(ran.out)["models"]
    assert told["ok"] is False
    assert told["checks"][0]["error"]["code"] == "out_of_memory"


def test_looking_at_models_makes_no_database(home: Path) -> None:
    """Only the cache is written."""
    for arguments in (("models",), ("models", "check"), ("models", "show", "mock")):
        imagen(*arguments)
    assert os.listdir(home) == ["cache"]


def test_asking_backends_needs_no_database(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even its driver, where the settings name PostgreSQL."""
    monkeypatch.setenv("IMAGEN_DATABASE", "postgresql://nobody@127.0.0.1:9/nothing")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "psycopg" in imagen("jobs").err, "the driver is really away"
    ran = imagen("models", "check", "mock")
    assert (ran.code, ran.err) == (0, "")
    assert imagen("models", "check").code == 0
    ran = imagen("models", "pull", "mock", "--dry-run")
    assert (ran.code, ran.out) == (0, "nothing to fetch\n")


NOBODY = "http://127.0.0.1:9"


def test_a_server_that_is_away_is_said_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven models have no server: one message, in the checks and in the doctor."""
    monkeypatch.setenv("IMAGEN_COMFYUI_URL", NOBODY)
    ran = imagen("models", "check")
    assert ran.code == 0
    assert (ran.out + ran.err).count("127.0.0.1:9") == 1
    failing = [line.split() for line in ran.out.splitlines() if "fails" in line]
    assert len([line for line in failing if line[-1] == "[1]"]) == 7
    assert "[1] " in ran.err
    assert "hint: " in ran.err
    told = json.loads(imagen("models", "check", "--json").out)["models"]
    assert [model["checks"][0]["error"]["code"] for model in told if not model["ok"]].count("unreachable") == 7
    doctor = imagen("doctor")
    assert doctor.code == 0, "none of them is the default"
    assert (doctor.out + doctor.err).count("127.0.0.1:9") == 1
    (line,) = [line for line in doctor.out.splitlines() if "127.0.0.1:9" in line]
    assert line.startswith("note  flux1-schnell, flux2-klein, ")


def test_one_model_is_checked_line_by_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do about what fails, and exit code 3 for it."""
    monkeypatch.setenv("IMAGEN_COMFYUI_URL", NOBODY)
    assert imagen("models", "check", "mock").out.startswith("ok    ")
    ran = imagen("models", "check", "flux1-schnell")
    assert ran.code == 3
    assert ran.out.splitlines()[0].startswith("FAIL  server: ")
    assert ran.out.splitlines()[1].startswith("      hint: ")


def test_the_slots_of_a_workflow_are_shown_with_what_fills_them(home: Path) -> None:
    """The model's own keys, its options, the request; and each file with its size."""
    told = imagen("models", "show", "z-image-turbo").out
    assert "slot      vae: ae.safetensors\n" in told
    assert "slots     dtype, sampler, scheduler, shift: an option\n" in told
    assert "slots     cfg, filename_prefix, height, prompt, seed, steps, width: the request\n" in told
    assert "file      vae/ae.safetensors, 319 MiB (Apache-2.0)\n" in told


def test_a_model_of_ones_own_can_be_removed(home: Path) -> None:
    """Its folder goes, what else lies in it stays, and what it stood for is back."""
    file = write_model(home, "mine", "backend: mock\n")
    (file.parent / "workflow.json").write_text("{}")
    ran = imagen("models", "remove", "mine")
    assert ran.code == 0
    assert ran.out.splitlines() == [f"removed {path}" for path in (file, file.with_name("workflow.json"), file.parent)]
    assert not file.parent.exists()
    file = write_model(home, "mock", "backend: mock\ntitle: Other\n")
    (file.parent / "big.safetensors").write_text("weights")
    ran = imagen("models", "remove", "mock", "--json")
    assert json.loads(ran.out) == {"removed": [str(file)], "left": [str(file.with_name("big.safetensors"))]}
    assert "big.safetensors" in ran.err
    assert "again" in ran.err
    assert imagen("models", "show", "mock").out.splitlines()[1].endswith("Mock")


def test_a_linked_model_is_only_unlinked(home: Path, tmp_path: Path) -> None:
    """What it points to is somebody's own folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.yaml").write_text("backend: mock\n")
    (home / "models").mkdir()
    (home / "models" / "mine").symlink_to(elsewhere)
    assert imagen("models", "remove", "mine").code == 0
    assert (elsewhere / "model.yaml").exists()
    assert not (home / "models" / "mine").exists()


def test_what_is_not_a_folder_of_ones_own_is_not_removed(home: Path) -> None:
    """A bundled model, an entry of config.yaml, one that others go on from, and nothing at all: each says how."""
    (home / "config.yaml").write_text("models:\n  entry: {backend: mock}\n  follower: {workflow: base}\n")
    write_model(home, "base", "backend: mock\n")
    for name, code, said in (
        ("mock", 2, "enabled: false"),
        ("entry", 2, "config.yaml:2"),
        ("base", 2, "workflow: base"),
        ("bsae", 2, "yours are: base"),
        ("../models/base", 2, "yours are: base"),
    ):
        ran = imagen("models", "remove", name)
        assert ran.code == code, name
        assert said in ran.err
    assert (home / "models" / "base" / "model.yaml").exists()


def test_settings_that_nobody_could_read_are_told_and_not_the_model(home: Path) -> None:
    """The model may well stand in them: exit code 3 with the line, as for a prompt."""
    (home / "config.yaml").write_text("models:\n  mine: [\n")
    for verb in ("check", "show"):
        ran = imagen("models", verb, "mine")
        assert ran.code == 3
        assert ran.err.startswith(f"error: {home / 'config.yaml'}:3: is not YAML")
    (home / "config.yaml").write_text("stroage: local\n")
    assert imagen("models", "check", "mine").code == 2


def test_a_mistake_in_the_model_that_was_asked_for_is_told_once(home: Path) -> None:
    """As the error, and not as a warning too; others' mistakes stay warnings."""
    others = "  other: {backend: mock, tittle: x}\n"
    (home / "config.yaml").write_text(f"models:\n  mine: {{backend: mock, licens: MIT}}\n{others}")
    for verb in ("check", "show"):
        ran = imagen("models", verb, "mine")
        assert ran.code == 3
        assert ran.err.count("'licens'") == 1
        assert "warning: " in ran.err
        assert ran.err.count("'tittle'") == 1
