"""The one door: everything a surface may ask for. Surfaces talk to this, and to nothing below it."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row

from imagen.backends.base import Backend
from imagen.backends.registry import registration
from imagen.config import Settings, load_settings
from imagen.core.errors import Conflict, ImagenError, MissingFile, UnknownModel
from imagen.core.events import Event
from imagen.core.ids import new_id
from imagen.core.job import Cell, Job, Series, State, StoredImage, cells_of
from imagen.core.model import Model
from imagen.core.request import Draft, Request, drafted, preview_policy
from imagen.engine.wiring import watched_catalog
from imagen.engine.worker import Worker, sweep
from imagen.models.catalog import Catalog
from imagen.store import history, intake, journal, presence, queue
from imagen.store.db import Database
from imagen.store.images import ImageStore, side_path
from imagen.store.intake import NewJob

LOOK_S = 1.0  # a follower looks at least this often, whatever the bell does
CHECK_S = 2.0  # a check that takes longer has failed
VERSION = version("imagen-platform")


@asynccontextmanager
async def open(*, home: Path | str | None = None, settings: Settings | None = None) -> AsyncIterator["App"]:
    """Open the store and the catalog: `async with imagen.open() as app`."""
    app = App(settings or load_settings(home=Path(home) if home is not None else None))
    await app.start()
    try:
        yield app
    finally:
        await app.aclose()


class App:
    """Submit, follow, cancel, show. Made by `open`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log: Callable[[str], None] = lambda _line: None
        self._watch = watched_catalog(settings)
        self._db = Database(settings.database_url)
        self._images = ImageStore(settings.storage, settings.images_folder)
        self._backends: dict[str, Backend] = {}
        self._obituaries = presence.Obituaries()
        self._mine: set[str] = set()
        self._drawing: set[str] = set()  # jobs of `generate` loops that nobody finished yet
        self._wishes: dict[object, frozenset[str] | None] = {}  # what each `working` wants drawn
        self._working: asyncio.Task[None] | None = None
        self._closed = False
        self._fault: BaseException | None = None  # why the worker of this process stopped working

    async def start(self) -> None:
        """Open the database, making it if it is new. A broken config.yaml is refused here."""
        if self.settings.problems:
            raise self.settings.problems[0]
        await self._db.open()

    async def aclose(self) -> None:
        """Cancel what was left behind in a `generate` loop, and give back everything this process holds."""
        await asyncio.sleep(0)  # a loop that was just left ends itself first, if the interpreter lets it
        for job_id in tuple(self._drawing):
            await self.cancel(job_id)
            await self._end_of(job_id)
        self._closed = True
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        for backend in self._backends.values():
            await backend.aclose()
        await self._db.close()

    @property
    def catalog(self) -> Catalog:
        """The models as the files say now."""
        return self._watch.current()

    async def submit(self, draft: Draft, *, idempotency_key: str | None = None) -> Job:
        """Check, complete and queue a request. It is safe on disk when this returns."""
        new = self._resolve(draft)
        if idempotency_key is None:
            ids = await self._db.write(intake.submit, [new])
        else:
            body = sha256(repr(draft).encode()).hexdigest()
            ids = await self._db.write(
                intake.submit_once, [new], owner="local", route="/v1/jobs", key=idempotency_key, body_hash=body
            )
        self._mine.update(ids)
        return await self.job(ids[0])

    async def generate(self, prompt: str, **fields: Any) -> AsyncGenerator[Event]:
        """Draw, and tell of it as it happens. Leaving the loop cancels the job.

        Takes the fields of a Draft; `preview` may be true, false or a policy such as `{"count": 6}`.
        `emit_previews` and `preview_stride` are accepted as other spellings of it.
        """
        draft = drafted(prompt, fields)
        job = await self.submit(draft)
        shown = draft.preview is not None and not draft.preview.off
        ended = False
        self._drawing.add(job.id)
        try:
            async with self.working([job.id]), aclosing(self.follow(job.id, previews=shown)) as events:
                try:
                    async for event in events:
                        ended = event.terminal
                        yield event
                finally:
                    if not ended and not self._closed:
                        await self.cancel(job.id)
                        await self._end_of(job.id)
        finally:
            self._drawing.discard(job.id)
            self._mine.discard(job.id)

    async def follow(self, job_id: str, *, after: int = 0, previews: bool = False) -> AsyncGenerator[Event]:
        """Durable events after `after`, then what happens now; ends after the terminal event.

        `previews` says that somebody looks: it makes a running backend draw them.
        """
        job_id = (await self.job(job_id)).id
        watcher = new_id()
        renew_at = 0.0
        tick = 0
        try:
            while True:
                if previews and time.monotonic() >= renew_at:
                    renew_at = time.monotonic() + journal.WATCH_S / 2
                    await self._db.write(journal.watch, watcher, job_id, datetime.now(UTC))
                if self._fault is not None:
                    raise self._fault
                mark = self._db.mark()
                news = await self._db.read(journal.news, job_id, after, tick, with_previews=previews)
                after, tick = news.seq, news.tick
                for event in news.events:
                    yield event
                if news.ended:
                    return
                await self._db.changed(mark, LOOK_S)
        finally:
            if previews and not self._closed:
                with suppress(ImagenError):
                    await self._db.write(journal.unwatch, watcher)

    @asynccontextmanager
    async def working(self, job_ids: Iterable[str] | None = None) -> AsyncIterator[None]:
        """While inside, this process draws these jobs (None: those it submitted) that no live worker would."""
        wish = object()
        self._wishes[wish] = None if job_ids is None else frozenset(job_ids)
        if self._working is None or self._working.done():
            self._working = self._start_working()
        try:
            yield
        finally:
            del self._wishes[wish]
            if not self._wishes and self._working is not None:
                working, self._working = self._working, None
                working.cancel()
                (end,) = await asyncio.gather(working, return_exceptions=True)
                if isinstance(end, Exception):
                    raise end

    async def cancel(self, job_id: str, *, by: str = "you") -> Job:
        """Ask for the end of a job; one that ended stays as it is."""
        job = await self.job(job_id)
        await self._db.write(queue.cancel, job.id, by=by)
        return await self.job(job.id)

    async def retry(self, job_id: str) -> Job:
        """A new job with the same resolved request; in a series it takes over the cell."""
        old = await self.job(job_id)
        if not old.state.terminal:
            hint = f"wait for its end, or `imagen jobs cancel {old.id}` first"
            raise Conflict(f"job {old.id} is {old.state.value}", hint=hint)
        request = old.request
        draft = Draft(**{name: getattr(request, name) for name in Request.__dataclass_fields__})
        try:
            new = self._resolve(draft)
        except UnknownModel:
            # The model left the catalog; the job still carries all of it.
            record = await self._db.read(history.record, old.id)
            if record is None or not isinstance(request, Request):
                raise
            new = NewJob(request=request, model=Model.from_dict(record))
        new = replace(new, series=old.series, cell=old.cell, retry_of=old.id, priority=old.priority)
        (new_job,) = await self._db.write(intake.submit, [new])
        self._mine.add(new_job)
        return await self.job(new_job)

    async def job(self, job_id: str) -> Job:
        """One job, by its id or a unique beginning or end of it."""
        return await self._db.read(history.job, job_id)

    async def jobs(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        series: str | None = None,
        q: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Newest first, a page at a time."""
        return await self._db.read(
            history.jobs_list, state=state, model=model, series_id=series, q=q, before=before, limit=limit
        )

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
        """Check every cell, then record the series and queue its jobs, each model's together.

        With `series_id` of one that exists, the cells are added to it.
        """
        wanted = cells if cells is not None else cells_of(prompts, models, seeds)
        asked = {name: settings[name] for name in _SERIES_FIELDS if settings.get(name) is not None}
        new_series = series_id or new_id()
        new = [
            replace(
                self._resolve(Draft(prompt=cell.prompt, model=cell.model, seed=cell.seed, **asked)),
                series=new_series,
                cell=cell.index,
            )
            for cell in wanted
        ]
        ids = await self._db.write(
            history.new_series,
            new_series,
            prompts=prompts,
            models=models,
            seeds=seeds,
            settings=settings,
            new=new,
        )
        self._mine.update(ids)
        return await self.series(new_series)

    async def series(self, series_id: str) -> Series:
        """One series with its cells, by its id or a unique part of it."""
        return await self._db.read(history.series_one, series_id)

    async def series_list(self, limit: int = 50) -> list[Series]:
        """Newest first."""
        return await self._db.read(history.series_list, limit=limit)

    async def cancel_series(self, series_id: str, *, by: str = "you") -> Series:
        """Cancel the cells that have not ended."""
        series = await self.series(series_id)
        await self._db.write(history.cancel_series, series.id, by=by)
        return await self.series(series.id)

    async def orphans(self) -> list[Job]:
        """Jobs that wait and that nobody alive would draw: left by a process that ended or was killed."""
        return await self._db.read(self._orphans)

    async def sweep(self) -> list[str]:
        """Put the jobs of dead workers back into the queue."""
        return await sweep(self._db, self._obituaries, self.log, tuple(self.catalog.models))

    async def image_bytes(
        self, image: StoredImage | str, *, size: Literal["full", "cell", "thumbnail"] = "full"
    ) -> bytes:
        """The bytes of a stored picture or of one of its small copies."""
        path = await self._path(image)
        return await self._images.get(path if size == "full" else side_path(path, size))

    async def image_path(self, image: StoredImage | str) -> Path | None:
        """Where a stored picture lies, when it lies in a folder."""
        return self._images.file_of(await self._path(image))

    async def usable_models(self) -> list[str]:
        """Every enabled model whose cheap check passes; the mocks only if nothing else does."""
        models = [model for model in self.catalog.models.values() if model.enabled]
        passed = await asyncio.gather(*(self._passes(model) for model in models))
        usable = [model for model, ok in zip(models, passed, strict=True) if ok]
        real = [model.name for model in usable if model.backend != "mock"]
        return real or [model.name for model in usable]

    async def check_store(self) -> str:
        """Raise what is wrong with the database; otherwise say where it is."""
        await self._db.read(history.jobs_list, limit=1)
        return self.settings.database_url

    async def workers(self) -> list[Mapping[str, Any]]:
        """The workers that are alive."""
        return [dict(row._mapping) for row in await self._db.read(self._alive)]

    def _start_working(self) -> asyncio.Task[None]:
        # One worker for all loops of this process, so that what was submitted first is drawn first.
        worker = Worker(
            self._db,
            self._images,
            resolve=self._resolve,
            backend_for=self.backend_for,
            knows=lambda: tuple(self.catalog.models),
            serves=lambda: (),
            version=VERSION,
            server_policy=preview_policy(self.settings.preview),
            only=self._unserved,
            log=lambda line: self.log(line),
        )
        self._fault = None
        working = asyncio.create_task(worker.run(), name=worker.id)
        working.add_done_callback(self._note_fault)
        return working

    def _unserved(self, connection: Connection) -> Sequence[str]:
        wanted = {job for wish in self._wishes.values() for job in (self._mine if wish is None else wish)}
        served = self._served(connection)
        return [job.id for job in history.queued(connection, wanted) if job.request.model not in served]

    def _note_fault(self, working: asyncio.Task[None]) -> None:
        # Followers of this process wait for what this worker draws: without it they would wait for ever.
        self._fault = None if working.cancelled() else working.exception()

    async def _passes(self, model: Model) -> bool:
        try:
            async with asyncio.timeout(CHECK_S):
                return all(check.ok for check in await self.backend_for(model).check(model))
        except (ImagenError, TimeoutError):
            return False

    def backend_for(self, model: Model) -> Backend:
        """The backend that draws this model; made once per process."""
        if model.backend not in self._backends:
            made = registration(model.backend).create(self.settings.backend(model.backend))
            self._backends[model.backend] = made
        return self._backends[model.backend]

    def _resolve(self, draft: Draft) -> NewJob:
        resolved = self.catalog.resolve(draft, lambda: secrets.randbits(32))
        return NewJob(
            request=resolved.request,
            model=resolved.model,
            preview=draft.preview,
            warnings=[(warned.code, warned.message) for warned in resolved.warnings],
            priority=draft.priority,
            webhook=draft.webhook,
        )

    async def _end_of(self, job_id: str) -> None:
        async with aclosing(self.follow(job_id)) as events:
            async for _event in events:
                pass

    async def _path(self, image: StoredImage | str) -> str:
        image_id = image if isinstance(image, str) else image.id
        path = await self._db.read(history.image_path, image_id)
        if path is None:
            raise MissingFile(f"there is no picture {image_id}", hint="see `imagen jobs list`")
        return path

    def _alive(self, connection: Connection) -> list[Row[Any]]:
        rows = presence.everyone(connection)
        dead = self._obituaries.dead(rows)
        return [row for row in rows if row.id not in dead]

    def _served(self, connection: Connection) -> set[str]:
        return {model for row in self._alive(connection) if not row.solo for model in row.models}

    def _orphans(self, connection: Connection) -> list[Job]:
        alive = self._alive(connection)
        here = {row.id for row in alive}
        solo = any(row.solo for row in alive)
        served = self._served(connection)
        orphans = []
        for job in history.waiting(connection):
            left = job.worker not in here if job.state is State.RUNNING else job.request.model not in served
            # A one-shot command that runs right now works its own queued jobs; whose they are nobody can tell.
            if left and job.id not in self._mine and not (solo and job.state is State.QUEUED and job.attempt == 0):
                orphans.append(job)
        return orphans


_SERIES_FIELDS = ("width", "height", "steps", "negative", "guidance", "options")
