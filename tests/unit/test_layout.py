"""The shape of the house: files that fit in a head, one direction of imports, words for strangers."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "imagen"
MODULES = sorted(PACKAGE.rglob("*.py"))

LONGEST = 400  # lines one can still hold in mind
LONGER_FOR_A_REASON: dict[str, str] = {
    "src/imagen/app.py": "one short method for each verb of the one door: in two files half of them would be missed",
}

# What somebody outside could not make sense of: names of a place, a process or a piece of paper.
INSIDE_WORDS = (
    r"/work/",
    r"/tmp/plan",
    r"\.\./shared",
    r"issue #?\d+",
    r"house[- ]style",
    r"\bdeveloper [A-Z]\b",
    r"\bas an AI\b",
    r"--index-url",
    r"\bTODO\b",
    r"\bFIXME\b",
    r"\bXXX\b",
)
TEXTS = {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".sh", ".txt", ""}


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _texts() -> Iterator[Path]:
    """Every text of the project, without what is made or installed."""
    for top in ("src", "tests", "docs", "examples", "benchmarks", "tools", ".ci"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and path.suffix in TEXTS and "__pycache__" not in path.parts:
                yield path
    yield from (path for path in sorted(ROOT.iterdir()) if path.is_file() and path.suffix in TEXTS)


def test_every_module_fits_in_a_head() -> None:
    """A module is at most 400 lines, or stands in the list with its reason."""
    lengths = {_relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST and name not in LONGER_FOR_A_REASON}
    assert not too_long
    assert not [name for name in LONGER_FOR_A_REASON if lengths.get(name, 0) <= LONGEST], "no longer an exception"


@pytest.mark.parametrize("path", MODULES, ids=_relative)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """The first statement of a module is a docstring whose first line is a whole sentence."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert said, "no docstring"
    assert said.split("\n\n")[0].rstrip().endswith((".", "?", "!"))


def test_imports_go_one_way() -> None:
    """The layers of the architecture page hold; the contracts stand in pyproject.toml."""
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_nothing_is_written_for_insiders() -> None:
    """No text of the project names a workplace, a private paper or work left undone."""
    pattern = re.compile("|".join(INSIDE_WORDS))
    found = [
        f"{_relative(path)}:{number}: {match[0]}"
        for path in _texts()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert not found, "\n".join(found)


def test_constraints_name_no_place() -> None:
    """Every line of constraints.txt is a name and a version, so that any index may serve it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    odd = [line for line in lines if not line.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.!+-]+", line)]
    assert not odd
