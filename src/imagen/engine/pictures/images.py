"""Stored pictures, as surfaces ask for them: found by their id, read, deleted, and what nobody needs any more."""

from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import Any, Literal, Protocol

from imagen.core.job import Job, StoredImage
from imagen.engine.pictures import album
from imagen.engine.pictures.album import StoredFile
from imagen.engine.pictures.gc import GcReport, gc
from imagen.store.db import Database
from imagen.store.images import ImageStore, side_path


class JobOf(Protocol):
    """Finds a job that an owner may see."""

    def __call__(self, job_id: str, *, owner: str | None = None) -> Awaitable[Job]:
        """One job, by its id or a unique part of it."""


class Images:
    """The pictures of all jobs. Part of the app."""

    def __init__(self, db: Database, images: ImageStore, *, job: JobOf) -> None:
        self._db = db
        self._images = images
        self._job = job

    async def find(self, image_id: str, *, owner: str | None = None, width: int | None = None) -> StoredFile:
        """A stored picture, or with `width` its smallest copy that is at least so wide."""
        return await album.find(self._db, self._images, image_id, owner=owner, width=width)

    def chunks(self, file: StoredFile, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """Its bytes, a little at a time."""
        return album.chunks(self._images, file, start=start, end=end)

    async def drawn_by(self, image_id: str, *, owner: str | None = None) -> Job:
        """The job that a picture belongs to."""
        return await self._job((await self.find(image_id, owner=owner)).job, owner=owner)

    async def sidecar(self, image_id: str, *, owner: str | None = None) -> dict[str, Any]:
        """What is recorded beside a picture: how to draw it again, and how it was drawn."""
        return await album.sidecar(self._images, await self.find(image_id, owner=owner))

    async def signed_url(self, file: StoredFile) -> tuple[str, int] | None:
        """Where anybody may read it for so many seconds; None where its bytes go through this process."""
        return await self._images.signed_url(file.path)

    async def delete(self, image_id: str, *, owner: str | None = None) -> None:
        """Delete one picture for ever; deleting it again changes nothing."""
        await album.delete_image(self._db, self._images, image_id, owner=owner)

    async def delete_of(self, job_id: str, *, owner: str | None = None) -> None:
        """Delete all pictures of a job that ended; the job stays in the history, with what was asked."""
        job = await self._job(job_id, owner=owner)
        await album.delete_job(self._db, self._images, job.id)

    async def gc(
        self, *, dry_run: bool = True, older_than_s: float | None = None, forget_s: float | None = None
    ) -> GcReport:
        """Look for what nobody needs any more and, without `dry_run`, remove it.

        That is: with `older_than_s` also the pictures of jobs that ended longer ago, with `forget_s` also the jobs.
        """
        return await gc(self._db, self._images, dry_run=dry_run, older_than_s=older_than_s, forget_s=forget_s)

    async def read(self, image: StoredImage | str, *, size: Literal["full", "cell", "thumbnail"] = "full") -> bytes:
        """The bytes of a stored picture or of one of its small copies."""
        path = await self._path(image)
        return await self._images.get(path if size == "full" else side_path(path, size))

    async def path(self, image: StoredImage | str) -> Path | None:
        """Where a stored picture lies, when it lies in a folder."""
        return self._images.file_of(await self._path(image))

    async def check(self) -> str:
        """Raise what keeps pictures from being stored; otherwise say where they lie."""
        return await album.check(self._images)

    async def _path(self, image: StoredImage | str) -> str:
        return (await self.find(image if isinstance(image, str) else image.id)).path
