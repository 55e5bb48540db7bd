"""One place where every error of the command line ends, and commands that load only when they are asked for."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.cli_kit import imagen

from imagen.surfaces.cli.exits import BROKEN_PIPE, INTERRUPTED
from imagen.surfaces.cli.main import COMMANDS, cli
from imagen.surfaces.cli.output import age, ahead, byte_size, columns, cut, one_line, table

PROGRAM = [sys.executable, "-m", "imagen"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("group", ["db", "skill"])
def test_a_group_without_a_command_shows_its_help(group: str) -> None:
    """As lines, and as a mistake: nothing was done."""
    half, whole = imagen(group), imagen(group, "--help")
    assert half.code == 2
    assert half.err == whole.out


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `doctor` that raises what a test puts here."""
    raised: list[BaseException] = []

    @click.command()
    @click.option("--json", "json_output", is_flag=True)
    def failing(json_output: bool) -> None:
        click.echo("said before")
        raise raised[0]

    module = type(sys)("imagen.surfaces.cli.failing")
    module.failing = failing  # type: ignore[attr-defined] # a module made here has no declared names
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "doctor", ("failing", "failing", ""))
    return raised


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_in_the_list_is_the_commands_own(name: str) -> None:
    """The words stand twice so that `imagen --help` is quick; they are the same words."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(200) == COMMANDS[name][2]


def test_help_lists_every_command_and_version_names_the_program() -> None:
    """Also without any argument."""
    help_ = imagen("--help")
    assert help_.code == 0
    assert all(f"  {name} " in help_.out for name in COMMANDS)
    assert imagen().out == imagen("-h").out == help_.out
    assert imagen("--version").out.startswith("imagen 0.")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("modles",), "'modles'", "did you mean models?"),
        (("jobs", "lst"), "'lst'", "did you mean list?"),
        (("generate", "--modle", "mock", "x"), "'--modle'", "did you mean --model"),
        (("a red fox",), "'a red fox'", "imagen generate"),
        (("jobs", "show"), "missing argument 'ID'", "imagen jobs show --help"),
        (("jobs", "list", "--limit", "many"), "'many'", "imagen jobs list --help"),
        (("generate", "x", "y"), "y", "put the prompt in quotes; see `imagen generate --help`"),
        (("--nonsense",), "'--nonsense'", "imagen --help"),
    ],
)
def test_a_mistyped_command_line_says_what_to_type(arguments: tuple[str, ...], message: str, hint: str) -> None:
    """In the form of all other errors, with exit code 2 and nothing on standard output."""
    ran = imagen(*arguments)
    assert (ran.code, ran.out) == (2, "")
    error, told = ran.err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert told.startswith("  hint: ")
    assert hint in told


def test_with_json_an_error_is_the_one_document(home: Path) -> None:
    """Programs read it where they read results."""
    for arguments, code in ((("models", "show", "nope", "--json"), "unknown_model"), (("jobs", "--jsn", "--json"), "")):
        ran = imagen(*arguments)
        error = json.loads(ran.out)["error"]
        assert ran.code == 2
        assert code in error["code"]
        assert error["hint"]


def test_json_after_two_dashes_is_a_word() -> None:
    """`--` ends the options."""
    assert imagen("jobs", "show", "--", "--json", "x").out == ""


def test_a_bug_is_one_line_and_a_file(home: Path, broken: list[BaseException]) -> None:
    """No traceback on the screen; all of it in the logs folder, for its owner only."""
    broken.append(ZeroDivisionError("by\nzero"))
    ran = imagen("doctor", "--json")
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert ran.err.startswith("error: unexpected ZeroDivisionError: by zero\n")
    (report,) = (home / "logs").iterdir()
    assert str(report) in ran.err
    assert "Traceback" in report.read_text()
    assert "--json" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0


def test_a_bug_is_told_even_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: list[BaseException]
) -> None:
    """The report goes to the temporary folder when the home refuses."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path / "file" / "home"))
    broken.append(ZeroDivisionError())
    ran = imagen("doctor")
    assert ran.code == 1
    report = Path(ran.err.split("the details are in ")[1].strip())
    assert "Traceback" in report.read_text()
    report.unlink()


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130(broken: list[BaseException], raised: BaseException) -> None:
    """What shells expect of an interrupted program, without a traceback."""
    broken.append(raised)
    ran = imagen("doctor")
    assert (ran.code, ran.err) == (INTERRUPTED, "interrupted\n")


