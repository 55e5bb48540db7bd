"""Finished pictures for tests of what happens to them later: drawn by a small backend through the real runner."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagen.backends.base import Previews
from imagen.core.errors import Check
from imagen.core.job import Job
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Output, Signal, Step
from imagen.engine.drawing import runner
from imagen.previews.policy import merge
from imagen.store import album, history, intake
from imagen.store.db import Database
from imagen.store.images import ImageStore, files_of
from tests.store_kit import new, take


class Painter:
    """Draws what is asked for in one colour; fails after `good` pictures, if there is such a number."""

    def __init__(self, good: int | None = None) -> None:
        self.good = good
        self.drawn = 0

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        for index in range(request.n):
            yield Step(step=1, total=1, image=index)
            if self.good is not None and index >= self.good:
                raise RuntimeError("out of paint")
            self.drawn += 1
            pixels = bytes([40 * index % 256, 120, 90]) * (request.width * request.height)
            yield Output(data=pixels, width=request.width, height=request.height, index=index)

    async def aclose(self) -> None:
        pass


def album_in(folder: Path) -> ImageStore:
    """The image store beside the database of a test."""
    return ImageStore("local", folder / "images")


async def drawn(
    db: Database,
    images: ImageStore,
    *,
    good: int | None = None,
    owner: str = "local",
    series: str | None = None,
    cell: int | None = None,
    **changes: Any,
) -> Job:
    """A job that ended, with its pictures."""
    wanted = replace(new(**changes), owner=owner, series=series, cell=cell)
    (job_id,) = await db.write(intake.submit, [wanted])
    claim = await take(db)
    assert claim is not None
    assert claim.job == job_id
    await runner.Attempt(claim, Painter(good), db=db, images=images, policy=merge(None)).run()
    return await db.read(history.job, job_id)


async def path_of(db: Database, image_id: str) -> str:
    """Where a picture lies in the image store."""
    row = await db.read(album.image, image_id, None)
    assert row is not None
    return str(row["path"])


async def files(db: Database, images: ImageStore, job: Job) -> list[Path]:
    """All files of a job's pictures, whether they are there or not."""
    found = []
    for image in job.images:
        for path in files_of(await path_of(db, image.id)):
            file = images.file_of(path)
            assert file is not None
            found.append(file)
    return found
