"""Jobs outlive the program that asked for them: kill it, and another finishes what it began."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import both_doors

SMALL = ("--size", "64x64")
DEADLY = {"IMAGEN_MOCK_CRASH": "true"}  # the mock may kill the process that draws
QUICK = ("--set", "slow=0", *SMALL)
Until = Callable[[Callable[[], Any]], Any]


def _until_event(process: subprocess.Popen[str], kind: str) -> list[dict[str, Any]]:
    """The events up to the first of this kind."""
    assert process.stdout is not None
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["type"] != kind:
        seen.append(json.loads(process.stdout.readline()))
    return seen


def _killed(imagen: Any, *arguments: str, at: str) -> str:
    """Draw, kill -9 at this event, and give back the job."""
    process = imagen.start("generate", *arguments, "--json")
    job: str = _until_event(process, at)[0]["job"]
    process.kill()
    process.wait()
    return job


def test_watch_finishes_what_a_killed_program_began(imagen: Any) -> None:
    """kill -9 in the middle, then `jobs watch ID`: the same job ends completed, drawn once."""
    job = _killed(imagen, "a fox", "--set", "slow=2", *SMALL, at="progress")
    run = imagen("jobs", "watch", job, "--json", "-o", "copy.png")
    said = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, run.stderr
    assert said[-1]["type"] == "completed"
    assert {event["job"] for event in said} == {job}
    assert [event["type"] for event in said].count("image") == 1
    assert imagen.job(job)["attempt"] == 2
    assert (imagen.here / "copy.png").read_bytes().startswith(b"\x89PNG")


def test_other_commands_say_that_a_job_waits_and_how_to_run_it(imagen: Any) -> None:
    """An orphan is not run behind anybody's back; one line tells of it."""
    job = _killed(imagen, "a fox", "--set", "slow=30", *SMALL, at="progress")
    for arguments in (("generate", "a cat", *QUICK), ("jobs",), ("jobs", "--limit", "1"), ("series",)):
        run = imagen(*arguments)
        assert run.returncode == 0
        assert f"imagen jobs watch {job[-8:]}`" in run.stderr
    assert imagen.job(job)["state"] in ("running", "queued")


def test_only_missing_pictures_are_drawn_again(imagen: Any) -> None:
    """A job of three pictures, killed after the first: it stays as it is, the others are drawn."""
    process = imagen.start("generate", "a fox", "-n", "3", "--seed", "7", "--json", "--set", "slow=6", *SMALL)
    before = _until_event(process, "image")
    process.kill()
    process.wait()
    job = before[0]["job"]
    kept = imagen.job(job)["images"]
    run = imagen("jobs", "watch", job, "--json")
    assert run.returncode == 0, run.stderr
    after = imagen.job(job)["images"]
    assert [image["index"] for image in after] == [0, 1, 2]
    assert [image["seed"] for image in after] == [7, 8, 9]
    assert after[: len(kept)] == kept
    said = [json.loads(line) for line in run.stdout.splitlines()]
    assert [event["index"] for event in said if event["type"] == "image"] == [0, 1, 2]
    (last_started,) = (event for event in said if event["type"] == "started" and event["attempt"] == 2)
    drawn_again = [event["index"] for event in said if event["type"] == "image" and event["attempt"] == 2]
    assert drawn_again == [image["index"] for image in after[len(kept) :]]
    assert last_started["request"]["n"] == 3


def test_a_job_that_kills_its_program_fails_after_three_times(imagen: Any) -> None:
    """Never stuck, never for ever: three crashes end it, and the record says why."""
    job = _crashed(imagen)
    for _ in range(2):
        assert imagen("jobs", "watch", job, environment=DEADLY).returncode == -signal.SIGKILL
    run = imagen("jobs", "watch", job)
    assert run.returncode == 1, run.stderr
    assert "died" in run.stderr
    record = imagen.job(job)
    assert record["state"] == "failed"
    assert record["error"]["code"] == "crashed"
    assert record["error"]["hint"]


