"""Pictures in a bucket, as people use it: the server, its worker and the commands, beside a real S3 store."""

import asyncio
import hashlib
import json
import os
import re
import shlex
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import NullPool, create_engine, text
from tests.mcp_kit import FAST, on_stdio
from tests.s3_kit import READER_KEY, READER_SECRET, S3, s3_store
from tests.serve_kit import Until, ask, ended, job_of, submit
from tests.service_kit import House

from imagen.engine.drawing.keeping import keep
from imagen.store.images import PART, ImageStore

pytestmark = [pytest.mark.needs_s3, pytest.mark.timeout(300)]

FILES = 4  # of one picture: itself, two copies, the sidecar


class Bucketed(House):
    """A house whose pictures lie in a bucket."""

    def __init__(self, folder: Path, s3: S3, *, database: str | None = None, **settings: Any) -> None:
        super().__init__(database, folder=folder)
        self.s3 = s3
        self.place = s3.new_place()
        (self.home / "config.yaml").write_text(s3.settings(self.place, **settings))

    def rows(self) -> list[dict[str, Any]]:
        """What the database says of the pictures."""
        return self.select("SELECT id, job_id, idx, url, sha256 FROM imagen.images")

    def select(self, statement: str) -> list[dict[str, Any]]:
        """What the database says."""
        url, schema = self.database_url.replace("postgresql:", "postgresql+psycopg:"), "imagen."
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            told = connection.execute(text(statement.replace(schema, schema if self.address else "")))
            return [dict(row) for row in told.mappings()]

    def check(self, pictures: int, *, killed: int = 0) -> None:
        """Each picture is there once and whole, with all that belongs to it, and nothing else is.

        Of `killed` uploads, whose worker was killed, files may lie there that no row knows: gc takes them.
        """
        rows, files = self.rows(), self.s3.files(self.place)
        assert len(rows) == pictures
        assert len({(row["job_id"], row["idx"]) for row in rows}) == pictures
        for row in rows:
            assert hashlib.sha256(self.s3.read(row["url"])).hexdigest() == row["sha256"]
        ids = Counter(name.split("/")[-1].split(".")[0] for name in files)
        assert {row["id"]: ids.pop(row["id"]) for row in rows} == {row["id"]: FILES for row in rows}
        assert len(ids) <= killed, ids


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3.keys.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def house(tmp_path: Path, s3: S3) -> Iterator[Bucketed]:
    with Bucketed(tmp_path, s3) as made:
        yield made


@pytest.fixture(scope="module")
def _mortal() -> Iterator[S3]:
    with s3_store() as server:
        yield server


@pytest.fixture
def mortal(_mortal: S3) -> Iterator[S3]:
    """A store that these tests end and start again; whoever fails in between leaves it to the next as it was."""
    yield _mortal
    if not _mortal.running:
        _mortal.start()


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One answer, redirects not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=30) as answer:
            return answer.status, _lower(answer.headers), answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, _lower(refused.headers), refused.read()


def test_everything_that_reads_pictures_reads_them_from_the_bucket(house: Bucketed, until: Until) -> None:
    """Over HTTP whole, in part and small; by command: shown, copied, drawn again, compared, deleted."""
    server = house.serve()
    job = ended(server, submit(server, n=2), until)
    assert job["state"] == "completed"
    house.check(2)
    image = job["images"][0]
    url = f"{server.url}{image['url']}"
    status, headers, data = get(url)
    assert (status, headers["content-type"], headers["content-length"]) == (200, "image/png", str(len(data)))
    assert hashlib.sha256(data).hexdigest() == image["sha256"]
    status, headers, part = get(url, range=f"bytes=10-{len(data) - 5}")
    assert (status, part) == (206, data[10 : len(data) - 4])
    assert get(f"{url}?w=16")[1]["content-type"] == "image/webp"
    assert get(url, if_none_match=headers["etag"])[0] == 304
    shown = house.run("jobs", "show", job["id"]).stdout
    assert f"{house.place}/" in shown
    assert ask(f"{server.url}/v1/images/{image['id']}", method="DELETE")[0] == 204
    assert get(url)[0] == 410
    assert len(house.s3.files(house.place)) == FILES

    ran = house.run("generate", "a hare", "--size", "64x64", "--steps", "2", "-o", "hare.png")
    assert ran.returncode == 0, ran.stderr
    assert (house.folder / "hare.png").read_bytes().startswith(b"\x89PNG")
    plain = house.run("generate", "a hare", "--size", "64x64", "--steps", "2")
    assert plain.stdout.startswith(f"{house.place}/20")
    assert house.s3.read(plain.stdout.strip()).startswith(b"\x89PNG")
    again = house.run("reproduce", "hare.png")
    assert again.returncode == 0, again.stdout + again.stderr
    compared = house.run("compare", "a hare", "--models", "mock,mock-warm", "-o", "both", "--size", "64x64")
    assert compared.returncode == 0, compared.stderr
    assert len(list((house.folder / "both").glob("*.png"))) == 3
    _, listed = ask(f"{server.url}/v1/series")
    status, _, sheet = get(f"{server.url}/v1/series/{listed['series'][0]['id']}/sheet.png")
    assert (status, sheet[:4]) == (200, b"\x89PNG")
    swept = json.loads(house.run("gc", "--json").stdout)
    assert (swept["missing"]["count"], swept["foreign"]["count"]) == (0, 0)
    kept = house.s3.files(house.place)
    assert house.run("gc", "--yes").returncode == 0
    assert house.s3.files(house.place) == kept


