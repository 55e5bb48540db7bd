"""A worker: claims jobs, runs them, says that it is alive, and buries the dead."""

import asyncio
import contextlib
import os
import platform
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row

from imagen.backends.base import Backend
from imagen.core.device import BY_ITSELF, Pause, Sharing
from imagen.core.errors import Crashed, DatabaseAway, HookFailed, ImagenError
from imagen.core.ids import new_id
from imagen.core.job import State
from imagen.core.model import Model
from imagen.core.request import Draft, PreviewPolicy, preview_policy
from imagen.engine.drawing import runner
from imagen.engine.drawing.able import Able
from imagen.engine.drawing.apart import Apart
from imagen.engine.drawing.fleet import Fleet
from imagen.engine.drawing.keeping import Room
from imagen.engine.drawing.memory import Memory
from imagen.engine.drawing.offer import Offer
from imagen.engine.drawing.started import previews_by, started
from imagen.engine.drawing.sweep import sweep
from imagen.engine.drawing.turns import ASIDE_S, Turns
from imagen.engine.drawing.unmade import made
from imagen.previews.policy import merge
from imagen.store import devices, order, presence, queue
from imagen.store.bell import queue_of, slot_of
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.intake import NewJob
from imagen.store.order import Place, Wish
from imagen.store.queue import Claim

MANY = 10_000  # jobs are remembered for whoever tells of them, where somebody does
IDLE_S = 1.0  # a worker that hears nothing looks this often; run_after of a failed job has no bell


@dataclass(slots=True)
class _Held:
    """A job in this worker's hands."""

    claim: Claim
    task: asyncio.Task[None]
    drawn: bool = False  # it needs its device no more


