"""One prompt, one picture: what `imagen generate` prints, writes and refuses."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import PROGRAM, both_doors

PNG = b"\x89PNG\r\n\x1a\n"
QUICK = ("--set", "slow=0", "--size", "64x64")
LASTING = ("--set", "slow=30", "--size", "64x64")
DURABLE = {"queued", "started", "warning", "image", "requeued", "completed", "failed", "cancelled"}
TERMINAL = {"completed", "failed", "cancelled"}


def _refused(run: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Refused for a person: the exit code, a word on the cause, what to do next, and nothing of the inside."""
    told = run.stderr + run.stdout
    assert run.returncode == code, told
    assert "Traceback" not in told
    assert "hint" in told
    for word in words:
        assert word in told


def _started(events: list[dict[str, Any]]) -> dict[str, Any]:
    (event,) = (event for event in events if event["type"] == "started")
    return event


def _nothing_was_left(imagen: Any) -> None:
    assert imagen.jobs() == []
    assert not list((imagen.home / "images").rglob("*.*"))
    assert not list(imagen.here.iterdir())


@both_doors
def test_events_come_in_order_with_one_end(imagen: Any) -> None:
    """A program that reads the lines sees queued, started, work, pictures and one end, numbered without gaps."""
    said = imagen.events("generate", "a red fox", "-m", "mock", "--preview", *QUICK)
    kinds = [event["type"] for event in said]
    durable = [event["seq"] for event in said if event["type"] in DURABLE]
    assert kinds[0] == "queued"
    assert kinds[-1] == "completed"
    assert sum(kind in TERMINAL for kind in kinds) == 1
    assert kinds.index("started") < kinds.index("progress") < kinds.index("image")
    assert durable == list(range(1, len(durable) + 1))
    assert all(earlier["seq"] <= later["seq"] for earlier, later in pairwise(said))
    assert len({event["job"] for event in said}) == 1
    steps = [(event["step"], event["total"]) for event in said if event["type"] == "progress"]
    assert steps == sorted(steps)
    assert {total for _, total in steps} == {20}
    assert any(kind == "preview" for kind in kinds)


@both_doors
def test_a_preview_is_a_reference_or_inline(imagen: Any) -> None:
    """--preview names where the preview is; --preview=inline brings it along."""
    previews = [
        [event for event in imagen.events("generate", "a fox", flag, *QUICK) if event["type"] == "preview"]
        for flag in ("--preview", "--preview=inline")
    ]
    assert all("preview_url" in event and "data" not in event for event in previews[0])
    assert all(event["data"] for event in previews[1])
    assert previews[0]
    assert previews[1]


def test_no_previews_are_drawn_for_a_pipe_that_asked_for_none(imagen: Any) -> None:
    """Previews are opt-in away from a terminal."""
    said = imagen.events("generate", "a fox", *QUICK)
    assert "preview" not in {event["type"] for event in said}
    assert _started(said)["preview"]["method"] == "off"


def test_a_bare_preview_flag_leaves_the_prompt_alone(imagen: Any) -> None:
    """`--preview "a fox"` is a flag and a prompt."""
    said = imagen.events("generate", "--preview", "a fox", *QUICK)
    assert _started(said)["request"]["prompt"] == "a fox"


def test_the_same_request_gives_the_same_file_with_and_without_previews(imagen: Any) -> None:
    """Equal requests have equal bytes, whoever watches."""
    drawn = [
        imagen.draw("a red fox", "--seed", "7", "--size", "64x64", *more)
        for more in ((), (), ("--preview",), ("--no-preview",), ("--preview-stride", "3"))
    ]
    assert len({picture["sha256"] for picture in drawn}) == 1
    assert len({picture["id"] for picture in drawn}) == len(drawn)


def test_a_pipe_gets_the_path_and_nothing_else(imagen: Any) -> None:
    """`open $(imagen generate …)` works: standard output is the stored path."""
    run = imagen("generate", "a fox", *QUICK)
    (path,) = run.stdout.splitlines()
    assert Path(path).read_bytes().startswith(PNG)
    assert Path(path).is_relative_to(imagen.home)


def test_the_sidecar_lies_beside_the_picture(imagen: Any) -> None:
    """X.json tells how X.png was made."""
    run = imagen("generate", "a fox", "--seed", "7", *QUICK)
    record = json.loads(Path(run.stdout.strip()).with_suffix(".json").read_text())
    assert record["request"]["seed"] == 7
    assert record["image"]["sha256"] == hashlib.sha256(Path(run.stdout.strip()).read_bytes()).hexdigest()


