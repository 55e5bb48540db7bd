"""What whoever runs a server asks of it: is it ready, how is it doing, what did it do, is it the newest."""

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serve_kit import Until, ask, drawing, ended, endless, submit, told
from tests.service_kit import House

from imagen.app import VERSION


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(folder=tmp_path) as made:
        yield made


def test_the_metrics_parse_and_count(house: House, until: Until) -> None:
    """From the first time they are asked for."""
    server = house.serve()
    submit(server, model="mock-warm")

    def numbers() -> dict[tuple[str, str], float]:
        status, text = ask(f"{server.url}/metrics")
        assert status == 200
        families = list(text_string_to_metric_families(text))
        assert all(family.name.startswith("imagen_") and family.documentation for family in families)
        return {
            (sample.name, ",".join(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    before = numbers()
    assert before["imagen_jobs_ended_total", "mock,failed"] == 0, "a series that begins at one never rose"
    assert [before["imagen_jobs_requeued_total", why] for why in ("lost", "stopped", "storage_away")] == [0, 0, 0]
    assert before["imagen_job_warnings_total", "storage_away,mock"] == 0
    drawn = ended(server, submit(server, preview={"count": 2}), until)
    failed = ended(server, submit(server, prompt="[fail:rejected]"), until)
    ended(server, submit(server, prompt="[notice:careful]", model="mock-cool"), until)
    assert (drawn["state"], failed["state"]) == ("completed", "failed")
    running = endless(server)
    waiting = endless(server)
    drawing(server, running, until)
    now = numbers()
    assert now["imagen_jobs_ended_total", "mock,completed"] == 1
    assert now["imagen_jobs_ended_total", "mock,failed"] == 1
    assert now["imagen_job_errors_total", "rejected,mock"] == 1
    assert now["imagen_jobs_started_total", "mock"] == 3
    assert now["imagen_job_seconds_count", "mock,sample"] == 1
    assert now["imagen_preview_frames_total", "mock"] == 2
    assert now["imagen_queue_depth", "mock"] == 1
    assert now["imagen_queue_oldest_seconds", "mock"] >= 0
    assert now["imagen_jobs_running", "mock"] == 1
    assert now["imagen_job_warnings_total", "ordered,mock-cool"] == 1
    assert now["imagen_workers", ""] == 1
    assert now["imagen_model_workers", "mock"] == 1
    assert now["imagen_workers_troubled", ""] == 0
    assert now["imagen_daemons", VERSION] == 1
    assert now["imagen_ready", ""] == 1
    assert now["imagen_streams_open", ""] == 0
    assert now["imagen_images_free_bytes", ""] > 0
    for job in (running, waiting):
        ask(f"{server.url}/v1/jobs/{job}/cancel", method="POST")
        ended(server, job, until)
    assert numbers()["imagen_jobs_ended_total", "mock,cancelled"] == 2


def test_with_keys_the_metrics_are_for_admins_and_the_checks_for_all(house: House) -> None:
    """A load balancer has no key."""
    ann, boss = (
        re.search(r"imagen_\S+", house.run("keys", "add", *words).stdout) for words in (("ann",), ("boss", "--admin"))
    )
    assert ann is not None
    assert boss is not None
    server = house.serve()
    assert [ask(f"{server.url}{path}")[0] for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 401]
    assert ask(f"{server.url}/metrics", key=ann[0])[0] == 403
    assert ask(f"{server.url}/metrics", key=boss[0])[0] == 200
    assert ann[0] not in server.said()


def test_it_is_not_ready_where_no_picture_could_be_kept(house: House, until: Until) -> None:
    """503 with the error and what to do; ready again when it is mended; alive all the time."""
    server = house.serve()
    images = house.home / "images"
    until(lambda: ask(f"{server.url}/readyz")[0] == 200)
    if images.exists():
        images.rename(house.home / "elsewhere")
    images.write_text("a file where a folder should be")
    _, refused = until(lambda: (told := ask(f"{server.url}/readyz"))[0] == 503 and told)
    assert refused["error"]["type"] == "setup_error"
    assert refused["error"]["hint"]
    assert ask(f"{server.url}/healthz")[0] == 200
    assert ask(f"{server.url}/readyz?pictures=no") == (200, {"status": "ready"}), "jobs are accepted, and wait"
    assert "imagen_ready 0.0" in ask(f"{server.url}/metrics")[1].splitlines()
    images.unlink()
    until(lambda: ask(f"{server.url}/readyz")[0] == 200)


def test_a_checker_may_ask_with_head(house: House, until: Until) -> None:
    """The same status without a body; the document does not list it."""
    server = house.serve()

    def asked(path: str) -> tuple[int, str]:
        return ask(f"{server.url}{path}", method="HEAD")

    assert asked("/healthz") == (200, "")
    until(lambda: asked("/readyz") == (200, ""))
    with sqlite3.connect(house.home / "imagen.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    until(lambda: asked("/readyz") == (503, ""))
    assert asked("/healthz") == (200, "")
    _, document = ask(f"{server.url}/openapi.json")
    assert [list(document["paths"][path]) for path in ("/healthz", "/readyz")] == [["get"], ["get"]]


def test_it_is_not_ready_with_a_database_of_another_version(house: House, until: Until) -> None:
    """Somebody upgraded it while this ran."""
    server = house.serve()
    with sqlite3.connect(house.home / "imagen.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    _, refused = until(lambda: (told := ask(f"{server.url}/readyz"))[0] == 503 and told)
    assert refused["error"]["code"] == "wrong_database"
    assert ask(f"{server.url}/readyz?pictures=no")[0] == 503
    # What runs goes on: an upgrade of many machines takes a while.
    assert ended(server, submit(server), until)["state"] == "completed"


@pytest.mark.parametrize("arguments", [(), ("--no-worker",)], ids=["with a worker", "without"])
def test_the_doctor_finds_a_server_of_an_older_version(house: House, arguments: tuple[str, ...], until: Until) -> None:
    """Also one that draws nothing."""
    server = house.serve(*arguments)
    connection = sqlite3.connect(house.home / "imagen.db", isolation_level=None)
    until(lambda: connection.execute("UPDATE workers SET version = '0.0.9'").rowcount)
    connection.close()
    doctor = house.run("doctor")
    assert doctor.returncode == 3
    assert f"process {server.pid} on " in doctor.stdout
    assert "is imagen 0.0.9, installed is" in doctor.stdout
    assert "restart" in doctor.stdout


def test_the_doctor_finds_a_queue_that_nobody_draws(house: House, until: Until) -> None:
    """Here and through the server: what waits, what to start, and who only serves. Fine as soon as somebody draws."""
    server = house.serve("--no-worker")
    job = submit(server)
    doctor, away = house.run("doctor"), house.run("--server", server.url, "doctor")
    for ran in (doctor, away):
        assert ran.returncode == 3, ran.stdout
        assert "FAIL  waiting jobs: jobs wait that nobody draws: 1 of mock" in ran.stdout
        assert "start `imagen worker --models mock`" in ran.stdout
    assert "ok    workers: 0 alive and 1 that only serves" in doctor.stdout
    assert "ok    workers: 0 alive" in away.stdout
    assert re.search(r"FAIL  mock\b.*: no worker there draws mock", away.stdout), away.stdout
    assert "ready\n" not in away.stdout, "no model is"
    house.start("worker", "--models", "mock")
    ended(server, job, until)
    assert house.run("doctor").returncode == 0
    fine = house.run("--server", server.url, "doctor")
    assert fine.returncode == 0, fine.stdout
    assert "ok    workers: 1 alive" in fine.stdout
    assert "ok    waiting jobs: none that nobody draws" in fine.stdout
    assert "ok    models: 1 ready" in fine.stdout


def test_a_worker_that_cannot_store_pictures_is_found(house: House, until: Until) -> None:
    """By the doctor, here and through the server, in the list of devices, and by who watches the numbers."""
    server = house.serve()
    submit(server)
    until(lambda: ask(f"{server.url}/metrics")[1].count("imagen_workers_troubled 0.0"))
    server.kill()
    images = house.home / "images"
    images.rename(house.home / "elsewhere")
    images.write_text("a file where a folder should be")
    server = house.serve()
    submit(server)
    until(lambda: "imagen_workers_troubled 1.0" in ask(f"{server.url}/metrics")[1])
    assert 'imagen_model_workers{model="mock"} 1.0' in ask(f"{server.url}/metrics")[1], "it lives"
    why = r"cannot use the image folder \S+: File exists"
    for words in ((), ("--server", server.url)):
        ran = house.run(*words, "doctor")
        assert ran.returncode == 3
        assert re.search(rf"FAIL  workers: .* begin nothing: no picture can be stored: {why}", ran.stdout), ran.stdout
        listed = house.run(*words, "worker", "list").stdout
        assert re.search(rf"^cpu@\S+ begins nothing: {why}", listed, re.MULTILINE), listed
        (card,) = json.loads(house.run(*words, "worker", "list", "--json").stdout)["devices"][-1:]
        assert re.match(why, card["troubled"])


def test_the_log_is_json_and_tells_requests_and_jobs_without_what_was_in_them(house: House, until: Until) -> None:
    """Neither the prompt nor the query."""
    server = house.serve()
    job = submit(server, prompt="a very private fox")
    ask(f"{server.url}/v1/jobs?q=private")
    ended(server, job, until)
    assert server.stop() == 0
    requests = [line for line in told(server) if line["event"] == "request"]
    assert {"method": "POST", "path": "/v1/jobs", "status": 202, "owner": "local"}.items() <= requests[0].items()
    jobs = [line for line in told(server) if line.get("job") == job]
    assert [line["event"] for line in jobs] == ["job started", "job completed"]
    assert {"model": "mock", "owner": "local", "attempt": 1}.items() <= jobs[1].items()
    assert jobs[1]["ms"] > 0
    assert "private" not in server.said()


def test_the_log_tells_what_a_job_was_warned_of(house: House, until: Until) -> None:
    """The code and the words, so that a store that is away shows where it is looked for."""
    server = house.serve()
    job = submit(server, prompt="[notice:careful]")
    ended(server, job, until)
    assert server.stop() == 0
    (warned,) = [line for line in told(server) if line.get("job") == job and line["level"] == "warning"]
    assert {"event": "job warned", "code": "ordered", "said": "careful", "model": "mock"}.items() <= warned.items()
    assert [line["event"] for line in told(server) if line.get("job") == job][-1] == "job completed"


def test_a_server_that_cannot_keep_a_picture_draws_no_more(house: House, until: Until) -> None:
    """One job fails with the reason; the others wait until it is mended, and lose nothing."""
    server = house.serve()
    ended(server, submit(server), until)
    (house.home / "images").rename(house.home / "elsewhere")
    (house.home / "images").write_text("a file where a folder should be")
    first = ended(server, submit(server), until)
    assert (first["state"], first["error"]["type"]) == ("failed", "setup_error")
    second = submit(server)
    until(lambda: any("nothing is drawn here until" in line["event"] for line in told(server)))
    assert ask(f"{server.url}/v1/jobs/{second}")[1]["attempt"] == 0
    (house.home / "images").unlink()
    assert ended(server, second, until)["state"] == "completed"
