"""Webhooks end to end: real servers, real receivers, killed and told lies; what ended is told at least once."""

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import WebhookVerificationError
from tests.serve_kit import SMALL, ask, ended, job_of, submit, told
from tests.service_kit import House, Program
from tests.webhook_kit import Receiver, Told

from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.core.webhook import Webhook
from imagen.surfaces.webhooks.courier import Courier
from imagen.surfaces.webhooks.post import Post

Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(folder=tmp_path / "house") as one:
        yield one


def secret_of(server: Program, key: str | None = None) -> str:
    status, shape = ask(f"{server.url}/v1/webhooks/secret", key=key)
    assert status == 200, shape
    return str(shape["secret"])


def state_of(server: Program, job: str) -> dict[str, Any]:
    """How its webhook stands."""
    shape: dict[str, Any] = job_of(server, job)["webhook"]
    return shape


def due_now(home: Path) -> None:
    """As if the wait before the next try, or the lease of who died, were over."""
    with sqlite3.connect(home / "imagen.db", timeout=30) as connection:
        connection.execute("update deliveries set due_at = '2026-01-01T00:00:00.000Z' where state = 'waiting'")
    connection.close()


def test_the_end_of_a_job_is_told_and_signed(house: House, until: Until) -> None:
    """The job as `GET /v1/jobs/{id}` shows it, signed with the secret that is told there; then it says so itself."""
    server = house.serve()
    with Receiver() as receiver:
        job = submit(server, webhook=receiver.url)
        assert state_of(server, job)["state"] in ("set", "waiting", "delivered")
        (one,) = receiver.until(1)
        until(lambda: state_of(server, job)["state"] == "delivered")
        shape = one.checked(secret_of(server))
        assert one.id == job
        assert one.path == "/hook?of=imagen"
        assert one.headers["user-agent"].startswith("imagen/")
        told_of = job_of(server, job)
        state = told_of.pop("webhook")
        assert (shape["type"], shape["job"]) == ("job.completed", told_of)
        assert shape["at"] >= told_of["finished_at"]
        assert state == {
            "origin": f"http://127.0.0.1:{receiver.port}",
            "state": "delivered",
            "tries": 1,
            "status": 200,
            "said": None,
            "next_at": None,
            "ended_at": state["ended_at"],
        }
        status, metrics = ask(f"{server.url}/metrics")
        assert status == 200
        assert 'imagen_webhooks{state="waiting"} 0.0' in metrics
    (line,) = [one for one in told(server) if one["event"] == "webhook delivered"]
    assert (line["webhook"], line["tries"]) == (job, 1)
    assert "hook?of" not in server.said(), "an address is not for the log"
    assert len(receiver.told) == 1


def test_failed_and_cancelled_jobs_are_told(house: House) -> None:
    """However it ends, unless only some ends are wanted."""
    server = house.serve()
    with Receiver() as receiver:
        failing = submit(server, prompt="[fail:rejected] a fox", webhook=receiver.url)
        unwanted = submit(server, webhook={"url": receiver.url, "events": ["failed"]})
        endless = submit(server, slow=600, steps=500, webhook=receiver.url)
        ask(f"{server.url}/v1/jobs/{endless}/cancel", {}, method="POST")
        receiver.until(2)
        types = {one.shape["job"]["id"]: one.shape["type"] for one in receiver.told}
        assert types == {failing: "job.failed", endless: "job.cancelled"}
        error = next(one.shape["job"]["error"] for one in receiver.told if one.id == failing)
        assert error["code"] == "rejected"
        assert state_of(server, unwanted)["state"] in ("unwanted", "set")


def test_a_receiver_that_fails_is_told_again(house: House, until: Until) -> None:
    """The same id, a fresh moment and signature each time; the job says what happened meanwhile."""
    server = house.serve()
    with Receiver(answers=[500, "drops", 200]) as receiver:
        job = submit(server, webhook=receiver.url)
        receiver.until(1)
        waiting = until(lambda: (now := state_of(server, job)) and now["said"] and now)
        assert (waiting["state"], waiting["status"]) == ("waiting", 500)
        assert "answered 500" in waiting["said"]
        assert waiting["next_at"]
        receiver.until(3)
        until(lambda: state_of(server, job)["state"] == "delivered")
        assert state_of(server, job)["tries"] == 3
        assert set(receiver.ids()) == {job}
        secret = secret_of(server)
        bodies = [one.checked(secret) for one in receiver.told]
        assert all(body == bodies[0] for body in bodies)
        waits = [b.at - a.at for a, b in zip(receiver.told, receiver.told[1:], strict=False)]
        assert waits[0] >= 0.9, "the first wait is a second"
        assert waits[1] > waits[0]


