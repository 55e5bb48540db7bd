"""Who draws: the workers of this process, and what is known of all the others."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, Row

from imagen.backends.base import Backend
from imagen.core.errors import ImagenError
from imagen.core.job import Job, State
from imagen.core.model import Model
from imagen.core.request import Draft, PreviewPolicy
from imagen.engine.drawing.worker import Worker
from imagen.models.catalog import Catalog
from imagen.store import history, presence
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.intake import NewJob
from imagen.store.lacking import lacking


class Crew:
    """Puts workers to work: one that serves models for everybody, or one that draws what this process submitted."""

    def __init__(
        self,
        db: Database,
        images: ImageStore,
        *,
        catalog: Callable[[], Catalog],
        resolve: Callable[[Draft], NewJob],
        backend_for: Callable[[Model], Backend],
        version: str,
        server_policy: PreviewPolicy | None,
        log: Callable[[str], None],
    ) -> None:
        self.mine: set[str] = set()  # what this process submitted
        self.fault: BaseException | None = None  # why the worker of this process stopped working
        self.obituaries = presence.Obituaries()
        self._db = db
        self._images = images
        self._catalog = catalog
        self._resolve = resolve
        self._backend_for = backend_for
        self._version = version
        self._server_policy = server_policy
        self._log = log
        self._wishes: dict[object, frozenset[str] | None] = {}  # what each `working` wants drawn
        self._working: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def drawing(self, models: Sequence[str] | None = None) -> AsyncIterator[Worker]:
        """While inside, a worker of this process serves these models (None: every enabled one) for everybody.

        If it breaks, whoever is inside is stopped, and gets the reason.
        """
        worker = self._worker(models=models)
        work = self._start(worker)
        inside = asyncio.current_task()
        assert inside is not None
        work.add_done_callback(lambda done: None if done.cancelled() or not done.exception() else inside.cancel())
        try:
            yield worker
        finally:
            work.cancel()
            (end,) = await asyncio.gather(work, return_exceptions=True)
            if isinstance(end, Exception):
                inside.uncancel()
                raise end

    @asynccontextmanager
    async def working(self, job_ids: Iterable[str] | None = None) -> AsyncIterator[None]:
        """While inside, this process draws these jobs (None: those it submitted) that no live worker would."""
        wish = object()
        self._wishes[wish] = None if job_ids is None else frozenset(job_ids)
        if self._working is None or self._working.done():
            # One worker for all loops of this process, so that what was submitted first is drawn first.
            self._working = self._start(self._worker(only=self._unserved))
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

    async def stop(self) -> None:
        """Give back what the one-shot worker holds."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    def alive(self, connection: Connection) -> list[Row[Any]]:
        """The workers that live, as rows."""
        rows = presence.everyone(connection)
        dead = self.obituaries.dead(rows)
        return [row for row in rows if row.id not in dead]

    def look(self, connection: Connection) -> tuple[set[str], dict[str, ImagenError | None]]:
        """The models that somebody alive drew last on a device: in memory, as far as one can tell from here.

        And what the workers of a fleet say of each model that they know: None when one can draw it, else why none can.
        """
        alive = self.alive(connection)
        loaded = {model for row in alive for model in row.loaded or ()}
        if connection.dialect.name == "sqlite":  # no other machine draws, and this one is asked itself
            return loaded, {}
        drawers = [row for row in alive if not row.solo]
        lacks = [(row.host, row.lacks) for row in drawers]
        said = {model: lacking(lacks, model) for _, its in lacks for model in its or ()}
        return loaded, said | {model: None for row in drawers for model in row.models}

    def orphans(self, connection: Connection) -> list[Job]:
        """Jobs that wait or run and that nobody alive has in view."""
        alive = self.alive(connection)
        here = {row.id for row in alive}
        solo = any(row.solo for row in alive)
        known = _known(alive)
        orphans = []
        for job in history.unended(connection):
            left = job.worker not in here if job.state is State.RUNNING else job.request.model not in known
            # A one-shot command that runs right now works its own queued jobs; whose they are nobody can tell.
            if left and job.id not in self.mine and not (solo and job.state is State.QUEUED and job.attempt == 0):
                orphans.append(job)
        return orphans

    def _worker(
        self, *, models: Sequence[str] | None = None, only: Callable[[Connection], Sequence[str]] | None = None
    ) -> Worker:
        return Worker(
            self._db,
            self._images,
            resolve=self._resolve,
            backend_for=self._backend_for,
            catalog=lambda: self._catalog().models,
            models=models,
            version=self._version,
            server_policy=self._server_policy,
            only=only,
            log=self._log,
            sharing=lambda: self._catalog().sharing,
        )

    def _start(self, worker: Worker) -> asyncio.Task[None]:
        self.fault = None
        work = asyncio.create_task(worker.run(), name=worker.id)
        work.add_done_callback(self._note_fault)
        return work

    def _unserved(self, connection: Connection) -> Sequence[str]:
        wanted = {job for wish in self._wishes.values() for job in (self.mine if wish is None else wish)}
        alive = self.alive(connection)
        served, known = _served(alive), _known(alive)
        # Somebody else's job that waits for what a worker lacks is not to fail because this machine lacks it, too.
        return [
            job.id
            for job in history.queued(connection, wanted)
            if job.request.model not in (served if job.id in self.mine else known)
        ]

    def _note_fault(self, working: asyncio.Task[None]) -> None:
        # Followers of this process wait for what this worker draws: without it they would wait for ever.
        self.fault = None if working.cancelled() else working.exception()


def _served(alive: Iterable[Row[Any]]) -> set[str]:
    """The models that one of these workers draws for everybody."""
    return {model for row in alive if not row.solo for model in row.models}


def _known(alive: Iterable[Row[Any]]) -> set[str]:
    """With those that one would draw as soon as it has what it lacks now: their jobs wait for that."""
    return {model for row in alive if not row.solo for model in (*row.models, *(row.lacks or ()))}
