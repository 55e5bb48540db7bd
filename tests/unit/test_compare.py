"""Planning, naming, remembering and laying out a comparison."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen.core.errors import Conflict, OutOfMemory, RequestError, UnknownModel, Unwritable
from imagen.core.job import Cell, Job, State, StoredImage, cells_of
from imagen.core.model import Model, ModelFile
from imagen.core.request import Draft, Request
from imagen.engine.comparing.document import (
    DOCUMENT,
    Document,
    Entry,
    entry_of,
    plain_name,
    read,
    slug,
    stem_of,
    told,
)
from imagen.engine.comparing.folder import Folder
from imagen.engine.comparing.page import Layout, page
from imagen.engine.comparing.plan import plan
from imagen.engine.comparing.run import Move, next_move
from imagen.engine.states import ModelState, usable

NOW = datetime(2026, 5, 11, tzinfo=UTC)
MODELS = {name: Model(name=name, backend="mock", device="cpu@here", licence="MIT") for name in ("a", "b", "c")}


def resolve(draft: Draft) -> tuple[Request, Model]:
    if draft.model not in MODELS:
        raise UnknownModel(f"no model {draft.model}", hint="see `imagen models`")
    request = Request(
        prompt=draft.prompt,
        model=draft.model,
        width=draft.width or 64,
        height=draft.height or 48,
        steps=draft.steps or 4,
        seed=draft.seed or 0,
    )
    return request, MODELS[draft.model]


def planned(*, prompts: Any = ("a fox",), models: Any = ("a", "b"), seeds: Any = (7,), **settings: Any) -> Document:
    return plan(prompts, models, seeds, settings=settings, resolve=resolve)


def job(state: State, **more: Any) -> Job:
    request = Request(prompt="a fox", model="a", width=64, height=48, steps=4, seed=7)
    return Job(id="J", state=state, request=request, created_at=NOW, **more)


IMAGE = StoredImage(index=0, id="I", url="u", width=64, height=48, seed=7, sha256="s", pixels_sha256="p")
DONE = job(
    State.COMPLETED, images=(IMAGE,), timings={"queue": 9.0, "load": 5.0, "encode": 0.5, "sample": 1.0, "decode": 0.25}
)


def test_each_model_is_loaded_once() -> None:
    """Cells come model by model, each with every prompt and seed."""
    cells = cells_of(["x", "y"], ["a", "b"], [1, 2])
    assert [cell.model for cell in cells] == ["a"] * 4 + ["b"] * 4
    assert [(cell.prompt, cell.seed) for cell in cells[:4]] == [("x", 1), ("x", 2), ("y", 1), ("y", 2)]
    assert [cell.index for cell in cells] == list(range(8))


def test_what_is_named_twice_is_there_once() -> None:
    """Models, prompts and seeds given twice make no second cell, also when they differ only in how they are typed."""
    document = planned(prompts=("a fox", "a fox"), models=("a", "b", "a"), seeds=(1, 1, 2))
    assert (document.prompts, document.models, document.seeds) == (("a fox",), ("a", "b"), (1, 2))
    assert [cell.index for cell in document.cells] == [0, 1, 2, 3]


def test_an_unknown_model_is_found_before_anything_runs() -> None:
    """The last cell is checked like the first."""
    with pytest.raises(UnknownModel):
        planned(models=("a", "nope"))


def test_a_comparison_without_a_cell_is_refused() -> None:
    """No models, no comparison."""
    with pytest.raises(RequestError):
        planned(models=())


def test_the_record_says_what_was_asked_and_nothing_more() -> None:
    """Settings hold what was typed; each cell holds what it came to."""
    document = planned(width=128, steps=None)
    assert document.as_dict()["settings"] == {"width": 128}
    first = document.as_dict()["cells"][0]
    assert first["size"] == {"asked": {"width": 128, "height": 48}, "got": None}
    assert (first["licence"], first["state"], first["file"]) == ("MIT", "queued", None)


def test_no_absolute_path_enters_the_record() -> None:
    """A file that lies somewhere on this machine is told by its name."""
    model = Model(
        name="a",
        backend="comfyui",
        device="d",
        workflow="/home/me/flows/mine.json",
        files=(ModelFile(path="/data/x.safetensors", folder="/data"), ModelFile(path="sub/y", folder="vae")),
    )
    entry = entry_of(Cell(index=0, prompt="p", model="a", seed=1), None, model)
    assert entry.workflow == "mine.json"
    assert [file["path"] for file in entry.files] == ["x.safetensors", "sub/y"]
    assert "/" not in entry.files[0]["folder"]


def test_the_latency_is_encode_sample_and_decode() -> None:
    """Loading the model and waiting for it are not the model's speed."""
    entry = told(planned().cells[0], DONE, "x.png")
    assert entry.latency_s == 1.75
    assert told(entry, job(State.FAILED, timings={"sample": 1.0}), None).latency_s is None


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A Wizard, casting a spell!", "a-wizard-casting-a-spell"),
        ("лиса в снегу", "лиса-в-снегу"),
        ("雪の中の狐", "雪の中の狐"),
        ("हिन्दी में लोमड़ी", "हिन्दी-में-लोमड़ी"),
        ("🦊🦊", "picture"),
        ("...", "picture"),
        ("../../etc/passwd", "etc-passwd"),
        ("", "picture"),
        ("a\0b\nc", "a-b-c"),
    ],
)
def test_a_slug_tells_the_prompt(prompt: str, expected: str) -> None:
    """Letters of any script stay, everything else separates."""
    assert slug(prompt) == expected