def _crashed(imagen: Any) -> str:
    run = imagen("generate", "a fox [crash]", *QUICK, "--json", environment=DEADLY)
    assert run.returncode == -signal.SIGKILL
    job: str = json.loads(run.stdout.splitlines()[0])["job"]
    return job


def test_two_watchers_of_an_orphan_draw_it_once(imagen: Any) -> None:
    """Whoever comes first works; the other follows the same events."""
    job = _killed(imagen, "a fox", "--set", "slow=2", *SMALL, at="progress")
    both = [imagen.start("jobs", "watch", job, "--json") for _ in range(2)]
    told = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    durable = [[line for line in lines if '"tick"' not in line] for lines in told]
    assert durable[0] == durable[1]
    assert sum('"type": "image"' in line for line in durable[0]) == 1


def test_the_list_is_whole_in_a_pipe(imagen: Any) -> None:
    """A line for each job, whatever the prompt."""
    imagen("generate", "a very long prompt \n\x1b[31m" * 20, *QUICK)
    imagen("generate", "狐" * 100, *QUICK)
    run = imagen("jobs")
    assert run.returncode == 0
    assert len(run.stdout.splitlines()) == 3
    assert "狐" * 100 in run.stdout
    assert run.stdout.count("a very long prompt") == 20
    assert "\x1b" not in run.stdout


def test_the_list_can_be_narrowed(imagen: Any) -> None:
    """By state, by model, by number; newest first."""
    imagen("generate", "first", *QUICK)
    imagen("generate", "second", "-m", "mock-warm", *QUICK)
    imagen("generate", "third [fail:rejected]", *QUICK)

    def prompts(*arguments: str) -> list[str]:
        listed = json.loads(imagen("jobs", "list", *arguments, "--json").stdout)["jobs"]
        return [job["request"]["prompt"].split()[0] for job in listed]

    assert prompts() == ["third", "second", "first"]
    assert prompts("--state", "failed") == ["third"]
    assert prompts("--model", "mock-warm") == ["second"]
    assert prompts("--limit", "1") == ["third"]
    assert prompts("--state", "running") == []
    assert imagen("jobs", "list", "--limit", "2").stderr == "the newest 2; see more with `--limit 20`\n"
    assert imagen("jobs", "list").stderr == ""
    assert imagen("jobs", "list", "--model", "nope").stderr == "no job is like that; all of them: imagen jobs list\n"


def test_a_job_is_named_by_either_end_of_its_id(imagen: Any) -> None:
    """The short name in the list is enough."""
    job = imagen.events("generate", "a fox", "--seed", "7", *QUICK)[0]["job"]
    short = imagen("jobs").stdout.splitlines()[-1].split()[0]
    assert job.endswith(short)
    for name in (short, job, job.lower()):
        shown = imagen("jobs", "show", name)
        assert shown.returncode == 0, shown.stderr
        assert job in shown.stdout
        assert "seed" in shown.stdout


@both_doors
def test_pictures_of_a_job_are_deleted(imagen: Any) -> None:
    """One of them, then the rest; the job stays, and one that is not there is exit 2."""
    assert imagen("generate", "a fox", "-n", "3", *QUICK).returncode == 0
    job = json.loads(imagen("jobs", "--json").stdout)["jobs"][0]["id"]
    assert imagen("jobs", "delete", job, "--picture", "2").stdout == f"{job} 1 picture deleted, 2 left\n"
    assert imagen("jobs", "delete", job[-8:]).stdout == f"{job} 2 pictures deleted\n"
    assert imagen("jobs", "delete", job).stdout == f"{job} 0 pictures deleted\n"
    told = json.loads(imagen("jobs", "show", job, "--json").stdout)
    assert [image["state"] for image in told["images"]] == ["deleted"] * 3
    assert told["state"] == "completed"
    for wrong in (("nosuchjob",), (job, "--picture", "4")):
        assert imagen("jobs", "delete", *wrong).returncode == 2


