"""gc: told first, removed then, and only what nobody needs."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, update
from tests.album_kit import album_in, drawn, files
from tests.store_kit import database, new

from imagen.core.errors import Gone, UnknownJob
from imagen.core.ids import new_id
from imagen.core.job import Job, State
from imagen.engine.pictures import album
from imagen.engine.pictures.gc import KEY_S, NAMED, YOUNG_S, Found, GcReport, gc
from imagen.store import history, intake, past, presence
from imagen.store.db import Database
from imagen.store.images import ImageStore, side_path
from imagen.store.order import Place
from imagen.store.series import new_series
from imagen.store.tables import events, idempotency, jobs, live, previews, series, slots, votes, watchers
from imagen.store.tables import images as image_rows
from imagen.surfaces.cli.gc import age_s

DAY_S = 86_400.0


@pytest.fixture
async def db(place: str) -> AsyncIterator[Database]:
    async with database(place) as db:
        await db.write(lambda connection: connection.execute(insert(jobs).values(ancient())))
        yield db


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return album_in(tmp_path)


def ancient() -> dict[str, Any]:
    """A job without pictures, so that this database is older than every file of a test."""
    at = datetime(2020, 1, 1, tzinfo=UTC)
    return {"id": "0" * 26, "prompt": "", "state": "cancelled", "created_at": at, "finished_at": at}


def later(seconds: float = 2 * YOUNG_S) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


async def stray(images: ImageStore, name: str = "{id}.png", size: int = 10) -> Path:
    """A file under a name that imagen gives, of a picture that was never recorded."""
    path = f"2026/01/{name.format(id=new_id())}"
    file = images.file_of(path)
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    return file


def nothing(report: GcReport) -> bool:
    """No file is told of; rows of a picture just drawn may be stale already in a future that a test speaks of."""
    return replace(report, stale=0).empty and report.missing == Found() and report.foreign == Found()


async def test_pictures_that_are_known_stay(db: Database, images: ImageStore, tmp_path: Path) -> None:
    """With all that lies beside them, however old they are."""
    await drawn(db, images, n=2)
    before = everything(tmp_path / "images")
    assert nothing(await gc(db, images, dry_run=False, now=later(1000 * DAY_S)))
    assert everything(tmp_path / "images") == before


@pytest.mark.parametrize(
    "name", ["{id}.png", "{id}.jpg", "{id}.webp", "{id}.json", "{id}.cell.webp", "{id}.thumbnail.webp", "{id}.png#1"]
)
async def test_what_was_never_recorded_goes(db: Database, images: ImageStore, name: str) -> None:
    """Also half a file of a program that was killed while it wrote; dry runs only tell."""
    file = await stray(images, name, size=10)
    told = await gc(db, images, now=later())
    assert (told.dry_run, told.strays.count, told.strays.size, told.size) == (True, 1, 10, 10)
    assert told.strays.names == (f"2026/01/{file.name}",)
    assert file.exists()
    done = await gc(db, images, dry_run=False, now=later())
    assert (done.dry_run, done.strays) == (False, told.strays)
    assert not file.exists()
    assert nothing(await gc(db, images, now=later()))


async def test_a_young_file_may_still_be_recorded(db: Database, images: ImageStore) -> None:
    """A picture is stored first and recorded then: nobody calls it a stray within the hour."""
    file = await stray(images)
    half = await stray(images, "{id}.png#2")
    assert nothing(await gc(db, images, dry_run=False, now=later(YOUNG_S - 60)))
    assert file.exists()
    assert half.exists()


@pytest.mark.parametrize("name", ["2026/01/holiday.png", "notes.txt", "2026/01/{id}/a.png", "{id}.png", "a/b/{id}.png"])
async def test_files_of_other_people_are_not_touched(db: Database, images: ImageStore, name: str) -> None:
    """Whatever is not named as imagen names pictures is told, and stays."""
    file = images.file_of(name.format(id=new_id()))
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    report = await gc(db, images, dry_run=False, now=later())
    assert report.foreign.count == 1
    assert report.size == 0
    assert file.exists()


async def test_a_new_database_does_not_take_an_old_album_for_rubbish(
    db: Database, images: ImageStore, tmp_path: Path
) -> None:
    """Pictures from before its first job were drawn with another database, which may come back."""
    await db.write(lambda connection: connection.execute(delete(jobs)))
    before = await stray(images)
    old = datetime.now(UTC).timestamp() - 3600
    os.utime(before, (old, old))
    assert (await gc(db, images, dry_run=False, now=later())).foreign.count == 1
    job = await drawn(db, images)
    after = await stray(images)
    soon = datetime.now(UTC).timestamp() + 60
    os.utime(after, (soon, soon))
    report = await gc(db, images, dry_run=False, now=later())
    assert (report.foreign.count, report.strays.count) == (1, 1)
    assert before.exists()
    assert not after.exists()
    assert all(file.exists() for file in await files(db, images, job))


async def test_what_a_crash_left_of_a_deleted_picture_goes(db: Database, images: ImageStore) -> None:
    """Young or old: the row says that nobody wants it."""
    job = await drawn(db, images)
    await album.delete_image(db, images, job.images[0].id)
    left = (await files(db, images, job))[:2]
    for file in left:
        file.write_bytes(b"left")
    told = await gc(db, images)
    assert (told.deleted.count, told.size) == (2, 8)
    assert (await gc(db, images, dry_run=False)).deleted == told.deleted
    assert not any(file.exists() for file in left)


async def finished(db: Database, job: Job, days_ago: float) -> None:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    await db.write(
        lambda connection: connection.execute(update(jobs).where(jobs.c.id == job.id).values(finished_at=at))
    )


async def test_old_pictures_go_only_when_asked(db: Database, images: ImageStore) -> None:
    """By the end of their job; what is told first is what goes, and it goes as deleting goes."""
    old, young = await drawn(db, images, n=2), await drawn(db, images)
    await finished(db, old, days_ago=31)
    await finished(db, young, days_ago=29)
    assert nothing(await gc(db, images, dry_run=False))
    weight = sum(file.stat().st_size for file in await files(db, images, old))
    told = await gc(db, images, older_than_s=30 * DAY_S)
    assert told.old == Found(count=2, size=weight, names=tuple(sorted(image.id for image in old.images)))
    assert {image.state for image in (await db.read(history.job, old.id)).images} == {"stored"}
    done = await gc(db, images, dry_run=False, older_than_s=30 * DAY_S)
    assert (done.old, done.deleted.count, done.size) == (told.old, 0, weight)
    assert not any(file.exists() for file in await files(db, images, old))
    assert {image.state for image in (await db.read(history.job, old.id)).images} == {"deleted"}
    with pytest.raises(Gone):
        await album.find(db, images, old.images[0].id)
    assert all(file.exists() for file in await files(db, images, young))
    assert nothing(await gc(db, images, older_than_s=30 * DAY_S))


async def long_ago(db: Database, days_ago: float, *job_ids: str, **values: Any) -> None:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    told = {"created_at": at, "finished_at": at} | values
    await db.write(lambda connection: connection.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(**told)))


async def test_old_jobs_are_forgotten_only_when_asked(db: Database, images: ImageStore) -> None:
    """With their pictures and events, and as many as were told first; what goes on or is younger stays."""
    old, young, waiting = await drawn(db, images), await drawn(db, images), await drawn(db, images)
    await long_ago(db, 91, old.id)
    await long_ago(db, 89, young.id)
    await long_ago(db, 91, waiting.id, state="queued", finished_at=None)
    assert (await gc(db, images, older_than_s=90 * DAY_S)).jobs == 0
    told = await gc(db, images, forget_s=90 * DAY_S)
    assert (told.jobs, told.old.names) == (2, (old.images[0].id,))  # with the one that makes this database old
    lay = await files(db, images, old)
    assert (await db.read(history.job, old.id)).state is State.COMPLETED
    done = await gc(db, images, dry_run=False, forget_s=90 * DAY_S)
    assert (done.jobs, done.old) == (told.jobs, told.old)
    assert not any(file.exists() for file in lay)
    with pytest.raises(UnknownJob):
        await db.read(history.job, old.id)
    kept = await db.read(lambda connection: connection.execute(select(events.c.job_id)).scalars().all())
    assert {young.id, waiting.id} <= set(kept)
    assert old.id not in kept
    for one in (young, waiting):
        assert all(file.exists() for file in await files(db, images, one))
    assert nothing(await gc(db, images, forget_s=90 * DAY_S))


async def test_more_old_jobs_than_one_transaction_takes_are_forgotten(db: Database, images: ImageStore) -> None:
    """Some at a time, until none is left."""
    at = datetime.now(UTC) - timedelta(days=100)
    many = [{**ancient(), "id": new_id(), "created_at": at, "finished_at": at} for _ in range(2 * past.MANY + 1)]
    await db.write(lambda connection: connection.execute(insert(jobs), many))
    assert (await gc(db, images, dry_run=False, forget_s=90 * DAY_S)).jobs == len(many) + 1
    assert await db.read(past.count, datetime.now(UTC)) == 0


async def test_a_comparison_is_forgotten_as_a_whole(db: Database, images: ImageStore) -> None:
    """Once its last job is old, and never where a vote rests on it."""
    at = datetime.now(UTC) - timedelta(days=100)
    told = {"prompts": ["a"], "models": ["m"], "seeds": [1], "created_at": at}
    names = ("all-old", "one-young", "voted-on")
    await db.write(lambda connection: connection.execute(insert(series), [{"id": name, **told} for name in names]))
    rows = [
        {**ancient(), "id": f"{name}-{n}", "series_id": name, "cell": n, "created_at": at, "finished_at": at}
        for name in names
        for n in range(2)
    ]
    await db.write(lambda connection: connection.execute(insert(jobs), rows))
    await long_ago(db, 1, "one-young-1", created_at=at)
    await vote_on(db, "voted-on")
    assert (await gc(db, images, dry_run=False, forget_s=90 * DAY_S)).jobs == 2 + 1
    left = await db.read(lambda connection: connection.execute(select(series.c.id)).scalars().all())
    assert set(left) == {"one-young", "voted-on"}
    left = await db.read(lambda connection: connection.execute(select(jobs.c.id)).scalars().all())
    assert set(left) == {f"{name}-{n}" for name in ("one-young", "voted-on") for n in range(2)}


async def test_pictures_that_were_voted_on_stay_with_their_jobs(db: Database, images: ImageStore) -> None:
    """Unless pictures are to go by their age."""
    job = await drawn(db, images)
    at = datetime.now(UTC) - timedelta(days=100)
    told = {"id": "s", "prompts": ["a"], "models": ["m"], "seeds": [1], "created_at": at}
    await db.write(lambda connection: connection.execute(insert(series).values(told)))
    await vote_on(db, "s")
    await long_ago(db, 100, job.id, series_id="s", cell=0)
    done = await gc(db, images, dry_run=False, forget_s=90 * DAY_S)
    assert (done.jobs, done.old.count) == (1, 0)  # only the one that makes this database old
    for file in await files(db, images, job):
        assert file.exists()
    assert (await gc(db, images, dry_run=False, older_than_s=90 * DAY_S, forget_s=90 * DAY_S)).old.count == 1
    assert (await db.read(history.job, job.id)).images[0].state == "deleted"


async def vote_on(db: Database, series_id: str) -> None:
    sides = {f"{side}_{what}": side for side in ("left", "right") for what in ("image", "model")}
    vote = {"id": "v", "series_id": series_id, "voter": "me", "pair": "p", "round": 0, "choice": "left", **sides}
    await db.write(lambda connection: connection.execute(insert(votes).values(created_at=datetime.now(UTC), **vote)))


async def test_devices_that_are_gone_are_forgotten(db: Database, images: ImageStore) -> None:
    """Not those of a worker, not a pause that somebody ordered, and not one that holds a job."""
    rows = [
        {"device": "gone", "slot": 0, "job_id": None, "paused": None},
        {"device": "paused", "slot": 0, "job_id": None, "paused": {"reason": "mine"}},
        {"device": "held", "slot": 0, "job_id": "j", "paused": None},
        {"device": "here", "slot": 0, "job_id": None, "paused": None},
    ]
    await db.write(lambda connection: connection.execute(insert(slots), rows))
    serves = {"m": Place(device="here")}
    now = datetime.now(UTC)
    await db.write(lambda connection: presence.arrive(connection, "w", version="0", serves=serves, solo=False, now=now))
    assert await _devices(db) == {row["device"] for row in rows}
    await gc(db, images, forget_s=90 * DAY_S)
    await gc(db, images, dry_run=False)
    assert await _devices(db) == {row["device"] for row in rows}
    await gc(db, images, dry_run=False, forget_s=90 * DAY_S)
    assert await _devices(db) == {"paused", "held", "here"}


async def _devices(db: Database) -> set[str]:
    return set(await db.read(lambda connection: connection.execute(select(slots.c.device)).scalars().all()))


async def test_a_missing_picture_is_told_and_its_row_stays(db: Database, images: ImageStore) -> None:
    """The disk may be away for a while: nothing is changed for that."""
    job = await drawn(db, images, n=2)
    lost = job.images[1]
    for file in await files(db, images, job):
        if lost.id in file.name:
            file.unlink()
    report = await gc(db, images, dry_run=False)
    assert (report.missing.count, report.missing.names) == (1, (lost.id,))
    assert [image.state for image in (await db.read(history.job, job.id)).images] == ["stored", "stored"]


async def test_a_lost_small_copy_is_no_missing_picture(db: Database, images: ImageStore) -> None:
    """The picture itself is what counts."""
    job = await drawn(db, images)
    for file in (await files(db, images, job))[1:]:
        file.unlink()
    assert nothing(await gc(db, images, dry_run=False))


async def test_a_file_in_anothers_place_is_not_that_picture(db: Database, images: ImageStore) -> None:
    """The row says where its picture lies; a copy elsewhere is not ours to remove."""
    job = await drawn(db, images)
    (file, *_) = await files(db, images, job)
    copy = images.file_of(f"1999/12/{file.name}")
    assert copy is not None
    copy.parent.mkdir(parents=True)
    copy.write_bytes(file.read_bytes())
    report = await gc(db, images, dry_run=False, now=later())
    assert report.foreign.count == 1
    assert copy.exists()
    assert file.exists()


async def test_a_key_is_kept_as_long_as_its_job(db: Database, images: ImageStore) -> None:
    """And a day at least: after that, a deleted job answers no repeated request."""

    async def submitted(key: str, *targets: str) -> None:
        row = {"owner": "local", "route": "/v1/jobs", "key": key, "body_hash": "h", "created_at": datetime.now(UTC)}
        row["target"] = ",".join(targets)
        await db.write(lambda connection: connection.execute(insert(idempotency).values(row)))

    kept, gone, failed = await drawn(db, images), await drawn(db, images), await drawn(db, images, good=0)
    (queued,) = await db.write(intake.submit, [new()])
    await submitted("kept", kept.id)
    await submitted("deleted", gone.id)
    await submitted("failed", failed.id)
    await submitted("one of two", gone.id, queued)
    await submitted("a row removed by hand", new_id())
    await album.delete_job(db, images, gone.id)

    def keys(connection: Connection) -> set[str]:
        return set(connection.execute(select(idempotency.c.key)).scalars())

    assert (await gc(db, images, dry_run=False, now=later(KEY_S - 60))).keys == 0
    assert (await gc(db, images, now=later(KEY_S + 60))).keys == 2
    assert (await gc(db, images, dry_run=False, now=later(KEY_S + 60))).keys == 2
    assert await db.read(keys) == {"kept", "failed", "one of two"}


async def test_a_key_of_a_series_is_kept_as_long_as_any_cell(db: Database, images: ImageStore) -> None:
    """The key names the series, whose jobs are looked at."""
    name = new_id()
    await db.write(
        new_series,
        name,
        prompts=["a fox"],
        models=["test"],
        seeds=[1, 2],
        settings={},
        new=[],
        owner="local",
    )
    cells = [await drawn(db, images, series=name, cell=cell, seed=cell + 1) for cell in range(2)]
    row = {"owner": "local", "route": "/v1/series", "key": "k", "body_hash": "h", "target": name}
    await db.write(
        lambda connection: connection.execute(insert(idempotency).values({**row, "created_at": datetime.now(UTC)}))
    )
    await album.delete_job(db, images, cells[0].id)
    assert (await gc(db, images, now=later(KEY_S + 60))).keys == 0
    await album.delete_job(db, images, cells[1].id)
    assert (await gc(db, images, now=later(KEY_S + 60))).keys == 1


async def test_what_is_left_of_a_picture_forming_goes(db: Database, images: ImageStore) -> None:
    """Of jobs that ended a while ago or do not exist; a running job keeps its own."""
    job = await drawn(db, images)
    now = datetime.now(UTC)

    def leave(connection: Connection) -> None:
        for job_id in (job.id, "nobody"):
            connection.execute(insert(previews).values(job_id=job_id, idx=0, tick=1, body={}, data=b""))
        connection.execute(delete(live).where(live.c.job_id == job.id))
        connection.execute(insert(live).values(job_id=job.id, attempt=1, tick=1, updated_at=now))
        connection.execute(insert(watchers).values(id="w", job_id=job.id, expires_at=now + timedelta(seconds=10)))

    await db.write(leave)
    assert (await gc(db, images)).stale == 1  # the preview of nobody; the job ended just now
    assert (await gc(db, images, now=later())).stale == 4
    assert (await gc(db, images, dry_run=False, now=later())).stale == 4
    assert (await gc(db, images, now=later())).stale == 0


async def test_a_report_names_the_first_and_counts_all(db: Database, images: ImageStore) -> None:
    """However many there are, over several pages of a listing."""
    folder = (await stray(images)).parent
    for _ in range(NAMED + 200):
        (folder / f"{new_id()}.png").write_bytes(b"x")
    told = await gc(db, images, now=later())
    assert told.strays.count == NAMED + 201
    assert len(told.strays.names) == NAMED
    assert (await gc(db, images, dry_run=False, now=later())).strays.count == NAMED + 201
    assert not everything(folder)


async def test_an_image_store_that_does_not_exist_yet_is_empty(db: Database, tmp_path: Path) -> None:
    """Nothing was ever drawn."""
    assert nothing(await gc(db, ImageStore("local", tmp_path / "none"), dry_run=False))


async def test_a_picture_of_a_row_that_came_by_hand_cannot_lead_out_of_the_store(
    db: Database, images: ImageStore, tmp_path: Path
) -> None:
    """A path that a row says is a name in the store and nothing else."""
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"secret")
    job = await drawn(db, images)
    await db.write(
        lambda connection: connection.execute(
            update(image_rows).where(image_rows.c.job_id == job.id).values(path="../secret.png")
        )
    )
    with pytest.raises(Exception, match="secret"):
        await album.find(db, images, job.images[0].id)
    with pytest.raises(Exception, match="secret"):
        await album.delete_image(db, images, job.images[0].id)
    assert outside.exists()
    assert not (tmp_path / side_path("secret.png", "sidecar")).exists()


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * DAY_S), ("12h", DAY_S / 2), (" 8 w ", 56 * DAY_S)])
def test_an_age_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    """Hours, days or weeks."""
    assert age_s(text, "older_than") == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "3m", "1.5d", "30 days", "９d"])
def test_what_is_no_age_is_refused(text: str) -> None:
    """Whoever deletes by age must mean it."""
    from imagen.core.errors import RequestError

    with pytest.raises(RequestError, match=r"--older-than .*is no age"):
        age_s(text, "older_than")