@pytest.mark.parametrize("spelling", ["-m", "--model", "-b", "--backend"])
def test_a_model_is_named_by_any_of_its_flags(imagen: Any, spelling: str) -> None:
    """What was called a backend once is a model here."""
    said = imagen.events("generate", "a fox", spelling, "mock-warm", *QUICK)
    assert _started(said)["request"]["model"] == "mock-warm"


def test_the_prompt_may_come_from_standard_input(imagen: Any) -> None:
    """`-` reads it, and so does no prompt at all where nobody can be asked."""
    for arguments in (("generate", "-"), ("generate",)):
        run = imagen(*arguments, *QUICK, "--json", stdin="a fox\nin snow\n")
        said = [json.loads(line) for line in run.stdout.splitlines()]
        assert _started(said)["request"]["prompt"] == "a fox\nin snow"


@both_doors
def test_a_file_is_written_and_never_over_another(imagen: Any) -> None:
    """-o FILE takes the name if it is free, else a number."""
    for name in ("fox.png", "fox-2.png", "fox-3.png"):
        run = imagen("generate", "a fox", "--seed", "7", "-o", "fox.png", *QUICK)
        assert run.stdout.splitlines() == [name]
    contents = {(imagen.here / name).read_bytes() for name in ("fox.png", "fox-2.png", "fox-3.png")}
    assert len(contents) == 1
    assert sorted(path.name for path in imagen.here.iterdir()) == ["fox-2.png", "fox-3.png", "fox.png"]


@both_doors
def test_several_pictures_are_numbered(imagen: Any) -> None:
    """-o FILE with -n 3 gives FILE-1 to FILE-3; picture k uses seed + k."""
    run = imagen("generate", "a fox", "-n", "3", "--seed", "7", "-o", "fox.png", *QUICK)
    assert run.stdout.splitlines() == ["fox-1.png", "fox-2.png", "fox-3.png"]
    second = imagen.draw("a fox", "--seed", "8", "--size", "64x64")
    assert hashlib.sha256((imagen.here / "fox-2.png").read_bytes()).hexdigest() == second["sha256"]


def test_a_folder_gets_pictures_named_for_their_prompt(imagen: Any) -> None:
    """-o DIR/ makes the folder, and the names tell prompt, model and seed, in any script."""
    run = imagen("generate", "ein Fuchs, 狐!", "-n", "2", "--seed", "7", "-o", "new/pictures/", *QUICK)
    names = [Path(line).name for line in run.stdout.splitlines()]
    assert names == ["ein-fuchs-狐_mock_7.png", "ein-fuchs-狐_mock_8.png"]
    assert all((imagen.here / line).is_file() for line in run.stdout.splitlines())


def test_another_ending_is_not_a_conversion(imagen: Any) -> None:
    """-o fox.jpg of a PNG is fox.png and says so: pixels are never re-encoded."""
    run = imagen("generate", "a fox", "-o", "fox.jpg", *QUICK)
    assert run.returncode == 0
    assert run.stdout.splitlines() == ["fox.png"]
    assert "never re-encoded" in run.stderr


