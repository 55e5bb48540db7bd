"""Pictures after they are drawn: found, read a little at a time, deleted, shown as a sheet."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image as Picture
from sqlalchemy import Connection, insert, select
from tests.album_kit import album_in, drawn, files, path_of
from tests.store_kit import database, new, take

from imagen.core.errors import Conflict, Gone, ImagenError, MissingFile, UnknownImage, UnknownJob, Unwritable
from imagen.core.job import Series, State
from imagen.engine.comparing import from_store
from imagen.engine.pictures import album
from imagen.store import history, intake
from imagen.store.album import image as image_row
from imagen.store.db import Database
from imagen.store.images import CHUNK, COPIES, ImageStore, side_path
from imagen.store.series import new_series
from imagen.store.tables import previews


@pytest.fixture
async def db(place: str) -> AsyncIterator[Database]:
    async with database(place) as db:
        yield db


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return album_in(tmp_path)


async def whole(images: ImageStore, file: album.StoredFile, **part: int) -> bytes:
    return b"".join([chunk async for chunk in album.chunks(images, file, **part)])


async def test_a_picture_is_found_by_its_id(db: Database, images: ImageStore) -> None:
    """With everything a reader has to be told, and its bytes are those that were stored."""
    job = await drawn(db, images)
    (image,) = job.images
    file = await album.find(db, images, image.id)
    data = await images.get(file.path)
    assert (file.job, file.mime, file.size, file.etag) == (job.id, "image/png", len(data), image.sha256)
    assert await whole(images, file) == data


async def test_what_is_not_there_is_unknown(db: Database, images: ImageStore) -> None:
    """An id, a part of one, a path: whatever is no id of a picture."""
    (image,) = (await drawn(db, images)).images
    for name in ("nothing", image.id[:20], image.id.lower(), f"../{image.id}", ""):
        with pytest.raises(UnknownImage):
            await album.find(db, images, name)
        with pytest.raises(UnknownImage):
            await album.delete_image(db, images, name)


async def test_what_is_somebody_elses_is_unknown(db: Database, images: ImageStore) -> None:
    """Looking and deleting; whoever sees everything sees this too."""
    job = await drawn(db, images, owner="ann")
    (image,) = job.images
    with pytest.raises(UnknownImage):
        await album.find(db, images, image.id, owner="bob")
    with pytest.raises(UnknownImage):
        await album.delete_image(db, images, image.id, owner="bob")
    with pytest.raises(UnknownJob):
        await album.delete_job(db, images, job.id, owner="bob")
    assert (await album.find(db, images, image.id, owner="ann")).id == image.id
    assert (await album.find(db, images, image.id)).id == image.id


@pytest.mark.parametrize(
    ("size", "wanted", "copy"),
    [
        ((640, 480), None, "full"),
        ((640, 480), 1, "thumbnail"),
        ((640, 480), 320, "thumbnail"),
        ((640, 480), 321, "cell"),
        ((640, 480), 512, "cell"),
        ((640, 480), 513, "full"),
        ((640, 480), 5000, "full"),
        ((400, 1000), 128, "thumbnail"),  # the longest edge is 320
        ((400, 1000), 129, "cell"),
        ((64, 64), 64, "thumbnail"),
        ((64, 64), 65, "full"),
    ],
)
async def test_a_width_picks_the_smallest_copy_that_is_wide_enough(
    db: Database, images: ImageStore, size: tuple[int, int], wanted: int | None, copy: str
) -> None:
    """And the size it tells is the size of that copy."""
    (image,) = (await drawn(db, images, width=size[0], height=size[1])).images
    file = await album.find(db, images, image.id, width=wanted)
    assert file.copy == copy
    data = await whole(images, file)
    assert len(data) == file.size
    with Picture.open(io.BytesIO(data)) as shown:
        assert shown.size == (file.width, file.height)
        assert shown.get_format_mimetype() == file.mime


async def test_every_copy_has_a_tag_of_its_own(db: Database, images: ImageStore) -> None:
    """A browser must not take the small one for the large one."""
    (image,) = (await drawn(db, images, width=640, height=480)).images
    tags = {(await album.find(db, images, image.id, width=width)).etag for width in (None, 320, 512)}
    assert len(tags) == 3


async def test_a_picture_is_read_in_pieces(images: ImageStore) -> None:
    """Any part of it, exactly, and never more than a piece at a time."""
    data = bytes(range(256)) * 4000
    await images.put("2026/01/large.png", data)
    pieces = [piece async for piece in images.chunks("2026/01/large.png")]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) == CHUNK
    for start, end in ((0, 1), (CHUNK - 1, CHUNK + 1), (5, len(data)), (len(data) - 1, len(data)), (7, 7)):
        part = b"".join([piece async for piece in images.chunks("2026/01/large.png", start, end)])
        assert part == data[start:end]


async def test_a_picture_that_was_cut_off_is_no_shorter_picture(images: ImageStore) -> None:
    """Whoever was promised a length gets an error, not silence."""
    await images.put("2026/01/a.png", b"x" * 10)
    with pytest.raises(MissingFile, match="cut off at 10"):
        [piece async for piece in images.chunks("2026/01/a.png", 0, 20)]


async def test_a_picture_removed_behind_our_back_is_told(db: Database, images: ImageStore) -> None:
    """It is not unknown and was not deleted: its owner has to look."""
    job = await drawn(db, images)
    (await files(db, images, job))[0].unlink()
    with pytest.raises(MissingFile):
        await album.find(db, images, job.images[0].id)


async def test_deleting_removes_all_that_shows_the_picture(db: Database, images: ImageStore) -> None:
    """Bytes, small copies and sidecar go; the row stays with its hash and says so."""
    job = await drawn(db, images)
    (image,) = job.images
    assert all(file.exists() for file in await files(db, images, job))
    await album.delete_image(db, images, image.id)
    assert not any(file.exists() for file in await files(db, images, job))
    (row,) = (await db.read(history.job, job.id)).images
    assert (row.id, row.sha256, row.pixels_sha256) == (image.id, image.sha256, image.pixels_sha256)
    assert row.state == "deleted"
    with pytest.raises(Gone, match="was deleted"):
        await album.find(db, images, image.id)


async def test_deleting_twice_is_deleting_once(db: Database, images: ImageStore) -> None:
    """And the second time takes what the first could not."""
    job = await drawn(db, images)
    await album.delete_image(db, images, job.images[0].id)
    (left, *_) = await files(db, images, job)
    left.write_bytes(b"left by a crash")
    await album.delete_image(db, images, job.images[0].id)
    assert not left.exists()


async def test_a_row_never_promises_bytes_that_are_being_deleted(
    db: Database, images: ImageStore, tmp_path: Path
) -> None:
    """When the bytes cannot be removed, the row says deleted already; the next try removes them."""
    job = await drawn(db, images)
    (image,) = job.images

    class Stuck(ImageStore):
        async def delete_all(self, paths: object) -> None:
            row = await db.read(image_row, image.id, None)
            assert row is not None
            assert row["state"] == "deleted"
            raise Unwritable("read-only now", hint="mount it again")

    with pytest.raises(Unwritable):
        await album.delete_image(db, Stuck("local", tmp_path / "images"), image.id)
    with pytest.raises(Gone):
        await album.find(db, images, image.id)
    await album.delete_image(db, images, image.id)
    assert not any(file.exists() for file in await files(db, images, job))


async def test_one_of_several_pictures_can_be_deleted(db: Database, images: ImageStore) -> None:
    """The others stay as they are."""
    job = await drawn(db, images, n=3)
    await album.delete_image(db, images, job.images[1].id)
    states = [image.state for image in (await db.read(history.job, job.id)).images]
    assert states == ["stored", "deleted", "stored"]
    assert (await album.find(db, images, job.images[2].id)).size > 0


async def test_deleting_a_job_deletes_all_its_pictures(db: Database, images: ImageStore) -> None:
    """Also those of one that failed in the middle; what was asked stays in the history."""
    job = await drawn(db, images, n=3, good=2)
    assert job.state is State.FAILED
    assert len(job.images) == 2
    await album.delete_job(db, images, job.id)
    assert not any(file.exists() for file in await files(db, images, job))
    after = await db.read(history.job, job.id)
    assert {image.state for image in after.images} == {"deleted"}
    assert after.request == job.request
    await album.delete_job(db, images, job.id)


async def test_a_job_that_has_not_ended_is_not_deleted(db: Database, images: ImageStore) -> None:
    """Neither queued nor running; the hint says how to end it."""
    (job_id,) = await db.write(intake.submit, [new()])
    for _ in range(2):
        with pytest.raises(Conflict) as refused:
            await album.delete_job(db, images, job_id)
        assert "imagen jobs cancel" in refused.value.hint
        await take(db)
    with pytest.raises(UnknownJob):
        await album.delete_job(db, images, "nothing")


async def test_no_preview_outlives_a_deleted_picture(db: Database, images: ImageStore) -> None:
    """It shows what the picture showed."""

    async def left() -> int:
        return await db.read(lambda connection: len(connection.execute(select(previews)).all()))

    def show(connection: Connection, job_id: str) -> None:
        connection.execute(insert(previews).values(job_id=job_id, idx=0, tick=1, body={}, data=b"jpeg"))

    for delete in (album.delete_image, album.delete_job):
        job = await drawn(db, images)
        await db.write(show, job.id)
        assert await left() == 1
        await delete(db, images, job.id if delete is album.delete_job else job.images[0].id)
        assert await left() == 0


async def series_of(db: Database, images: ImageStore) -> Series:
    """Three cells: one fine, one to be deleted, one that failed."""
    name = "0" * 26
    await db.write(
        new_series,
        name,
        prompts=["a fox"],
        models=["test"],
        seeds=[1, 2, 3],
        settings={"width": 64},
        new=[],
        owner="local",
    )
    for cell, good in enumerate((1, 1, 0)):
        await drawn(db, images, good=good, series=name, cell=cell, seed=cell + 1, width=64, height=64)
    return await db.read(history.series_one, name)


async def test_a_sheet_is_drawn_from_the_small_copies_alone(db: Database, images: ImageStore) -> None:
    """The whole pictures need not even be there."""
    series = await series_of(db, images)
    before = await from_store.series_sheet(db, images, series, lambda _name: None)
    for cell in series.cells:
        for image in cell.job.images if cell.job else ():
            await images.delete(await path_of(db, image.id))
    assert await from_store.series_sheet(db, images, series, lambda _name: None) == before
    with Picture.open(io.BytesIO(before)) as sheet:
        assert sheet.format == "PNG"


async def test_a_sheet_says_which_picture_was_deleted(db: Database, images: ImageStore) -> None:
    """A deleted cell is another one than a lost one, and neither ends the sheet."""
    series = await series_of(db, images)
    seen = {await from_store.series_sheet(db, images, series, lambda _name: None)}
    image = series.cells[1].job.images[0] if series.cells[1].job else None
    assert image is not None
    cell = images.file_of(side_path(await path_of(db, image.id), "cell"))
    assert cell is not None
    kept = cell.read_bytes()
    cell.unlink()
    seen.add(await from_store.series_sheet(db, images, series, lambda _name: None))
    cell.write_bytes(kept)
    await album.delete_image(db, images, image.id)
    seen.add(
        await from_store.series_sheet(db, images, await db.read(history.series_one, series.id), lambda _name: None)
    )
    assert len(seen) == 3


async def test_several_sheets_at_once_do_not_get_in_each_others_way(db: Database, images: ImageStore) -> None:
    """They are drawn one after the other, and all are the same."""
    series = await series_of(db, images)
    sheets = await asyncio.gather(*(from_store.series_sheet(db, images, series, lambda _name: None) for _ in range(4)))
    assert len(set(sheets)) == 1


async def test_the_sidecar_of_a_series_says_what_a_comparison_says(db: Database, images: ImageStore) -> None:
    """In the shape of compare.json, with the picture's id and whether it was deleted."""
    series = await series_of(db, images)
    deleted = series.cells[1].job
    assert deleted is not None
    await album.delete_job(db, images, deleted.id)
    told = from_store.series_sidecar(await db.read(history.series_one, series.id), lambda _name: None)
    assert (told["series"], told["state"], told["settings"]) == (series.id, "partial", {"width": 64})
    first, second, third = told["cells"]
    assert (first["state"], first["deleted"], first["image"]) == ("completed", False, series.cells[0].job.images[0].id)  # type: ignore[union-attr]
    assert (second["state"], second["deleted"], second["sha256"]) == ("completed", True, deleted.images[0].sha256)
    assert third["error"]["code"] == "crashed"
    assert first["latency_s"] is not None


async def test_the_store_knows_whether_it_can_be_written(tmp_path: Path) -> None:
    """Nothing of the question stays."""
    images = ImageStore("local", tmp_path / "images")
    await images.writable()
    assert not list((tmp_path / "images").iterdir())
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ImagenError):
        await ImageStore("local", tmp_path / "file" / "images").writable()


def test_every_copy_fits_its_place() -> None:
    """The smallest first, as the choice by width expects."""
    assert list(COPIES.values()) == sorted(COPIES.values())