def test_a_server_killed_while_it_tells_tells_after_its_start(house: House, until: Until) -> None:
    """kill -9 between the end of the job and the answer of the receiver: delivered by the next server."""
    server = house.serve()
    with Receiver(answers=["slow", 200]) as receiver:
        job = submit(server, webhook=receiver.url)
        receiver.until(1)
        assert ended(server, job, until)["state"] == "completed"
        server.kill()
        due_now(house.home)  # not to wait for the lease of the dead one
        server = house.serve()
        receiver.until(2)
        until(lambda: state_of(server, job)["state"] == "delivered")
        assert receiver.ids() == [job, job], "by its id the receiver knows that it is the same"


def test_a_receiver_that_was_away_is_told_when_it_is_back(house: House, until: Until) -> None:
    """Nobody listens while the job ends, and the server is killed too: nothing is lost."""
    server = house.serve()
    with Receiver() as receiver:
        port = receiver.port
    job = submit(server, webhook=receiver.url)
    ended(server, job, until)
    until(lambda: state_of(server, job)["said"] == "the receiver does not take connections")
    server.kill()
    due_now(house.home)
    with Receiver(port=port) as receiver:
        server = house.serve()
        (one,) = receiver.until(1)
        assert one.id == job
        until(lambda: state_of(server, job)["state"] == "delivered")


@pytest.mark.needs_postgres
def test_two_servers_tell_each_end_once(until: Until) -> None:
    """On one PostgreSQL, with forty jobs, when nobody dies."""
    from tests.postgres_kit import postgres

    with postgres(durable=False) as database, House(database.url) as house, Receiver() as receiver:
        servers = [house.serve(), house.serve()]
        jobs = [submit(servers[number % 2], webhook=receiver.url) for number in range(40)]
        receiver.until(len(jobs))
        until(lambda: all(state_of(servers[0], job)["state"] == "delivered" for job in jobs))
        assert sorted(receiver.ids()) == sorted(jobs)
        secrets = {secret_of(server) for server in servers}
        assert len(secrets) == 1
        for one in receiver.told:
            one.checked(*secrets)


def test_receivers_that_hang_hold_up_neither_drawing_nor_others(house: House, until: Until) -> None:
    """Twenty messages hang, one drips, one never ends: what is drawn meanwhile is told to who listens."""
    server = house.serve()
    with Receiver(answers=["slow"]) as hangs, Receiver(answers=["dripping"]) as drips, Receiver() as listens:
        for _ in range(20):
            submit(server, webhook=hangs.url)
        submit(server, webhook=drips.url)
        last = submit(server, webhook=listens.url)
        began = time.monotonic()
        assert ended(server, last, until)["state"] == "completed"
        listens.until(1)
        assert time.monotonic() - began < 30
        at = [one.at for one in hangs.told]
        assert at
        assert all(fifth - first > 2 for first, fifth in zip(at, at[4:], strict=False)), "four at a time to one host"


def test_what_a_request_brings_is_shown_to_nobody(house: House, until: Until) -> None:
    """Neither its secret nor the path of its address: not by a route, in an event, a file, a command or the log."""
    own = "whsec_" + "QUJD" * 11
    server = house.serve()
    with Receiver() as receiver:
        hook = {"url": f"{receiver.url}&token=hush", "secret": own}
        job = submit(server, webhook=hook)
        receiver.until(1)[0].checked(own)
        until(lambda: state_of(server, job)["state"] == "delivered")
        image = job_of(server, job)["images"][0]["id"]
        status, series = ask(
            f"{server.url}/v1/series", {"prompts": ["a"], "models": ["mock"], "seeds": [1], **SMALL, "webhook": hook}
        )
        assert status == 202, series
        status, wrong = ask(f"{server.url}/v1/jobs", {"prompt": "a", "webhook": hook | {"secret": own[:-1]}})
        assert status in (400, 422)
        shown = [json.dumps(wrong), json.dumps(series)]
        for path in ("jobs", f"jobs/{job}", f"images/{image}/sidecar.json", "series", f"series/{series['id']}"):
            shown.append(json.dumps(ask(f"{server.url}/v1/{path}")[1]))
        shown.append(json.dumps(ask(f"{server.url}/v1/jobs/{job}/retry", {})[1]))
        shown += [house.run("jobs", "show", job, *more).stdout for more in ((), ("--json",))]
        shown.append(house.run("jobs", "watch", job, "--json").stdout)  # all its events
    shown += [file.read_text() for file in (house.home / "images").rglob("*.json")]
    shown.append(server.said())
    for text in shown:
        assert text
        assert own[:-1] not in text
        assert "hush" not in text


