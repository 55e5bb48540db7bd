"""Two servers behind one nginx, as deploy/nginx.conf says it; `benchmarks/nginx.py` measures the same."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import nginx as bench
from tests.http_kit import Refused, get, post
from tests.nginx_kit import SITE, Nginx, nginx
from tests.serve_kit import Until
from tests.service_kit import free_port

pytestmark = [pytest.mark.needs_nginx, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def _two() -> Iterator[bench.Two]:
    with bench.pair(durable=False) as two:
        yield two


@pytest.fixture
def two(_two: bench.Two) -> bench.Two:
    """Both servers, alive and, as far as nginx knows, well."""
    if not _two.shows.alive:
        _two.again()
    return _two


def test_nginx_takes_the_file_as_it_is() -> None:
    """With names in it that this machine knows, and nothing else changed."""
    made = Nginx(["127.0.0.1:8450", "127.0.0.1:8451"])
    try:
        assert made.check() == ""
        broken = (made.folder / "site.conf").read_text().replace("least_conn;", "least_con;")
        (made.folder / "site.conf").write_text(broken)
        assert "least_con" in made.check()
    finally:
        made.close()


def test_the_file_waits_longer_than_a_stream_is_silent() -> None:
    """Or watchers of a slow job would be thrown out."""
    from imagen.config.keys import LIMITS
    from imagen.surfaces.http.guard import IDLE_S, LARGE
    from imagen.surfaces.http.streams import HEARTBEAT_S

    site = SITE.read_text()
    assert "proxy_read_timeout 75s;" in site
    assert max(HEARTBEAT_S, LIMITS["wait_s"][1]) < 75
    assert IDLE_S > 60, "nginx keeps an idle connection for 60 s, and would use one that the server is just closing"
    assert "client_max_body_size 32m;" in site
    assert max(LARGE.values()) == 32 * 2**20


@pytest.mark.needs_postgres
def test_a_watcher_on_one_server_sees_what_the_other_draws(two: bench.Two) -> None:
    """Every durable event once and in order, progress and previews as they come."""
    told = asyncio.run(bench.race(two, 2, previews=True))
    assert told.faults == []
    kinds = {
        f"{kind}, {way}, through nginx"
        for kind in ("durable", "progress", "previews")
        for way in ("one job", "all jobs")
    }
    assert kinds <= set(told.latencies)


@pytest.mark.needs_postgres
def test_watchers_of_a_killed_server_rejoin_and_lose_nothing_durable(two: bench.Two) -> None:
    """SIGKILL in the middle of a job: all of them come back through nginx with Last-Event-ID, to the other one."""
    lost = asyncio.run(bench.killed(two, 10))
    assert lost.faults == []
    assert lost.rejoined >= 10


@pytest.mark.needs_postgres
def test_whoever_asks_hardly_notices_that_a_server_died(two: bench.Two, until: Until) -> None:
    """Questions go to the other one; work that is sent with a key is one job each, however often it was sent."""
    body = bench.SMALL | {"n": 1, "options": {"slow": 0}}
    jobs = [
        asyncio.run(bench.insist(f"{two.front.url}/v1/jobs", body, f"before-{number}"))["id"] for number in range(4)
    ]
    two.shows.kill()
    for number in range(8):
        again = asyncio.run(bench.insist(f"{two.front.url}/v1/jobs", body, f"before-{number % 4}"))
        assert again["id"] == jobs[number % 4]
        assert get(f"{two.front.url}/v1/jobs/{jobs[number % 4]}")["id"] == jobs[number % 4]
    until(lambda: all(get(f"{two.front.url}/v1/jobs/{job}")["state"] == "completed" for job in jobs))
    assert len(get(f"{two.front.url}/v1/jobs?limit=100&q=a fox".replace(" ", "%20"))["jobs"]) >= len(set(jobs))
    two.again()
    before = _asked(two)
    until(lambda: get(f"{two.front.url}/v1/jobs?limit=1") and _asked(two) > before)


@pytest.mark.needs_postgres
def test_a_caller_keeps_the_checkpoint_it_chose(two: bench.Two) -> None:
    """What the door of AUTOMATIC1111 remembers is in one server's memory; nginx leads the caller there each time."""
    callers = [{"Authorization": f"Basic {b64encode(f'caller-{number}:'.encode()).decode()}"} for number in range(6)]
    for number, caller in enumerate(callers):
        post(f"{two.front.url}/sdapi/v1/options", {"sd_model_checkpoint": ("paced", "mock")[number % 2]}, caller)
        for _ in range(4):
            told = get(f"{two.front.url}/sdapi/v1/options", caller)
            assert told["sd_model_checkpoint"].startswith(("paced", "mock")[number % 2])


@pytest.mark.needs_postgres
def test_the_numbers_of_one_server_are_not_passed_on(two: bench.Two) -> None:
    """They would be those of whichever answers."""
    with pytest.raises(Refused) as refused:
        get(f"{two.front.url}/metrics")
    assert refused.value.status == 404


def test_nobody_there_is_said_in_words_that_clients_understand() -> None:
    """As an error of ours, with when to come back."""
    with nginx([f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]) as front, pytest.raises(Refused) as refused:
        get(f"{front.url}/v1/jobs")
    assert refused.value.status == 503
    error = refused.value.body["error"]
    assert (error["code"], error["retryable"], sorted(error)) == (
        "server_away",
        True,
        ["code", "hint", "message", "param", "retryable", "type"],
    )
    assert json.dumps(error)


def _asked(two: bench.Two) -> int:
    """How many requests reached the server that was killed and came back."""
    return two.shows.said().count('"request"')