@pytest.mark.parametrize(
    ("output", "code", "word"),
    [
        ("missing/fox.png", 3, "mkdir"),
        ("/proc/fox.png", 3, "/proc"),
        ("/dev/null", 3, "/dev/null"),
        ("/dev/null/pictures/", 3, "/dev/null"),
        ("x" * 300 + ".png", 3, "too long"),
        ("-", 2, "path of the stored picture"),
        ("", 2, "no file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_drawing(
    imagen: Any, output: str, code: int, word: str
) -> None:
    """Nobody waits for a picture and then has nowhere to put it."""
    _refused(imagen("generate", "a fox", "-o", output, *LASTING), code, word)
    _nothing_was_left(imagen)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("a fox", "-m", "mokc"), "mock"),
        (("a fox", "--set", "slwo=1"), "slow"),
        (("a fox", "--set", "slow"), "KEY=VALUE"),
        (("a fox", "--set", "slow=nan"), "slow"),
        (("a fox", "--set", "slow=soon"), "slow"),
        (("a fox", "--size", "8x8"), "16"),
        (("a fox", "--size", "99999x99999"), "2048"),
        (("a fox", "--size", "big"), "1024x768"),
        (("a fox", "--steps", "0"), "step"),
        (("a fox", "--steps", "-1"), "step"),
        (("a fox", "--seed", "-1"), "seed"),
        (("a fox", "--seed", str(2**63)), "seed"),
        (("a fox", "--seed", str(2**63 - 1), "-n", "2"), "seed"),
        (("a fox", "--guidance", "nan"), "guidance"),
        (("a fox", "-n", "0"), "n"),
        (("a fox", "-n", "1000"), "16"),
        (("a fox", "--models", "mock"), "--series"),
        (("",), "prompt"),
        (("x" * 100_001,), "prompt"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_wrong_request_is_refused_with_a_hint(imagen: Any, arguments: tuple[str, ...], word: str) -> None:
    """Exit code 2, what was wrong, what to do, no job and no file."""
    _refused(imagen("generate", *arguments), 2, word)
    _nothing_was_left(imagen)


@pytest.mark.parametrize("prompt", [b"a \x00 fox", b"a \xff\xfe fox", b"a \xed\xa0\x80 fox"], ids=repr)
def test_bytes_that_are_no_text_are_refused(imagen: Any, prompt: bytes) -> None:
    """NUL, bytes that are not UTF-8 and lone surrogates never reach the store."""
    _refused(imagen("generate", "-", *QUICK, stdin=prompt), 2, "prompt")
    if b"\x00" not in prompt:
        _refused(imagen("generate", prompt, *QUICK), 2, "prompt")
    _nothing_was_left(imagen)


def test_no_prompt_at_all_is_refused(imagen: Any) -> None:
    """An empty standard input is not a prompt."""
    _refused(imagen("generate", *QUICK), 2, "prompt")


def test_a_placeholder_in_a_prompt_is_text(imagen: Any) -> None:
    """`${seed}` is drawn as it stands, not filled in."""
    said = imagen.events("generate", "a fox ${seed} {model} $HOME %s", *QUICK)
    assert _started(said)["request"]["prompt"] == "a fox ${seed} {model} $HOME %s"


def test_a_broken_config_is_named_with_its_line(imagen: Any) -> None:
    """A config that is not YAML: exit code 3, and the file is untouched."""
    broken = "models:\n  - [unclosed\n  x: {"
    (imagen.home / "config.yaml").write_text(broken)
    _refused(imagen("generate", "a fox", *QUICK), 3, "config.yaml")
    assert (imagen.home / "config.yaml").read_text() == broken


@both_doors
def test_a_failing_backend_is_exit_code_one(imagen: Any) -> None:
    """The last line says what failed and what to do; pictures finished before stay."""
    run = imagen("generate", "a fox [fail:rejected@30]", "-n", "2", "-o", "fox.png", "--json", *QUICK)
    said = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 1
    assert said[-1]["type"] == "failed"
    assert said[-1]["error"]["code"] == "rejected"
    assert said[-1]["error"]["hint"]
    assert len(said[-1]["images"]) == 1
    assert (imagen.here / "fox-1.png").is_file()
    assert not (imagen.here / "fox-2.png").exists()
    _refused(imagen("generate", "a fox [fail:out_of_memory]", *QUICK), 1, "out of memory")


def test_a_failure_that_may_pass_is_tried_again(imagen: Any) -> None:
    """A server that does not answer is asked three times, and each time is on record."""
    said = imagen.events("generate", "a fox [fail:unreachable@2]", *QUICK)
    kinds = [event["type"] for event in said]
    assert kinds.count("started") == 3
    assert kinds.count("requeued") == 2
    assert said[-1]["error"]["code"] == "unreachable"
    durable = [event["seq"] for event in said if event["type"] in DURABLE]
    assert durable == list(range(1, len(durable) + 1))


@both_doors
def test_ctrl_c_cancels_the_job_and_says_so(imagen: Any) -> None:
    """One Ctrl-C: the job is cancelled on record, exit code 130."""
    process = imagen.start("generate", "a fox", "--json", *LASTING)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line))
        if seen[-1]["type"] == "progress":
            break
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate()
    assert process.returncode == 130, told
    assert json.loads(rest.splitlines()[-1])["type"] == "cancelled"
    assert "cancelled" in told
    assert imagen.job(seen[0]["job"])["state"] == "cancelled"


