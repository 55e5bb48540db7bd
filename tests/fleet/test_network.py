"""Two workers and PostgreSQL on machines of their own, and the network between them goes wrong."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from tests.fleet_kit import Fleet, apart
from tests.http_kit import Refused, get, post
from tests.serve_kit import Until
from tests.service_kit import Program

pytestmark = [pytest.mark.needs_netns, pytest.mark.needs_postgres, pytest.mark.timeout(400)]


def sound(fleet: Fleet) -> None:
    """Every job done once, with the pixels of an undisturbed run, and nothing lies there that no row knows."""
    folder = fleet.house.home / "images"
    verdict = fleet.judge(folder)
    assert verdict.faults == [], verdict
    assert verdict.states == {"completed": len(fleet.prompts)}
    assert len(list(folder.rglob("*.png"))) == verdict.pictures == len(fleet.prompts)
    assert fleet.complaints() == []
    fleet.compare(lambda path: (folder / path).read_bytes())


def test_a_worker_that_is_cut_off_loses_its_job_and_comes_back(tmp_path: Path, until: Until) -> None:
    """The other one draws it; the one that was away records nothing of what it drew meanwhile, and works on."""
    with apart(tmp_path) as (fleet, _, (room, _other)):
        jobs = [fleet.submit(slow=8) for _ in range(4)]
        lost = until(lambda: fleet.drawing_on().get(device := f"cpu@{room.name}") and fleet.drawing_on()[device])
        worker = fleet.workers[f"cpu@{room.name}"]
        room.cut()
        until(fleet.all_done)
        (back,) = [event for event in fleet.events(lost) if event["type"] == "requeued"]
        assert back["attempt"] == 1
        assert back["reason"].startswith(f"worker {room.name}-")
        assert back["reason"].endswith(" died")
        assert back["error"]["hint"]
        until(lambda: "this worker cannot say that it is alive" in worker.said())
        assert fleet.job(lost)["attempt"] == 2
        assert f"starting again: worker {room.name}-" in fleet.house.run("jobs", "watch", lost).stderr
        assert [fleet.job(job)["state"] for job in jobs] == ["completed"] * 4

        room.join()
        until(lambda: "the database answers again" in worker.said())
        jobs += [fleet.submit(slow=4) for _ in range(4)]
        until(lambda: room.name in json.dumps(fleet.drawing_on()))
        until(fleet.all_done)
        sound(fleet)


def test_a_cut_shorter_than_a_lease_costs_nothing(tmp_path: Path, until: Until) -> None:
    """What was being drawn goes on, and is recorded when the network is back."""
    with apart(tmp_path) as (fleet, _, (room, _other)):
        jobs = [fleet.submit(slow=10) for _ in range(2)]
        until(lambda: len(fleet.drawing_on()) == 2)
        room.cut()
        time.sleep(2)
        room.join()
        until(fleet.all_done)
        assert [fleet.job(job)["attempt"] for job in jobs] == [1, 1]
        sound(fleet)


def test_a_database_that_is_cut_off_costs_time_and_no_job(tmp_path: Path, until: Until) -> None:
    """Everybody says so meanwhile; afterwards each job is done once."""
    with apart(tmp_path) as (fleet, middle, rooms):
        jobs = [fleet.submit(slow=8) for _ in range(6)]
        until(lambda: len(fleet.drawing_on()) == 2)
        middle.cut()
        refused = until(lambda: _unready(fleet.server.url))
        assert refused.status == 503
        assert "does not answer" in refused.body["error"]["message"]
        assert refused.body["error"]["hint"]
        for worker in fleet.workers.values():
            until(partial(_says, worker, "this worker cannot say that it is alive"))
            assert "the database does not answer" in worker.said()
        assert fleet.server.alive
        middle.join()
        until(lambda: not _unready(fleet.server.url))
        jobs.append(fleet.submit(slow=1))
        until(fleet.all_done)
        assert len(rooms) == len(fleet.workers)
        for job in jobs:
            for event in fleet.events(job):
                if event["type"] == "requeued":
                    assert "database was away" in event["reason"] or " died" in event["reason"]
        sound(fleet)


def test_what_is_drawn_through_an_outage_can_be_watched_and_cancelled_after_it(tmp_path: Path, until: Until) -> None:
    """Its worker goes on writing how far it is, and sees that its end is asked for."""
    with apart(tmp_path, workers=1) as (fleet, middle, _):
        job = fleet.submit(slow=600, steps=500)
        until(fleet.drawing_on)
        (worker,) = fleet.workers.values()
        middle.cut()
        until(lambda: "this worker cannot say that it is alive" in worker.said())
        time.sleep(5)  # whoever writes progress has given up by now, as the heartbeat did
        middle.join()
        until(lambda: "the database answers again" in worker.said())
        before = _step(fleet, job)
        until(lambda: _step(fleet, job) > before)
        assert fleet.job(job)["attempt"] == 1
        post(f"{fleet.server.url}/v1/jobs/{job}/cancel")
        until(lambda: fleet.job(job)["state"] == "cancelled")
        assert fleet.complaints() == []


HOLD = """
import sys, time
from sqlalchemy import text
from imagen.store.db import Database
with Database(sys.argv[1]).engine.connect() as connection:
    connection.execute(text("SELECT 1 FROM imagen.jobs WHERE id = :id FOR UPDATE"), {"id": sys.argv[2]})
    print("held", flush=True)
    time.sleep(600)
"""


def test_what_somebody_locked_who_was_cut_off_is_free_again_within_a_minute(tmp_path: Path, until: Until) -> None:
    """In the middle of a transaction: PostgreSQL by itself would wait for two hours for the rest of it."""
    with apart(tmp_path, workers=1) as (fleet, _, (room,)):
        job = fleet.submit(slow=0, model="mock")
        until(fleet.all_done)
        command = room.command(sys.executable, "-c", HOLD, fleet.database.address, job)
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            take = f"SELECT id FROM imagen.jobs WHERE id = '{job}' FOR UPDATE SKIP LOCKED"
            assert fleet.rows(take) == []
            room.cut()
            begun = time.monotonic()
            until(lambda: fleet.rows(take))
            assert time.monotonic() - begun < 60
        finally:
            holder.kill()
            holder.communicate()


def _says(program: Program, words: str) -> bool:
    return words in program.said()


def _step(fleet: Fleet, job: str) -> int:
    (row,) = fleet.rows(f"SELECT progress FROM imagen.live WHERE job_id = '{job}'")
    return int(row["progress"]["step"])


def _unready(url: str) -> Refused | None:
    try:
        get(f"{url}/readyz")
    except Refused as refused:
        return refused
    return None