def test_each_key_has_its_own_secret_and_sees_its_own(house: House, until: Until) -> None:
    """Who knows the secret of one key cannot forge what another's receiver believes."""
    (house.home / "config.yaml").write_text(json.dumps({"webhooks": {"allow": ["127.0.0.0/8"]}}))
    ann, bob = (house.run("keys", "add", name).stdout.strip() for name in ("ann", "bob"))
    server = house.serve()
    secrets = {key: secret_of(server, key) for key in (ann, bob)}
    assert secrets[ann] != secrets[bob]
    assert house.run("keys", "webhook-secret", "ann").stdout.strip() == secrets[ann]
    assert house.run("keys", "webhook-secret", "nobody").returncode == 2
    with Receiver() as receiver:
        body = {"prompt": "a fox", "model": "mock", **SMALL, "options": {"slow": 0}, "webhook": receiver.url}
        _, job = ask(f"{server.url}/v1/jobs", body, key=ann)
        (one,) = receiver.until(1)
        one.checked(secrets[ann])
        with pytest.raises(WebhookVerificationError):
            one.checked(secrets[bob])
        assert ask(f"{server.url}/v1/jobs/{job['id']}/webhook", method="POST", key=bob)[0] == 404
        assert ask(f"{server.url}/v1/jobs/{job['id']}/webhook", method="POST", key=ann)[0] == 202
        assert receiver.until(2)[1].id == one.id
        own = secrets[bob]
        body["webhook"] = {"url": receiver.url, "secret": own}
        assert ask(f"{server.url}/v1/jobs", body, key=ann)[0] == 202
        receiver.until(3)[2].checked(own)
    _, listed = ask(f"{server.url}/v1/jobs", key=ann)
    assert own not in json.dumps(listed)
    assert "of=imagen" not in json.dumps(listed)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://127.0.0.1:1/", 403),
        ("http://169.254.169.254/latest/meta-data", 403),
        ("http://[::ffff:10.0.0.1]/", 403),
        ("ftp://example.com/", 400),
        ("http://user:password@example.com/", 400),
        ({"url": "https://example.com/", "events": ["partial"]}, 400),
        ({"url": "https://example.com/", "secret": "short"}, 400),
        ({"url": "https://example.com/", "more": 1}, 400),
        (7, 400),
    ],
    ids=str,
)
def test_a_caller_cannot_make_the_server_ask_inner_addresses(
    url: Any, status: int, locked: tuple[Program, str]
) -> None:
    """Refused when it is submitted, for jobs and for series, with the field and what to do."""
    server, key = locked
    for route, body in (("jobs", {"prompt": "x", "webhook": url}), ("series", {"prompt": "x", "webhook": url})):
        if route == "series" and isinstance(url, dict) and url.get("events"):
            continue
        got, shape = ask(f"{server.url}/v1/{route}", body, key=key)
        assert got == status, shape
        assert shape["error"]["hint"]
        assert str(shape["error"]["param"]).startswith("webhook")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, str]]:
    """A server that wants a key, and one of a caller who is no admin."""
    with House(folder=tmp_path_factory.mktemp("locked")) as house:
        key = house.run("keys", "add", "ann").stdout.strip()
        yield house.serve(), key


