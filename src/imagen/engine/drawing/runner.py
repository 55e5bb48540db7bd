"""One job on one backend: signals go in, events come out, exactly one end is recorded.

Whatever a backend says, in whatever order, the record stays grammatical: steps rise, pictures are
recorded once and only after they are stored, and a preview that fails costs a warning, never the job.
"""

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Any

from imagen.backends.base import Backend, Queues
from imagen.core import events, signals
from imagen.core.errors import Crashed, DatabaseAway, ImagenError, StorageAway, Unreachable
from imagen.core.ids import new_id
from imagen.core.job import State, StoredImage
from imagen.core.request import PreviewPolicy
from imagen.engine.drawing.keeping import stored
from imagen.engine.drawing.live import Live
from imagen.engine.drawing.settled import settled
from imagen.engine.drawing.stopwatch import Stopwatch
from imagen.previews import policy as policies
from imagen.store import journal, queue
from imagen.store.db import Database
from imagen.store.images import CELL, THUMBNAIL, ImageStore, side_path
from imagen.store.order import Wish
from imagen.store.queue import Claim, LeaseLost

MAX_DETAIL = 4000  # characters of a traceback: its end says what broke and where
FREE_S = 5.0  # for the write that frees the device, where its job is cancelled meanwhile
STOPPED = "the worker was stopped"


def broke(claim: Claim, exc: BaseException) -> Crashed:
    """A fault in a backend, with where it happened for whoever wrote the backend."""
    words = " ".join(str(exc).split()) or "it said nothing more"
    return Crashed(
        f"the backend {claim.model.backend} broke: {type(exc).__name__}: {words}",
        hint=f"a fault in the backend, not in the request; where it is: `imagen jobs show {claim.job}`",
        detail="".join(traceback.format_exception(exc))[-MAX_DETAIL:],
    )


