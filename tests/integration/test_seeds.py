"""Command lines that people have written down somewhere keep working as typed."""

import json
from pathlib import Path
from typing import Any

import pytest

# The names stand for engines on other machines; here each is the mock under that name.
NAMES = (
    "flux-schnell-local",
    "flux1-schnell",
    "flux1-schnell-local",
    "flux2-klein",
    "flux2-klein-local",
    "hidream-o1",
    "sd35-medium",
    "sd35-medium-local",
    "a",
    "b",
    "c",
)


@pytest.fixture(autouse=True)
def _names(imagen: Any) -> None:
    models = "".join(f"  {name}: {{backend: mock, defaults: {{width: 64, height: 64, steps: 4}}}}\n" for name in NAMES)
    (imagen.home / "config.yaml").write_text(f"models:\n{models}")


@pytest.mark.parametrize("name", ["flux2-klein", "hidream-o1", "sd35-medium"])
def test_a_smoke_test_of_a_new_model(imagen: Any, name: str) -> None:
    """`imagen generate "test" --backend NAME` produces a picture."""
    run = imagen("generate", "test", "--backend", name)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).is_file()


@pytest.mark.parametrize("name", ["flux2-klein-local", "sd35-medium-local"])
def test_a_backend_without_a_prompt_asks_for_one(imagen: Any, name: str) -> None:
    """`imagen generate --backend NAME` takes its prompt from whoever feeds it."""
    run = imagen("generate", "--backend", name, stdin="test\n")
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).is_file()


def test_comparing_four_models_into_a_folder_of_the_home(imagen: Any) -> None:
    """`--output ~/Pictures/compare/` gets a picture per model, the sheet and the record."""
    run = imagen(
        "compare",
        "a wizard casting a spell",
        "--models",
        "flux1-schnell,flux2-klein,hidream-o1,sd35-medium",
        "--output",
        str(imagen.here / "Pictures/compare") + "/",
    )
    assert run.returncode == 0, run.stderr
    folder = imagen.here / "Pictures/compare"
    names = {path.name for path in folder.iterdir()}
    assert {"contact-sheet.png", "compare.json"} <= names
    for model in ("flux1-schnell", "flux2-klein", "hidream-o1", "sd35-medium"):
        assert f"a-wizard-casting-a-spell_{model}.png" in names


def test_comparing_the_mock_with_a_local_model(imagen: Any) -> None:
    """`--models mock,flux-schnell-local --size 768x768 --seed 1234567` gives every cell that size and seed."""
    run = imagen(
        "compare",
        "a small cat in a tiny fishbowl, photo, soft light",
        "--models",
        "mock,flux-schnell-local",
        "--size",
        "768x768",
        "--seed",
        "1234567",
    )
    assert run.returncode == 0, run.stderr
    (record,) = imagen.here.rglob("compare.json")
    cells = json.loads(record.read_text())["cells"]
    assert [cell["model"] for cell in cells] == ["mock", "flux-schnell-local"]
    assert {cell["seed"] for cell in cells} == {1234567}
    assert {(cell["size"]["got"]["width"], cell["size"]["got"]["height"]) for cell in cells} == {(768, 768)}


@pytest.mark.parametrize("arguments", [(), ("a fox",)], ids=["without a prompt", "with a prompt"])
def test_a_series_by_generate_is_a_comparison(imagen: Any, arguments: tuple[str, ...]) -> None:
    """`imagen generate --series --models a,b,c` writes a real series, with a prompt or asking for one."""
    run = imagen("generate", *arguments, "--series", "--models", "a,b,c", stdin="a fox\n")
    assert run.returncode == 0, run.stderr
    (series,) = json.loads(imagen("series", "list", "--json").stdout)["series"]
    assert series["state"] == "completed"
    assert series["models"] == ["a", "b", "c"]
    assert series["prompts"] == ["a fox"]
    shown = imagen("series", "show", series["id"])
    assert shown.returncode == 0
    assert series["id"] in shown.stdout


def test_a_series_of_the_past_gives_its_sheet(imagen: Any) -> None:
    """`imagen series sheet ID` draws it from the stored pictures."""
    imagen("compare", "a fox", "--models", "a,b", "-o", "folder/")
    (series,) = json.loads(imagen("series", "list", "--json").stdout)["series"]
    run = imagen("series", "sheet", series["id"], "-o", "sheet.png")
    assert run.returncode == 0, run.stderr
    assert (imagen.here / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_the_sample_config_can_be_redirected_into_place(imagen: Any) -> None:
    """`imagen config init > FILE` prints a config that the program itself accepts."""
    run = imagen("config", "init")
    assert run.returncode == 0, run.stderr
    (imagen.home / "config.yaml").write_text(run.stdout)
    assert imagen("config", "check").returncode == 0
    assert "flux2-klein-local" in run.stdout
    assert "sd35-medium-local" in run.stdout
