"""A comparison: one prompt over several models, in a folder that tells all about it and can be gone on with."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol, assert_never

from imagen.core.errors import ImagenError, MissingFile, RequestError, UnknownSeries
from imagen.core.events import Event
from imagen.core.ids import new_id
from imagen.core.job import Cell, Job, Series, State, StoredImage
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.engine.compare_document import (
    DOCUMENT,
    MAX_CELLS,
    PAGE,
    Document,
    Entry,
    cells_of,
    entry_of,
    plain_name,
    read,
    stem_of,
    told,
)
from imagen.engine.compare_folder import Folder, document_of

ASKED = ("width", "height", "steps", "negative", "guidance", "options")  # what all cells of a series share
FOLDER = "folder"  # the setting of a series that says where its comparison lies on this machine
FOLLOWED = 4  # cells of one model watched at a time; as many as the widest device draws at once
STOP_S = 20.0  # how long a cancelled cell may take to end before the sheet is drawn without it

Resolve = Callable[[Draft], tuple[Request, Model]]
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
    ) -> Series:
        """Record a series, or add cells to it."""

    async def series(self, series_id: str) -> Series:
        """One series, by its id or a unique part of it."""

    async def job(self, job_id: str) -> Job:
        """One job."""

    async def retry(self, job_id: str) -> Job:
        """A new job in the place of one that ended."""

    async def cancel(self, job_id: str, *, by: str = "you") -> Job:
        """Ask for the end of a job."""

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

    KEEP = "its file is here"
    COPY = "drawn, but its file is not here"
    FOLLOW = "on its way"
    RETRY = "ended without a picture; draw it in a new job"
    SUBMIT = "never seen by this store"
    LEAVE = "ended without a picture, and stays so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a comparison came to."""

    document: Document
    folder: Path
    interrupted: bool = False

    @property
    def sheet(self) -> Path:
        return self.folder / self.document.sheet

    @property
    def page(self) -> Path | None:
        return self.folder / self.document.page if self.document.page else None