@pytest.mark.parametrize(("raised", "code"), [(SystemExit(3), 3), (SystemExit(), 0), (click.exceptions.Exit(4), 4)])
def test_a_command_may_choose_its_exit_code(broken: list[BaseException], raised: BaseException, code: int) -> None:
    """Nothing is added to what it said."""
    broken.append(raised)
    ran = imagen("doctor")
    assert (ran.code, ran.out, ran.err) == (code, "said before\n", "")


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    """`imagen models | head -0` leaves quietly."""
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run([*PROGRAM, "models"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert ran.returncode == BROKEN_PIPE
    assert "Broken" not in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_full_disk_is_not_called_a_bug(broken: list[BaseException]) -> None:
    """Where no room is left the owner is told, whoever found out."""
    broken.append(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    ran = imagen("doctor")
    assert ran.code == 3
    assert "error: no room left" in ran.err


def test_python_m_imagen_is_the_same() -> None:
    """Another way to start the same program."""
    ran = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert ran.stdout == imagen("--help").out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_poor_terminal_is_no_failure(home: Path, encoding: str) -> None:
    """A character that cannot be shown is written otherwise."""
    folder = home / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("backend: mock\ntitle: 狐の絵\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ran = subprocess.run([*PROGRAM, "models"], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert "mine" in ran.stdout


def test_a_table_fits_and_lines_up() -> None:
    """Wide characters take two columns; what does not fit is cut in the widest columns, the first one last."""
    rows = [("a-long-name-that-is-copied", "狐" * 60, "x" * 60), ("b", "e\u0301", "\x1b[31mred\nline")]
    lines = table(("NAME", "TITLE", "NOTE"), rows, width=80)
    assert all(columns(line) <= 80 for line in lines)
    assert lines[1].startswith("a-long-name-that-is-copied  狐")
    assert "…" in lines[1]
    assert "\x1b" not in lines[2]
    starts = {columns(line[: line.index(word)]) for line, word in zip(lines, ("NOTE", "xxx", "[31m"), strict=True)}
    assert len(starts) == 1


def test_a_table_fits_whatever_is_in_it() -> None:
    """Even where every column is too long."""
    assert all(columns(line) <= 80 for line in table("ABCDEFG", [["y" * 100] * 7], width=80))
    assert all(columns(line) <= 40 for line in table(("A",), [["y" * 100]], width=40))


def test_numbers_for_people() -> None:
    """Ages, sizes and single lines."""
    from datetime import UTC, datetime, timedelta

    now = datetime(2030, 1, 1, tzinfo=UTC)
    spans = (0, 5, 90, 7200, 86_400 * 3)
    assert [age(now - timedelta(seconds=span), now) for span in spans] == [
        "now",
        "5 s ago",
        "1 min ago",
        "2 h ago",
        "3 d ago",
    ]
    assert age(now - timedelta(days=365), now) == "2029-01-01"
    assert age(None) == ""
    assert [ahead(now + timedelta(seconds=span), now) for span in (-1, 0, 3.5, 150)] == [
        "now",
        "now",
        "in 4 s",
        "in 2 min",
    ]
    assert [byte_size(size) for size in (5, 2048, 30 * 2**20, 3 * 2**40)] == ["5 B", "2.0 KiB", "30 MiB", "3.0 TiB"]
    assert one_line(" a\n\tb ") == "a b"
    assert cut("abcdef", 4) == "abc…"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["--version", "models", "generate --model mock --size 64x64 --steps 1 'a cat'"])
def test_a_closed_stream_is_no_failure(home: Path, arguments: str, closed: str) -> None:
    """Whoever closes standard output wants no output; the work is done all the same."""
    command = f'"{sys.executable}" -m imagen {arguments} {closed}'
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr


@pytest.mark.parametrize(("prompts", "told"), [(("a", "cat"), True), (("cat",), False), (("a cat", "dog"), False)])
def test_a_prompt_without_quotes_is_noticed(home: Path, prompts: tuple[str, ...], told: bool) -> None:
    """Several prompts are meant to be; single words only are told how to be one."""
    ran = imagen("compare", *prompts, "--models", "nope")
    assert ("note: these are 2 prompts; one is put in quotes: imagen compare 'a cat'" in ran.err) is told


def test_several_files_are_not_all_repeated() -> None:
    """A shell may have made hundreds of one star."""
    ran = imagen("reproduce", *(f"picture-{number}.json" for number in range(100)))
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: one FILE at a time")


def test_the_hint_of_a_setting_names_what_the_model_has(home: Path) -> None:
    """And not what another one has."""
    ran = imagen("generate", "a fox", "--model", "tiny-3d", "--set", "style")
    assert ran.code == 2
    assert "slow" not in ran.err
    assert "write KEY=VALUE" in ran.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_told_in_words(home: Path) -> None:
    """No number of the system's."""
    with open("/dev/full", "w") as full:
        ran = subprocess.run([*PROGRAM, "models"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode != 0
    assert "Errno" not in ran.stderr
    assert "no room left" in ran.stderr
