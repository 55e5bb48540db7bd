"""A job told as the stream of the OpenAI Images API: pictures as they form, then the finished ones.

No event of ours is on it: the client libraries take any event they do not know for a picture. Heartbeats are comments.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from starlette.types import Receive, Scope, Send

from imagen.core.errors import DevicePaused, ImagenError, NobodyDraws
from imagen.core.events import Cancelled, Event, Failed, Image, Preview
from imagen.door import Watching
from imagen.surfaces.http.foreign.ends import error_of_end, key_is_gone, server_stops
from imagen.surfaces.http.foreign.visits import Visit
from imagen.surfaces.http.openai.pictures import completed, error_body, partial, show
from imagen.surfaces.http.openai.request import Asked
from imagen.surfaces.http.streams import EventStream, Source, Streams, framed

if TYPE_CHECKING:
    from imagen.app import App

PATIENCE_S = 60.0  # for one look at the job; a heartbeat interrupts none


class ImageStream(EventStream):
    """An answer that tells of a job until it ends or the client leaves."""

    def __init__(
        self, streams: Streams, app: "App", visit: Visit, asked: Asked, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Source]:
            async with visit.watching(previews=asked.partial_images > 0) as watch:
                source = _OfJob(app, watch, asked, visit.job.request.n or 1, visit.job.id)
                try:
                    yield source
                finally:
                    await source.aclose()

        super().__init__(streams, opened, headers)
        self._visit = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._visit.over(answered=self._why == "over", left=self._why in ("gone", "stalled"))

    def last_words(self, why: Literal["stopping", "unknown"]) -> bytes:
        """An error: a stream that only ended would be a program's loop that ends without a picture and a word."""
        error = server_stops() if why == "stopping" else key_is_gone()
        return framed("error", error_body(error, self._visit.job.id))


class _OfJob:
    """One frame at a time, each made only when the last one was taken; a large picture takes seconds to make."""

    def __init__(self, app: "App", watch: Watching, asked: Asked, n: int, job_id: str | None = None) -> None:
        self._app = app
        self._watch = watch
        self._asked = asked
        self._n = n
        self._job_id = job_id
        self._events: deque[Event] = deque()
        self._making: asyncio.Task[bytes] | None = None
        self._told: Counter[int] = Counter()  # partial images of each picture
        self._done: set[int] = set()

    @property
    def ended(self) -> bool:
        return self._watch.ended and not self._events and self._making is None

    async def next(self, timeout_s: float) -> bytes:
        if self._making is None:
            self._making = asyncio.create_task(self._frame())
        made, _ = await asyncio.wait({self._making}, timeout=timeout_s)
        if not made:
            return b""  # it is still made, for the next time
        making, self._making = self._making, None
        return making.result()

    async def aclose(self) -> None:
        """Nobody takes what is made."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    async def _frame(self) -> bytes:
        while self._events or not self._watch.ended:
            if self._events:
                frame = await self._told_of(self._events.popleft())
                if frame:
                    return frame
            else:
                # Most are steps, of which this protocol knows nothing.
                try:
                    news = await self._watch.next(PATIENCE_S)
                except (DevicePaused, NobodyDraws) as error:
                    return framed("error", error_body(error, self._job_id))
                self._events += [event for event in news if isinstance(event, Preview | Image | Failed | Cancelled)]
        return b""

    async def _told_of(self, event: Event) -> bytes:
        try:
            match event:
                case Preview() if self._wanted(event):
                    shape = partial(event, self._told[event.image])
                    self._told[event.image] += 1
                case Image(image=image):
                    self._done.add(image.index)
                    shape = completed(event, await show(self._app, image, self._asked))
                case Failed() | Cancelled():
                    raise error_of_end(event)
                case _:
                    return b""
        except ImagenError as error:
            return framed("error", error_body(error, event.job))
        return await asyncio.to_thread(framed, shape["type"], shape)

    def _wanted(self, event: Preview) -> bool:
        """Never more than were asked for, none of the last step of a picture, and none after the picture itself."""
        last = (event.image + 1) * event.total // self._n
        few = self._told[event.image] < self._asked.partial_images
        return few and event.step != last and event.image not in self._done
