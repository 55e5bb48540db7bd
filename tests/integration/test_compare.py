"""`imagen compare` as a person runs it: side by side, cut short, gone on with, and never over anybody's files."""

import io
import json
import os
import shutil
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image
from tests.integration.conftest import both_doors

SCHEMA = Path(__file__).parents[2] / "src/imagen/engine/schemas/compare.schema.json"
SMALL = ("--size", "64x64", "--steps", "4")
FAST = (*SMALL, "--set", "slow=0")
THREE = "mock,mock-warm,mock-cool"


def record(folder: Path) -> dict[str, Any]:
    """compare.json, checked against its published schema."""
    shape: dict[str, Any] = json.loads((folder / "compare.json").read_text())
    jsonschema.validate(shape, json.loads(SCHEMA.read_text()))
    return shape


def states(folder: Path) -> list[str]:
    return [cell["state"] for cell in record(folder)["cells"]]


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """When and as which file each picture of a cell was written."""
    pictures = [path for path in folder.glob("*.png") if "contact-sheet" not in path.name]
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in pictures}


def images_per_job(home: Path) -> Counter[str]:
    """How many pictures were ever drawn for each job."""
    with sqlite3.connect(home / "imagen.db") as database:
        return Counter(row[0] for row in database.execute("select job_id from events where type = 'image'"))


def is_picture(path: Path) -> bool:
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.load()
        return min(picture.size) > 0


@both_doors
def test_one_failing_model_leaves_the_others_alone(imagen: Any) -> None:
    """Pictures of those that can, the error of the one that cannot: in the record, on the sheet and on the page."""
    run = imagen(
        "compare", "a red fox", "--models", f"mock-broken,{THREE}", *FAST, "-o", "out", "--seed", "7", "--html"
    )
    out = imagen.here / "out"
    assert run.returncode == 1, run.stderr
    assert run.stdout == f"{out / 'contact-sheet.png'}\n"
    cells = {cell["model"]: cell for cell in record(out)["cells"]}
    assert {name for name, cell in cells.items() if cell["state"] == "failed"} == {"mock-broken"}
    assert cells["mock-broken"]["error"]["code"] == "out_of_memory"
    for name in THREE.split(","):
        assert cells[name]["file"] == f"a-red-fox_{name}.png"
        assert is_picture(out / cells[name]["file"])
        assert cells[name]["size"]["got"] == {"width": 64, "height": 64}
        assert cells[name]["seed"] == 7
    assert is_picture(out / "contact-sheet.png")
    page = (out / "compare.html").read_text()
    assert cells["mock-broken"]["error"]["message"] in page
    assert page.count("data:image/") == 3
    assert "mock-broken" in run.stderr
    assert str(imagen.here) not in (out / "compare.json").read_text()
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_a_comparison_of_what_works_ends_with_zero(imagen: Any) -> None:
    """Without --models it is the default one, here a mock, and each that is ready; without --seed one seed for all."""
    run = imagen("compare", "a fox", "--size", "64x64", "--json")
    assert run.returncode == 0, run.stderr
    shape = json.loads(run.stdout)
    assert shape == record(imagen.here / "compare-a-fox")
    assert shape["models"] == ["mock", "tiny-3d", "tiny-flat", "tiny-noto"]
    assert len({cell["seed"] for cell in shape["cells"]}) == 1


def test_several_prompts_and_seeds_make_a_grid(imagen: Any) -> None:
    """A row for each prompt and seed, a column for each model, drawn model by model."""
    run = imagen("compare", "a fox", "лиса", "--models", "mock,mock-cool", "--seeds", "3,5", *FAST, "-o", "grid")
    grid = imagen.here / "grid"
    assert run.returncode == 0, run.stderr
    cells = record(grid)["cells"]
    assert [cell["model"] for cell in cells] == ["mock"] * 4 + ["mock-cool"] * 4
    assert cells[0]["file"] == "a-fox_mock_3_1.png"
    assert {cell["file"] for cell in cells} == set(stamps(grid))
    assert any(name.startswith("лиса_") for name in stamps(grid))


