"""The skill, followed line by line as an agent would: from its installation to pictures and a sheet."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.service_kit import PROGRAM, House

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S = 60.0


class Reader:
    """Somebody who knows the skill's text, a shell, and nothing else."""

    def __init__(self, house: House, text: str) -> None:
        self.here = house.folder / "work"
        self.here.mkdir()
        self._environment = house.environment | {"PATH": f"{PROGRAM.parent}:/usr/bin:/bin"}
        self._environment.pop("IMAGEN_DEFAULT_MODEL")
        self._left = [block.strip() for block in BLOCK.findall(text)]
        self.words: dict[str, str] = {}  # what stands for the words in capitals, as earlier answers told it

    def next(self, begins: str) -> str:
        """Run the next block of the text, which begins like this; what it printed."""
        block = self._left.pop(0)
        assert block.startswith(begins), f"the text goes on with: {block}"
        for word, meaning in self.words.items():
            block = re.sub(rf"\b{word}\b", meaning, block)
        assert not re.search(r"\b[A-Z]{3,}\b", block), f"nothing told what to put into: {block}"
        ran = subprocess.run(
            ["sh", "-c", block], cwd=self.here, env=self._environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    @property
    def done(self) -> bool:
        return not self._left


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(folder=tmp_path) as home:
        yield home


def test_the_skill_is_followed_to_a_picture(house: House) -> None:
    """Every command of the text, in its order, on a machine with nothing but the program."""
    installed = house.run("skill", "install", "--agent", "claude", "--json")
    (folder,) = json.loads(installed.stdout)["folders"]
    assert folder == str(house.folder / ".claude/skills/imagen")
    reader = Reader(house, (Path(folder) / "SKILL.md").read_text())

    checked = json.loads(reader.next("imagen models check"))["models"]
    ready = [one["model"] for one in checked if one["ok"]]
    assert [check["error"]["hint"] for one in checked if not one["ok"] for check in one["checks"] if check["error"]]
    reader.words["MODEL"] = next(name for name in ready if name.startswith("tiny"))
    reader.words["OTHER"] = next(name for name in ready if name != reader.words["MODEL"])
    shown = json.loads(reader.next("imagen models show"))
    assert {"defaults", "limits", "options", "paid", "backend", "notes"} <= set(shown)

    told = _lines(reader.next("imagen generate"))
    assert told[0]["job"]
    assert told[-1]["type"] == "completed"
    kept = Path(told[-1]["images"][0]["url"].removeprefix("file://"))
    assert (reader.here / "fox.png").read_bytes() == kept.read_bytes()
    with Image.open(kept) as picture:
        assert picture.size == (shown["defaults"]["width"], shown["defaults"]["height"])

    reader.next("imagen generate")  # in the background
    _until(lambda: (reader.here / "job.jsonl").stat().st_size)
    reader.words["JOB"] = _lines(reader.next("head"))[0]["job"]
    assert json.loads(reader.next("imagen jobs show"))["state"] in ("queued", "running", "completed")
    ended = _lines(reader.next("imagen jobs watch"))[-1]
    assert ended["type"] == "completed"
    assert Path(ended["images"][0]["url"].removeprefix("file://")).exists()

    compared = json.loads(reader.next("imagen compare"))
    assert [cell["model"] for cell in compared["cells"]] == [reader.words["MODEL"], reader.words["OTHER"]]
    for cell in compared["cells"]:
        assert {"file", "timings", "vram_peak_mib", "cost", "error"} <= set(cell)
        assert (reader.here / "compare" / cell["file"]).exists()
    with Image.open(reader.here / "compare/contact-sheet.png") as sheet:
        sheet.load()
    again = json.loads(reader.next("imagen compare --resume"))
    assert [cell["sha256"] for cell in again["cells"]] == [cell["sha256"] for cell in compared["cells"]]

    assert json.loads(reader.next("imagen doctor"))
    assert reader.done


def test_an_error_is_as_the_skill_says(house: House) -> None:
    """The exit code tells whose turn it is, and each command has the hint where the text says that it stands."""
    ran = house.run("generate", "a fox", "-m", "no-such-model", "--json")
    assert ran.returncode == 2
    assert _lines(ran.stdout)[-1]["error"]["hint"]
    failed = house.run("generate", "[fail:crashed]", "-m", "mock", "--set", "slow=0", "--json")
    assert failed.returncode == 1
    last = _lines(failed.stdout)[-1]
    assert (last["type"], bool(last["error"]["hint"])) == ("failed", True)
    watched = house.run("jobs", "watch", last["job"], "--json")
    assert (watched.returncode, _lines(watched.stdout)[-1]) == (1, last)
    small = ("--set", "slow=0", "--size", "64x64", "--json")
    compared = house.run("compare", "a fox", "--models", "mock,mock-broken", *small)
    assert compared.returncode == 1
    assert [bool(cell["error"]) for cell in json.loads(compared.stdout)["cells"]] == [False, True]
    for refused in (("models", "show", "none"), ("jobs", "show", "none"), ("compare", "a", "--models", "none")):
        ran = house.run(*refused, "--json")
        assert (ran.returncode, bool(json.loads(ran.stdout)["error"]["hint"])) == (2, True)


@pytest.mark.parametrize(("number", "code", "state"), [("INT", 130, "cancelled"), ("TERM", 143, "queued")])
def test_an_interruption_is_as_the_skill_says(number: str, code: int, state: str, house: House) -> None:
    """Its own exit code; the job is cancelled by Ctrl-C and waits after SIGTERM."""
    arguments = [str(PROGRAM), "generate", "a fox", "-m", "mock", "--set", "slow=20", "--size", "64x64", "--json"]
    with subprocess.Popen(arguments, env=house.environment, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        job = json.loads(program.stdout.readline())["job"]
        while '"progress"' not in program.stdout.readline():
            pass
        program.send_signal(getattr(signal, f"SIG{number}"))
        assert "error" not in program.stdout.read()
        assert program.wait(20) == code
    assert json.loads(house.run("jobs", "show", job, "--json").stdout)["state"] == state


def test_a_stopped_command_loses_nothing(house: House) -> None:
    """As the text says: the job waits, and watching it draws it."""
    begun = house.start("generate", "a fox", "-m", "mock", "--set", "slow=5", "--size", "64x64", "--json")
    _until(lambda: '"progress"' in begun.said())
    begun.stop()
    job = json.loads(begun.said().splitlines()[0])["job"]
    (first, *_) = json.loads(house.run("jobs", "list", "--json").stdout)["jobs"]
    assert (first["id"], first["state"]) == (job, "queued")
    assert _lines(house.run("jobs", "watch", job, "--json").stdout)[-1]["type"] == "completed"


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _until(condition: Any) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)