@given(st.text(), st.text(min_size=1))
def test_any_prompt_and_model_make_a_safe_name(prompt: str, model: str) -> None:
    """Bounded, never empty, never hidden, never a path."""
    document = Document(series="S", prompts=("x", prompt), models=(model,), seeds=(1, 2))
    name = stem_of(document, Entry(index=0, prompt=prompt, model=model, seed=2**63 - 1)) + ".png"
    assert plain_name(name)
    assert len(name.encode()) < 240
    assert slug(prompt) not in ("", ".", "..")


def test_a_name_says_only_what_tells_the_cells_apart() -> None:
    """One prompt and seed: slug and model; several: seed and number of the prompt too."""
    single = planned()
    assert stem_of(single, single.cells[0]) == "a-fox_a"
    several = planned(prompts=("a fox", "a fox!"), seeds=(7, 8))
    assert [stem_of(several, cell) for cell in several.cells[:4]] == [
        "a-fox_a_7_1",
        "a-fox_a_8_1",
        "a-fox_a_7_2",
        "a-fox_a_8_2",
    ]


def test_a_record_reads_back_as_it_was_written() -> None:
    """compare.json loses nothing that a resumed comparison needs."""
    document = planned(width=128, options={"slow": 0.5}, negative="fog")
    failed = told(document.cells[1], job(State.FAILED, error=OutOfMemory("too big", hint="smaller")), None)
    document = document.with_entry(told(document.cells[0], DONE, "a-fox_a.png")).with_entry(failed)
    assert read(document.as_bytes(), DOCUMENT) == document


def test_fields_of_later_versions_are_ignored() -> None:
    """The record only ever gains fields, so a reader skips what it does not know."""
    shape = planned().as_dict() | {"rating": 5}
    shape["cells"][0]["mood"] = "calm"
    assert read(json.dumps(shape).encode(), DOCUMENT).models == ("a", "b")


def _with(**changes: Any) -> bytes:
    return json.dumps(planned().as_dict() | changes).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        _with(series=""),
        _with(cells=[]),
        _with(cells="many"),
        _with(models=None),
        _with(sheet="../../sheet.png"),
        _with(sheet="/etc/passwd"),
        _with(page=".hidden"),
        _with(cells=[planned().as_dict()["cells"][0]] * 2),
        _with(cells=[planned().as_dict()["cells"][0] | {"file": "..\\x.png"}]),
        _with(cells=[planned().as_dict()["cells"][0] | {"state": "asleep"}]),
        _with(settings={"width": "wide"}),
    ],
)
def test_a_damaged_record_is_refused_with_a_way_on(data: bytes) -> None:
    """No hostile or broken compare.json gets further than one error with a hint."""
    with pytest.raises(RequestError) as refused:
        read(data, "DIR/compare.json")
    assert "DIR/compare.json" in refused.value.message
    assert "series list" in refused.value.hint


def test_a_record_of_a_newer_imagen_says_so() -> None:
    """It is not damaged, and updating helps."""
    with pytest.raises(RequestError, match="newer imagen") as refused:
        read(_with(schema=99), DOCUMENT)
    assert "update" in refused.value.hint


ENTRY = planned().cells[0]