class Comparison:
    """A comparison at work in its folder. Made by `begin` or `resume`; `run` brings it to its end."""

    def __init__(self, document: Document, folder: Folder, jobs: Jobs, *, retry_failed: bool = False) -> None:
        self.document = document
        self.folder = folder
        self._jobs = jobs
        self._retry_failed = retry_failed
        self._known: dict[int, Job] = {}

    async def run(self, tell: Tell, *, html: bool = False) -> Result:
        """Draw what is missing. Cancelling the task cancels the cells, and still writes the sheet."""
        with self.folder:
            if html and self.document.page is None:
                self.document = replace(self.document, page=self.folder.free_name(PAGE))
            waiting = await self._prepare(tell)
            await self._save()
            interrupted = False
            if waiting:
                async with self._jobs.working(list(waiting.values())):
                    interrupted = await self._draw(waiting, tell)
            await self._publish()
            return Result(document=self.document, folder=self.folder.path, interrupted=interrupted)

    async def _prepare(self, tell: Tell) -> dict[int, str]:
        """Settle every cell that needs no drawing; cell -> job for the others."""
        self._known = {cell.index: cell.job for cell in await self._cells() if cell.job}
        waiting: dict[int, str] = {}
        fresh: list[Entry] = []
        for entry in self.document.cells:
            job = self._known.get(entry.index)
            here = entry.file is not None and self.folder.has(entry.file)
            match next_move(entry, job, here=here, retry_failed=self._retry_failed):
                case Move.KEEP:
                    tell(entry, None)
                case Move.COPY | Move.LEAVE:
                    await self._settle(entry, job)
                    tell(self._entry(entry.index), None)
                case Move.FOLLOW:
                    assert job is not None
                    waiting[entry.index] = job.id
                case Move.RETRY:
                    assert job is not None
                    waiting[entry.index] = (await self._jobs.retry(job.id)).id
                case Move.SUBMIT:
                    fresh.append(entry)
                case unexpected:
                    assert_never(unexpected)
        if fresh:
            for cell in (await self._submit(fresh)).cells:
                if cell.job and cell.index in {entry.index for entry in fresh}:
                    waiting[cell.index] = cell.job.id
        for index, job_id in waiting.items():
            blank = replace(self._entry(index), state=State.QUEUED, job=job_id, file=None, sha256=None, error=None)
            self.document = self.document.with_entry(blank)
        return dict(sorted(waiting.items()))

    async def _cells(self) -> Sequence[Cell]:
        try:
            return (await self._jobs.series(self.document.series)).cells
        except UnknownSeries:
            return ()

    async def _submit(self, entries: Sequence[Entry]) -> Series:
        document = self.document
        return await self._jobs.submit_series(
            document.prompts,
            document.models,
            document.seeds,
            settings={**document.settings, FOLDER: str(self.folder.path)},
            series_id=document.series,
            cells=[Cell(index=one.index, prompt=one.prompt, model=one.model, seed=one.seed) for one in entries],
        )

    async def _draw(self, waiting: Mapping[int, str], tell: Tell) -> bool:
        """Follow every cell to its end; true when somebody cut it short."""
        try:
            await self._follow_all(waiting, tell)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # the cancelling is done here: what follows may wait again
        else:
            return False
        left = {index: job for index, job in waiting.items() if not self._entry(index).state.terminal}
        for job_id in left.values():
            await self._jobs.cancel(job_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._follow_all(left, tell)
        return True

    async def _follow_all(self, waiting: Mapping[int, str], tell: Tell) -> None:
        turns = {model: asyncio.Semaphore(FOLLOWED) for model in self.document.models}
        try:
            async with asyncio.TaskGroup() as group:
                for index, job_id in waiting.items():
                    turn = turns.setdefault(self._entry(index).model, asyncio.Semaphore(FOLLOWED))
                    group.create_task(self._follow(index, job_id, turn, tell))
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
        error = None
        if job.state is State.COMPLETED and file is None and job.images and job.images[0].state != "deleted":
            try:
                data = await self._jobs.image_bytes(job.images[0])
            except MissingFile as missing:
                error = missing
            else:
                file = await asyncio.to_thread(self.folder.add, stem_of(self.document, entry), _suffix(data), data)
        ended = told(entry, job, file)
        self.document = self.document.with_entry(replace(ended, error=error.as_dict()) if error else ended)

    async def _save(self) -> None:
        await asyncio.to_thread(self.folder.replace, DOCUMENT, self.document.as_bytes())

    async def _publish(self) -> None:
        """The sheet and the page, of whatever there is."""
        from imagen.engine.compare_page import page, sheet  # Pillow, only once there is something to show

        pictures = {entry.index: await self._small(entry) for entry in self.document.cells}
        drawn = await asyncio.to_thread(sheet, self.document, pictures)
        await asyncio.to_thread(self.folder.replace, self.document.sheet, drawn)
        if self.document.page:
            written = await asyncio.to_thread(page, self.document, pictures)
            await asyncio.to_thread(self.folder.replace, self.document.page, written)

    async def _small(self, entry: Entry) -> bytes | Path | None:
        """The cell-sized copy kept when the picture was stored; else the file in the folder."""
        job = self._known.get(entry.index)
        if entry.state is State.COMPLETED and job is not None and job.id == entry.job and job.images:
            with suppress(ImagenError):
                return await self._jobs.image_bytes(job.images[0], size="cell")
        return self.folder.path / entry.file if entry.file and self.folder.has(entry.file) else None

    def _entry(self, index: int) -> Entry:
        return next(entry for entry in self.document.cells if entry.index == index)


def plan(
    prompts: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    *,
    settings: Mapping[str, Any],
    resolve: Resolve,
) -> Document:
    """Check every cell before anything runs; the whole comparison, not begun."""
    prompts, models, seeds = (tuple(dict.fromkeys(values)) for values in (prompts, models, seeds))
    count = len(prompts) * len(models) * len(seeds)
    if not 0 < count <= MAX_CELLS:
        raise RequestError(
            f"{len(prompts)} prompts × {len(models)} models × {len(seeds)} seeds are {count} cells",
            hint=f"a comparison has from 1 to {MAX_CELLS} cells",
            param="models",
        )
    asked = {name: settings[name] for name in ASKED if settings.get(name) not in (None, {})}
    return Document(
        series=new_id(),
        prompts=prompts,
        models=models,
        seeds=seeds,
        settings=asked,
        cells=_checked(cells_of(prompts, models, seeds), asked, resolve),
    )


async def begin(document: Document, wanted: Path, jobs: Jobs) -> Comparison:
    """Take the folder, write compare.json and queue every cell."""
    folder = await asyncio.to_thread(Folder.claim, wanted, lambda sheet: replace(document, sheet=sheet).as_bytes())
    try:
        document = read(document_of(folder.path), str(folder.path / DOCUMENT))
        comparison = Comparison(document, folder, jobs)
        await comparison._submit(document.cells)
    except ImagenError:
        folder.abandon()
        raise
    return comparison


async def resume(
    target: str,
    jobs: Jobs,
    *,
    resolve: Resolve,
    describe: Callable[[str], Model | None],
    default_folder: Callable[[Sequence[str]], Path],
    output: Path | None = None,
    retry_failed: bool = False,
    add_models: Sequence[str] = (),
) -> Comparison:
    """Go on with a comparison, named by its folder or its series; with `add_models`, with more columns."""
    path = Path(target).expanduser()
    if path.name == DOCUMENT and path.is_file():
        path = path.parent
    document: Document | None = None
    if path.exists():
        if not path.is_dir():
            raise RequestError(
                f"{path} is a file, not the folder of a comparison",
                hint=f"name the folder that holds {DOCUMENT}, or the id of a series",
                param="resume",
            )
        where = path.absolute()
        document = read(document_of(where), str(path / DOCUMENT))
    else:
        document, where = await _from_store(target, jobs, describe, output, default_folder)
    document = _widened(document, add_models, resolve)
    # A folder that lost its compare.json is taken like a new one, with whatever name is free.
    if _is_of(where, document):
        folder = await asyncio.to_thread(Folder.open, where)
    else:
        lost = document
        folder = await asyncio.to_thread(Folder.claim, where, lambda sheet: replace(lost, sheet=sheet).as_bytes())
        document = read(document_of(folder.path), str(folder.path / DOCUMENT))
    return Comparison(document, folder, jobs, retry_failed=retry_failed)


def next_move(entry: Entry, job: Job | None, *, here: bool, retry_failed: bool) -> Move:
    """What resuming does about a cell, from what the folder and the store say about it."""
    if entry.state is State.COMPLETED and here:
        return Move.KEEP
    if job is None:
        return Move.LEAVE if entry.state is State.FAILED and not retry_failed else Move.SUBMIT
    match job.state:
        case State.QUEUED | State.RUNNING:
            return Move.FOLLOW
        case State.COMPLETED:
            return Move.COPY
        case State.CANCELLED:
            return Move.RETRY
        case State.FAILED:
            return Move.RETRY if retry_failed else Move.LEAVE
        case unexpected:
            assert_never(unexpected)


async def _from_store(
    target: str,
    jobs: Jobs,
    describe: Callable[[str], Model | None],
    output: Path | None,
    default_folder: Callable[[Sequence[str]], Path],
) -> tuple[Document, Path]:
    try:
        series = await jobs.series(target)
    except UnknownSeries as unknown:
        raise UnknownSeries(
            f"{target} is neither a folder nor a series",
            hint="name the folder that `imagen compare` wrote to, or the id of a series from `imagen series list`",
            param="resume",
        ) from unknown
    lies = series.settings.get(FOLDER)
    where = output or (Path(lies) if isinstance(lies, str) and lies else default_folder(series.prompts))
    document = Document(
        series=series.id,
        prompts=series.prompts,
        models=series.models,
        seeds=series.seeds,
        settings={name: value for name, value in series.settings.items() if name in ASKED},
        cells=tuple(_remembered(cell, describe) for cell in series.cells),
    )
    if _is_of(where, document):
        document = read(document_of(where), str(where / DOCUMENT))
    return document, where.absolute()


def _is_of(where: Path, document: Document) -> bool:
    """Whether a folder is already the one of this series."""
    try:
        return read(document_of(where), str(where)).series == document.series
    except ImagenError:
        return False


def _remembered(cell: Cell, describe: Callable[[str], Model | None]) -> Entry:
    entry = entry_of(cell, None, describe(cell.model))
    return told(entry, cell.job, None) if cell.job else entry


def _widened(document: Document, models: Sequence[str], resolve: Resolve) -> Document:
    """The comparison with the columns it does not have yet, each cell checked."""
    fresh = [name for name in dict.fromkeys(models) if name not in document.models]
    if not fresh:
        return document
    first = max(cell.index for cell in document.cells) + 1
    cells = cells_of(document.prompts, fresh, document.seeds, first)
    return replace(
        document,
        models=(*document.models, *fresh),
        cells=(*document.cells, *_checked(cells, document.settings, resolve)),
    )


def _checked(cells: Sequence[Cell], settings: Mapping[str, Any], resolve: Resolve) -> tuple[Entry, ...]:
    asked = {name: settings[name] for name in ASKED if name in settings}
    entries = []
    for cell in cells:
        request, model = resolve(Draft(prompt=cell.prompt, model=cell.model, seed=cell.seed, n=1, **asked))
        entries.append(entry_of(cell, request, model))
    return tuple(entries)


def _first(group: BaseExceptionGroup[ImagenError]) -> ImagenError:
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    assert isinstance(inner, ImagenError)
    return inner


def _suffix(data: bytes) -> str:
    """A picture keeps the format it was drawn in."""
    if data.startswith(b"\xff\xd8"):
        return ".jpg"
    return ".webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ".png"
