"""What is true only now: phase, progress and the latest preview of a running job, and who wants to see it."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from imagen.core import events, signals
from imagen.core.errors import DatabaseAway
from imagen.core.request import PreviewPolicy
from imagen.previews import policy as policies
from imagen.store import journal
from imagen.store.bell import touch
from imagen.store.db import Database
from imagen.store.queue import Claim

STEP_S = 0.05  # between two writes of bare steps: nobody sees more, and a machine that also draws feels each of them
LOOK_S = 0.2  # how often a quiet job looks whether it was cancelled or is being watched
AFTER = 0.5  # steps that decoding is worth: next to nothing for some models, a whole step for others


class Live:
    """The backend's preview sink, and the writer of the job's one live row.

    Writes are conflated: while one is under way only the newest state is kept. `flush` brings everything out, and is
    called before every durable event of the attempt, so that nothing is told out of order. Only where the job goes back
    to the queue it is not: how far it came is worth nothing to whoever begins anew.
    """

    def __init__(
        self, db: Database, claim: Claim, policy: PreviewPolicy, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.seq = claim.seq
        self.cancel_asked = False
        self.lost = False  # another attempt has the job
        self.last_step: int | None = None
        self._db = db
        self._claim = claim
        self._policy = policy
        self._monotonic = monotonic
        self._watched = False
        self._untold = False  # nobody followed when it was written
        self._promised = policies.promised(policy) and claim.preview is not None
        self._tick = claim.attempt * 1_000_000  # rises over attempts too, so that a follower's mark stays good
        self._phase: events.Phase | None = None
        self._progress: events.Progress | None = None
        self._frames: list[events.Preview] = []
        self._frame_count = 0
        self._frame_ms = 0.0
        self._last_frame = float("-inf")
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()  # more than a step: a new phase, a preview
        self._written = float("-inf")
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._first_step: tuple[float, int] | None = None
        self._offset_share = 0.0
        self._stretch = 1.0

    def start(self, on_cancel: Callable[[], object]) -> None:
        """Begin writing; `on_cancel` is called once if the job's end is asked for or it is lost."""
        self._task = asyncio.create_task(self._keep_writing(on_cancel), name=f"live-{self._claim.job}")

    async def look(self) -> None:
        """Is somebody watching already? A backend that decides once, at its start, has to know by then."""
        if not self._policy.off and self._claim.preview is None:
            self._note(await self._db.read(journal.attention, self._claim.job, datetime.now(UTC)))

    async def stop(self) -> None:
        """Stop writing."""
        if self._task:
            self._task.cancel()
            (end,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(end, Exception):
                raise end

    @property
    def max_size(self) -> int:
        return self._policy.max_size

    @property
    def method(self) -> str:
        """How they are to be made, for backends that have a choice; `auto` leaves it to them."""
        return self._policy.method

    @property
    def promised(self) -> bool:
        """Were so and so many asked for? Then it is worth waiting for the word that this is one of them."""
        return self._promised

    @property
    def wanted(self) -> bool:
        """Does anybody want previews at all, now?"""
        return not self._policy.off and (self._claim.preview is not None or self._watched)

    def wants(self, step: int, total: int) -> bool:
        """The backend asks before it makes a preview."""
        if not self.wanted or step not in policies.wanted_steps(self._policy, total):
            return False
        return (self._monotonic() - self._last_frame) * 1000 >= policies.interval_ms(self._policy)

    def share(self, *, done: int, n: int, now: int) -> None:
        """The backend draws `now` of `n` pictures, `done` others exist: its steps are a part of the job's."""
        self._stretch = n / now
        self._offset_share = done / n

    def phase(self, name: str) -> None:
        """A new phase."""
        if self._phase is None or self._phase.phase != name:
            self._phase = events.Phase(phase=name, **self._envelope())
            self._dirty.set()
            self._urgent.set()

    def step(self, step: int, total: int, image: int) -> None:
        """A step is done. Steps never go back and never pass the total, whatever a backend says."""
        if total < 1:
            return
        here, whole = self._of_job(step, total)
        if self._progress and self._progress.total == whole and here <= self._progress.step:
            return
        now = self._monotonic()
        eta_s = None
        if self._first_step is None:
            self._first_step = (now, here)
        elif here > self._first_step[1]:
            since, at = self._first_step
            eta_s = round((now - since) / (here - at) * (whole - here + AFTER), 2)
        self.last_step = here
        self._progress = events.Progress(step=here, total=whole, image=image, eta_s=eta_s, **self._envelope())
        self._dirty.set()

    async def preview(self, signal: signals.Preview, image: int) -> None:
        """Encode a preview off the event loop and show it."""
        from imagen.previews.encode import encode_preview

        self._last_frame = self._monotonic()
        begun = time.perf_counter()
        small = await asyncio.to_thread(
            encode_preview,
            signal.data,
            signal.mime,
            signal.width,
            signal.height,
            max_size=self._policy.max_size,
            format=self._policy.format,
            quality=self._policy.quality,
        )
        here, whole = self._of_job(signal.step, signal.total)
        frame = events.Preview(
            step=here,
            total=whole,
            image=image,
            index=self._frame_count,
            mime=small.mime,
            width=small.width,
            height=small.height,
            target_width=self._claim.request.width,
            target_height=self._claim.request.height,
            method=signal.method,
            estimate=signal.estimate,
            decode_ms=round(signal.decode_ms, 2),
            data=small.data,
            **self._envelope(),
        )
        self._frame_count += 1
        self._frame_ms += signal.decode_ms + (time.perf_counter() - begun) * 1000
        if not self._promised:
            self._frames.clear()
        self._frames.append(frame)
        self._dirty.set()
        self._urgent.set()

    def cost(self) -> dict[str, float]:
        """What the previews cost: frames, and milliseconds of decoding and encoding."""
        return {"frames": self._frame_count, "ms": round(self._frame_ms, 2)}

    async def flush(self) -> None:
        """Write what is not written yet."""
        async with self._writing:
            if not self._dirty.is_set():
                return
            self._dirty.clear()
            self._urgent.clear()
            self._written = self._monotonic()
            frames, self._frames = self._frames, []
            try:
                # The tick as of now: one that rose meanwhile belongs to a frame that the next write brings,
                # and a follower who had seen it already would skip that frame.
                told = await self._db.write(self._write, self._tick, self._phase, self._progress, frames)
            except DatabaseAway:
                self._frames[:0] = frames if self._promised or not self._frames else []
                self._dirty.set()
                raise
            self._untold = not told.followed
            self._note(told)

    def _of_job(self, step: int, total: int) -> tuple[int, int]:
        """A step of what the backend draws now as one of the whole job, and how many that has."""
        whole = round(max(total, 0) * self._stretch)
        return min(round(whole * self._offset_share) + max(step, 0), whole), whole

    def _note(self, told: journal.Attention) -> None:
        self._watched = told.watched
        self.lost = self.lost or told.attempt != self._claim.attempt
        self.cancel_asked = self.cancel_asked or (told.cancel_requested and not self.lost)

    def _envelope(self) -> dict[str, Any]:
        self._tick += 1
        return {"job": self._claim.job, "seq": self.seq, "attempt": self._claim.attempt, "tick": self._tick}

    def _write(
        self,
        connection: Connection,
        tick: int,
        phase: events.Phase | None,
        progress: events.Progress | None,
        frames: list[events.Preview],
    ) -> journal.Attention:
        claim = self._claim
        told = journal.set_live(connection, claim.job, claim.attempt, tick, phase, progress)
        # A worker that was paused and lost the job must not paint on its successor's screen either.
        for frame in frames if told.attempt == claim.attempt else ():
            journal.set_preview(connection, frame, keep=self._promised)
        return told

    async def _keep_writing(self, on_cancel: Callable[[], object]) -> None:
        while True:
            try:
                await self._written_once()
            except DatabaseAway:
                await asyncio.sleep(LOOK_S)  # it has been tried for long; what is drawn meanwhile is told afterwards
            if self.cancel_asked or self.lost:
                on_cancel()
                return

    async def _written_once(self) -> None:
        """What is new, or a look at who wants what while nothing is."""
        # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the event.
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._dirty.wait()
        if self._dirty.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._written + STEP_S - self._monotonic()):
                    await self._urgent.wait()
            await self.flush()
        else:
            told = await self._db.read(journal.attention, self._claim.job, datetime.now(UTC))
            self._note(told)
            if self._untold and told.followed:
                # Whoever came while that was being written may have looked too early to see it.
                await self._db.write(touch, self._claim.job)
                self._untold = False
