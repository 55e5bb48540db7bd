"""Many watch one job; `benchmarks/watchers.py` is the same with a thousand of them, and measures."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import watchers
from tests.service_kit import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(folder=tmp_path) as house:
        house.model("paced", device="paced@here", slots=1)
        house.model("elsewhere", device="elsewhere@here", slots=1)
        yield house


def test_everybody_sees_everything_in_order_to_the_end(house: House) -> None:
    """60 streams of one job, open before it starts: the same events for all, in order, each with the end."""
    told, _ = watchers.watch_one(house, house.serve(), 60)
    assert told["faults"] == {}
    assert told["clients"] == 60
    least, _most = told["frames"]
    assert least >= 4  # queued, started, image, completed; of the others a slow client may miss some


def test_a_client_that_never_reads_harms_nobody(house: House) -> None:
    """With megabytes of previews that nobody takes, the others see every end and the server does not grow with them."""
    server = house.serve()
    asyncio.run(watchers.beside(server, 0, slow_s=3.0, steps=100))
    before = server.rss_kib()
    told = asyncio.run(watchers.beside(server, 10, slow_s=3.0, steps=100))
    assert told["faults"] == {}
    grown_mib = (server.rss_kib() - before) / 1024
    assert grown_mib < 10 * told["stalled_mib"] / 2, "what they do not take is not kept for them"


def test_a_restart_of_the_server_loses_no_durable_event(house: House) -> None:
    """Killed, then stopped politely, and started again each time: everybody comes back to what they had not seen."""
    assert watchers.restarted(house, clients=10) is False