@dataclass(eq=False)
class Attempt:
    """A claimed job on its backend.

    `drawn(claim, next)` is called when the device is free before the end, or when the next job was taken with the write
    that freed it, as the `wish` for one says. Who is `patient` has time: a picture that cannot be stored costs its job
    nothing, and a backend that cannot be reached is tried again.
    """

    claim: Claim
    backend: Backend
    _: KW_ONLY
    db: Database
    images: ImageStore
    policy: PreviewPolicy
    drawn: Callable[[Claim, Claim | None], object] = lambda _claim, _next: None
    wish: Callable[[], Wish | None] = lambda: None
    monotonic: Callable[[], float] = time.monotonic
    patient: bool = False

    def __post_init__(self) -> None:
        self.stopwatch = Stopwatch(self.monotonic)
        self.live = Live(self.db, self.claim, self.policy, self.monotonic)
        self.reached = False  # whoever draws has said something
        self.device_free = False  # it was asked for
        self.freed = False  # and is recorded
        # An engine with a queue of its own may be given the next job while this one is being decoded and saved.
        self.queues = isinstance(self.backend, Queues) and self.backend.queues
        self.saved = {image.index for image in self.claim.images}
        self.facts: dict[str, Any] = {}
        self.preview_failed = False
        self.showing: asyncio.Task[None] | None = None
        self.total_known = False

    async def run(self) -> State | None:
        """Draw it to its end. Returns the state it was left in, or None when the lease was lost.

        Cancelling the caller's task gives the job back to the queue.
        """
        drawing = asyncio.create_task(self._draw(), name=f"draw-{self.claim.job}")
        self.live.start(on_cancel=drawing.cancel)
        try:
            await drawing
        except LeaseLost:
            return None
        except asyncio.CancelledError:
            if self.live.lost:
                return None
            if self.live.cancel_asked:
                return await self._cancelled()
            if not _stopping():
                return await self._failed(broke(self.claim, asyncio.CancelledError("nobody had cancelled it")))
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)
            await self._give_back(STOPPED, None)
            raise
        except DatabaseAway:
            raise  # no failure of the job: it goes back as soon as that can be written
        except ImagenError as error:
            return await self._failed(error)
        except Exception as exc:
            return await self._failed(broke(self.claim, exc))
        else:
            return await self._completed()
        finally:
            if self.showing is not None:
                self.showing.cancel()
                await asyncio.gather(self.showing, return_exceptions=True)
            await self.live.stop()

    async def _draw(self) -> None:
        request = self.claim.request
        await self.live.look()
        for first, count in _gaps(self.saved, request.n):
            if first in self.saved:
                continue  # resumed outside work of an earlier round brought this one along
            resume = None
            handle = self.claim.handle
            if handle is not None and handle["first"] <= first < handle["first"] + handle["n"]:
                # Outside work may be under way for a range of which some pictures are already here: take it as it is.
                first, count, resume = handle["first"], handle["n"], handle["token"]
            self.live.share(done=len(self.saved - set(range(first, first + count))), n=request.n, now=count)
            said = self.backend.generate(request.part(first, count), self.claim.model, self.live, resume=resume)
            try:
                async with aclosing(said):
                    await self._listen(said, first, count)
                await self._shown()
            except (SystemExit, KeyboardInterrupt, GeneratorExit) as exc:
                # Out of a backend these would end the whole program, and every other job with it.
                raise broke(self.claim, exc) from exc
        missing = set(range(request.n)) - self.saved
        if missing:
            raise Crashed(
                f"the backend {self.claim.model.backend} ended without picture {min(missing) + 1} of {request.n}",
                hint=f"try again with `imagen jobs retry {self.claim.job}`; if it stays so, report it to the backend",
            )

    async def _listen(self, said: AsyncGenerator[signals.Signal], first: int, count: int) -> None:
        while True:
            try:
                signal = await anext(said)
            except StopAsyncIteration:
                return
            except DatabaseAway as exc:
                raise broke(self.claim, exc) from exc  # it has none: ours is a matter of the writes below
            self.reached |= not isinstance(signal, signals.Handle)  # which is said before anybody is asked
            match signal:
                case signals.Phase(name=name, device_free=free):
                    if name not in signals.PHASES:
                        raise self._nonsense(f"the phase {name!r}; there are {', '.join(signals.PHASES)}")
                    self.stopwatch.enter(name)
                    self.live.phase(name)
                    early = free or (self.queues and name == "decoding" and count == 1)
                    self.queues |= free
                    # Not where this one is measured: the next would be counted as a part of it.
                    if early and self.claim.series is None:
                        await self._free_device(*range(first, first + count))
                case signals.Step():
                    await self._step(signal, first)
                case signals.Preview():
                    await self._preview(signal, first)
                case signals.Notice(code=code, message=message):
                    await self._warn(code, message)
                case signals.Handle(token=token):
                    # Stored before the backend goes on: it must be findable before there is anything to find.
                    handle = {"token": token, "first": first, "n": count}
                    await self.db.write(queue.keep_handle, self.claim, handle)
                case signals.Output():
                    await self._save(signal, first)
                case _:  # the type checker knows that nothing is left; a backend from outside may not
                    raise self._nonsense(f"{type(signal).__name__}, which is no signal")

    async def _step(self, signal: signals.Step, first: int) -> None:
        if self.stopwatch.phase not in ("sampling", "decoding"):
            self.stopwatch.enter("sampling")
            self.live.phase("sampling")
        self.live.step(signal.step, signal.total, first + signal.image)
        if not self.total_known and signal.total > 0:
            self.total_known = True
            said = policies.unhonoured(self.policy, signal.total) if self.claim.preview else None
            if said:
                await self._warn("preview_not_possible", said)

    async def _preview(self, signal: signals.Preview, first: int) -> None:
        if signal.step >= signal.total or not self.live.wanted:
            return  # never the last step: the picture itself comes next
        await self._shown()
        # Packed while the backend goes on with its next step.
        self.showing = asyncio.create_task(self.live.preview(signal, first + signal.image))
        await asyncio.sleep(0)  # from its first moment on, the time to the next preview is counted

    async def _shown(self) -> None:
        """Wait for the preview that is under way."""
        showing, self.showing = self.showing, None
        try:
            if showing is not None:
                await showing
        except Exception as exc:
            if not self.preview_failed:
                self.preview_failed = True
                await self._warn("preview_failed", f"a preview could not be shown: {exc}")

    async def _save(self, output: signals.Output, first: int) -> None:
        index = first + output.index
        facts = dict(output.facts)
        request, model = self.claim.request, self.claim.model
        model = replace(model, files=tuple(facts.pop("files", model.files)))
        if not 0 <= index < request.n:
            raise self._nonsense(f"picture {index + 1} of {request.n}")
        if index in self.saved:
            return
        await self._shown()
        await self._free_device(index)
        self.stopwatch.enter("saving")
        self.live.phase("saving")
        # Pillow and its friends, only once there is something to save; in a thread, for they take a while to load.
        sidecar = await asyncio.to_thread(import_module, "imagen.engine.pictures.sidecar")
        done = await asyncio.to_thread(sidecar.finish, output, request, model, index)
        if (done.width, done.height) != (request.width, request.height):
            asked = f"{request.width}x{request.height}"
            await self._warn("size_differs", f"{asked} was asked, the backend gave {done.width}x{done.height}")
        at = datetime.now(UTC)
        image_id = new_id()
        path = self.images.path_of(image_id, done.extension, at)
        image = StoredImage(
            index=index,
            id=image_id,
            url=self.images.url_of(path),
            width=done.width,
            height=done.height,
            seed=request.seed + index if output.seed is None else output.seed,
            sha256=done.sha256,
            pixels_sha256=done.pixels_sha256,
        )
        self._note(facts)
        beside = sidecar.sidecar(request, model, image, self._story(at))
        files = {path: done.data, side_path(path, "sidecar"): sidecar.as_bytes(beside)}
        files |= {side_path(path, THUMBNAIL): done.thumbnail, side_path(path, CELL): done.cell}
        said = events.Image(job=self.claim.job, attempt=self.claim.attempt, image=image)
        self.live.seq = await stored(
            self.images,
            files,
            flush=self.live.flush,
            record=partial(self.db.write, queue.add_image, self.claim, said, path=path, mime=done.mime),
            waiting=partial(self._warn, "storage_away"),
            monotonic=self.monotonic,
            patient=self.patient,
        )
        self.saved.add(index)

    async def _free_device(self, *drawn: int) -> None:
        """With its last picture drawn, a job needs its device no more: what is left is our own work."""
        if self.queues and not self.device_free and set(range(self.claim.request.n)) <= self.saved.union(drawn):
            self.device_free = True
            # Cancelled or not: what was taken with it is begun, or it would hold the device while nobody draws.
            await settled(self.db.write(queue.free_device, self.claim, then=self.wish()), FREE_S, self._note_freed)

    async def _note_freed(self, freeing: asyncio.Future[Claim | None]) -> None:
        if freeing.exception() is None:
            self.freed = True
            self.drawn(self.claim, freeing.result())

    def _nonsense(self, said: str) -> Crashed:
        return Crashed(
            f"the backend {self.claim.model.backend} said {said}",
            hint="this is a fault in the backend; docs/howto/write-a-backend.md says what it may say",
        )

    async def _warn(self, code: str, message: str) -> None:
        await self.live.flush()
        said = events.Warning(job=self.claim.job, attempt=self.claim.attempt, code=code, message=message)
        self.live.seq = await self.db.write(queue.say, self.claim, said)

    async def _completed(self) -> State | None:
        return await self._finish(
            events.Completed(
                job=self.claim.job,
                attempt=self.claim.attempt,
                timings=self._timings(),
                preview_cost=self.live.cost(),
                vram_peak_mib=self.facts.get("vram_peak_mib"),
                vram_method=self.facts.get("vram_method"),
            )
        )

    async def _cancelled(self) -> State | None:
        by = await self.db.read(journal.cancelled_by, self.claim.job)
        step = self.live.last_step
        return await self._finish(events.Cancelled(job=self.claim.job, attempt=self.claim.attempt, by=by, step=step))

    async def _failed(self, error: ImagenError) -> State | None:
        if self.live.cancel_asked:
            return await self._cancelled()  # whatever broke, broke because it was being closed
        if _stopping():
            await self._give_back(STOPPED, None)  # so did this, and it is no failure
            raise asyncio.CancelledError from error
        unkept = isinstance(error, StorageAway)
        # Who is patient draws no more until it can store again. A command that somebody waits for tells him instead of
        # drawing the same again for nothing, or of asking again where nobody was from the beginning.
        at_once = unkept or (isinstance(error, Unreachable) and not self.reached and self.claim.attempt == 1)
        if error.retryable and (self.patient or not at_once):
            return await self._give_back(error.message, error, counted=not unkept)
        return await self._finish(events.Failed(job=self.claim.job, attempt=self.claim.attempt, error=error))

    async def _finish(self, end: events.Completed | events.Failed | events.Cancelled) -> State | None:
        try:
            await self.live.flush()
            facts = self.facts | {"preview_cost": self.live.cost()}
            # After a failure there is more to look at before the next one is begun.
            wish = self.wish() if isinstance(end, events.Completed) and not self.device_free else None
            said: dict[str, Any] = {"timings": self._timings(), "facts": facts}
            said |= {"frees": not self.freed, "then": wish}
            taken = await self.db.write(queue.finish, self.claim, end, **said)
            if taken is not None:
                self.drawn(self.claim, taken)
        except LeaseLost:
            return None
        return State(end.type)

    async def _give_back(self, reason: str, error: ImagenError | None, *, counted: bool = True) -> State | None:
        try:
            return await self.db.write(queue.give_back, self.claim, reason=reason, error=error, counted=counted)
        except LeaseLost:
            return None

    def _note(self, facts: Mapping[str, Any]) -> None:
        """Facts of several pictures: the highest peak, the sum of the costs."""
        for key, value in facts.items():
            match key:
                case "vram_peak_mib":
                    self.facts[key] = max(value, self.facts.get(key, 0))
                case "cost":
                    self.facts[key] = value + self.facts.get(key, 0)
                case _:
                    self.facts[key] = value

    def _timings(self) -> dict[str, float]:
        """Measured here, except what only the backend can know."""
        told = self.facts.get("timings") or {}
        return {"queue": round(self.claim.waited_s, 4), **self.stopwatch.split(), **told}

    def _story(self, at: datetime) -> dict[str, Any]:
        return {
            "job": self.claim.job,
            "attempt": self.claim.attempt,
            "worker": self.claim.worker,
            "device": self.claim.model.device,
            "saved_at": at.isoformat(timespec="milliseconds"),
            "timings": self._timings(),
            "vram_peak_mib": self.facts.get("vram_peak_mib"),
            "vram_method": self.facts.get("vram_method"),
            "cost": self.facts.get("cost"),
            "drawn": self.facts.get("drawn"),
            "preview_cost": self.live.cost(),
        }


def _stopping() -> bool:
    """Is this a worker that was asked to stop?"""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _gaps(saved: set[int], n: int) -> list[tuple[int, int]]:
    """Runs of pictures still to draw, as (first, count)."""
    runs: list[tuple[int, int]] = []
    for index in range(n):
        if index in saved:
            continue
        if runs and sum(runs[-1]) == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs
