"""The agents' door, piece by piece: schemas, notes, hints, small pictures, places, and what it may not load."""

import asyncio
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from tests.cli_kit import imagen

from imagen.core.errors import Forbidden, NotConfigured, RequestError, Unwritable
from imagen.core.job import Job, State
from imagen.core.request import Request
from imagen.surfaces.mcp import shapes
from imagen.surfaces.mcp.edge import in_tools
from imagen.surfaces.mcp.forecast import seen, total_s
from imagen.surfaces.mcp.pictures import SMALL_BYTES, small
from imagen.surfaces.mcp.saving import Saved, folders_of, save
from imagen.surfaces.mcp.tools import offered
from imagen.surfaces.mcp.waiting import Notes

PROTOCOL = {"mcp", "mcp_types", "cryptography", "sse_starlette"}
TOKENS = 4  # characters, about


@pytest.mark.parametrize("here", [True, False], ids=["stdio", "http"])
def test_the_tools_are_cheap_to_carry(here: bool) -> None:
    """What is in an agent's mind in every session stays below 1,500 tokens, without `anyOf` in what it must write."""
    tools = [tool.told for tool in offered(here=here).values()]
    asked = json.dumps([[tool.name, tool.description, tool.input_schema] for tool in tools])
    assert len(asked) < 1500 * TOKENS
    assert "anyOf" not in asked
    for tool in tools:
        Draft202012Validator.check_schema(tool.input_schema)
        assert tool.output_schema
        Draft202012Validator.check_schema(tool.output_schema)
        assert tool.output_schema["type"] == "object"


def test_only_here_can_a_copy_be_saved() -> None:
    """Over HTTP no argument names a file; on this machine one does, and the tool does not claim only to read."""
    there, here = offered(here=False)["fetch"].told, offered(here=True)["fetch"].told
    assert "save_to" not in json.dumps(there.input_schema)
    assert "save_to" in here.input_schema["properties"]
    assert there.annotations
    assert here.annotations
    assert (there.annotations.read_only_hint, here.annotations.read_only_hint) == (True, False)


def test_numbers_may_come_as_text_and_lists_alone() -> None:
    """Models write `"7"` for 7 and one prompt for a list of one."""
    asked = shapes.Compare.model_validate({"prompts": "a fox", "models": "mock", "seeds": "7", "width": "64"})
    assert (asked.prompts, asked.models, asked.seeds, asked.width) == (["a fox"], ["mock"], [7], 64)


def test_the_first_wait_is_shorter_than_any_patience() -> None:
    """A client that gives a tool five seconds has the id before."""
    assert shapes.Generate.model_validate({"prompt": "a"}).wait_s < 5
    assert shapes.Compare.model_validate({"prompts": ["a"]}).wait_s < 5
    assert shapes.Status.model_validate({}).wait_s == 0


def test_notes_rise_and_do_not_flood() -> None:
    """Each is higher than the last, a repetition is none, and steps within a moment are one."""
    told: list[tuple[float, str | None]] = []

    async def report(value: float, _total: float | None, message: str | None) -> None:
        told.append((value, message))

    async def said() -> None:
        notes = Notes(report)
        await notes.say(0, None, "queued", now=True)
        await notes.say(0, None, "queued", now=True)
        await notes.say(0, None, "loading", now=True)
        for step in range(1, 1000):
            await notes.say(step, 1000, f"step {step}")

    asyncio.run(said())
    values = [value for value, _ in told]
    assert values == sorted(set(values))
    assert [message for _, message in told[:2]] == ["queued", "loading"]
    assert len(told) < 10


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("see `imagen jobs list`", "see the tool `status`"),
        ("see `imagen jobs show 01J`, please", "see the tool `status`, please"),
        ("`GET /v1/models` says what each one lacks", "the tool `models` says what each one lacks"),
        ("GET /docs says what may be sent", "the tool's schema says what may be sent"),
        ("start it: `imagen serve`", "start it: `imagen serve`"),
        ("give at least 1 character", "give some text"),
        ("give at least 1", "give one or more"),
        ("give at least 12", "give at least 12"),
    ],
)
def test_a_hint_names_the_tool(hint: str, told: str) -> None:
    """What an agent cannot do is said as what it can."""
    assert in_tools(hint) == told


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_small_picture_is_small_whatever_it_shows(mode: str) -> None:
    """Noise is the worst there is for a JPEG, and stays below the cap as well."""
    noise = Image.frombytes(mode, (1500, 1000), os.urandom(1500 * 1000 * len(mode)))
    stream = io.BytesIO()
    noise.save(stream, "PNG", compress_level=0)
    told = asyncio.run(small(stream.getvalue(), 512))
    shown = Image.open(io.BytesIO(told))
    shown.load()
    assert len(told) <= SMALL_BYTES
    assert max(shown.size) <= 512
    assert shown.mode in ("RGB", "L")


