"""The place of the pictures is full, or starts again in the middle of an upload: nothing is lost, and it says why."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.disk_kit import small_disk
from tests.fleet_kit import Fleet, together
from tests.s3_kit import S3, s3_store
from tests.serve_kit import Until

pytestmark = [pytest.mark.needs_postgres, pytest.mark.timeout(400)]


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3.keys.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(_keys: None) -> Iterator[S3]:
    """A store of this test alone, which it ends and starts again."""
    with s3_store() as server:
        yield server


def sound(fleet: Fleet, read: Callable[[str], bytes | None], count: int) -> None:
    """Every job done once, each picture whole and with the pixels of an undisturbed run."""
    verdict = fleet.judge(read, {f"dev-{name}": 3 for name in ("north", "south")})
    assert verdict.faults == [], verdict
    assert verdict.states == {"completed": count}
    assert verdict.pictures == count
    assert fleet.complaints() == []
    fleet.compare(lambda path: read(path) or b"")


@pytest.mark.needs_small_disk
def test_a_full_folder_loses_nothing(tmp_path: Path, until: Until) -> None:
    """Pictures wait, then jobs do, and each says why; with more room all are done, and no half file stays."""
    folder = tmp_path / "home/images"
    with small_disk(folder, 6) as disk, together(tmp_path) as fleet:
        jobs = [fleet.submit(slow=0, steps=1, width=1024, height=1024, model=name) for name in ("north", "south") * 5]
        warned = until(lambda: len(found := _waits(fleet, jobs)) == 2 and found)
        assert all("is drawn and waits to be stored" in one and one.endswith("the disk is full") for one in warned)
        assert "queued" in fleet.states().values()
        assert "FAIL  disk: only " in fleet.house.run("doctor").stdout
        until(lambda: all("the disk is full" in worker.said() for worker in fleet.workers.values()))
        disk.grow(60)
        until(fleet.all_done)
        (waited, *_) = [job for job in jobs if _waits(fleet, [job])]
        assert f"warning: {warned[0].partition(': ')[0]}" in fleet.house.run("jobs", "watch", waited).stderr
        sound(fleet, _reading(folder), len(jobs))
        assert len([file for file in folder.rglob("*") if file.is_file()]) == 4 * len(jobs)


@pytest.mark.needs_s3
@pytest.mark.needs_small_disk
@pytest.mark.usefixtures("_keys")
def test_a_full_disk_below_the_store_loses_nothing(tmp_path: Path, until: Until) -> None:
    """The same with a bucket, which says only that it does not take it now."""
    with s3_store(room_mib=40) as s3:
        place = s3.new_place()
        with together(tmp_path, settings=s3.settings(place)) as fleet:
            names = ("north", "south") * 6
            jobs = [fleet.submit(slow=0, steps=1, width=2048, height=2048, model=name) for name in names]
            (warned, *_) = until(lambda: _waits(fleet, jobs))
            assert "the bucket does not take it now (500 InternalError)" in warned
            assert "queued" in fleet.states().values()
            s3.grow(400)
            until(fleet.all_done)
            sound(fleet, _from(s3, place), len(jobs))


@pytest.mark.needs_s3
def test_a_store_started_again_in_the_middle_of_an_upload_gets_the_whole_picture(
    tmp_path: Path, until: Until, s3: S3
) -> None:
    """Some of its parts had arrived; what is there in the end is the picture, once."""
    place = s3.new_place()
    with together(tmp_path, settings=s3.settings(place)) as fleet:
        hit = 0
        for _ in range(5):
            job = fleet.submit(slow=0, steps=1, width=4096, height=4096, model="north")
            other = fleet.submit(slow=0, steps=1, width=64, height=64, model="south")
            until(partial(_saves, fleet, job))
            there = _size(s3.data)
            give_up = time.monotonic() + 60
            while _size(s3.data) < there + 2**20 and time.monotonic() < give_up:
                time.sleep(0.001)
            s3.kill()
            hit += not fleet.rows(f"SELECT id FROM imagen.images WHERE job_id = '{job}'")
            s3.start()
            until(fleet.all_done)
            assert {fleet.job(one)["attempt"] for one in (job, other)} == {1}
            if hit:
                break
        assert hit, "it was never killed in the middle of an upload"
        sound(fleet, _from(s3, place), len(fleet.prompts))


@pytest.mark.needs_s3
def test_an_outage_longer_than_all_patience_fails_no_job(tmp_path: Path, until: Until, s3: S3) -> None:
    """However many workers draw it for nothing: each of them once, and then none until pictures can be stored."""
    place = s3.new_place()
    with together(tmp_path, names=("north",), settings=s3.settings(place, patience_s=1)) as fleet:
        for _ in range(2):
            fleet.house.start("worker", "--models", "north")
        jobs: list[str] = []

        def all_drew() -> bool:
            if set(fleet.states().values()) <= {"completed"}:
                jobs.extend(fleet.submit(slow=0, steps=1, model="north") for _ in range(6))
            return len(fleet.rows("SELECT DISTINCT body ->> 'worker' FROM imagen.events WHERE type = 'started'")) == 3

        until(all_drew)
        until(fleet.all_done)
        s3.kill()
        job = fleet.submit(slow=0, steps=1, model="north")
        until(lambda: len(_requeued(fleet, job)) == 3)
        time.sleep(5)
        assert fleet.states()[job] == "queued"
        assert len(_requeued(fleet, job)) == 3
        for event in _requeued(fleet, job):
            assert event["error"]["code"] == "storage_away"
            assert "the bucket does not answer" in event["reason"]
        s3.start()
        until(fleet.all_done)
        sound(fleet, _from(s3, place), len(fleet.prompts))


def _waits(fleet: Fleet, jobs: list[str]) -> list[str]:
    told = (event for job in jobs for event in fleet.events(job) if event["type"] == "warning")
    return [str(event["message"]) for event in told if event["code"] == "storage_away"]


def _requeued(fleet: Fleet, job: str) -> list[dict[str, Any]]:
    return [event for event in fleet.events(job) if event["type"] == "requeued"]


def _saves(fleet: Fleet, job: str) -> bool:
    rows = fleet.rows(f"SELECT phase ->> 'phase' AS name FROM imagen.live WHERE job_id = '{job}'")
    return [row["name"] for row in rows] == ["saving"]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.dat"))


def _reading(folder: Path) -> Callable[[str], bytes | None]:
    return lambda path: (folder / path).read_bytes() if (folder / path).is_file() else None


def _from(s3: S3, place: str) -> Callable[[str], bytes | None]:
    def read(path: str) -> bytes | None:
        try:
            return s3.read(f"{place}/{path}")
        except FileNotFoundError:
            return None

    return read
