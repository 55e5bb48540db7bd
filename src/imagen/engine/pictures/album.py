"""Pictures after they are drawn: found for who may see them, sent a little at a time, deleted."""

import json
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from imagen.core.errors import Conflict, Gone, MissingFile, SetupError, UnknownImage, UnknownJob
from imagen.engine.clocks import difference_s
from imagen.store import album
from imagen.store.db import Database
from imagen.store.images import COPIES, ImageStore, files_of, side_path

FULL = "full"
APART_S = 60.0  # what no clock that is set now and then reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A stored picture, or one of its small copies, that may be read by who asked."""

    id: str
    job: str
    copy: str  # full, cell or thumbnail
    path: str
    mime: str
    size: int
    width: int
    height: int
    sha256: str  # of the whole picture, whichever copy this is
    etag: str


async def find(
    db: Database, images: ImageStore, image_id: str, *, owner: str | None = None, width: int | None = None
) -> StoredFile:
    """The picture of this id, or with `width` its smallest copy that is at least so wide; Gone when it was deleted."""
    row = await db.read(album.image, image_id, owner)
    if row is None:
        raise _unknown(image_id)
    if row["state"] != album.STORED:
        raise Gone(
            f"the picture {image_id} was deleted",
            hint=f"what was asked is kept: `imagen jobs retry {row['job_id']}` draws it again",
        )
    copy, size = _copy(row["width"], row["height"], width)
    path, mime, etag = row["path"], row["mime"], row["sha256"]
    if copy != FULL:
        path, mime, etag = side_path(row["path"], copy), "image/webp", f"{row['sha256']}-{copy}"
    return StoredFile(
        id=row["id"],
        job=row["job_id"],
        copy=copy,
        path=path,
        mime=mime,
        size=await images.size_of(path),
        width=size[0],
        height=size[1],
        sha256=row["sha256"],
        etag=etag,
    )


async def sidecar(images: ImageStore, file: StoredFile) -> dict[str, Any]:
    """The JSON beside a picture."""
    try:
        told: dict[str, Any] = json.loads(await images.get(side_path(file.path, "sidecar")))
    except ValueError as exc:
        raise MissingFile(
            f"what was recorded beside the picture {file.id} cannot be read", hint="it was changed outside imagen"
        ) from exc
    return told


def chunks(images: ImageStore, file: StoredFile, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
    """The bytes of a picture from `start` to just before `end`, a little at a time: never the whole of it in memory."""
    return images.chunks(file.path, start, file.size if end is None else end)


async def check(images: ImageStore) -> str:
    """Raise what keeps pictures from being stored; otherwise say where they lie."""
    apart_s = await difference_s(images.writable(quick=True))
    if apart_s > APART_S:
        raise SetupError(
            f"the clocks of this machine and of {images.place} are {apart_s:.0f} s apart",
            hint="set both, as NTP does: from 15 minutes on a bucket refuses all that is asked of it",
        )
    return images.place


async def delete_image(db: Database, images: ImageStore, image_id: str, *, owner: str | None = None) -> None:
    """Delete one picture for ever. Its row stays, with its hash; deleting it again changes nothing."""
    # The row first: after a crash in between, the row tells the truth and gc removes the bytes. The other way
    # round, a picture would be promised that nobody can bring back.
    path = await db.write(album.forget_one, image_id, owner)
    if path is None:
        raise _unknown(image_id)
    await _remove(images, files_of(path))


async def delete_job(db: Database, images: ImageStore, job_id: str, *, owner: str | None = None) -> None:
    """Delete all pictures of a job that ended. The job stays in the history, with what was asked."""

    def forget(connection: Connection) -> list[str]:
        state = album.job_state(connection, job_id, owner)
        if state is None:
            raise UnknownJob(f"there is no job {job_id!r}", hint="see `imagen jobs list`", param="job")
        if not state.terminal:
            raise Conflict(
                f"job {job_id} is {state.value}", hint=f"cancel it first: `imagen jobs cancel {job_id}`", param="job"
            )
        return album.forget_job(connection, job_id)

    paths = await db.write(forget)
    await _remove(images, [file for path in paths for file in files_of(path)])


async def _remove(images: ImageStore, files: Iterable[str]) -> None:
    try:
        await images.delete_all(files)
    except SetupError as error:
        raise type(error)(
            f"recorded as deleted, but the files are still there: {error.message}",
            hint="let this process delete there; `imagen gc --yes` removes them then",
        ) from error


def _copy(width: int, height: int, wanted: int | None) -> tuple[str, tuple[int, int]]:
    """The smallest copy that is at least `wanted` wide, and its size."""
    if wanted is not None:
        for copy, longest in COPIES.items():
            scale = min(longest / width, longest / height, 1)
            size = max(1, round(width * scale)), max(1, round(height * scale))
            if size[0] >= wanted:
                return copy, size
    return FULL, (width, height)


def _unknown(image_id: str) -> UnknownImage:
    return UnknownImage(
        f"there is no picture {image_id}", hint="a job names its pictures: `imagen jobs show ID`, or GET /v1/jobs/ID"
    )