def _job(draw_s: float, *, width: int = 64, load_s: float = 0.0, **facts: Any) -> Job:
    return Job(
        id="J",
        state=State.COMPLETED,
        request=Request(prompt="a", model="mock", width=width, height=64, steps=4, seed=1),
        timings={"queue": 9.0, "load": load_s, "encode": 0.0, "sample": draw_s, "decode": 0.0, "save": 9.0},
        facts=facts,
        created_at=datetime.now(UTC),
    )


def test_what_was_seen_is_of_jobs_like_this_one() -> None:
    """Medians of those with the same size where there are some, else of all; loading only where it was loaded."""
    jobs = [_job(1, load_s=5, vram_peak_mib=900), _job(2), _job(30, vram_peak_mib=800, cost=0.01), _job(99, width=512)]
    asked = Request(prompt="b", model="mock", width=64, height=64, steps=4, seed=9)
    told = seen(asked, jobs)
    assert told == {
        "jobs": 3,
        "like_this": True,
        "draw_s": 2,
        "load_s": 5,
        "vram_peak_mib": 900,
        "cost": 0.01,
    }
    other = seen(Request(prompt="b", model="mock", width=32, height=32, steps=4, seed=9), jobs)
    assert other is not None
    assert (other["jobs"], other["like_this"]) == (4, False)
    assert seen(asked, []) is None


def test_without_a_folder_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started in a home or at the root, as desktop programs start it, it was told of no folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders_of((), tmp_path) == folders_of((), Path("/")) == ()
    assert folders_of((), tmp_path / "project") == ((tmp_path / "project").resolve(),)
    with pytest.raises(NotConfigured, match="no folder"):
        save("fox.png", (), b"\x89PNG", "fox", "kept")
    with pytest.raises(Forbidden):
        save(str(tmp_path / "fox.png"), ((tmp_path / "project").resolve(),), b"\x89PNG", "fox", "kept")


def test_a_copy_is_what_its_name_says(tmp_path: Path) -> None:
    """Pixels are never encoded again: who asks for a JPEG of a PNG gets a PNG."""
    folders = (tmp_path.resolve(),)
    other = save("fox.jpg", folders, b"\x89PNG...", "fox", "kept")
    assert (other.path, other.differs) == (str(tmp_path / "fox.png"), "the picture is a PNG")
    jpeg = save("fox.jpg", folders, b"\xff\xd8\xff...", "fox", "kept")
    assert jpeg == Saved(path=str(tmp_path / "fox.jpg"))
    assert save("more/", folders, b"RIFF....", "fox", "kept") == Saved(path=str(tmp_path / "more" / "fox.webp"))
    again = save("fox.jpg", folders, b"\xff\xd8\xff...", "fox", "kept")
    assert (again.path, again.differs) == (str(tmp_path / "fox-2.jpg"), "fox.jpg was there already")