def test_an_inner_address_is_refused_when_it_is_told(house: House, until: Until) -> None:
    """It came by SQL, which nobody checks: the last word is said before it is connected to; it fails at once."""
    server = house.serve()
    with sqlite3.connect(house.home / "imagen.db", timeout=30) as connection:
        row = "insert into jobs (id, prompt, model, width, height, webhook) values ('mine', 'x', 'mock', 64, 64, ?)"
        connection.execute(row, ["http://10.0.0.1/"])
    connection.close()
    state = until(lambda: (now := state_of(server, "mine")) and now["state"] == "failed" and now)
    assert "no public address" in state["said"]
    assert state["tries"] == 1
    shown = house.run("jobs", "show", "mine").stdout
    assert "webhook   http://10.0.0.1: failed" in shown
    assert "no public address" in shown


def test_a_series_is_told_when_it_is_over(house: House, until: Until) -> None:
    """One message with its state and counts, and with `each` one for every job."""
    server = house.serve()
    with Receiver() as receiver:
        body = {
            "prompt": "a fox",
            "models": ["mock", "mock-warm"],
            "seed": 1,
            **SMALL,
            "options": {"slow": 0},
            "webhook": {"url": receiver.url, "each": True},
        }
        status, series = ask(f"{server.url}/v1/series", body)
        assert status == 202, series
        receiver.until(3)
        shapes = {one.shape["type"]: one.shape for one in receiver.told}
        assert sorted(one.shape["type"] for one in receiver.told) == [
            "job.completed",
            "job.completed",
            "series.completed",
        ]
        assert shapes["series.completed"]["series"]["id"] == series["id"]
        assert shapes["series.completed"]["series"]["counts"] == {"completed": 2}
        assert "cells" not in shapes["series.completed"]["series"]
        until(lambda: ask(f"{server.url}/v1/series/{series['id']}")[1]["webhook"]["state"] == "delivered")
        assert ask(f"{server.url}/v1/series/{series['id']}/webhook", method="POST")[0] == 202
        receiver.until(4)
        assert receiver.ids()[3] == next(one.id for one in receiver.told if "series" in one.shape)


def test_a_receiver_that_knows_another_secret_is_tried_on(house: House, until: Until) -> None:
    """It answers 401, and the job says so until somebody corrects it."""

    def check(one: Told) -> int:
        try:
            one.checked(secret["now"])
        except WebhookVerificationError:
            return 401
        return 204

    server = house.serve()
    secret = {"now": "whsec_" + "A" * 44}
    with Receiver(check=check) as receiver:
        job = submit(server, webhook=receiver.url)
        until(lambda: state_of(server, job)["status"] == 401)
        secret["now"] = secret_of(server)
        until(lambda: state_of(server, job)["state"] == "delivered")


async def test_a_clock_that_is_wrong_is_noticed_and_mended(tmp_path: Path) -> None:
    """A server whose clock is an hour late is not believed; one whose clock is right is, with the same message."""

    def check(one: Told) -> int:
        try:
            one.checked(secret)
        except WebhookVerificationError as error:
            seen.append(str(error))
            return 400
        return 204

    seen: list[str] = []
    async with open_app(settings=load_settings(home=tmp_path, environ={})) as app:
        (secret,) = await app.outbox.secrets("local")
        with Receiver(check=check) as receiver:
            async with app.drawing(models=["mock"]):
                async for _ in app.generate("x", model="mock", options={"slow": 0}, webhook=Webhook(url=receiver.url)):
                    pass
            for clock in (lambda: time.time() - 3600, time.time):
                (message,) = await app.outbox.take(1, ())
                courier = Courier(app, Post(app.outbox.reach), agent="imagen", clock=clock)
                answer = await courier._tried(message)
                await app.outbox.finish(message, answer)
                due_now(tmp_path)
            assert answer.ok
            assert seen == ["Message timestamp too old"]


def test_commands_tell_too_where_no_server_runs(imagen: Any) -> None:
    """`generate` and `compare` with --webhook tell it themselves, say so, and leave nothing open."""
    secret = imagen("keys", "webhook-secret").stdout.strip()
    quick = ("--set", "slow=0", "--size", "64x64")
    with Receiver() as receiver:
        run = imagen("generate", "a fox", *quick, "--webhook", receiver.url)
        assert run.returncode == 0, run.stderr
        assert f"told http://127.0.0.1:{receiver.port}" in run.stderr
        (one,) = receiver.until(1)
        assert one.checked(secret)["type"] == "job.completed"
        shown = imagen("jobs", "show", one.id).stdout
        assert f"webhook   http://127.0.0.1:{receiver.port}: delivered" in shown
        run = imagen("compare", "a fox", "--models", "mock,mock-warm", *quick, "--webhook", receiver.url, "-o", "here")
        assert run.returncode == 0, run.stderr
        assert "told http://127.0.0.1" in run.stderr
        (_, two) = receiver.until(2)
        assert two.checked(secret)["type"] == "series.completed"
        assert imagen("series", "show", two.shape["series"]["id"]).stdout.count("delivered") == 1


