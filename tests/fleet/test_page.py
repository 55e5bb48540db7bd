"""The page through nginx in front of two servers, one of which is killed under it."""

from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.http_kit import get
from tests.nginx_kit import nginx
from tests.page_kit import AWAY, Person, chromium
from tests.postgres_kit import Postgres
from tests.serve_kit import Until
from tests.service_kit import House

pytestmark = [pytest.mark.needs_nginx, pytest.mark.needs_postgres, pytest.mark.needs_browser, pytest.mark.timeout(300)]


def test_the_page_does_not_lose_what_is_being_drawn_when_its_server_dies(
    tmp_path: Path, postgres: Postgres, until: Until
) -> None:
    """The stream it reads breaks off; it comes back through nginx, to the other server, and sees the end."""
    with House(postgres.new_database(), folder=tmp_path) as house, chromium() as browser:
        servers = [house.serve("--no-worker") for _ in range(2)]
        house.start("worker")
        with nginx([server.url.removeprefix("http://") for server in servers]) as front:
            person = Person(browser, front.url)
            tab = person.opens()
            tab.get_by_label("What would you like to see?").fill("a lighthouse [slow:12]")
            tab.keyboard.press("Enter")
            until(lambda: _drawing(servers[0].url))
            (reads,) = [server for server in servers if _streams(server.url)]
            reads.kill()
            (other,) = [server for server in servers if server is not reads]
            until(lambda: _streams(other.url) == 1)
            tab.locator(".easel[data-state=completed] .layer.final").wait_for()
            expect(tab.locator(".easel[data-state=completed]")).to_have_count(1)
            person.context.close()
            assert [fault for fault in person.faults if not AWAY.search(fault)] == []


def _drawing(url: str) -> bool:
    return any((job["progress"] or {}).get("step") for job in get(f"{url}/v1/jobs?state=running")["jobs"])


def _streams(url: str) -> int:
    told = str(get(f"{url}/metrics"))
    return int(float(told.partition("\nimagen_streams_open ")[2].split("\n")[0]))