def test_a_second_ctrl_c_leaves_at_once(imagen: Any, until: Callable[[Callable[[], Any]], Any]) -> None:
    """Whoever presses twice is not kept waiting, and the job still ends as cancelled."""
    # Nobody but a stopped process keeps the first Ctrl-C from being honoured at once.
    process = imagen.start("generate", "a fox", "--json", *LASTING)
    assert process.stdout is not None
    job = json.loads(process.stdout.readline())["job"]
    while json.loads(process.stdout.readline())["type"] != "progress":
        pass
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    until(lambda: imagen("jobs", "cancel", job).returncode == 0 and imagen.job(job)["state"] == "cancelled")


def test_a_polite_stop_gives_the_job_back(imagen: Any) -> None:
    """SIGTERM leaves the job in the queue without counting as a failure; watching it finishes it."""
    process = imagen.start("generate", "a fox", "--json", "--set", "slow=3", "--size", "64x64")
    assert process.stdout is not None
    job = json.loads(process.stdout.readline())["job"]
    while json.loads(process.stdout.readline())["type"] != "progress":
        pass
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert imagen.job(job)["state"] == "queued"
    assert imagen("jobs", "watch", job).returncode == 0
    assert imagen.job(job)["state"] == "completed"


@both_doors
def test_a_reader_that_leaves_ends_the_job(imagen: Any, until: Callable[[Callable[[], Any]], Any]) -> None:
    """`imagen generate --json | head -1` draws nothing that nobody will see."""
    process = imagen.start("generate", "a fox", "--json", *LASTING)
    assert process.stdout is not None
    job = json.loads(process.stdout.readline())["job"]
    process.stdout.close()
    process.wait()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert imagen.job(job)["state"] == "cancelled"


def test_two_commands_never_draw_at_once_on_one_device(imagen: Any) -> None:
    """The second waits for the first, says for what, and both are drawn."""
    first = imagen.start("generate", "a fox", "-m", "mock", "--json", "--set", "slow=4", "--size", "64x64")
    assert first.stdout is not None
    before: list[dict[str, Any]] = []
    while not before or before[-1]["type"] != "progress":
        before.append(json.loads(first.stdout.readline()))
    second = imagen.start("generate", "a cat", "-m", "mock-warm", "--json", *QUICK)
    assert second.stderr is not None
    waiting = second.stderr.readline()
    assert "waiting for" in waiting
    assert socket.gethostname() in waiting
    assert before[0]["job"][-8:] in waiting
    after, _ = second.communicate()
    rest, _ = first.communicate()
    ended = json.loads(rest.splitlines()[-1])
    started = _started([json.loads(line) for line in after.splitlines()])
    assert ended["type"] == json.loads(after.splitlines()[-1])["type"] == "completed"
    assert started["at"] >= ended["at"]


def test_a_full_disk_says_what_was_kept(imagen: Any) -> None:
    """The copy has no room: exit code 3, the stored picture is named, and no half file stays."""
    picture = Path(imagen.draw("a fox", "--seed", "7")["url"].removeprefix("file://"))
    small = picture.stat().st_size // 2
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from imagen.core.errors import DiskFull\n"
        "from imagen.surfaces.cli.destination import destination, place\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({small}, {small}))\n"
        f"data = Path({str(picture)!r}).read_bytes()\n"
        "try:\n"
        "    place(destination('fox.png'), data, name='x', number=None, suffix='.png', kept='THE ORIGINAL')\n"
        "except DiskFull as full:\n"
        "    print(full.message, full.exit_code)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=imagen.here,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "THE ORIGINAL" in run.stdout
    assert run.stdout.split()[-1] == "3"
    assert not list(imagen.here.iterdir())


def test_a_full_image_store_fails_the_job_and_leaves_no_litter(imagen: Any) -> None:
    """Exit code 3 and what to do; of a picture that could not be stored whole nothing stays."""
    imagen("jobs")  # the database is there before the disk is full
    program = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(PROGRAM), "generate", "a fox", "--set", "slow=0", "-m", "mock"],
        cwd=imagen.here,
        env=imagen.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 3, run.stderr
    assert "the disk is full" in run.stderr
    assert "free some space" in run.stderr
    assert [path for path in (imagen.home / "images").rglob("*") if path.is_file()] == []
