"""A front end that knows only SQL: everything docs/howto/use-sql.md says, with psql and with SQLite."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from tests.postgres_kit import Postgres

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "use-sql.md").read_text(encoding="utf-8")
STATEMENTS = re.findall(r"```sql\n(.*?)```", PAGE, re.S)
PROGRAM = Path(sys.executable).parent / "imagen"

Run = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
def sql(request: pytest.FixtureRequest, imagen: Any) -> Run:
    """A worker that draws, and a function that runs one statement the way a stranger's program does."""
    more: dict[str, str] = {}
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
        more = {"IMAGEN_DATABASE": url}

        def run(statement: str) -> list[dict[str, Any]]:
            reads = statement.lstrip().lower().startswith(("select", "insert")) and (
                "returning" in statement.lower() or statement.lstrip().lower().startswith("select")
            )
            body = statement.strip().rstrip(";")
            if reads:
                body = f"WITH told AS ({body}) SELECT coalesce(json_agg(told), '[]') FROM told"
            said = subprocess.run(
                ["psql", url, "-v", "ON_ERROR_STOP=1", "-qAt", "-c", body], capture_output=True, text=True, check=False
            )
            assert said.returncode == 0, said.stderr
            return json.loads(said.stdout) if reads else []

    else:
        file = imagen.home / "imagen.db"

        def run(statement: str) -> list[dict[str, Any]]:
            with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
                connection.row_factory = sqlite3.Row
                rows = connection.execute(statement.replace("imagen.", "")).fetchall()
                return [dict(row) for row in rows]

    worker = subprocess.Popen(
        [PROGRAM, "worker"], env=imagen.environment | more, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    imagen.started.append(worker)
    assert worker.stderr is not None
    assert "draws" in worker.stderr.readline()
    return run


def until_ended(sql: Run, job: str) -> dict[str, Any]:
    give_up = time.monotonic() + 60
    while True:
        (row,) = sql(f"SELECT * FROM imagen.jobs WHERE id = '{job}'")
        if row["state"] in ("completed", "failed", "cancelled"):
            return row
        assert time.monotonic() < give_up, row
        time.sleep(0.05)


def page(beginning: str, having: str) -> str:
    """The statement of the page that begins so and names this."""
    found: str
    (found,) = (text for text in STATEMENTS if text.startswith(beginning) and having in text)
    return found


def test_submit_watch_and_read_pictures(sql: Run) -> None:
    """The statements of the page, in order, give a drawn job, its events and its pictures."""
    (short,) = sql(page("INSERT", "RETURNING"))
    sql(page("INSERT", "my-job-1"))
    done = until_ended(sql, "my-job-1")
    assert (done["state"], done["width"], done["height"], done["n"]) == ("completed", 512, 384, 2)
    (row,) = sql(page("SELECT", "FROM imagen.jobs"))
    assert row["state"] == "completed"
    events = sql(page("SELECT", "FROM imagen.events"))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events] == ["queued", "started", "image", "image", "completed"]
    pictures = sql(page("SELECT", "FROM imagen.images"))
    assert [(picture["seed"], picture["state"]) for picture in pictures] == [(7, "stored"), (8, "stored")]
    for picture in pictures:
        assert Path(unquote(urlparse(picture["url"]).path)).read_bytes().startswith(b"\x89PNG")
    resolved = until_ended(sql, short["id"])
    assert resolved["state"] == "completed"
    assert resolved["seed"] is not None
    assert resolved["width"] is not None


def test_cancel_what_waits_and_what_runs(sql: Run) -> None:
    """Waiting ends at once; running ends within moments, and says who asked."""
    for job in ("running", "waiting"):
        sql(f"INSERT INTO imagen.jobs (id, prompt, model) VALUES ('{job}', 'a fox [slow:60]', 'mock')")
    give_up = time.monotonic() + 30
    while sql("SELECT state FROM imagen.jobs WHERE id = 'running'")[0]["state"] != "running":
        assert time.monotonic() < give_up
        time.sleep(0.02)
    cancel = page("UPDATE", "cancel_requested")
    sql(cancel.replace("my-job-1", "waiting"))
    (row,) = sql("SELECT state FROM imagen.jobs WHERE id = 'waiting'")
    assert row["state"] == "cancelled"
    sql(cancel.replace("my-job-1", "running"))
    assert until_ended(sql, "running")["state"] == "cancelled"
    (last,) = sql("SELECT type, body FROM imagen.events WHERE job_id = 'running' ORDER BY seq DESC LIMIT 1")
    body = json.loads(last["body"]) if isinstance(last["body"], str) else last["body"]
    assert (last["type"], body["by"]) == ("cancelled", "sql")


@pytest.mark.parametrize(
    ("columns", "values", "words"),
    [
        ("prompt, model, width", "'x', 'mock', 3", "3x768"),
        ("prompt, model, steps", "'x', 'mock', -1", "steps"),
        ("prompt, model", "'', 'mock'", "prompt"),
        ("prompt, model, options", "'x', 'mock', '{\"no\": 1}'", "no"),
        ("prompt, model, options", "'x', 'mock', '[1]'", ""),
        ("prompt, model, preview", "'x', 'mock', '{\"cuont\": 1}'", "cuont"),
        ("prompt, model, priority", "'x', 'mock', 5000", "priority"),
        ("prompt, model, n", "'x', 'mock', 999", "n"),
    ],
)
def test_a_bad_row_fails_and_says_why(sql: Run, columns: str, values: str, words: str) -> None:
    """It does not stand in the way of the next one."""
    sql(f"INSERT INTO imagen.jobs (id, {columns}) VALUES ('bad', {values})")
    sql("INSERT INTO imagen.jobs (id, prompt, model) VALUES ('good', 'a fox [slow:0]', 'mock')")
    bad = until_ended(sql, "bad")
    error = json.loads(bad["error"]) if isinstance(bad["error"], str) else bad["error"]
    assert bad["state"] == "failed"
    assert words in error["message"] + str(error["param"])
    assert error["hint"]
    assert until_ended(sql, "good")["state"] == "completed"


def test_a_model_that_nobody_knows_fails_after_a_minute(sql: Run) -> None:
    """Not before: a worker that knows it may be about to start."""
    old = "2020-01-01T00:00:00.000Z"
    sql("INSERT INTO imagen.jobs (id, prompt, model) VALUES ('new', 'x', 'nope')")
    sql(f"INSERT INTO imagen.jobs (id, prompt, model, created_at) VALUES ('old', 'x', 'nope', '{old}')")
    error = until_ended(sql, "old")["error"]
    assert (json.loads(error) if isinstance(error, str) else error)["code"] == "unknown_model"
    (row,) = sql("SELECT state FROM imagen.jobs WHERE id = 'new'")
    assert row["state"] == "queued"