def test_a_folder_is_made_by_the_first_copy(tmp_path: Path) -> None:
    """Both the one that was named and those that the copy is to lie in; nothing is made before."""
    folders = folders_of((str(tmp_path / "not" / "yet"),), tmp_path)
    assert not (tmp_path / "not").exists()
    wanted = tmp_path / "not/yet/deep/down/fox.png"
    assert save("deep/down/fox.png", folders, b"\x89PNG...", "fox", "kept") == Saved(path=str(wanted))


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    """When it is named, and not by the first copy."""
    (tmp_path / "file").touch()
    with pytest.raises(Unwritable) as refused:
        folders_of((str(tmp_path / name),), tmp_path)
    assert refused.value.param == "--folder"


@pytest.mark.parametrize("wanted", ["evil\0.png", "~nobody-of-that-name/fox.png", "ring/fox.png", "\ud800.png"])
def test_a_name_that_is_none(wanted: str, tmp_path: Path) -> None:
    """It is the argument's fault, and the hint says what a name is."""
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    with pytest.raises((RequestError, Unwritable)) as refused:
        save(wanted, (tmp_path.resolve(),), b"\x89PNG...", "fox", "kept")
    assert refused.value.param == "save_to"
    assert "-o" not in refused.value.hint


def test_a_file_stands_where_a_folder_should(tmp_path: Path) -> None:
    """The words are those of the tool, and not of a command."""
    (tmp_path / "file").touch()
    with pytest.raises(Unwritable) as refused:
        save("file/fox.png", (tmp_path.resolve(),), b"\x89PNG...", "fox", "kept")
    assert refused.value.param == "save_to"
    assert "nothing was drawn" not in refused.value.message


PROBE = """
import json, sys
if "without" in sys.argv: sys.modules["mcp"] = sys.modules["mcp_types"] = None
sys.argv = ["imagen", *json.loads(sys.argv[1])]
from imagen.surfaces.cli.main import main
try:
    main()
finally:
    print(json.dumps(sorted(name for name, module in sys.modules.items() if module)), file=sys.stderr)
"""


def _run(home: Path, *arguments: str, without: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(arguments), *(["without"] if without else [])],
        env={**os.environ, "IMAGEN_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("generate", "a fox", "-m", "mock", "--set", "slow=0", "--size", "64x64"), ("mcp", "--help")],
    ids=lambda arguments: arguments[0],
)
def test_nobody_else_pays_for_the_protocol(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Its library is large, and nothing but an agent's call loads it."""
    ran = _run(tmp_path, *arguments)
    assert ran.returncode == 0, ran.stderr
    assert not {name.partition(".")[0] for name in json.loads(ran.stderr.splitlines()[-1])} & PROTOCOL


def test_a_server_is_put_together_without_the_protocol() -> None:
    """`/mcp` is there, and what it stands on is loaded by the first who comes."""
    code = "import imagen.surfaces.http.server, json, sys; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in json.loads(ran.stdout)} & PROTOCOL


def test_a_folder_that_is_a_file_ends_it(tmp_path: Path) -> None:
    """Exit code 3 with a hint, before an agent relies on it."""
    (tmp_path / "file").touch()
    ran = _run(tmp_path / "home", "mcp", "--folder", str(tmp_path / "file"))
    assert ran.returncode == 3
    assert "hint:" in ran.stderr
    assert "-o" not in ran.stderr.partition("hint:")[2].splitlines()[0].split()


def test_the_total_is_told_when_it_is_known() -> None:
    """Loading once a model, drawing each picture; a model that never drew makes it a guess, and there is none."""
    known: dict[str, Any] = {"seen": {"draw_s": 2.0, "load_s": 5.0}}
    assert total_s([known, known], 3) == 22.0
    assert total_s([known, {"seen": None}], 3) is None


def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path) -> None:
    """The exact command, and exit code 3."""
    ran = _run(tmp_path, "mcp", without=True)
    assert ran.returncode == 3
    assert "pip install 'imagen-platform[mcp]'" in ran.stderr


def test_help_names_both_doors() -> None:
    """Somebody who reads the help knows where the skill and the server are."""
    assert {"mcp", "skill"} <= set(imagen("--help").out.split())
