"""The one door: everything a surface may ask for. Surfaces talk to this, and to nothing below it.

`owner` is whose jobs are meant: a name sees its own only, and None sees everybody's.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

from sqlalchemy import Connection

from imagen.config import Settings, load_settings
from imagen.core.events import Event, Preview
from imagen.core.ids import new_id
from imagen.core.job import LOCAL, Cell, Job, Series, cells_of
from imagen.core.model import Model
from imagen.core.request import Draft, preview_policy
from imagen.core.webhook import Webhook
from imagen.door import Door, Drawings, follow
from imagen.engine import orders
from imagen.engine.backends import Backends
from imagen.engine.comparing import from_store
from imagen.engine.devices import Devices
from imagen.engine.drawing.crew import Crew
from imagen.engine.drawing.sweep import sweep
from imagen.engine.drawing.worker import Worker
from imagen.engine.following.feed import Feeds, Watch
from imagen.engine.following.tide import Tides, WatchAll
from imagen.engine.health import Health
from imagen.engine.keys import Keys
from imagen.engine.pictures.images import Images
from imagen.engine.states import ModelState, states, usable
from imagen.engine.voting.votes import Votes
from imagen.engine.webhooks.outbox import Outbox
from imagen.engine.wiring import watched_catalog
from imagen.models.catalog import Catalog
from imagen.store import history, intake, journal, queue
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.intake import NewJob
from imagen.store.series import LOST, cancel_series, new_series, retry_cells

ALIKE = timedelta(days=1)  # whoever repeats a request does so within seconds; a drawing may have taken hours by then
VERSION = version("imagen-platform")


@overload
def open(*, home: Path | str | None = None, settings: Settings | None = None) -> AbstractAsyncContextManager["App"]: ...
@overload
def open(
    *, home: Path | str | None = None, settings: Settings | None = None, server: str, key: str | None = None
) -> AbstractAsyncContextManager[Door]: ...
def open(
    *,
    home: Path | str | None = None,
    settings: Settings | None = None,
    server: str | None = None,
    key: str | None = None,
) -> AbstractAsyncContextManager["App"] | AbstractAsyncContextManager[Door]:
    """Open the store and the catalog: `async with imagen.open() as app`.

    With `server`, the address of another imagen or its name in config.yaml, the work is done there. Its `key` comes
    from the environment (IMAGEN_KEY) or from config.yaml where it is not given.
    """
    settings = settings or load_settings(home=Path(home) if home is not None else None)
    if server is None:
        return _opened(settings)
    from imagen.away.client import open_away

    return open_away(server, settings, key=key)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator["App"]:
    app = App(settings)
    await app.start()
    try:
        yield app
    finally:
        await app.aclose()


class App:
    """Submit, follow, cancel, show. Made by `open`."""

    def __init__(self, settings: Settings, *, patient: bool = True) -> None:
        self.settings = settings
        self.log: Callable[[str], None] = lambda _line: None
        self._watch = watched_catalog(settings)
        full, given_in = settings.synchronous == "full", settings.database_from
        patience = {} if patient else {"away_s": 0.0}  # whoever looks what is wrong does not wait for it to pass
        self._db = Database(settings.database_url, full_sync=full, given_in=given_in, **patience)
        self._images = ImageStore(settings.storage, settings.images_folder, **asdict(settings.s3))
        self._backends = Backends(settings)
        self.backend_for, self.adopt_workflow = self._backends.of, self._backends.adopt
        self._crew = Crew(
            self._db,
            self._images,
            catalog=lambda: self.catalog,
            resolve=self._resolve,
            backend_for=self.backend_for,
            version=VERSION,
            server_policy=preview_policy(settings.preview),
            log=lambda line: self.log(line),
        )
        self.devices = Devices(self._db, catalog=lambda: self.catalog, alive=self._crew.alive)
        self._feeds = Feeds(self._db, lambda: self._crew.fault)
        self._tides = Tides(self._db)
        self.outbox = Outbox(self._db, settings)
        self._drawings = Drawings(self, over=self._crew.mine.discard)
        images = Images(self._db, self._images, job=self.job)
        self.image, self.image_chunks, self.drawn_by = images.find, images.chunks, images.drawn_by
        self.image_bytes, self.image_path, self.sidecar = images.read, images.path, images.sidecar
        self.signed_url, self.check_images, self.gc = images.signed_url, images.check, images.gc
        self.delete_image, self.delete_job = images.delete, images.delete_of
        votes = Votes(self._db, self._images, catalog=lambda: self.catalog, series=self.series)
        self.ballot, self.blind_picture = votes.ballot, votes.picture
        self.vote, self.ratings = votes.cast, votes.ratings
        health = Health(self._db, self._images, settings)
        self.check_store, self.check_clock, self.ready = health.check_store, health.check_clock, health.ready
        self.numbers, self.waiting = health.numbers, health.waiting
        self.happened, self.happened_to = health.happened, health.happened_to
        keys = Keys(self._db)
        self.add_key, self.keys, self.remove_key, self.key_of = keys.add, keys.all, keys.remove, keys.of

    async def start(self) -> None:
        """Open the database, making it if it is new. A broken config.yaml is refused here."""
        if self.settings.problems:
            raise self.settings.problems[0]
        await self._db.open()

    async def aclose(self) -> None:
        """Cancel what was left behind in a `generate` loop, and give back everything this process holds."""
        await asyncio.sleep(0)  # a loop that was just left ends itself first, if the interpreter lets it
        await self._drawings.close()
        await self._crew.stop()
        await self._feeds.close()
        await self._tides.close()
        await self._backends.aclose()
        await self._db.close()

    @property
    def catalog(self) -> Catalog:
        """The models as the files say now."""
        return self._watch.current()

    async def submit(
        self,
        draft: Draft,
        *,
        owner: str = LOCAL,
        route: str = "/v1/jobs",
        idempotency_key: str | None = None,
        body_hash: str | None = None,
        queue_limit: int | None = None,
        waited_for: bool = False,
    ) -> Job:
        """Check, complete and queue a request. It is safe on disk when this returns.

        The same `idempotency_key` brings the same job again at this `route`, and is a Conflict with another body.
        With a `body_hash` alone it is a new job, which `submitted_alike` finds. One that is `waited_for` is refused
        while every device that draws it is paused; any other waits until then.
        """
        self.outbox.check(draft.webhook, owner)
        new = replace(self._resolve(draft), owner=owner)
        if body_hash is not None and idempotency_key is None:
            idempotency_key = intake.key_of_its_own(body_hash)
        once = orders.once(route, owner, idempotency_key, body_hash or orders.hash_of(draft))

        def submitted(connection: Connection) -> Job:
            # Read back here: afterwards it would be in the way of the worker that takes it.
            check = self.devices.check_open if waited_for else None
            (job_id,) = intake.submit_once(connection, [new], once=once, queue_limit=queue_limit, check=check)
            self._crew.mine.add(job_id)
            return history.submitted(connection, job_id)

        return await self._db.write(submitted)

    async def submitted_alike(self, *, owner: str, route: str, body_hash: str) -> list[Job]:
        """Jobs that this very body brought at this route within a day without a key of the caller's, newest first."""
        since = datetime.now(UTC) - ALIKE
        ids = await self._db.read(intake.submitted_alike, owner=owner, route=route, body_hash=body_hash, since=since)
        return [await self.job(job_id) for job_id in ids]

    def generate(self, prompt: str, **fields: Any) -> AsyncGenerator[Event]:
        """Draw, and tell of it as it happens. Leaving the loop cancels the job.

        Takes the fields of a Draft; `preview` may be true, false or a policy such as `{"count": 6}`.
        `emit_previews` and `preview_stride` are accepted as other spellings of it.
        """
        return self._drawings.generate(prompt, fields)

    def follow(self, job_id: str, *, after: int = 0, previews: bool = False) -> AsyncGenerator[Event]:
        """Durable events after `after`, then what happens now; ends after the terminal event.

        `previews` says that somebody looks: it makes a running backend draw them.
        """
        return follow(self, job_id, after=after, previews=previews)

    @asynccontextmanager
    async def watching(
        self, job_id: str, *, after: int = 0, previews: bool = False, owner: str | None = None
    ) -> AsyncIterator[Watch]:
        """Follow one job at one's own pace: each `next` gives what came meanwhile, the newest preview only."""
        job = await self.job(job_id, owner=owner)
        async with self._feeds.watching(job.id, after=after, previews=previews) as watch:
            yield watch

    def watching_all(
        self,
        *,
        owner: str | None = None,
        jobs: Sequence[str] | None = None,
        after: int | None = None,
        previews: bool = False,
    ) -> AbstractAsyncContextManager[WatchAll]:
        """Follow many jobs on one stream, all of an owner's or `jobs`, from position `after` (None: from now) on."""
        return self._tides.watching(owner=owner, jobs=jobs, after=after, previews=previews)

    async def preview(self, job_id: str, *, owner: str | None = None) -> Preview | None:
        """The newest preview of a running job, if there is one."""
        job = await self.job(job_id, owner=owner)
        shown = [] if job.state.terminal else await self._db.read(journal.shown, {job.id: 0})
        return shown[0] if shown else None

    async def forming(self, job_id: str) -> bytes | None:
        """The picture in the newest preview of a running job, if there is one."""
        shown = await self.preview(job_id)
        return shown.data if shown is not None else None

    def working(self, job_ids: Iterable[str] | None = None) -> AbstractAsyncContextManager[None]:
        """While inside, this process draws these jobs (None: those it submitted) that no live worker would."""
        return self._crew.working(job_ids)

    def drawing(self, *, models: Sequence[str] | None = None) -> AbstractAsyncContextManager[Worker]:
        """While inside, this process draws these models (None: every enabled one) for everybody."""
        for model in self.catalog.models.values():
            if model.enabled and (models is None or model.name in models):
                self._backends.prepare(model)
        return self._crew.drawing(models)

    async def cancel(self, job_id: str, *, by: str = "you", owner: str | None = None) -> Job:
        """Ask for the end of a job; one that ended stays as it is."""
        job = await self.job(job_id, owner=owner)
        await self._db.write(queue.cancel, job.id, by=by)
        return await self.job(job.id)

    async def retry(self, job_id: str, *, owner: str | None = None, queue_limit: int | None = None) -> Job:
        """A new job with the same resolved request; what was lost in a series is replaced by it."""
        old = await self.job(job_id, owner=owner)
        again = [await self._again(old)]
        (new_job,) = await self._db.write(intake.submit_once, again, once=None, queue_limit=queue_limit)
        self._crew.mine.add(new_job)
        return await self.job(new_job)

    async def job(self, job_id: str, *, owner: str | None = None) -> Job:
        """One job, by its id or a unique beginning or end of it."""
        return await self._db.read(history.job, job_id, owner=owner)

    async def jobs(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        series: str | None = None,
        q: str | None = None,
        before: str | None = None,
        limit: int = 50,
        owner: str | None = None,
    ) -> list[Job]:
        """Newest first, a page at a time."""
        wanted = {"state": state, "model": model, "series_id": series, "q": q, "owner": owner}
        return await self._db.read(history.jobs_list, before=before, limit=limit, **wanted)

    async def submit_series(
        self,
        prompts: Sequence[str],
        models: Sequence[str],
        seeds: Sequence[int],
        *,
        settings: Mapping[str, Any],
        owner: str = LOCAL,
        series_id: str | None = None,
        cells: Sequence[Cell] | None = None,
        webhook: Webhook | None = None,
        idempotency_key: str | None = None,
        body_hash: str = "",
        queue_limit: int | None = None,
    ) -> Series:
        """Check every cell, then record the series and queue its jobs, each model's together.

        With `series_id` of one that exists, the cells are added to it.
        """
        name = series_id or new_id()
        self.outbox.check(webhook, owner)
        wanted = cells if cells is not None else cells_of(prompts, models, seeds)
        new = orders.of_cells(wanted, settings, self._resolve, series=name, owner=owner)
        made, ids = await self._db.write(
            new_series,
            name,
            prompts=prompts,
            models=models,
            seeds=seeds,
            settings=settings,
            owner=owner,
            new=new,
            webhook=webhook,
            once=orders.once("/v1/series", owner, idempotency_key, body_hash),
            queue_limit=queue_limit,
        )
        self._crew.mine.update(ids)
        return await self.series(made)

    async def series(self, series_id: str, *, owner: str | None = None) -> Series:
        """One series with its cells, by its id or a unique part of it."""
        return await self._db.read(history.series_one, series_id, owner=owner)

    async def series_list(
        self, limit: int = 50, *, before: str | None = None, owner: str | None = None
    ) -> list[Series]:
        """Newest first, a page at a time."""
        return await self._db.read(history.series_list, limit=limit, before=before, owner=owner)

    async def cancel_series(self, series_id: str, *, by: str = "you", owner: str | None = None) -> Series:
        """Cancel the cells that have not ended."""
        series = await self.series(series_id, owner=owner)
        await self._db.write(cancel_series, series.id, by=by)
        return await self.series(series.id)

    async def retry_series(self, series_id: str, *, owner: str | None = None, queue_limit: int | None = None) -> Series:
        """New jobs for the cells that failed or were cancelled."""
        series = await self.series(series_id, owner=owner)
        again = [await self._again(cell.job) for cell in series.cells if cell.job and cell.job.state in LOST]
        new = await self._db.write(retry_cells, series.id, again, queue_limit=queue_limit)
        self._crew.mine.update(new)
        return await self.series(series.id)

    async def add_models(
        self, series_id: str, models: Sequence[str], *, owner: str | None = None, queue_limit: int | None = None
    ) -> Series:
        """A column more for each model that the series does not have yet."""
        series = await self.series(series_id, owner=owner)
        new, cells = orders.more_columns(series, models)
        return await self.submit_series(
            series.prompts,
            new,
            series.seeds,
            settings=series.settings,
            owner=series.owner,
            series_id=series.id,
            cells=cells,
            queue_limit=queue_limit,
        )

    async def tell_again(self, job_id: str, *, owner: str | None = None) -> Job:
        """Send the webhook of a job that ended once more, with the id it had."""
        job = await self.job(job_id, owner=owner)
        await self.outbox.again(job.delivery)
        return await self.job(job.id)

    async def tell_series_again(self, series_id: str, *, owner: str | None = None) -> Series:
        """Send the webhook of the last ending of a series once more, with the id it had."""
        series = await self.series(series_id, owner=owner)
        await self.outbox.again(series.delivery)
        return await self.series(series.id)

    async def series_sheet(self, series_id: str, *, owner: str | None = None) -> bytes:
        """The contact sheet of a series, as PNG."""
        return await from_store.series_sheet(
            self._db, self._images, await self.series(series_id, owner=owner), self._known
        )

    async def series_sidecar(self, series_id: str, *, owner: str | None = None) -> dict[str, Any]:
        """A series in the shape of compare.json."""
        return from_store.series_sidecar(await self.series(series_id, owner=owner), self._known)

    async def orphans(self) -> list[Job]:
        """Jobs that wait and that nobody alive would draw: left by a process that ended or was killed."""
        return await self._db.read(self._crew.orphans)

    async def sweep(self) -> list[str]:
        """Put the jobs of dead workers back into the queue."""
        return await sweep(self._db, self._crew.obituaries, self.log, tuple(self.catalog.models))

    @property
    def pictures_origin(self) -> str | None:
        """The site that `signed_url` leads to, as a browser's policy names it; None where there is no such address."""
        return self._images.signed_origin

    async def models(self) -> Catalog:
        """The models that can be asked for."""
        return self.catalog

    async def usable_models(self) -> list[str]:
        """Every enabled model that costs nothing and can be drawn now; the mocks only if nothing else can."""
        return usable(await self.model_states())

    async def model_states(self) -> list[ModelState]:
        """Every model: can it be asked for now, why not, and does somebody have it loaded?"""
        return await states(self.catalog, self.backend_for, *await self._db.read(self._crew.look))

    async def workers(self) -> list[Mapping[str, Any]]:
        """The workers that are alive."""
        return [dict(row._mapping) for row in await self._db.read(self._crew.alive)]

    def _resolve(self, draft: Draft) -> NewJob:
        return orders.of_draft(draft, self.catalog)

    def _known(self, name: str) -> Model | None:
        return self.catalog.models.get(name)

    async def _again(self, old: Job) -> NewJob:
        return orders.again(old, self._resolve, await self._db.read(history.record, old.id))