@pytest.mark.parametrize(
    ("state", "known", "here", "retry_failed", "move"),
    [
        (State.COMPLETED, DONE, True, True, Move.KEEP),
        (State.COMPLETED, None, True, True, Move.KEEP),
        (State.COMPLETED, DONE, False, False, Move.SETTLE),
        (State.COMPLETED, None, False, False, Move.SUBMIT),
        (State.QUEUED, None, False, False, Move.SUBMIT),
        (State.QUEUED, DONE, False, False, Move.SETTLE),
        (State.QUEUED, job(State.QUEUED), False, False, Move.FOLLOW),
        (State.QUEUED, job(State.RUNNING), False, True, Move.FOLLOW),
        (State.FAILED, job(State.FAILED), False, False, Move.SETTLE),
        (State.FAILED, job(State.FAILED), False, True, Move.RETRY),
        (State.FAILED, None, False, False, Move.KEEP),
        (State.FAILED, None, False, True, Move.SUBMIT),
        (State.CANCELLED, job(State.CANCELLED), False, False, Move.RETRY),
        (State.CANCELLED, None, False, False, Move.SUBMIT),
    ],
)
def test_resuming_does_what_is_missing(
    state: State, known: Job | None, here: bool, retry_failed: bool, move: Move
) -> None:
    """What is finished is kept, what was stopped goes on, what failed only when that is asked for."""
    assert next_move(replace(ENTRY, state=state), known, here=here, retry_failed=retry_failed) is move


GONE = (replace(IMAGE, state="deleted"),)


@pytest.mark.parametrize("ended", [State.COMPLETED, State.FAILED, State.CANCELLED])
@pytest.mark.parametrize("retry_failed", [False, True])
def test_a_deleted_picture_is_never_drawn_again(ended: State, retry_failed: bool) -> None:
    """However its job ended, whatever is asked, and also where only the folder knows of it."""
    deleted = told(ENTRY, job(ended, images=GONE), None)
    assert deleted.deleted
    assert next_move(ENTRY, job(ended, images=GONE), here=False, retry_failed=retry_failed) is Move.SETTLE
    assert next_move(deleted, None, here=False, retry_failed=retry_failed) is Move.KEEP
    reread = read(planned().with_entry(deleted).as_bytes(), DOCUMENT).cells[0]
    assert next_move(reread, None, here=False, retry_failed=retry_failed) is Move.KEEP


@pytest.mark.parametrize("ended", [State.COMPLETED, State.CANCELLED])
def test_the_page_says_which_picture_was_deleted(ended: State) -> None:
    """And another thing of one that is only lost; a copy that is still here is shown."""
    document = planned()
    deleted = document.with_entry(told(document.cells[0], job(ended, images=GONE), None))
    assert "the picture was deleted" in page(deleted, {}).decode()
    lost = document.with_entry(told(document.cells[0], DONE, None))
    assert "not there any more" in page(lost, {}).decode()
    kept = document.with_entry(told(document.cells[0], job(State.COMPLETED, images=GONE), "a.png"))
    assert "the picture was deleted" not in page(kept, {0: b"RIFF0000WEBP"}).decode()


def claim(path: Path) -> Folder:
    return Folder.claim(path, lambda sheet: json.dumps({"sheet": sheet}).encode())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_another_comparison_is_never_touched(tmp_path: Path) -> None:
    """A folder with a compare.json is left as it is; the next free number is taken."""
    with claim(tmp_path / "x"), claim(tmp_path / "x") as second, claim(tmp_path / "x") as third:
        assert (second.path.name, third.path.name) == ("x-2", "x-3")


def test_files_of_others_stay_as_they_are(tmp_path: Path) -> None:
    """Pictures and the sheet take a free name in a folder that somebody uses already."""
    (tmp_path / "contact-sheet.png").write_bytes(b"mine")
    (tmp_path / "fox.png").write_bytes(b"mine too")
    (tmp_path / "fox-2.png").symlink_to("nowhere")
    with claim(tmp_path) as folder:
        assert folder.sheet == "contact-sheet-2.png"
        assert folder.add("fox", ".png", b"drawn") == "fox-3.png"
    assert (tmp_path / "contact-sheet.png").read_bytes() == b"mine"
    assert (tmp_path / "fox.png").read_bytes() == b"mine too"


