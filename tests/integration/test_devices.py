"""Somebody wants his card for an hour: paused from the command line or over HTTP, while real programs draw and ask."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.serve_kit import SMALL, Until, ask, drawing, ended, endless, job_of, submit
from tests.service_kit import House, Program

CARD = "card:0"
OPENAI = {"prompt": "a fox [slow:0] [steps:4]", "model": "mock", "size": "64x64"}
A1111 = {"prompt": "a fox [slow:0]", **SMALL}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(folder=tmp_path) as made:
        made.model("mock", device=CARD)
        yield made


def answered(
    server: Program, path: str, body: Any, headers: Mapping[str, str] | None = None
) -> tuple[int, str | None, str]:
    """Status, Retry-After and text of an answer."""
    data = json.dumps(body).encode()
    said = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(f"{server.url}{path}", data, said)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers["retry-after"], answer.read().decode()


def refused(server: Program, path: str, body: Any) -> tuple[int, str | None, str]:
    """The same of a request that is not answered with a picture."""
    status, after, text = answered(server, path, body)
    assert status >= 400, text
    return status, after, text


def test_a_paused_card_is_left_alone_until_it_is_resumed(house: House, until: Until) -> None:
    """Also by a server that was killed and started again; jobs wait with the reason, and none is lost."""
    server = house.serve()
    running = endless(server)
    drawing(server, running, until)
    said = house.run("worker", "pause", CARD, "--reason", "a training run", "--now", "--json")
    assert said.returncode == 0, said.stderr
    (card,) = json.loads(said.stdout)["devices"]
    assert (card["name"], card["taken"], card["paused"]["reason"]) == (CARD, 0, "a training run")
    back = job_of(server, running)
    assert back["state"] == "queued"
    assert re.fullmatch(rf"{CARD}: paused by \S+@\S+: a training run", back["waits_for"])
    server.kill()
    server = house.serve()
    waiting = submit(server)
    assert job_of(server, waiting)["waits_for"] == back["waits_for"]
    listed = house.run("worker", "list")
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith(CARD)]
    assert "0 of 1" in line
    assert "paused by" in line
    told = house.run("doctor", "mock").stdout
    assert re.search(rf"ok\s+devices: {CARD} is paused by .*: a training run; jobs wait until", told), told
    house.run("jobs", "cancel", running)
    assert house.run("worker", "resume", CARD).returncode == 0
    assert ended(server, waiting, until)["state"] == "completed"
    assert "none paused" in house.run("doctor", "mock").stdout


def test_who_would_wait_at_a_door_is_told_when_to_come_back(house: House, until: Until) -> None:
    """503 with Retry-After and the reason; a job is taken and waits, and what is drawn elsewhere goes on."""
    server = house.serve()
    assert ask(f"{server.url}/readyz") == (200, {"status": "ready"})
    status, card = ask(f"{server.url}/v1/devices/{CARD}/pause", {"reason": "a film"})
    assert status == 200, card
    assert card["paused"]["reason"] == "a film"
    for path, body in (("/v1/images/generations", OPENAI), ("/sdapi/v1/txt2img", A1111)):
        status, after, text = refused(server, path, body)
        assert (status, after) == (503, "120")
        assert f"mock is not drawn now: {CARD} is paused by local: a film" in text
    assert ask(f"{server.url}/v1/images/generations", OPENAI | {"model": "mock-warm"})[0] == 200
    assert len(ask(f"{server.url}/v1/jobs?model=mock")[1]["jobs"]) == 0, "what was refused left nothing behind"
    job = submit(server)
    metrics = ask(f"{server.url}/metrics")[1]
    assert f'imagen_device_paused{{device="{CARD}"}} 1.0' in metrics
    until(lambda: ask(f"{server.url}/readyz")[1] == {"status": "ready", "paused": "1 of the devices"})
    status, card = ask(f"{server.url}/v1/devices/{CARD}/resume", method="POST")
    assert (status, card["paused"]) == (200, None)
    assert ended(server, job, until)["state"] == "completed"
    assert ask(f"{server.url}/v1/images/generations", OPENAI)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_who_waits_at_a_door_already_is_told_too(house: House, until: Until, stream: bool) -> None:
    """Nothing is left behind for whom nobody waits; what runs is drawn to its end, and a key may bring a new job."""
    server = house.serve()
    running = endless(server)
    drawing(server, running, until)
    body: dict[str, Any] = {**OPENAI, "stream": stream}
    asked = [("/v1/images/generations", body, {"Idempotency-Key": "one"}), ("/sdapi/v1/txt2img", A1111, {})]
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(answered, server, *one) for one in asked]
        until(lambda: len(ask(f"{server.url}/v1/jobs?state=queued")[1]["jobs"]) == len(asked))
        assert ask(f"{server.url}/v1/devices/{CARD}/pause", {"reason": "a film"})[0] == 200
        for one, streamed in zip(waiting, (stream, False), strict=True):
            status, after, text = one.result()
            assert (status, after) == ((200, None) if streamed else (503, "120"))
            assert f"mock is not drawn now: {CARD} is paused by local: a film" in text
            assert text.count('"error":') == 1
    assert job_of(server, running)["state"] == "running", "what runs is left alone"
    jobs = ask(f"{server.url}/v1/jobs")[1]["jobs"]
    assert sorted(job["state"] for job in jobs) == ["cancelled", "cancelled", "running"]
    ask(f"{server.url}/v1/jobs/{running}/cancel", {})
    ask(f"{server.url}/v1/devices/{CARD}/resume", {})
    path, body, key = asked[0]
    status, _, text = answered(server, path, body, key)
    assert status == 200, text
    assert text.count('"error":') == 0


def test_who_waits_while_a_hook_fails_is_told(house: House) -> None:
    """Its request came before anybody knew; so does the next one, while the hook is tried again."""
    hook = json.dumps(["sh", "-c", "echo the trainer holds it; exit 3"])
    (house.home / "config.yaml").write_text(f"devices:\n  {CARD}: {{before: {hook}}}\n")
    server = house.serve()
    for _ in range(2):
        status, after, text = answered(server, "/v1/images/generations", OPENAI)
        assert status == 503, text
        assert int(after or 0) > 0
        assert "the trainer holds it" in text
    assert not ask(f"{server.url}/v1/jobs?state=queued")[1]["jobs"]


@pytest.mark.parametrize("away", [False, True])
def test_a_comparison_says_what_it_waits_for(house: House, until: Until, away: bool) -> None:
    """Once, with the reason, and goes on when that is over."""
    house.model("other", device="card:1")
    server = house.serve()
    assert ask(f"{server.url}/v1/devices/{CARD}/pause", {"reason": "a film"})[0] == 200
    words = ["compare", "a fox", "--models", "mock,other", "--size", "64x64", "-o", str(house.folder / "sheet")]
    program = house.start(*(["--server", server.url] if away else []), *words)
    until(lambda: f"waiting for {CARD}: paused by local: a film" in program.said())
    ask(f"{server.url}/v1/devices/{CARD}/resume", {})
    until(lambda: not program.alive)
    assert program.said().count("waiting for") == 1, program.said()


def test_with_keys_only_admins_may_pause(house: House) -> None:
    """Everybody may see; a name that is not there is refused with the nearest one."""
    ann, boss = (house.run("keys", "add", *words).stdout.split()[0] for words in (("ann",), ("boss", "--admin")))
    server = house.serve()
    url = f"{server.url}/v1/devices"
    assert ask(url)[0] == 401
    names = [device["name"] for device in ask(url, key=ann)[1]["devices"]]
    assert CARD in names
    assert ask(f"{url}/{CARD}/pause", {}, key=ann)[0] == 403
    assert ask(f"{url}/{CARD}/resume", method="POST", key=ann)[0] == 403
    status, card = ask(f"{url}/{CARD}/pause", {}, key=boss)
    assert (status, card["paused"]["by"], card["paused"]["reason"]) == (200, "boss", "")
    assert ask(f"{url}/{CARD}/pause", method="POST", key=boss)[0] == 200, (
        "both fields may be left out, and the body with them"
    )
    status, error = ask(f"{url}/card:1/pause", {}, key=boss)
    assert (status, error["error"]["code"]) == (404, "unknown_device")
    assert f"did you mean '{CARD}'" in error["error"]["message"]
    status, error = ask(f"{url}/{CARD}/pause", {"why": "x"}, key=boss)
    assert (status, error["error"]["param"]) == (400, "why")


def test_the_command_line_refuses_a_device_that_is_not_there(house: House) -> None:
    """Exit 2, and what was meant; without a name the devices of this machine are meant."""
    wrong = house.run("worker", "pause", "card:1")
    assert wrong.returncode == 2
    assert f"did you mean '{CARD}'" in wrong.stderr
    both = json.loads(house.run("worker", "pause", "--json").stdout)["devices"]
    assert {device["name"] for device in both} >= {CARD}
    assert all(device["paused"] for device in both)
    back = json.loads(house.run("worker", "resume", "--json").stdout)["devices"]
    assert [device["name"] for device in back] == [device["name"] for device in both]
    assert not any(device["paused"] for device in back)


def test_a_device_is_paused_through_a_server(house: House, tmp_path: Path, until: Until) -> None:
    """`--server` with the key of an admin; without a name every one there is meant, and another key is refused."""
    boss, ann = (house.run("keys", "add", *words).stdout.split()[0] for words in (("boss", "--admin"), ("ann",)))
    server = house.serve()

    def away(*words: str, key: str = boss) -> Any:
        return house.run("--server", server.url, "worker", *words, environment={"IMAGEN_KEY": key})

    said = away("pause", CARD, "--reason", "a film", "--json")
    assert said.returncode == 0, said.stderr
    (card,) = json.loads(said.stdout)["devices"]
    assert (card["paused"]["by"], card["paused"]["reason"]) == ("boss", "a film")
    assert "paused by boss" in away("list", key=ann).stdout
    refused = away("resume", CARD, key=ann)
    assert refused.returncode == 2
    assert "only an admin's key may pause or resume a device" in refused.stderr
    wrong = away("pause", "card:1")
    assert wrong.returncode == 2
    assert f"did you mean '{CARD}'" in wrong.stderr
    reason = "because of a reason that takes far more than the eighty columns of a terminal, and matters to its end"
    every = json.loads(away("pause", "--reason", reason, "--json").stdout)["devices"]
    assert CARD in [device["name"] for device in every if device["paused"]]
    assert reason in away("list").stdout, "in a pipe nothing is cut"
    assert not any(device["paused"] for device in json.loads(away("resume", "--json").stdout)["devices"])
    assert json.loads(away("resume", CARD, "--json").stdout)["devices"][0]["paused"] is None
    alone = away()
    assert alone.returncode == 2
    assert "leave out --server" in alone.stderr


def test_servers_that_draw_nothing_know_the_devices_of_the_workers(house: House, until: Until) -> None:
    """And no other: whichever of several is asked, the devices are the same."""
    server = house.serve("--no-worker")
    until(lambda: not ask(f"{server.url}/v1/devices")[1]["devices"])
    assert ask(f"{server.url}/v1/devices/{CARD}/pause", {})[0] == 404
    house.start("worker")
    until(lambda: CARD in [device["name"] for device in ask(f"{server.url}/v1/devices")[1]["devices"]])
    assert ask(f"{server.url}/v1/devices/{CARD}/pause", {})[0] == 200