def test_the_doors_of_other_programs_give_pictures_from_the_bucket(house: Bucketed) -> None:
    """OpenAI's and AUTOMATIC1111's: as base64."""
    server = house.serve()
    asked = {"prompt": "a hare [slow:0]", "model": "mock", "size": "64x64"}
    pictures = [ask(f"{server.url}/v1/images/generations", asked)[1]["data"][0]["b64_json"]]
    txt2img = {"prompt": "a hare [slow:0]", "width": 64, "height": 64, "steps": 2}
    pictures += ask(f"{server.url}/sdapi/v1/txt2img", txt2img)[1]["images"]
    assert all(b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    house.check(2)


async def test_an_agent_sees_pictures_of_the_bucket(house: Bucketed) -> None:
    """Small ones in the answers, copies where it may write, and where the whole ones lie."""
    async with on_stdio(house.folder, "--folder", str(house.folder / "copies")) as agent:
        told = await agent("generate", prompt="a hare", wait_s=30, **FAST)
        job = told.data["job"]
        assert len(told.pictures) == 1
        assert job["images"][0]["url"].startswith(f"{house.place}/")
        saved = (await agent("fetch", id=job["id"], save_to="hare.png")).data["saved_to"]
        assert Path(saved).read_bytes() == house.s3.read(job["images"][0]["url"])
        told = await agent("compare", prompts=["a hare"], models=["mock", "mock-warm"], wait_s=30, **FAST)
        assert len(told.pictures) == 1


def test_what_the_howto_says_works(tmp_path: Path, s3: S3) -> None:
    """Its settings are taken, its commands run, its rules are JSON."""
    page = (Path(__file__).parents[2] / "docs/howto/store-pictures-on-s3.md").read_text()
    (settings,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    told = yaml.safe_load(settings)
    assert told["storage"].startswith("s3://")
    with Bucketed(tmp_path, s3, **told["s3"] | {"endpoint": s3.endpoint}) as house:
        for line in re.search(r"```sh\n(.*?)```", page, re.DOTALL)[1].splitlines():  # type: ignore[index]
            ran = house.run(*shlex.split(line)[1:])
            assert ran.returncode == 0, ran.stdout + ran.stderr
        assert (house.folder / "fox.png").exists()
    assert [set(json.loads(rule)) for rule in re.findall(r"```json\n(.*?)```", page, re.DOTALL)] == [
        {"Version", "Statement"},
        {"CORSRules"},
        {"Rules"},
    ]


def test_the_doctor_says_what_is_wrong_with_the_bucket(house: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it is when nothing is; nothing of the look stays there."""
    told = house.run("doctor")
    assert f"ok    image store: {house.place}" in told.stdout, told.stdout
    assert "images folder" not in told.stdout
    assert house.s3.files(house.place) == {}
    shown = house.run("config", "show").stdout
    assert S3.keys["AWS_SECRET_ACCESS_KEY"] not in shown
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    told = house.run("doctor")
    assert told.returncode == 3
    assert "FAIL  image store: no picture can be stored: access is denied" in told.stdout
    assert READER_SECRET not in told.stdout


def test_signed_addresses_spare_the_server(tmp_path: Path, s3: S3, until: Until) -> None:
    """307 to the store, which answers without a key, also in part; the page may load from there and nowhere else."""
    with Bucketed(tmp_path, s3, reads="presigned", presign_s=300) as house:
        server = house.serve()
        image = ended(server, submit(server), until)["images"][0]
        status, headers, body = get(f"{server.url}{image['url']}")
        assert (status, body, headers["cache-control"]) == (307, b"", "private, max-age=150")
        signed = headers["location"]
        assert signed.startswith(f"{s3.endpoint}/")
        status, headers, data = get(signed)
        assert (status, headers["content-type"]) == (200, "image/png")
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        assert get(signed, range="bytes=1-3")[::2] == (206, data[1:4])
        assert get(signed.replace("Signature=", "Signature=0"))[0] == 403
        assert get(f"{server.url}{image['url']}", if_none_match=f'"{image["sha256"]}"')[0] == 304
        policy = get(f"{server.url}/imagine")[1]["content-security-policy"]
        assert f"img-src 'self' {s3.endpoint} blob: data:" in policy
        assert f"connect-src 'self' {s3.endpoint};" in policy
        assert "X-Amz-Signature" not in server.said()


def test_a_command_at_another_server_is_sent_to_the_store_without_its_key(tmp_path: Path, s3: S3) -> None:
    """The store would refuse an address that is signed and comes with a key besides."""
    with Bucketed(tmp_path / "there", s3, reads="presigned") as there, House(folder=tmp_path / "here") as here:
        secret = there.run("keys", "add", "me").stdout.split()[-1]
        server = there.serve()
        server_key = {"IMAGEN_SERVER": server.url, "IMAGEN_KEY": secret}
        drawn = here.start(
            "generate", "a hare", "-m", "mock", "--size", "64x64", "-o", "hare.png", environment=server_key
        )
        assert drawn.process.wait(30) == 0, drawn.said()
        (row,) = there.rows()
        assert hashlib.sha256((here.folder / "hare.png").read_bytes()).hexdigest() == row["sha256"]


def test_a_worker_with_a_wrong_key_draws_nothing(house: Bucketed, until: Until) -> None:
    """Jobs wait for somebody who can keep their pictures; readiness and the log say why."""
    wrong = {"AWS_SECRET_ACCESS_KEY": "a-guess"}
    server = house.start("serve", "--port", "0", environment=wrong)
    server.ready()
    job = submit(server)
    refused = until(lambda: (found := ask(f"{server.url}/readyz"))[0] == 503 and found[1])
    assert "does not know these keys (SignatureDoesNotMatch)" in refused["error"]["message"]
    until(lambda: "nothing is drawn here until pictures can be stored" in server.said())
    assert job_of(server, job)["attempt"] == 0
    house.start("worker")
    assert ended(server, job, until)["state"] == "completed"
    house.check(1)


def test_a_command_that_cannot_store_fails_with_the_reason(house: Bucketed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, the owner's turn."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-guess")
    ran = house.run("generate", "a hare", "--size", "64x64", "--steps", "2")
    assert ran.returncode == 3
    assert "does not know these keys (SignatureDoesNotMatch)" in ran.stderr


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
def test_a_store_that_dies_in_the_middle_costs_time_and_no_picture(
    tmp_path: Path, mortal: S3, until: Until, request: pytest.FixtureRequest, kind: str
) -> None:
    """Killed three times under a stream of jobs and two workers, one of which is killed too: each picture is whole."""
    database = None if kind == "sqlite" else request.getfixturevalue("postgres").new_database()
    with Bucketed(tmp_path, mortal, database=database) as house:
        house.model("quick", device="cpu@quick", slots=4)
        server = house.serve("--no-worker")
        worker, _ = (house.start("worker", "--models", "quick") for _ in range(2))
        jobs: list[str] = []
        for round_ in range(3):
            enough = len(house.rows()) + 3
            jobs += [submit(server, model="quick", slow=1, width=512, height=512, steps=4) for _ in range(20)]
            until(partial(_more, house.rows, enough))
            waited = len(_waits(house, jobs))
            mortal.kill()
            until(partial(_more, partial(_waits, house, jobs), waited))
            if round_ == 1:
                worker.kill()
                worker = house.start("worker", "--models", "quick")
            mortal.start()
        for job in jobs:
            assert ended(server, job, until)["state"] == "completed"
        house.check(len(jobs), killed=4)
        warned = _waits(house, jobs)[0]
        assert "is drawn and waits to be stored: cannot store the picture" in warned
        assert "does not answer (Connection refused)" in warned or "does not take it now" in warned


@pytest.mark.parametrize("away_s", [0, 12], ids=["at once", "late"])
async def test_a_large_picture_is_whole_after_its_upload_broke_off(mortal: S3, tmp_path: Path, away_s: float) -> None:
    """Sent in parts, of which some had arrived: nobody sees half of it, and the same bytes are sent again."""
    place = mortal.new_place()
    images = ImageStore(place, tmp_path, endpoint=mortal.endpoint, allow_http=True)
    picture = os.urandom(12 * PART + 1)
    told: list[str] = []

    async def waiting(message: str) -> None:
        told.append(message)

    files = {"large.png": picture}
    keeping = asyncio.create_task(keep(images, files, waiting=waiting, monotonic=time.monotonic, patient=True))
    await asyncio.sleep(0.3)
    mortal.kill()
    await asyncio.sleep(away_s)
    assert not keeping.done()
    await asyncio.to_thread(mortal.start)
    await keeping
    assert len(told) == 1 or not away_s  # a short absence may pass without a word
    assert mortal.files(place) == {"large.png": len(picture)}
    assert await images.get("large.png") == picture


def test_a_store_that_stays_away_gives_the_job_back(tmp_path: Path, mortal: S3, until: Until) -> None:
    """With its patience at an end the worker lets go, says why, and draws nothing until the store is back."""
    with Bucketed(tmp_path, mortal, patience_s=3) as house:
        server = house.serve()
        job = submit(server, slow=1)
        until(lambda: job_of(server, job)["state"] == "running")
        mortal.kill()
        events = until(lambda: (told := _events(house, job))[-1]["type"] == "requeued" and told)
        assert "does not answer (Connection refused)" in events[-1]["reason"]
        until(lambda: "nothing is drawn here until pictures can be stored" in server.said())
        waiting = submit(server)
        time.sleep(5)
        assert job_of(server, waiting)["attempt"] == 0
        assert "a worker that can store pictures: " in job_of(server, waiting)["waits_for"]
        assert "Connection refused" in house.run("jobs", "show", waiting).stdout
        assert job_of(server, job)["attempt"] == 1
        mortal.start()
        assert [ended(server, one, until)["state"] for one in (job, waiting)] == ["completed"] * 2
        house.check(2)
        until(lambda: "pictures can be stored again" in server.said())


def test_a_command_does_not_wait_for_ever_for_a_store_that_is_away(tmp_path: Path, mortal: S3) -> None:
    """It says that the picture is drawn and waits, and after that fails once, instead of drawing it again and again."""
    with Bucketed(tmp_path, mortal) as house:
        mortal.kill()
        ran = house.run("generate", "a hare", "--size", "64x64", "--steps", "2")
        assert ran.returncode == 3, ran.stderr
        assert "warning: the picture is drawn and waits to be stored" in ran.stderr
        assert "Connection refused" in ran.stderr
        (job,) = json.loads(house.run("jobs", "list", "--json").stdout)["jobs"]
        assert (job["state"], job["attempt"]) == ("failed", 1)


@pytest.mark.needs_small_disk
def test_a_full_store_loses_nothing(tmp_path: Path, until: Until) -> None:
    """Its disk fills up: pictures wait, then jobs do, and the reason is there to see; with more room all are done."""
    with s3_store(room_mib=40) as small, Bucketed(tmp_path, small) as house:
        server = house.serve()
        jobs = [submit(server, width=2048, height=2048, steps=1, seed=seed) for seed in range(12)]
        (warned, *_) = until(lambda: _waits(house, jobs))
        assert "the bucket does not take it now (500 InternalError)" in warned
        assert job_of(server, jobs[-1])["state"] == "queued"
        small.grow(400)
        for job in jobs:
            assert ended(server, job, until)["state"] == "completed"
        house.check(len(jobs))


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _waits(house: Bucketed, jobs: Sequence[str]) -> list[str]:
    """Why pictures had to wait."""
    told = (event for job in jobs for event in _events(house, job) if event["type"] == "warning")
    return [str(event["message"]) for event in told if event["code"] == "storage_away"]


def _more(found: Callable[[], Sequence[object]], than: int) -> bool:
    return len(found()) > than


def _events(house: Bucketed, job: str) -> list[dict[str, Any]]:
    rows = house.select(f"SELECT type, body FROM imagen.events WHERE job_id = '{job}' ORDER BY seq")
    bodies = (row["body"] if isinstance(row["body"], dict) else json.loads(row["body"]) for row in rows)
    return [{"type": row["type"], **body} for row, body in zip(rows, bodies, strict=True)]
