"""A comparison at work: every cell followed to its end, told in compare.json as it ends, then the sheet."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol, assert_never

from imagen.core.errors import ImagenError, MissingFile, UnknownSeries
from imagen.core.events import Event
from imagen.core.job import Cell, Job, Series, State, StoredImage
from imagen.core.webhook import Webhook
from imagen.engine.comparing.document import DOCUMENT, PAGE, Document, Entry, stem_of, suffix_of, told
from imagen.engine.comparing.folder import Folder

FOLDER = "folder"  # the setting of a series that says where its comparison lies on this machine
FOLLOWED = 4  # cells of one model watched at a time; as many as the widest device draws at once

Tell = Callable[[Entry, Event | None], None]


class Jobs(Protocol):
    """What a comparison needs of the application."""

    async def submit_series(
        self,
        prompts: Sequence[str],
        models: Sequence[str],
        seeds: Sequence[int],
        *,
        settings: Mapping[str, Any],
        series_id: str | None = None,
        cells: Sequence[Cell] | None = None,
        webhook: Webhook | None = None,
    ) -> Series:
        """Record a series, or add cells to it."""

    async def series(self, series_id: str) -> Series:
        """One series, by its id or a unique part of it."""

    async def job(self, job_id: str) -> Job:
        """One job."""

    async def retry(self, job_id: str) -> Job:
        """A new job in the place of one that ended."""

    async def cancel_series(self, series_id: str, *, by: str = "you") -> Series:
        """Cancel the cells that have not ended."""

    def follow(self, job_id: str, *, after: int = 0, previews: bool = False) -> AsyncGenerator[Event]:
        """What happens to a job, until its end."""

    def working(self, job_ids: Iterable[str] | None = None) -> AbstractAsyncContextManager[None]:
        """While inside, this process draws these jobs where nobody else does."""

    async def image_bytes(
        self, image: StoredImage | str, *, size: Literal["full", "cell", "thumbnail"] = "full"
    ) -> bytes:
        """The bytes of a stored picture."""


class Move(Enum):
    """What resuming does about one cell."""

    KEEP = "as the folder tells it"
    SETTLE = "as the store tells it: its picture is copied again, or it stays without one"
    FOLLOW = "it is on its way"
    RETRY = "it ended without a picture: draw it in a new job"
    SUBMIT = "this store has never seen it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a comparison came to."""

    document: Document
    folder: Path
    cancelled: bool = False

    @property
    def sheet(self) -> Path:
        return self.folder / self.document.sheet

    @property
    def page(self) -> Path | None:
        return self.folder / self.document.page if self.document.page else None