@pytest.mark.parametrize(
    "wrong",
    [
        ("--models", "mock,mokc"),
        ("--models", "mock", "--size", "999999x9"),
        ("--models", "mock", "--size", "big"),
        ("--models", "mock", "--steps", "0"),
        ("--models", "mock", "--seeds", "1,x"),
        ("--models", "mock", "--seeds", "1,99999999999999999999"),
        ("--models", "mock", "--set", "nope=1"),
        ("--models", ","),
        ("--failed",),
    ],
)
def test_a_wrong_request_runs_nothing(imagen: Any, wrong: tuple[str, ...]) -> None:
    """Exit 2, a hint, no folder, no job."""
    run = imagen("compare", "a fox", "-o", "out", *wrong)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert not (imagen.here / "out").exists()
    assert imagen.jobs() == []


def test_a_place_that_cannot_be_written_to_is_found_before_drawing(imagen: Any) -> None:
    """Exit 3 and no job."""
    (imagen.here / "taken").write_text("a file")
    run = imagen("compare", "a fox", "--models", "mock", *FAST, "-o", "taken")
    assert run.returncode == 3, run.stderr
    assert imagen.jobs() == []
    assert (imagen.here / "taken").read_text() == "a file"


def test_another_comparison_in_the_folder_stays_as_it_is(imagen: Any) -> None:
    """The second takes the next free name and says so."""
    imagen("compare", "a fox", "--models", "mock", *FAST, "-o", "out")
    before = {path.name: path.read_bytes() for path in (imagen.here / "out").iterdir()}
    run = imagen("compare", "a fox", "--models", "mock-cool", *FAST, "-o", "out")
    assert run.returncode == 0, run.stderr
    assert "out-2" in run.stderr
    assert run.stdout.strip() == str(imagen.here / "out-2" / "contact-sheet.png")
    assert {path.name: path.read_bytes() for path in (imagen.here / "out").iterdir()} == before


def test_two_at_once_into_one_folder(imagen: Any) -> None:
    """Whoever comes second writes elsewhere; both finish."""
    runs = [imagen.start("compare", "a fox", "--models", model, *FAST, "-o", "both") for model in ("mock", "mock-cool")]
    ends = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ends
    folders = sorted(path.name for path in imagen.here.iterdir() if (path / "compare.json").exists())
    assert folders == ["both", "both-2"]
    assert all(states(imagen.here / name) == ["completed"] for name in folders)


def killed_midway(imagen: Any, until: Any, *arguments: str) -> Path:
    """A comparison whose program was killed after its first cell and during its second."""
    process = imagen.start("compare", "a fox", "--models", THREE, *SMALL, "--set", "slow=2", "-o", "out", *arguments)
    out: Path = imagen.here / "out"
    until(lambda: process.poll() is not None or ((out / "compare.json").exists() and "completed" in states(out)))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return out


def test_killed_in_the_middle_it_is_finished_without_redoing_anything(imagen: Any, until: Any) -> None:
    """The finished files keep their time and their bytes, and no cell is drawn twice."""
    out = killed_midway(imagen, until)
    before = stamps(out)
    assert before
    assert states(out).count("completed") < 3
    assert "`imagen compare --resume out`" in imagen("jobs").stderr
    run = imagen("compare", "--resume", "out")
    assert run.returncode == 0, run.stderr
    assert states(out) == ["completed"] * 3
    assert len(stamps(out)) == 3
    assert before.items() <= stamps(out).items()
    assert is_picture(out / "contact-sheet.png")
    assert set(images_per_job(imagen.home).values()) == {1}
    assert len(images_per_job(imagen.home)) == 3
    again = imagen("compare", "--resume", "out")
    assert again.returncode == 0, again.stderr
    assert set(images_per_job(imagen.home).values()) == {1}


def test_the_folder_alone_is_enough(imagen: Any, until: Any) -> None:
    """On a machine whose database has never heard of it, only the missing cells are drawn, under the same id."""
    out = killed_midway(imagen, until)
    before, series = stamps(out), record(out)["series"]
    finished = states(out).count("completed")
    shutil.rmtree(imagen.home)
    imagen.home.mkdir()
    run = imagen("compare", "--resume", str(out))
    assert run.returncode == 0, run.stderr
    assert states(out) == ["completed"] * 3
    assert record(out)["series"] == series
    assert before.items() <= stamps(out).items()
    assert len(imagen.jobs()) == 3 - finished
    assert {job["series"] for job in imagen.jobs()} == {series}


