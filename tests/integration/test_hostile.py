"""Hostile requests against a running server: each is refused with the right error, and the server is unharmed."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.hostile_cases import CASES, JOBS
from tests.hostile_kit import PATIENT, SLOW, Answer, Target, read_answer
from tests.postgres_kit import postgres
from tests.service_kit import PATIENCE_S, House

from imagen.config import load_settings
from imagen.surfaces.http.connection import OTHERS
from imagen.surfaces.http.guard import make_room

ROUNDS = 3
GROWTH_KIB = 32 * 1024  # one leaked body per request would be ten times that
FILES = 8  # the pools of the database may open some more


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    make_room(load_settings())  # this process opens as many connections as the server takes
    with House(folder=tmp_path_factory.mktemp("hostile")) as house:
        yield Target(house)


def check(target: Target, answer: Answer, status: int, code: str) -> None:
    """The right refusal in the one shape, with nothing of the inside in it."""
    assert answer.status == status, answer.raw[:2000]
    assert not code or answer.code == code, answer.raw[:2000]
    error = answer.json["error"]
    assert {"type", "code", "message", "hint", "param", "retryable"} <= set(error)
    assert error["message"]
    assert error["hint"]
    assert len(answer.raw) < 4000  # what was sent is not sent back
    assert (
        len(re.findall(rb"HTTP/1.1 [0-9]", answer.raw)) == 1
    )  # nothing hidden in it was taken for a request of its own
    for secret in target.secrets():
        assert secret not in answer.raw.decode("latin-1")


@pytest.mark.parametrize(("make", "status", "code"), [pytest.param(*case[1:], id=case[0][:60]) for case in CASES])
def test_a_hostile_request_is_refused(target: Target, make: Callable[[Target], bytes], status: int, code: str) -> None:
    """With the status and the code that say why, and what to do about it."""
    check(target, target.send(make(target)), status, code)


@pytest.mark.needs_postgres
def test_on_postgresql_they_are_refused_alike(tmp_path: Path) -> None:
    """Which is stricter about text and numbers than SQLite; nothing gets as far as to find out."""
    with postgres() as server, House(server.new_database(), folder=tmp_path) as house:
        target = Target(house)
        for _, make, status, code in CASES:
            check(target, target.send(make(target)), status, code)
        assert target.draw("alice")["state"] == "completed"
        assert "Traceback" not in target.server.said()


def test_who_asks_for_another_protocol_is_told_that_the_connection_ends(target: Target) -> None:
    """It would wait in vain for the answer to its next request."""
    answer = target.ask("GET", JOBS, None, "Connection: Upgrade", "Upgrade: websocket")
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_a_head_that_never_ends_is_given_up(target: Target) -> None:
    """A byte now and then does not keep a connection."""
    with target.connect() as wire:
        answer = dripped(wire, target.request()[:-4], b"\r\nX-A: b")
    check(target, answer, 408, "too_slow")
    assert "header_s" in answer.json["error"]["hint"]


def test_a_body_that_never_ends_is_given_up(target: Target) -> None:
    """Whether its length was told or it comes in chunks."""
    with target.connect() as wire:
        answer = dripped(wire, target.request("POST", JOBS, b"{", "Content-Length: 1000"), b" ")
    check(target, answer, 408, "too_slow")
    assert "body_s" in answer.json["error"]["hint"]
    with target.connect() as wire:
        answer = dripped(wire, target.request("POST", JOBS, b"", "Transfer-Encoding: chunked"), b"1\r\n \r\n")
    check(target, answer, 408, "too_slow")


def test_a_second_head_is_hurried_like_the_first(target: Target) -> None:
    """A good request first buys nothing."""
    with target.connect() as wire:
        wire.sendall(target.request())
        assert read_answer(wire).status == 200
        check(target, dripped(wire, b"GET /v1/jobs HTTP/1.1\r\nX-A: b", b"c"), 408, "too_slow")


def test_who_says_nothing_is_shown_out(target: Target) -> None:
    """An open connection without a request is closed."""
    with target.connect() as wire:
        assert wire.recv(1) == b""


def test_who_leaves_in_the_middle_costs_nothing(target: Target) -> None:
    """A hundred bodies that are never finished, and the next request is answered."""
    for _ in range(100):
        with target.connect() as wire:
            wire.sendall(target.request("POST", JOBS, b'{"prompt"', "Content-Length: 1000"))
    assert target.ask().status == 200


def test_a_refused_body_leaves_the_connection_in_order(target: Target) -> None:
    """The rest of what was sent is no request, and the next one is answered."""
    inner = target.request("DELETE", "/v1/jobs/smuggled")
    for filler, status in ((inner * 20_000, 413), (inner, 415)):
        with target.connect() as wire:
            wire.sendall(target.request("POST", JOBS, filler, kind="text/plain"))
            assert read_answer(wire).status == status
            wire.sendall(target.request())
            assert read_answer(wire).status == 200


def test_what_a_get_brings_along_means_nothing(target: Target) -> None:
    """It is no request of its own, and no answer depends on it."""
    inner = target.request("DELETE", "/v1/jobs/smuggled")
    with target.connect() as wire:
        wire.sendall(target.request("GET", JOBS, inner, kind="text/plain") + target.request("GET", "/v1/jobs/nobody"))
        assert read_answer(wire).status == 200
        assert read_answer(wire).code == "unknown_job"


def test_requests_sent_ahead_are_answered_in_order_and_not_without_end(target: Target) -> None:
    """A few are kept, thousands are not."""
    with target.connect() as wire:
        wire.sendall(target.request() + target.request("GET", "/v1/jobs/nobody"))
        assert read_answer(wire).status == 200
        assert read_answer(wire).status == 404
    with target.connect() as wire, suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(200):
            wire.sendall(target.request("GET", "/v1/events") * 100)
        read_answer(wire)
        while wire.recv(65536):
            pass
    assert target.ask().status == 200


def test_a_prompt_is_text(target: Target) -> None:
    """Whatever a shell, a template, a page or a database would make of it."""
    for prompt in (
        "${prompt} ${seed} $(touch /tmp/x) `id` {{7*7}} %(x)s %s {0}",
        "<script>alert(1)</script>\r\nSet-Cookie: a=b",
        "'; DROP TABLE jobs; -- \" \\ \x1b[2J \u202e \U0001f98a",
    ):
        assert target.draw("alice", prompt)["request"]["prompt"] == prompt


def test_a_header_of_an_answer_holds_nothing_that_was_sent(target: Target) -> None:
    """A line break in a prompt, a name or a key never becomes a header."""
    asked = {"prompt": "a\r\nX-Evil: 1", **PATIENT}
    answer = target.ask("POST", JOBS, asked, "Prefer: wait=30", "Idempotency-Key: a%0d%0aX-Evil:1")
    assert answer.status == 200
    assert "x-evil" not in answer.headers
    picture = target.ask("GET", f"/v1/images/{answer.json['images'][0]['id']}")
    assert picture.status == 200
    assert "x-evil" not in picture.headers


def test_a_key_sees_its_own_jobs_only(target: Target) -> None:
    """In lists, searches and pages too; an admin sees all."""
    mine = target.draw("alice")["id"]
    for query in ("", "?limit=500", "?q=garden", f"?series={target.series}", f"?before={mine}", "?state=completed"):
        told = target.ask("GET", JOBS + query).json["jobs"]
        assert target.job not in {job["id"] for job in told}
        assert "garden" not in str(told)
    assert target.series not in {line["id"] for line in target.ask("GET", "/v1/series").json["series"]}
    assert {mine, target.job} <= {job["id"] for job in target.ask("GET", f"{JOBS}?limit=500", key="root").json["jobs"]}


def test_another_keys_jobs_are_not_on_my_stream(target: Target) -> None:
    """Neither by name nor from the beginning."""
    mine = target.draw("alice")["id"]
    for query in (f"?jobs={target.job},{mine}&after=0", "?after=0", ""):
        with target.connect() as wire:
            wire.sendall(target.request("GET", "/v1/events" + query))
            answer = read_answer(wire)
            if answer.status != 200:
                check(target, answer, 404, "unknown_job")
                continue
            target.draw("bob", "bob's secret garden again")
            target.draw("alice", "the end")
            told = read_until(wire, b"event: completed", answer.raw)
            assert b"garden" not in told
            assert target.job.encode() not in told


def test_an_idempotency_key_belongs_to_its_key(target: Target) -> None:
    """The same one of somebody else is another; with another body it is refused."""
    body, line = {"prompt": "once", **PATIENT}, "Idempotency-Key: the-same"
    first, again = (target.ask("POST", JOBS, body, line).json["id"] for _ in range(2))
    assert first == again
    assert target.ask("POST", JOBS, body, line, key="bob").json["id"] != first
    check(target, target.ask("POST", JOBS, {**body, "seed": 1}, line), 409, "conflict")


def test_ranges_are_taken_or_left(target: Target) -> None:
    """A thousand of them make no thousand copies."""
    whole = target.ask("GET", f"/v1/images/{target.image}", key="bob")
    assert whole.status == 200
    for wish, status in (
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(900)), 200),
        ("bytes=0-", 206),
        ("bytes=-0", 416),
        ("bytes=-99999999999999999", 206),
        ("bytes=999999999-", 416),
        ("bytes=9-1", 200),
        ("bytes=" + "9" * 400 + "-", 200),
        ("bytes=a-b", 200),
        ("lines=0-1", 200),
        ("bytes=0-0, 0-" + "0" * 3000, 200),
    ):
        answer = target.ask("GET", f"/v1/images/{target.image}", None, f"Range: {wish}", key="bob")
        assert answer.status == status, wish
        assert len(answer.body) <= max(len(whole.body), 1000)


def test_an_unreadable_last_event_id_tells_all_again(target: Target) -> None:
    """And is never an error: a browser sends what it once got."""
    for seen in ("-1", "abc", "9" * 400, "1e9", "0x10", "1; DROP TABLE", "\xff"):
        for address in (f"{JOBS}/{target.job}/events", f"/v1/series/{target.series}/events"):
            answer = target.ask("GET", address, None, f"Last-Event-ID: {seen}", key="bob")
            assert answer.status in (200, 204), answer.raw


def test_one_key_cannot_fill_the_queue(target: Target) -> None:
    """The refusal names the limit; others still get their turn."""
    told = [target.ask("POST", JOBS, {"prompt": "slow", **SLOW}) for _ in range(10)]
    try:
        refused = [answer for answer in told if answer.status != 202]
        assert refused
        for answer in refused:
            check(target, answer, 429, "too_many")
            assert "retry-after" in answer.headers
            assert "5" in answer.json["error"]["message"]
        assert target.ask("POST", JOBS, {"prompt": "fine", **PATIENT}, key="bob").status == 202
    finally:
        for answer in told:
            if answer.status == 202:
                target.ask("POST", f"{JOBS}/{answer.json['id']}/cancel")


def test_streams_are_counted_for_each_key_and_in_all(target: Target) -> None:
    """The 1,101st of one key and the 2,001st of all are refused, and those that are open go on."""
    freed(target)
    with ExitStack() as stack:

        def opened(key: str, count: int) -> list[tuple[socket.socket, Answer]]:
            wires = [stack.enter_context(target.connect()) for _ in range(count)]
            for wire in wires:
                wire.sendall(target.request("GET", "/v1/events", key=key))
            return [(wire, read_answer(wire)) for wire in wires]

        alices = opened("alice", 1100)
        assert {answer.status for _, answer in alices} == {200}
        for _, refused in opened("alice", 10):
            check(target, refused, 429, "too_many")
            assert "streams_per_key" in refused.json["error"]["hint"]
        assert {answer.status for _, answer in opened("bob", 900)} == {200}
        for _, refused in opened("root", 10):
            check(target, refused, 429, "too_many")
            assert "`limits: streams:`" in refused.json["error"]["hint"]
        assert target.ask().status == 200  # a request is no stream
        target.draw("alice", "seen by all")
        for wire, answer in (alices[0], alices[-1]):
            read_until(wire, b"event: completed", answer.raw)
    freed(target)


def test_connections_are_counted_too(tmp_path: Path) -> None:
    """Those that say nothing as well; one more is told so, and the others go on."""
    with House(folder=tmp_path) as house, ExitStack() as stack:
        (house.home / "config.yaml").write_text("limits: {streams: 1}\n")
        server = house.serve()
        place = (str(urlsplit(server.url).hostname), int(urlsplit(server.url).port or 0))

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection(place, timeout=PATIENCE_S))

        first = connected()
        for _ in range(OTHERS):
            connected()
        refused = read_answer(connected())
        assert (refused.status, refused.code) == (429, "too_many")
        first.sendall(f"GET /healthz HTTP/1.1\r\nHost: {place[0]}\r\n\r\n".encode())
        assert read_answer(first).status == 200


def test_a_stream_that_is_left_is_over(target: Target) -> None:
    """Also with other requests waiting behind it, which would hide that the client is gone."""
    for _ in range(3):  # each time as many as may be open
        with ExitStack() as stack:
            for _ in range(500):
                stack.enter_context(target.connect()).sendall(target.request("GET", "/v1/events", key="root") * 2)
        freed(target)
    with target.connect() as wire:
        wire.sendall(target.request("GET", "/v1/events", key="root"))
        assert read_answer(wire).status == 200


def test_a_stream_ends_when_its_key_is_taken_away(target: Target) -> None:
    """A key that is no longer known hears nothing more, and asks in vain."""
    secret = target.house.run("keys", "add", "carol").stdout.strip()
    slow = target.ask("POST", JOBS, {"prompt": "slow", **SLOW}, key=secret).json
    with target.connect() as wire:
        wire.sendall(target.request("GET", f"{JOBS}/{slow['id']}/events", key=secret))
        assert read_answer(wire).status == 200
        assert target.house.run("keys", "remove", "carol").returncode == 0
        read_until(wire, b"0\r\n\r\n")  # the last chunk: the stream is over, though the job is not
    assert target.ask("GET", f"{JOBS}/{slow['id']}", key="root").json["state"] == "running"
    check(target, target.ask(key=secret), 401, "unauthorized")
    target.ask("POST", f"{JOBS}/{slow['id']}/cancel", key="root")


def test_after_all_of_them_the_server_is_as_before(target: Target) -> None:
    """It draws, answers, holds no more memory and no more files, and its log keeps its secrets."""

    def storm() -> tuple[int, int]:
        for _, make, status, _ in CASES:
            assert target.send(make(target)).status == status
        freed(target)
        return target.server.rss_kib(), target.open_files()

    rss, files = storm()
    for _ in range(ROUNDS):
        later_rss, later_files = storm()
    assert later_rss - rss < GROWTH_KIB
    assert later_files - files <= FILES
    with httpx2.Client(base_url=target.server.url, headers={"x-api-key": target.keys["alice"]}) as client:
        assert client.get("/readyz").status_code == 200
        answer = client.post(JOBS, json={"prompt": "still here", **PATIENT}, headers={"Prefer": "wait=30"})
        assert answer.json()["state"] == "completed"
        assert client.get(answer.json()["images"][0]["url"]).headers["content-type"] == "image/png"
    said = target.server.said()
    assert "Traceback" not in said
    for secret in target.keys.values():
        assert secret not in said
    assert "garden" not in said


def dripped(wire: socket.socket, begin: bytes, drop: bytes) -> Answer:
    """Send the beginning, then a drop now and then until there is an answer."""
    wire.sendall(begin)
    give_up = time.monotonic() + PATIENCE_S
    wire.settimeout(0.1)
    while time.monotonic() < give_up:
        with suppress(TimeoutError):
            if wire.recv(1, socket.MSG_PEEK):
                break
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.sendall(drop)
    wire.settimeout(PATIENCE_S)
    return read_answer(wire)


def read_until(wire: socket.socket, mark: bytes, told: bytes = b"") -> bytes:
    """What a stream says until it says this."""
    while mark not in told:
        data = wire.recv(65536)
        assert data, told[-1000:]
        told += data
    return told


def freed(target: Target) -> None:
    """Wait until the server noticed that nobody is connected."""
    give_up = time.monotonic() + PATIENCE_S
    while connections(target) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not connections(target)


def connections(target: Target) -> int:
    """How many sockets besides the one it listens on lead to its port."""
    port = f":{target.port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    established = ("01", "08")  # ESTABLISHED, CLOSE_WAIT
    return sum(row[1].endswith(port) and row[3] in established for row in rows)