class Worker:
    """Draws jobs until it is cancelled; then what it holds goes back to the queue.

    It serves the enabled models of the catalog, or only `models`. `only` restricts it to the jobs it names
    (a one-shot command works its own), and such a worker does not count as one that serves a model.
    """

    def __init__(
        self,
        db: Database,
        images: ImageStore,
        *,
        resolve: Callable[[Draft], NewJob],
        backend_for: Callable[[Model], Backend],
        catalog: Callable[[], Mapping[str, Model]],
        models: Sequence[str] | None = None,
        version: str,
        server_policy: PreviewPolicy | None = None,
        only: Callable[[Connection], Sequence[str]] | None = None,
        obituaries: presence.Obituaries | None = None,
        log: Callable[[str], None] = lambda _line: None,
        monotonic: Callable[[], float] = time.monotonic,
        sharing: Callable[[], Mapping[str, Sharing]] = dict,
    ) -> None:
        self.id = f"{platform.node()}-{os.getpid()}-{new_id()[-6:].lower()}"
        self._db = db
        self._images = images
        self._apart = Apart(images.place, log)
        self._resolve = resolve
        self._backend_for = backend_for
        self._catalog = catalog
        self._models = models
        self._version = version
        self._server_policy = server_policy
        self._previews = previews_by(lambda wish: merge(wish, server_policy))
        self._only = only
        self._obituaries = obituaries or presence.Obituaries()
        self._log = log
        self._monotonic = monotonic
        self._running: dict[tuple[str, int], _Held] = {}
        self._begun: dict[str, int] = {}
        self._fleet = Fleet(self.id)
        self._turns = Turns(self._fleet, monotonic)
        self._left: set[str] = set()  # the models whose new jobs were left to others when we last looked
        self._memory = Memory(
            backend_for, monotonic, sharing=sharing, others=lambda device: db.read(devices.taken, device), log=log
        )
        self._returns: list[tuple[Claim, ImagenError | None]] = []  # jobs the database would not take back yet
        # Others may come who can draw what this one cannot. On SQLite there is nobody else to wait for.
        alone = only is not None or db.engine.dialect.name == "sqlite"
        able = None if alone else Able(backend_for, log=log, monotonic=monotonic)
        self._offer = Offer(catalog, models, sharing=sharing, solo=only is not None, able=able)
        self._lacks_told: presence.Lacks = {}
        self._unheard: set[str] = set()  # running jobs of ours that we do not run, seen once
        self._room = Room(images, log)
        self._claiming = True

    async def run(self) -> None:
        """Work until cancelled."""
        async with self._alive():
            surely = True
            while True:
                mark = self._db.mark()
                claimed = await self._claim(surely) if self._claiming else None
                if claimed is None:
                    if not self._running:
                        self._turns.rest()
                    surely = await self._news(mark)
                    continue
                surely = True
                self._begin(claimed)

    def _begin(self, claim: Claim) -> None:
        self._running[claim.key] = _Held(claim, asyncio.create_task(self._work(claim), name=f"job-{claim.job}"))
        if len(self._begun) == MANY:  # nobody asks
            self._begun.clear()
        self._begun[claim.job] = claim.attempt

    def begun(self) -> Mapping[str, int]:
        """The jobs that were taken since this was asked last, and which attempt of each it is."""
        begun, self._begun = self._begun, {}
        return begun

    def stop_claiming(self) -> None:
        """Begin nothing new; what runs goes on."""
        self._claiming = False

    async def idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs here; false when something still does after `timeout_s`."""
        until = self._monotonic() + timeout_s
        while self._running and self._monotonic() < until:
            await asyncio.wait([held.task for held in self._running.values()], timeout=until - self._monotonic())
        return not self._running

    @asynccontextmanager
    async def _alive(self) -> AsyncIterator[None]:
        await self._db.write(self._arrive)
        upkeep = [asyncio.create_task(self._upkeep(), name=f"upkeep-{self.id}")]
        if self._offer.able is not None:
            upkeep.append(asyncio.create_task(self._offer.look(self._db.ring, self._beat), name=f"look-{self.id}"))
        claiming = asyncio.current_task()
        assert claiming is not None
        # Without its heartbeat a worker is taken for dead while it draws: then rather none at all.
        for task in upkeep:
            task.add_done_callback(lambda done: None if done.cancelled() else claiming.cancel())
        try:
            yield
        finally:
            self._claiming = False
            tasks = [*upkeep, *(held.task for held in self._running.values())]
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            end = next((one for one in ends[: len(upkeep)] if isinstance(one, Exception)), None)
            await self._memory.close()
            with contextlib.suppress(ImagenError):
                await self._db.write(presence.leave, self.id)
            if end is not None:
                claiming.uncancel()
                raise end

    def _arrive(self, connection: Connection) -> None:
        presence.arrive(
            connection,
            self.id,
            version=self._version,
            serves=self._offer.serves(),
            solo=self._only is not None,
            now=datetime.now(UTC),
            storage=self._images.place,
            lacks=self._offer.lacks(),
        )

    async def _beat(self) -> None:
        """Say that we are here, and what we draw."""
        lacks = self._offer.lacks()
        news = lacks if lacks != self._lacks_told else None
        trouble = self._room.trouble or None
        loaded = self._turns.loaded()
        if not await self._db.write(presence.beat, self.id, self._offer.serves(), loaded, trouble, lacks=news):
            await self._db.write(self._arrive)
        self._lacks_told = lacks

    async def _news(self, mark: int) -> bool:
        """Wait until there may be something to begin; true when there surely is."""
        topics, listen = self._offer.topics(), self._could_begin()
        if not listen:
            self._db.rest()
        better = {queue_of(model) for model in self._turns.better_elsewhere(self._offer.takes())} if listen else set()
        woken = await self._db.changed(mark, ASIDE_S if self._left else IDLE_S, topics, listen=listen)
        if woken and better:
            # Woken for nothing but these: whoever has them loaded goes first.
            woken = await self._db.changed(mark, ASIDE_S, topics - better, listen=listen)
        return woken

    async def _leave_new(self) -> set[str]:
        """The models whose jobs came just now and are better begun elsewhere."""
        better, now = self._turns.better_elsewhere(self._offer.takes()), datetime.now(UTC)
        if not better:
            return better
        return await self._db.read(order.only_new, better, now, now - timedelta(seconds=ASIDE_S))

    def _sought(self, connection: Connection) -> tuple[dict[str, Place], Sequence[str] | None]:
        """Of what a job may be taken now, and which jobs alone (None: any)."""
        only = self._only(connection) if self._only is not None else None
        return self._offer.takes(order.places_of(connection, only) if only else {}), only

    def _take(self, connection: Connection) -> Claim | None:
        places, only = self._sought(connection)
        if (only is not None and not only) or not self._claiming:
            return None
        return queue.claim(
            connection,
            self._wish(places, self._left),
            resolve=self._resolve,
            started=lambda claim, watched: started(claim, watched, self._policy(claim)),
            may_pass=self._turns.may_pass,
            only=only,
            enlist=self._enlist,
        )

    def _wish(self, places: Mapping[str, Place], left: Collection[str]) -> Wish:
        return Wish(
            worker=self.id,
            places={model: place for model, place in places.items() if model not in left},
            knows=tuple(self._catalog()),
            loaded=self._turns.preferred(),
            previews=self._previews,
        )

    def _wish_at_once(self) -> Wish | None:
        """For when a device comes free; None where there is more to look at before the next job is taken.

        A device that others draw on too is left free for a moment, or it would be kept from them.
        """
        if self._only is not None or not self._claiming or not self._images.proven or not self._fleet.alone:
            return None
        takes = self._offer.takes()
        return None if self._turns.better_elsewhere(takes) else self._wish(takes, ())

    def _enlist(self, connection: Connection) -> None:
        if not presence.is_listed(connection, self.id):
            self._arrive(connection)  # we slept and were buried; what we claimed now would be taken away again

    def _free(self, places: Mapping[str, Place]) -> dict[str, Place]:
        """Those whose device this worker does not fill by itself."""
        here = Counter(held.claim.model.device for held in self._running.values() if not held.drawn)
        return {name: place for name, place in places.items() if here[place.device] < place.slots}

    def _could_begin(self) -> bool:
        """Would word of a new job be of use now? What ends here is rung here."""
        return self._only is not None or (self._claiming and bool(self._free(self._offer.takes())))

    def _might(self, connection: Connection) -> bool:
        """Could a claim find something now?"""
        places, only = self._sought(connection)
        if only is not None and not only:
            return False
        return order.anything(connection, self._free(places), tuple(self._catalog()), only)

    async def _upkeep(self) -> None:
        troubled = False
        while True:
            try:
                names = tuple(self._catalog())
                paused = await self._db.read(devices.paused, datetime.now(UTC))
                await sweep(self._db, self._obituaries, self._log, names, me=self.id, look=partial(self._meet, paused))
                for claim, error in self._returns[:]:
                    with contextlib.suppress(queue.LeaseLost):
                        reason = error.message if error else "the database was away"
                        await self._db.write(queue.give_back, claim, reason=reason, error=error)
                    self._returns.remove((claim, error))
                await self._beat()
                if self._only is None and self._models is None:
                    self._offer.left_over = await self._db.read(order.left_over, names)
                await self._reconcile()
                await self._memory.tidy()
                if troubled:
                    self._log("the database answers again")
                troubled = False
            except ImagenError as away:
                troubled = True
                who = "server" if self._models == [] else "worker"  # a server that draws nothing has one of us too
                self._log(f"this {who} cannot say that it is alive, trying on: {away.message}")
            await asyncio.sleep(presence.HEARTBEAT_S)

    def _meet(self, paused: Collection[str], alive: Sequence[Row[Any]]) -> None:
        self._apart.look(alive)
        if self._only is None:
            self._fleet.look(alive, paused)

    async def _reconcile(self) -> None:
        """A claim whose answer was lost with the connection is a job that nobody draws: seen twice, it goes back."""
        ours = await self._db.read(presence.holds, self.id)
        known = {*(job for job, _ in self._running), *(claim.job for claim, _ in self._returns)}
        unheard = {job for job in ours if job not in known}
        for job_id in unheard & self._unheard:
            await self._db.write(queue.unheard, job_id, self.id)
        self._unheard = unheard

    async def _claim(self, surely: bool) -> Claim | None:
        """`surely`: something happened. Otherwise only look, before asking for the one write lock of SQLite."""
        try:
            if self._only is None and not (self._free(self._offer.takes()) and await self._room.proven()):
                return None
            if not surely and not await self._db.read(self._might):
                return None
            self._left = await self._leave_new()
            return await self._db.write(self._take)
        except ImagenError as error:
            self._log(f"cannot claim, trying on: {error.message}")
            await asyncio.sleep(IDLE_S)
            return None

    def _policy(self, claim: Claim) -> PreviewPolicy:
        return merge(claim.preview, preview_policy(claim.model.preview), self._server_policy)

    def _note_drawn(self, claim: Claim, taken: Claim | None = None) -> None:
        """The device is free for the next while this one is still being saved; it may have been taken with that."""
        held = self._running.get(claim.key)
        if held is not None and not held.drawn:
            held.drawn = True
            self._turns.end(claim)
            # The bell rang when that was written, but until now this worker took the device for busy.
            self._db.ring(slot_of(claim.model.device))
            if taken is not None and self._claiming and not held.task.cancelling():  # else it goes back as we leave
                self._begin(taken)

    async def _work(self, claim: Claim) -> None:
        self._turns.begin(claim)
        try:
            await self._memory.begin(claim)
            ended = await runner.Attempt(
                claim,
                made(self._backend_for, claim),
                db=self._db,
                images=self._images,
                policy=self._policy(claim),
                drawn=self._note_drawn,
                wish=self._wish_at_once,
                monotonic=self._monotonic,
                patient=self._only is None,
            ).run()
            if ended in (State.QUEUED, State.FAILED):
                self._turns.fail(claim)
                if self._offer.able is not None:
                    self._offer.able.doubt(claim.model.name)
        except HookFailed as error:
            await self._rest(claim, error)
        except DatabaseAway as away:
            self._log(f"job {claim.job}: {away.message}; it goes back when that is over")
            self._returns.append((claim, None))
        except ImagenError as error:
            # Not even its failure could be recorded. It goes back as soon as the database answers.
            self._log(f"job {claim.job}: {error.message}")
            self._returns.append((claim, error))
        except Exception as exc:
            # A fault of ours must not leave a job running with nobody behind it.
            self._log(f"job {claim.job}: {type(exc).__name__}: {exc}")
            hint = "this is a mistake in imagen, not yours; please report it"
            self._returns.append((claim, Crashed(f"imagen broke: {type(exc).__name__}: {exc}", hint=hint)))
        finally:
            self._note_drawn(claim)
            self._running.pop(claim.key, None)
            self._memory.end(claim)
            self._db.ring(slot_of(claim.model.device))

    async def _rest(self, claim: Claim, error: HookFailed) -> None:
        """The device was not to be had: its job goes back uncounted, and nobody tries for a while."""
        self._log(f"job {claim.job}: {error.message}")
        now = datetime.now(UTC)
        until = now + timedelta(seconds=self._memory.rest_s(claim.model.device))
        why = Pause(reason=error.message, by=BY_ITSELF, since=now, until=until)
        try:
            # First, or the job would be back at once. And apart: the two lock in another order.
            await self._db.write(devices.rest, claim.model.device, why)
            with contextlib.suppress(queue.LeaseLost):
                await self._db.write(queue.give_back, claim, reason=error.message, error=error, counted=False)
        except ImagenError as away:
            self._log(f"job {claim.job}: {away.message}; it goes back when that is over")
            self._returns.append((claim, None))