def test_the_series_alone_is_enough(imagen: Any) -> None:
    """Its folder gone, a series is written again from the store, without drawing."""
    imagen("compare", "a fox", "--models", THREE, *FAST, "-o", "out", "--seed", "1")
    series = record(imagen.here / "out")["series"]
    shutil.rmtree(imagen.here / "out")
    run = imagen("compare", "--resume", series)
    assert run.returncode == 0, run.stderr
    assert states(imagen.here / "out") == ["completed"] * 3
    assert set(images_per_job(imagen.home).values()) == {1}
    elsewhere = imagen("compare", "--resume", series, "-o", "elsewhere")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert set(stamps(imagen.here / "elsewhere")) == set(stamps(imagen.here / "out"))


def test_a_lost_picture_is_copied_again(imagen: Any) -> None:
    """A file deleted from the folder comes back from the store; the others are not touched."""
    imagen("compare", "a fox", "--models", THREE, *FAST, "-o", "out", "--seed", "1")
    out = imagen.here / "out"
    before = stamps(out)
    lost = out / "a-fox_mock-warm.png"
    data = lost.read_bytes()
    lost.unlink()
    assert imagen("compare", "--resume", "out").returncode == 0
    assert lost.read_bytes() == data
    assert {name: stamp for name, stamp in stamps(out).items() if name != lost.name}.items() <= before.items()
    assert len(imagen.jobs()) == 3


def test_a_deleted_picture_stays_deleted(imagen: Any) -> None:
    """A cell whose picture was deleted is not drawn again: the record says so; a copy in the folder stays."""
    imagen("compare", "a fox", "--models", THREE, *FAST, "-o", "out", "--seed", "1")
    out = imagen.here / "out"
    with sqlite3.connect(imagen.home / "imagen.db") as database:
        database.execute("update images set state = 'deleted'")
    (out / "a-fox_mock-warm.png").unlink()
    before = stamps(out)
    run = imagen("compare", "--resume", "out", "--failed")
    assert run.returncode == 0, run.stderr
    assert "the picture was deleted" in run.stderr
    assert stamps(out) == before
    assert len(imagen.jobs()) == 3
    assert [cell["deleted"] for cell in record(out)["cells"]].count(True) == 1
    shutil.copytree(out, imagen.here / "copy")
    (imagen.home / "imagen.db").unlink()
    again = imagen("compare", "--resume", "copy")
    assert again.returncode == 0, again.stderr
    assert stamps(imagen.here / "copy").keys() == before.keys()


def test_failed_cells_are_drawn_again_when_asked(imagen: Any) -> None:
    """--failed makes a new job for the cell; without it a failed cell stays as it is."""
    first = imagen("compare", "a fox", "--models", "mock-broken,mock", *FAST, "-o", "out")
    assert first.returncode == 1, first.stderr
    assert "imagen compare --resume out --failed" in first.stderr
    out = imagen.here / "out"
    before = stamps(out)
    assert imagen("compare", "--resume", "out").returncode == 1
    assert len(imagen.jobs()) == 2
    run = imagen("compare", "--resume", "out", "--failed")
    assert run.returncode == 1, run.stderr
    assert len(imagen.jobs()) == 3
    assert states(out) == ["failed", "completed"]
    assert stamps(out) == before


@both_doors
def test_columns_are_added_to_an_old_comparison(imagen: Any) -> None:
    """A new model gets the same prompts, seeds and settings; the old cells stay."""
    imagen("compare", "a fox", "--models", "mock", "--seeds", "4,9", *FAST, "-o", "out")
    out = imagen.here / "out"
    before = stamps(out)
    run = imagen("compare", "--resume", "out", "--add-models", "mock-cool,mock")
    assert run.returncode == 0, run.stderr
    shape = record(out)
    assert shape["models"] == ["mock", "mock-cool"]
    assert [(cell["model"], cell["seed"], cell["steps"]) for cell in shape["cells"]][2:] == [
        ("mock-cool", 4, 4),
        ("mock-cool", 9, 4),
    ]
    assert before.items() <= stamps(out).items()
    assert imagen("compare", "--resume", "out", "--add-models", "mokc").returncode == 2
    assert record(out) == shape