@both_doors
@pytest.mark.parametrize("verb", ["show", "watch", "cancel", "retry"])
def test_an_unknown_job_is_refused(imagen: Any, verb: str) -> None:
    """Exit code 2 and where to look."""
    run = imagen("jobs", verb, "01NOSUCHJOB")
    assert run.returncode == 2
    assert "imagen jobs list" in run.stderr
    assert "Traceback" not in run.stderr


def test_cancelling_a_finished_job_changes_nothing(imagen: Any) -> None:
    """It says so, and that is no mistake."""
    job = imagen.events("generate", "a fox", *QUICK)[0]["job"]
    run = imagen("jobs", "cancel", job)
    assert run.returncode == 0
    assert "unchanged" in run.stdout
    assert imagen.job(job)["state"] == "completed"


@both_doors
def test_a_running_job_can_be_cancelled_from_elsewhere(imagen: Any) -> None:
    """The program that draws it stops, and says who stopped it."""
    process = imagen.start("generate", "a fox", "--json", "--set", "slow=30", *SMALL)
    job = _until_event(process, "progress")[0]["job"]
    assert imagen("jobs", "cancel", job).returncode == 0
    rest, told = process.communicate()
    assert json.loads(rest.splitlines()[-1])["type"] == "cancelled"
    assert process.returncode == 130, told


def test_an_orphan_can_be_cancelled(imagen: Any, until: Until) -> None:
    """Nobody has to run a job only to get rid of it."""
    job = _killed(imagen, "a fox", "--set", "slow=30", *SMALL, at="progress")
    assert imagen("jobs", "cancel", job).returncode == 0
    assert imagen.job(job)["state"] == "cancelled"


def test_a_retry_is_a_new_job_with_the_same_request(imagen: Any) -> None:
    """The old one stays in the history; the picture is the same."""
    old = imagen.events("generate", "a fox", *QUICK)[-1]
    run = imagen("jobs", "retry", old["job"])
    new = run.stdout.strip()
    assert new != old["job"]
    assert imagen.job(new)["state"] == "queued"
    assert imagen.job(new)["retry_of"] == old["job"]
    assert imagen.job(new)["request"] == imagen.job(old["job"])["request"]
    assert imagen("jobs", "watch", new).returncode == 0
    assert imagen.job(new)["images"][0]["sha256"] == old["images"][0]["sha256"]


def test_a_retry_can_be_watched_at_once(imagen: Any) -> None:
    """`jobs retry ID --watch` prints the path like `generate`."""
    old = imagen.events("generate", "a fox", *QUICK)[-1]
    run = imagen("jobs", "retry", old["job"], "--watch")
    assert run.returncode == 0
    assert Path(run.stdout.strip()).is_file()


@both_doors
def test_watching_a_job_that_ended_tells_its_events_again(imagen: Any) -> None:
    """History is followed like the present, and the exit code is the job's."""
    job = imagen.events("generate", "a fox [fail:rejected]", "-m", "mock", *QUICK)[0]["job"]
    run = imagen("jobs", "watch", job, "--json")
    assert run.returncode == 1
    assert [json.loads(line)["type"] for line in run.stdout.splitlines()] == ["queued", "started", "failed"]


def test_leaving_a_watch_leaves_the_job_alone(imagen: Any) -> None:
    """Ctrl-C on a watch is not a cancel."""
    # Long enough that the watcher is surely up, on a busy machine too, before the picture is done.
    drawing = imagen.start("generate", "a fox", "--json", "--set", "slow=12", *SMALL)
    job = _until_event(drawing, "progress")[0]["job"]
    watching = imagen.start("jobs", "watch", job, "--json")
    _until_event(watching, "started")
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate()
    assert watching.returncode == 130
    assert "Traceback" not in told
    assert "stopped watching" in told
    rest, _ = drawing.communicate()
    assert json.loads(rest.splitlines()[-1])["type"] == "completed"
