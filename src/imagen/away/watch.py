"""Following a job at another server: one stream, joined again where it broke off, with nothing lost or told twice."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from imagen.away.asking import Absent, Asking, Patience
from imagen.away.reading import event_of
from imagen.away.words import away
from imagen.backends.remote.sse import Parser, chunks
from imagen.core.errors import ImagenError, Unauthorized
from imagen.core.events import Event

WAITING = 16  # answers that wait to be looked at; a reader so slow holds up the stream, and is told less then


@asynccontextmanager
async def watching(asking: Asking, job_id: str, *, after: int, previews: bool) -> AsyncIterator["AwayWatch"]:
    """Follow one job from its durable event `after` on."""
    watch = AwayWatch(asking, job_id, after, previews)
    reading = asyncio.create_task(watch.read(), name=f"away-{job_id}")
    try:
        yield watch
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


class AwayWatch:
    """One follower of one job."""

    def __init__(self, asking: Asking, job_id: str, after: int, previews: bool) -> None:
        self.ended = False
        self._asking = asking
        self._job = job_id
        self._path = f"/v1/jobs/{job_id}/events"
        self._seq = after
        self._previews = previews
        self._told: asyncio.Queue[Sequence[Event] | Exception] = asyncio.Queue(WAITING)

    async def next(self, timeout_s: float) -> Sequence[Event]:
        """What is new, in order; nothing when nothing came in time, or when it has ended."""
        if self.ended:
            return ()
        try:
            async with asyncio.timeout(timeout_s):
                told = await self._told.get()
        except TimeoutError:
            return ()
        if isinstance(told, Exception):
            raise told
        self.ended = not told or told[-1].terminal
        return told

    async def read(self) -> None:
        """Put down every event until the last one."""
        try:
            async with aclosing(self._events()) as told:
                async for some in told:
                    await self._told.put(some)
        except Unauthorized as refused:
            # The key was taken away meanwhile; nobody else is told of the job any more.
            await self._told.put(
                Unauthorized(
                    f"{refused.message}; job {self._job} goes on there, and is not watched any more", hint=refused.hint
                )
            )
        except Exception as error:  # whatever it is, it belongs to whoever follows
            await self._told.put(error)

    async def _events(self) -> AsyncGenerator[Sequence[Event]]:
        """What came at once, and nothing at all once it has ended and all of it was told before."""
        patience = Patience(self._asking)
        while True:
            try:
                async with aclosing(self._joined()) as told:
                    async for some in told:
                        patience.renew()
                        if new := [event for event in some if self._is_new(event)]:
                            yield new
                            if new[-1].terminal:
                                return
                if self._over:
                    yield ()
                    return
                raise Absent(self._broken())
            except Absent as absent:
                await patience.with_(absent)

    def _is_new(self, event: Event) -> bool:
        new = not event.durable or event.seq > self._seq
        self._seq = max(self._seq, event.seq)
        return new

    async def _joined(self) -> AsyncGenerator[Sequence[Event]]:
        params = {"previews": "inline" if self._previews else "0"}
        headers = {"last-event-id": str(self._seq)} if self._seq else {}
        parser = Parser()
        async with self._asking.stream(self._path, params=params, headers=headers) as response:
            self._over = response.status_code == 204  # it ended, and all of it was told before
            async with aclosing(chunks(response)) as parts:
                async for part in parts:
                    try:
                        told = [event_of(json.loads(one.data), self._asking.url) for one in parser.feed(part)]
                    except ValueError as wrong:
                        raise Absent(self._broken()) from wrong
                    yield [event for event in told if event is not None]

    def _broken(self) -> ImagenError:
        return away(self._asking.url, "the stream of events broke off", was_there=True)