@both_doors
def test_ctrl_c_cancels_and_keeps_what_there_is(imagen: Any, until: Any) -> None:
    """The unfinished cells end, the sheet is drawn, and the way on is told; that way works."""
    process = imagen.start("compare", "a fox", "--models", THREE, *SMALL, "--set", "slow=2", "-o", "out")
    out = imagen.here / "out"
    until(lambda: (out / "compare.json").exists() and "completed" in states(out))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "imagen compare --resume out" in said
    assert set(states(out)) == {"completed", "cancelled"}
    assert is_picture(out / "contact-sheet.png")
    before = stamps(out)
    assert imagen("compare", "--resume", "out").returncode == 0
    assert states(out) == ["completed"] * 3
    assert before.items() <= stamps(out).items()


def test_stopped_politely_it_cancels_nothing(imagen: Any, until: Any) -> None:
    """SIGTERM gives the cell at work back to the queue; resuming draws it under the job it had."""
    process = imagen.start("compare", "a fox", "--models", "mock,mock-warm", *SMALL, "--set", "slow=1", "-o", "out")
    out = imagen.here / "out"
    until(lambda: (out / "compare.json").exists() and "completed" in states(out))
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    jobs = [cell["job"] for cell in record(out)["cells"]]
    assert imagen("compare", "--resume", "out").returncode == 0
    assert [cell["job"] for cell in record(out)["cells"]] == jobs
    assert states(out) == ["completed"] * 2


def test_a_folder_with_someones_files_keeps_them(imagen: Any) -> None:
    """Whatever carries a name that we would have used stays; ours gets a number."""
    out = imagen.here / "out"
    out.mkdir()
    for name in ("a-fox_mock.png", "contact-sheet.png", "compare.html"):
        (out / name).write_bytes(b"mine")
    run = imagen("compare", "a fox", "--models", "mock", *FAST, "-o", "out", "--html")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(out / "contact-sheet-2.png")
    assert record(out)["cells"][0]["file"] == "a-fox_mock-2.png"
    assert {(out / name).read_bytes() for name in ("a-fox_mock.png", "contact-sheet.png", "compare.html")} == {b"mine"}


@pytest.mark.parametrize("target", ["nowhere", "file.txt", "empty"])
def test_what_is_no_comparison_is_told(imagen: Any, target: str) -> None:
    """A name that is no folder of ours and no series: exit 2 and a hint."""
    (imagen.here / "file.txt").touch()
    (imagen.here / "empty").mkdir()
    run = imagen("compare", "--resume", target)
    assert run.returncode == 2, run.stderr
    assert "imagen series list" in run.stderr
    assert list((imagen.here / "empty").iterdir()) == []


def test_a_damaged_record_is_not_overwritten(imagen: Any) -> None:
    """Exit 2; the file stays for whoever wants to mend it."""
    imagen("compare", "a fox", "--models", "mock", *FAST, "-o", "out")
    damaged = imagen.here / "out" / "compare.json"
    os.truncate(damaged, 100)
    data = damaged.read_bytes()
    run = imagen("compare", "--resume", "out")
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert damaged.read_bytes() == data


def test_resuming_takes_nothing_that_would_change_the_comparison(imagen: Any) -> None:
    """Another prompt, seed or size is another comparison."""
    for more in (("a dog",), ("--seed", "3"), ("--models", "mock"), ("--size", "64x64")):
        run = imagen("compare", "--resume", "out", *more)
        assert run.returncode == 2, run.stderr


def test_gone_on_with_nothing_to_do_says_so(imagen: Any) -> None:
    """What was there is told as kept; a picture that was copied again is not."""
    imagen("compare", "a fox", "--models", THREE, *FAST, "-o", "out", "--seed", "1")
    run = imagen("compare", "--resume", "out")
    assert run.stderr.count("(kept)") == 3
    assert "nothing was missing" in run.stderr
    (imagen.here / "out" / "a-fox_mock-warm.png").unlink()
    run = imagen("compare", "--resume", "out")
    assert run.stderr.count("(kept)") == 2
    assert "nothing was missing" not in run.stderr
    run = imagen("compare", "--resume", "out", "--add-models", "mock-broken")
    assert not any("mock-broken" in line and "(kept)" in line for line in run.stderr.splitlines())
