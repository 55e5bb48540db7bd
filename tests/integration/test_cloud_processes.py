"""`imagen` as programs that end at any moment while a service over the network draws for them, and is paid for it."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cog_kit import cog
from tests.serve_kit import Until, ask, ended, job_of, shown
from tests.service_kit import House

from imagen.testing.openai_images import FakeImages
from imagen.testing.replicate import FakeReplicate

TOKEN = "r8_0123456789-not-a-real-token"
CREATE = "/v1/models/some/flux/predictions"
SMALL = {"prompt": "a fox", "width": 64, "height": 48, "steps": 4, "seed": 7}


@pytest.fixture
def replicate() -> Iterator[FakeReplicate]:
    fake = FakeReplicate(token=TOKEN, intermediate=True)
    with fake.running():
        yield fake


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(folder=tmp_path / "house") as made:
        (made.folder / "token").write_text(f"{TOKEN}\n")
        yield made


def settle(house: House, *, url: str = "", **more: Any) -> None:
    """Models of services at this address, for money, with a token in a file."""
    paid = {"paid": True, "defaults": {"width": 64, "height": 48, "steps": 4}}
    token = {"token_file": str(house.folder / "token")}
    told = {
        "models": {
            "flux": {"backend": "replicate", "model": "some/flux", "price_per_image": 0.003, **paid},
            "images": {"backend": "openai", "model": "gpt-image-2", "dialect": "imagen", **paid},
        },
        "backends": {
            "replicate": {"api": f"{url}/v1", "poll_s": 0.05, "patience_s": 5, **token},
            "openai": {"url": f"{url}/v1", "patience_s": 5, **token},
        },
        **more,
    }
    (house.home / "config.yaml").write_text(json.dumps(told))


def asked(server: Any, model: str, **fields: Any) -> str:
    """A small job; its id."""
    status, job = ask(f"{server.url}/v1/jobs", {**SMALL, "model": model, **fields})
    assert status == 202, job
    return str(job["id"])


def _asked_more_often_than(fake: FakeReplicate, times: int) -> bool:
    return len(fake.requests) > times


def sidecars(house: House) -> list[dict[str, Any]]:
    """What is recorded beside the pictures."""
    return [json.loads(file.read_text()) for file in sorted(house.home.rglob("*.json")) if "images" in file.parts]


class TestReplicate:
    """Each picture is one prediction, whoever dies."""

    def test_killed_in_the_middle_it_goes_on_with_its_prediction(
        self, house: House, replicate: FakeReplicate, until: Until
    ) -> None:
        """kill -9 and start: the ledger of the service has one line, and the sidecar what it cost."""
        settle(house, url=replicate.url)
        replicate.hold()
        server = house.serve()
        job = asked(server, "flux")
        until(lambda: replicate.asked("GET", replicate.predictions[0].id) if replicate.predictions else None)
        server.kill()
        looked = len(replicate.requests)
        again = house.serve()
        until(lambda: replicate.requests[looked:])
        replicate.go_on()
        told = ended(again, job, until)
        assert told["state"] == "completed", told
        assert [one.status for one in replicate.predictions] == ["succeeded"]
        assert told["facts"]["cost"] == 0.003
        (sidecar,) = sidecars(house)
        made = replicate.predictions[0]
        assert sidecar["run"]["cost"] == 0.003
        assert made.started_at is not None
        assert made.completed_at is not None
        ran_s = (made.completed_at - made.started_at).total_seconds()
        assert sidecar["run"]["timings"]["sample"] == pytest.approx(ran_s, abs=1e-3)
        assert made.id in sidecar["run"]["drawn"]
        assert TOKEN not in json.dumps([told, sidecar]) + server.said() + again.said()

    def test_killed_before_it_heard_of_its_prediction_it_finds_it(
        self, house: House, replicate: FakeReplicate, until: Until
    ) -> None:
        """The worst moment: asked for and made, and the answer never read."""
        settle(house, url=replicate.url)
        replicate.lose_reply(CREATE)
        replicate.delay("/v1/predictions", 60)  # and whoever looks for it dies before it is found
        server = house.serve()
        job = asked(server, "flux")
        until(lambda: replicate.asked("GET", "/v1/predictions"))
        server.kill()
        replicate.open()
        assert ended(house.serve(), job, until)["state"] == "completed"
        assert len(replicate.predictions) == 1

    def test_killed_again_and_again_it_still_pays_for_three_pictures_of_three(
        self, house: House, replicate: FakeReplicate, until: Until
    ) -> None:
        """However often, with several pictures under way."""
        settle(house, url=replicate.url)
        replicate.step_s = 0.2
        server = house.serve()
        job = asked(server, "flux", n=3)
        for deaths in range(2):  # a third death would be its last: a job has three attempts
            until(partial(_asked_more_often_than, replicate, 4 * (deaths + 1)))
            server.kill()
            server = house.serve()
        told = ended(server, job, until)
        assert told["state"] == "completed", told
        assert [image["index"] for image in told["images"]] == [0, 1, 2]
        assert len(replicate.predictions) == 3
        assert replicate.cancelled == []

    def test_stopped_politely_it_stops_paying(self, house: House, replicate: FakeReplicate, until: Until) -> None:
        """SIGTERM without grace: the prediction is cancelled there, the job waits here."""
        settle(house, url=replicate.url)
        replicate.hold()
        server = house.serve("--grace", "0")
        job = asked(server, "flux")
        until(lambda: replicate.asked("GET", replicate.predictions[0].id) if replicate.predictions else None)
        assert server.stop() == 0
        assert [one.status for one in replicate.predictions] == ["canceled"]
        assert shown(house, job)["state"] == "queued"

    def test_cancelling_the_job_cancels_the_prediction(
        self, house: House, replicate: FakeReplicate, until: Until
    ) -> None:
        """And it is really over."""
        settle(house, url=replicate.url)
        replicate.hold()
        server = house.serve()
        job = asked(server, "flux")
        until(lambda: replicate.asked("GET", replicate.predictions[0].id) if replicate.predictions else None)
        assert ask(f"{server.url}/v1/jobs/{job}/cancel", {}, method="POST")[0] < 300
        assert ended(server, job, until)["state"] == "cancelled"
        assert [one.status for one in replicate.predictions] == ["canceled"]


class TestOpenAI:
    """A call has no id to come back to."""

    def test_killed_in_the_middle_a_paid_call_is_not_made_again(self, house: House, until: Until) -> None:
        """The job ends with words for a person; their own retry pays again, and only that."""
        fake = FakeImages(token=TOKEN, step_s=30)
        with fake.running() as url:
            settle(house, url=url)
            server = house.serve()
            job = asked(server, "images")
            until(lambda: fake.calls)
            server.kill()
            fake.step_s = 0
            again = house.serve()
            told = ended(again, job, until)
            assert told["state"] == "failed"
            assert "cannot be known" in told["error"]["message"]
            assert len(fake.calls) == 1
            status, retried = ask(f"{again.url}/v1/jobs/{job}/retry", {}, method="POST")
            assert status < 300, retried
            assert ended(again, str(retried["id"]), until)["state"] == "completed"
            assert len(fake.calls) == 2


class TestCog:
    """A container of one's own."""

    def test_killed_in_the_middle_it_is_joined_by_its_id(self, house: House, tmp_path: Path, until: Until) -> None:
        """Cog's own server draws on, and its model is asked once."""
        with cog(tmp_path / "cog") as container:
            mine = {"backend": "replicate", "url": container.url, "intermediate": True, "extra": {"step_s": 3.0}}
            (house.home / "config.yaml").write_text(json.dumps({"models": {"mine": mine}}))
            server = house.serve()
            job = asked(server, "mine")
            until(lambda: (job_of(server, job)["progress"] or {}).get("step"))
            server.kill()
            assert container.status == "BUSY"
            told = ended(house.serve(), job, until)
            assert told["state"] == "completed", told
            assert container.begun == ["a fox"]


