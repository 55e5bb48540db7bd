"""What is documented is true: commands parse, Python compiles and names what exists, links lead somewhere."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click
import pytest

import imagen
from imagen.surfaces.cli.main import cli
from imagen.surfaces.cli.where import in_front

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if not {".venv", "demo", "node_modules"} & set(path.parts)
)
SOURCES = sorted((ROOT / "src").rglob("*.py"))

README_LINES = 150  # one look, not a book

_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`((?:\.venv/bin/)?imagen [a-z][^`\n]*)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_HEREDOC = re.compile(r"<<'?(\w+)'?\n.*?^\1$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block; the words after ``` are its language and marks: `sh run` and `python run` are really run."""

    page: Path
    line: int
    marks: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            marks = tuple(match[2].split())
            if (marks[0] if marks else "") in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(page=page, line=line, marks=marks, text=match[3]))
    return found


SHELL = _blocks("", "sh", "bash", "console", "shell")
PYTHON = _blocks("python", "py")


def _commands(block: Block) -> Iterator[list[str]]:
    """The argument lists of `imagen` in a shell block, wherever in a line it stands."""
    console = "console" in block.marks
    for line in _HEREDOC.sub("", block.text.replace("\\\n", " ")).splitlines():
        if console:
            if not line.startswith("$ "):
                continue
            line = line[2:]
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                command.append(word)
                continue
            while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                del command[0]
            if command and Path(command[0]).name == "imagen":
                yield command[1:]
            command = []


def _parse(arguments: list[str]) -> None:
    """Parse as the command line would, and stop before doing anything; raises click's UsageError."""
    command: click.Command = cli
    context = click.Context(command, info_name="imagen")
    rest = in_front(arguments)
    while rest[:1] == ["--server"]:
        rest = rest[2:]
    while isinstance(command, click.Group):
        options: list[str] = []
        words = rest
        while words and words[0].startswith("-"):
            options, words = [*options, words[0]], words[1:]
        if not words:
            break
        name, found, rest = command.resolve_command(context, words)
        assert found is not None
        command = found
        context = click.Context(command, info_name=name, parent=context)
    if not isinstance(command, click.Group) and not {"--help", "-h", "--version"} & set(arguments):
        command.parse_args(context, rest)


def _leads_to_a_command(line: str) -> None:
    """The words up to the first placeholder or option are a command there is."""
    words = [word for word in line.split()[1:] if re.fullmatch(r"[a-z-]+", word)]
    command: click.Command = cli
    context = click.Context(command, info_name="imagen")
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            return
        found = command.get_command(context, word)
        assert found is not None, f"`{line}`: there is no `{context.command_path} {word}`"
        command, context = found, click.Context(found, info_name=word, parent=context)


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.where)
def test_a_documented_command_line_parses(block: Block) -> None:
    """Every `imagen …` in a shell block has a command, options and arguments that exist."""
    for arguments in _commands(block):
        try:
            _parse(arguments)
        except click.UsageError as wrong:
            pytest.fail(f"{block.where}: imagen {shlex.join(arguments)}: {wrong.format_message()}")


@pytest.mark.parametrize("block", [block for block in SHELL if "run" in block.marks], ids=lambda block: block.where)
def test_a_shell_block_marked_run_runs(block: Block, tmp_path: Path) -> None:
    """Blocks marked `run` work as they stand, in an empty folder with an empty home."""
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "IMAGEN_HOME": str(tmp_path / "home")}
    folder = tmp_path / "here"
    folder.mkdir()
    text = block.text
    if "console" in block.marks:
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    run = subprocess.run(
        ["sh", "-eu", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.where)
def test_documented_python_names_what_exists(block: Block) -> None:
    """Every Python block compiles, and each `imagen.NAME` and import of ours in it is there."""
    tree = compile(block.text, block.where, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="imagen"), attr=name):
                assert hasattr(imagen, name), f"{block.where}: imagen.{name} does not exist"
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "imagen":
                for item in names:
                    assert hasattr(import_module(module), item.name), f"{block.where}: {module}.{item.name}"


@pytest.mark.parametrize("block", [block for block in PYTHON if "run" in block.marks], ids=lambda block: block.where)
def test_a_python_block_marked_run_runs(block: Block, tmp_path: Path) -> None:
    """Blocks marked `run` work as they stand: whole programs, in an empty folder with an empty home."""
    environment = {**os.environ, "IMAGEN_HOME": str(tmp_path / "home")}
    program = tmp_path / "program.py"
    program.write_text(block.text, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_command_named_in_passing_exists(path: Path) -> None:
    """`imagen …` between backticks, in a page, a comment or a hint, names a command there is."""
    for match in _SPAN.finditer(path.read_text(encoding="utf-8")):
        _leads_to_a_command(match[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file of this project, and its #anchor a heading of that file."""
    for match in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target, _, anchor = match[1].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.relative_to(ROOT)}: {match[1]}"
        if anchor:
            headings = _HEADING.findall(path.read_text(encoding="utf-8"))
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.relative_to(ROOT)}: {match[1]}"


def test_the_readme_is_one_look() -> None:
    """The README has at most 150 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_reference_is_what_the_code_says() -> None:
    """docs/reference has not drifted from the code; `make docs` writes it anew."""
    run = subprocess.run(
        [sys.executable, "-m", "tools.reference", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