def test_a_picture_that_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    """Killed between the picture and the record, the next run finds the picture and leaves it alone."""
    with claim(tmp_path) as folder:
        folder.add("fox", ".png", b"drawn")
        os.utime(tmp_path / "fox.png", ns=(1, 1))
        assert folder.add("fox", ".png", b"drawn") == "fox.png"
        assert (tmp_path / "fox.png").stat().st_mtime_ns == 1
    assert names(tmp_path) == {DOCUMENT, "fox.png"}


def test_a_file_system_without_links_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """exFAT and some network shares cannot link; names are still taken only once."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with claim(tmp_path) as folder:
        assert [folder.add("fox", ".png", data) for data in (b"one", b"two", b"one")] == [
            "fox.png",
            "fox-2.png",
            "fox.png",
        ]
    assert names(tmp_path) == {DOCUMENT, "fox.png", "fox-2.png"}


def test_two_programs_never_work_in_one_folder(tmp_path: Path) -> None:
    """The second is told to wait; once the first is gone, however it went, the folder is free."""
    with claim(tmp_path), pytest.raises(Conflict):
        Folder.open(tmp_path)
    Folder.open(tmp_path).close()


def test_nothing_stays_of_a_comparison_that_could_not_begin(tmp_path: Path) -> None:
    """A folder made for it goes again; a folder that was there keeps what was in it."""
    claim(tmp_path / "new").abandon()
    assert not (tmp_path / "new").exists()
    (tmp_path / "notes.txt").touch()
    claim(tmp_path).abandon()
    assert names(tmp_path) == {"notes.txt"}


def test_half_written_files_of_a_killed_program_go(tmp_path: Path) -> None:
    """They are ours by their name, and nobody can be writing them while the folder is locked."""
    with claim(tmp_path) as folder:
        (tmp_path / ".imagen-compare-123456.part").write_bytes(b"half")
        folder.tidy()
    assert names(tmp_path) == {DOCUMENT}


@pytest.mark.parametrize("under", ["", "deeper/still"])
def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path, under: str) -> None:
    """The owner of the file is not asked to move it."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(Unwritable) as refused:
        claim(tmp_path / "taken" / under)
    assert "taken" in refused.value.message


def test_a_row_is_named_by_what_tells_it_from_the_others() -> None:
    """One prompt needs no name in each row, nor does one seed."""
    assert Layout.of(planned()).headings == ("",)
    assert Layout.of(planned(seeds=(1, 2))).headings == ("seed 1", "seed 2")
    assert Layout.of(planned(prompts=("x", "y"))).headings == ("x", "y")
    assert Layout.of(planned(prompts=("x", "y"), seeds=(1, 2))).headings[3] == "y · seed 2"


def test_the_page_needs_nothing_and_runs_nothing(tmp_path: Path) -> None:
    """Prompts and errors are text, whatever they hold; a failed cell shows why."""
    document = planned(prompts=("<script>alert(1)</script>",))
    failed = told(document.cells[1], job(State.FAILED, error=OutOfMemory("<b>too big</b>", hint="ask for less")), None)
    document = document.with_entry(told(document.cells[0], DONE, "a fox#1.png")).with_entry(failed)
    text = page(document, {0: b"RIFF0000WEBP"}).decode()
    assert "<script" not in text
    assert "&lt;b&gt;too big" in text
    assert "ask for less" in text
    assert 'href="a%20fox%231.png"' in text
    assert 'src="data:image/webp;base64,' in text
    assert "1.8 s" in text


def test_a_record_that_is_no_json_says_where(tmp_path: Path) -> None:
    """In words, not in those of the parser."""
    with pytest.raises(RequestError, match=r"compare\.json cannot be read: it is not JSON from line 2 on"):
        read(b'{\n"series": oops}', "compare.json")


@pytest.mark.parametrize(
    ("default", "chosen"), [("real", ["real"]), ("mock", ["mock", "real"]), ("paid", ["real"]), (None, ["real"])]
)
def test_the_default_model_is_compared_though_it_is_a_mock(default: str | None, chosen: list[str]) -> None:
    """Nobody else's mocks are, and nothing that costs money."""
    told = [
        ModelState(
            model=Model(
                name=name, backend="mock" if "mock" in name else "onnx", device="cpu@here", paid=name == "paid"
            ),
            available=True,
            default=name == default,
        )
        for name in ("mock", "mock-warm", "paid", "real")
    ]
    assert usable(told) == chosen