class TestForbidden:
    """`paid_calls: forbidden` is the last word."""

    def test_a_job_that_is_older_than_the_switch_is_not_drawn(
        self, house: House, replicate: FakeReplicate, until: Until
    ) -> None:
        """It waits, whatever else is drawn, and nothing is sent; a new request is refused at once."""
        settle(house, url=replicate.url)
        server = house.serve("--no-worker")
        job = asked(server, "flux")
        server.stop()
        settle(house, url=replicate.url, paid_calls="forbidden")
        server = house.serve()
        assert ended(server, asked(server, "mock"), until)["state"] == "completed"
        assert job_of(server, job)["state"] == "queued"
        status, refused = ask(f"{server.url}/v1/jobs", {**SMALL, "model": "flux"})
        assert status == 400, refused
        assert "paid_calls" in json.dumps(refused)
        assert replicate.requests == []
        server.stop()
        settle(house, url=replicate.url)
        assert ended(house.serve(), job, until)["state"] == "completed"

    def test_the_environment_says_so_too(self, house: House, replicate: FakeReplicate) -> None:
        """For one command; without it the same command draws."""
        settle(house, url=replicate.url)
        command = ("generate", "a fox", "-m", "flux", "--size", "64x48", "-o", "fox.png")
        refused = house.start(*command, environment={"IMAGEN_PAID_CALLS": "forbidden"})
        assert refused.process.wait(60) == 2
        assert "IMAGEN_PAID_CALLS" in refused.said()
        assert replicate.requests == []
        assert house.run(*command).returncode == 0
        assert len(replicate.predictions) == 1