def test_what_another_server_draws_is_told_by_that_server(house: House, imagen: Any) -> None:
    """`--server` and `--webhook` together: the message is signed with the secret of there, and the command says so."""
    server = house.serve()
    with Receiver() as receiver:
        quick = ("--set", "slow=0", "--size", "64x64", "--webhook", receiver.url)
        run = imagen("--server", server.url, "generate", "a fox", *quick, "-o", "fox.png")
        assert run.returncode == 0, run.stderr
        assert f"told http://127.0.0.1:{receiver.port}" in run.stderr
        (one,) = receiver.until(1)
        one.checked(secret_of(server))
        assert imagen("--server", server.url, "jobs", "resend", one.id).stdout.strip() == one.id
        assert receiver.until(2)[1].id == one.id
        assert "delivered" in imagen("--server", server.url, "jobs", "show", one.id).stdout
        assert imagen("--server", server.url, "jobs", "resend", "--failed").returncode == 2
        again = imagen("--server", server.url, "jobs", "retry", one.id)
        assert "follow it with" in again.stderr
        assert "no worker" not in again.stderr
    run = imagen("--server", server.url, "generate", "a fox", *quick)
    assert "the server tries on" in run.stderr
    assert "imagen worker" not in run.stderr
    (newest,) = ask(f"{server.url}/v1/jobs?limit=1")[1]["jobs"]
    facts = imagen("--server", server.url, "jobs", "show", newest["id"])
    assert re.search(r"^next try +(in \d+ (s|min)|now)$", facts.stdout, re.MULTILINE), facts.stdout


def test_a_command_says_what_it_could_not_tell(imagen: Any) -> None:
    """The picture is there and the exit code 0; what failed can be sent again."""
    with Receiver() as receiver:
        port = receiver.port
    run = imagen("generate", "a fox", "--set", "slow=0", "--size", "64x64", "--webhook", receiver.url)
    assert run.returncode == 0, run.stderr
    assert "does not take connections" in run.stderr
    assert "tries on" in run.stderr
    assert run.stdout.strip().endswith(".png")
    job = imagen.jobs()[0]["id"]
    assert imagen("jobs", "resend", job).stdout.strip() == job
    with Receiver(port=port) as receiver:
        run = imagen("generate", "a cat", "--set", "slow=0", "--size", "64x64", "--webhook", receiver.url)
        assert {one.id for one in receiver.until(2)} == {one["id"] for one in imagen.jobs()}


def test_what_a_command_cannot_do_with_a_webhook_is_refused(imagen: Any) -> None:
    """Exit code 2 with the reason, before anything is drawn; and nothing to send again is no failure."""
    assert imagen("jobs", "resend", "--failed").returncode == 0
    assert imagen("jobs", "resend").returncode == 2
    for url in ("http://10.0.0.1/", "nonsense"):
        run = imagen("generate", "a fox", "--webhook", url)
        assert run.returncode == 2
        assert "webhook" in run.stderr


def test_a_server_forgets_what_was_told_long_ago(house: House, until: Until) -> None:
    """Its courier does so by itself; the job is there and says that it is forgotten."""
    with Receiver() as receiver:
        server = house.serve()
        job = submit(server, webhook=receiver.url)
        until(lambda: state_of(server, job)["state"] == "delivered")
        server.stop()
        with sqlite3.connect(house.home / "imagen.db", timeout=30) as connection:
            connection.execute("update deliveries set id = '00' || substr(id, 3), ended_at = '2020-01-01T00:00:00Z'")
        connection.close()
        server = house.serve()
        until(lambda: state_of(server, job)["state"] == "forgotten")
        status, refused = ask(f"{server.url}/v1/jobs/{job}/webhook", {})
        assert status == 409
        assert "keep_days" in refused["error"]["hint"]