class Comparison:
    """A comparison at work in its folder. Made by `begin` or `resume`; `run` brings it to its end."""

    def __init__(
        self,
        document: Document,
        folder: Folder,
        jobs: Jobs,
        series: Series | None,
        *,
        retry_failed: bool = False,
        webhook: Webhook | None = None,
    ) -> None:
        self.document = document
        self.folder = folder
        self.webhook = webhook
        self.kept: set[int] = set()  # the cells that were found as they should be
        self._jobs = jobs
        self._series = series
        self._retry_failed = retry_failed
        self._known: dict[int, Job] = {}
        self._cancelled = False
        self._saving = threading.Lock()

    async def run(self, tell: Tell, *, html: bool = False) -> Result:
        """Draw what is missing, then the sheet. `tell` hears every event of a cell, and None once it is settled."""
        with self.folder:
            if html and self.document.page is None:
                self.document = replace(self.document, page=self.folder.free_name(PAGE))
            waiting = await self._prepare(tell)
            await self._save()
            if waiting:
                async with self._jobs.working(list(waiting.values())):
                    if self._cancelled:
                        await self.cancel()
                    await self._follow_all(waiting, tell)
            await self._publish()
            return Result(document=self.document, folder=self.folder.path, cancelled=self._cancelled)

    async def cancel(self) -> None:
        """Cancel the cells that have not ended; `run` then ends by itself, with a sheet of what there is."""
        self._cancelled = True
        with suppress(UnknownSeries):  # pressed before anything was queued
            await self._jobs.cancel_series(self.document.series)

    async def submit(self, entries: Sequence[Entry]) -> None:
        """Queue these cells, under the id that compare.json already names."""
        document = self.document
        self._series = await self._jobs.submit_series(
            document.prompts,
            document.models,
            document.seeds,
            settings={**document.settings.given(), FOLDER: str(self.folder.path)},
            series_id=document.series,
            cells=[Cell(index=one.index, prompt=one.prompt, model=one.model, seed=one.seed) for one in entries],
            webhook=self.webhook,
        )

    async def _prepare(self, tell: Tell) -> dict[int, str]:
        """Settle every cell that needs no drawing; cell -> job for the others."""
        jobs = _jobs_of(self._series)
        waiting: dict[int, str] = {}
        again: list[tuple[Entry, Job]] = []
        fresh: list[Entry] = []
        for entry in self.document.cells:
            job = jobs.get(entry.place)
            here = entry.file is not None and self.folder.holds(entry.file, entry.sha256)
            if job is not None:
                self._known[entry.index] = job
            match next_move(entry, job, here=here, retry_failed=self._retry_failed):
                case Move.KEEP:
                    self.kept.add(entry.index)
                case Move.SETTLE:
                    await self._settle(entry, job)
                    if self._entry(entry.index) == entry and (here or entry.file is None):
                        self.kept.add(entry.index)
                case Move.FOLLOW:
                    assert job is not None
                    waiting[entry.index] = job.id
                case Move.RETRY:
                    assert job is not None
                    again.append((entry, job))
                case Move.SUBMIT:
                    fresh.append(entry)
                case unexpected:
                    assert_never(unexpected)
        if fresh:
            await self._save()  # before the store: a cell that only the store knew would be lost to this folder
            await self.submit(fresh)
            asked = {entry.index for entry in fresh}
            cells = self._series.cells if self._series else ()
            waiting |= {cell.index: cell.job.id for cell in cells if cell.job and cell.index in asked}
        for entry, job in again:
            waiting[entry.index] = (await self._jobs.retry(job.id)).id
        for entry in self.document.cells:
            if entry.index in waiting:
                self._known.pop(entry.index, None)
                self._tell_anew(replace(entry, state=State.QUEUED, job=waiting[entry.index], **_UNDRAWN))
            else:
                tell(entry, None)
        return dict(sorted(waiting.items()))

    async def _follow_all(self, waiting: Mapping[int, str], tell: Tell) -> None:
        turns = {model: asyncio.Semaphore(FOLLOWED) for model in self.document.models}
        try:
            async with asyncio.TaskGroup() as group:
                for index, job_id in waiting.items():
                    group.create_task(self._follow(index, job_id, turns[self._entry(index).model], tell))
        except* ImagenError as several:
            raise _first(several) from several

    async def _follow(self, index: int, job_id: str, turn: asyncio.Semaphore, tell: Tell) -> None:
        async with turn:
            async with aclosing(self._jobs.follow(job_id)) as events:
                async for event in events:
                    tell(self._entry(index), event)
            self._known[index] = job = await self._jobs.job(job_id)
            await self._settle(self._entry(index), job)
            await self._save()
            tell(self._entry(index), None)

    async def _settle(self, entry: Entry, job: Job | None) -> None:
        """Record how a cell ended, with its picture beside it when there is one."""
        if job is None:
            return
        file = entry.file if entry.file and self.folder.has(entry.file) else None
        lost: ImagenError | None = None
        if job.state is State.COMPLETED and file is None and job.images and not _deleted(job):
            try:
                data = await self._jobs.image_bytes(job.images[0])
            except MissingFile as missing:
                lost = missing
            else:
                file = await asyncio.to_thread(self.folder.add, stem_of(self.document, entry), suffix_of(data), data)
        ended = told(entry, job, file)
        self._tell_anew(replace(ended, error=lost.as_dict()) if lost else ended)

    async def _save(self) -> None:
        await asyncio.to_thread(self._write_document)

    def _write_document(self) -> None:
        with self._saving:  # each writes what is newest when its turn comes, so the last one written is the newest
            self.folder.replace(DOCUMENT, self.document.as_bytes())

    async def _publish(self) -> None:
        """The sheet and the page, of whatever there is."""
        from imagen.engine.comparing.page import page, sheet  # Pillow, only once there is something to show

        pictures = {entry.index: await self._small(entry) for entry in self.document.cells}
        drawn = await asyncio.to_thread(sheet, self.document, pictures)
        await asyncio.to_thread(self.folder.replace, self.document.sheet, drawn)
        if self.document.page:
            written = await asyncio.to_thread(page, self.document, pictures)
            await asyncio.to_thread(self.folder.replace, self.document.page, written)

    async def _small(self, entry: Entry) -> bytes | Path | None:
        """The cell-sized copy kept when the picture was stored; else the file in the folder."""
        job = self._known.get(entry.index)
        if entry.file and job is not None and job.id == entry.job and job.images and not _deleted(job):
            with suppress(ImagenError):
                return await self._jobs.image_bytes(job.images[0], size="cell")
        return self.folder.path / entry.file if entry.file and self.folder.has(entry.file) else None

    def _tell_anew(self, entry: Entry) -> None:
        self.document = self.document.with_entry(entry)

    def _entry(self, index: int) -> Entry:
        return next(entry for entry in self.document.cells if entry.index == index)


def next_move(entry: Entry, job: Job | None, *, here: bool, retry_failed: bool) -> Move:
    """What resuming does about a cell, from what the folder and the store say about it."""
    if entry.state is State.COMPLETED and here:
        return Move.KEEP
    if job is None:
        final = entry.deleted or (entry.state is State.FAILED and not retry_failed)
        return Move.KEEP if final else Move.SUBMIT
    if job.state.terminal and _deleted(job):
        return Move.SETTLE  # somebody did not want it: it is not drawn again, however its job ended
    match job.state:
        case State.QUEUED | State.RUNNING:
            return Move.FOLLOW
        case State.COMPLETED:
            return Move.SETTLE
        case State.CANCELLED:
            return Move.RETRY
        case State.FAILED:
            return Move.RETRY if retry_failed else Move.SETTLE
        case unexpected:
            assert_never(unexpected)


_UNDRAWN: Mapping[str, Any] = {
    "file": None,
    "sha256": None,
    "error": None,
    "timings": {},
    "image": None,
    "deleted": False,
}


def _deleted(job: Job) -> bool:
    return bool(job.images) and job.images[0].state == "deleted"


def _jobs_of(series: Series | None) -> dict[tuple[str, str, int], Job]:
    return {(cell.model, cell.prompt, cell.seed): cell.job for cell in series.cells if cell.job} if series else {}


def _first(group: BaseExceptionGroup[ImagenError]) -> ImagenError:
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    assert isinstance(inner, ImagenError)
    return inner
