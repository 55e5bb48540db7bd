"""Events as they come, over HTTP: server-sent events, encoded once however many watch.

The client sets the pace. The next batch is asked for only when the last one was taken, so whoever reads
slowly gets the newest progress and preview and every durable event, and costs no memory here.
"""

import asyncio
import json
import logging
import math
import random
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imagen.core.errors import ImagenError
from imagen.core.events import Event, Started
from imagen.surfaces.http.guard import KNOWN
from imagen.surfaces.wire import event_json

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.engine.following.feed import Watch
    from imagen.engine.following.tide import WatchAll

HEARTBEAT_S = 15.0  # shorter than the minute after which proxies drop a silent connection
STALLED_S = 60.0  # a client that takes nothing for so long is let go
FIRST_S = 0.25  # for what there is already; the answer begins then, whether there was something or not
LOOK_S = 5.0  # how often that is looked at
FINISH_S = 1.0  # for the last bytes of a stream when the server stops
FRESH_S = 5.0  # how often a stream asks whether its key is still good
RETRY_MS = 2000  # how soon a browser comes back when the connection breaks
PIECE_BYTES = 256 * 1024  # a finished picture is megabytes: whoever takes this much in time is not stalled
MAX_FRAMES = 512
MAX_BATCHES = 16  # of the last moments; whoever is slower puts them together again
MAX_FRAME_BYTES = 8 * 2**20  # of all kept frames; those with a picture inside are the large ones

DIRECT = "imagen.send"  # an extension of our server: past the layers around a request, straight to the connection
ABORT = "imagen.abort"  # an extension of our server: drop the connection and what waits in its buffer

log = logging.getLogger(__name__)

Previews = Literal["none", "ref", "inline"]

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
# Lines without an empty one behind them: only that ends an event, and clients differ on one without data.
HELLO = f"retry: {RETRY_MS}\n".encode()
HEARTBEAT = b": still here\n"


class Source(Protocol):
    """What a stream tells."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""

    async def next(self, timeout_s: float) -> bytes:
        """The next frames; nothing when none came in this time."""


Opened = Callable[[], AbstractAsyncContextManager[Source]]


class Frames:
    """Each event as bytes, kept a while: all who watch a job are sent the same ones."""

    def __init__(self) -> None:
        self.batches: OrderedDict[tuple[Any, ...], tuple[Sequence[Event], bytes, int | None, bool]] = OrderedDict()
        self._kept: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._size = 0

    def keep(self, place: tuple[Any, ...], batch: tuple[Sequence[Event], bytes, int | None, bool]) -> None:
        """Remember what was put together; the events are kept too, so that no others get their `id`."""
        self.batches[place] = batch
        while len(self.batches) > MAX_BATCHES:
            self.batches.popitem(last=False)

    def of(self, event: Event, previews: Previews) -> bytes:
        """`event:` and `data:` without an id, which differs from stream to stream."""
        form = previews if event.type == "preview" else ""
        key = (
            event.job,
            event.attempt,
            event.seq,
            getattr(event, "tick", -1),
            event.type,
            form,
            getattr(event, "position", -1),
        )
        frame = self._kept.get(key)
        if frame is None:
            shape = event_json(event, preview="inline" if previews == "inline" else "ref", reader="http")
            frame = self._kept[key] = framed(event.type, shape)
            self._size += len(frame)
            while len(self._kept) > MAX_FRAMES or (self._size > MAX_FRAME_BYTES and len(self._kept) > 1):
                self._size -= len(self._kept.popitem(last=False)[1])
        return frame


def framed(type_: str, shape: Mapping[str, Any]) -> bytes:
    """One event of a stream; JSON breaks no line, so one `data:` is enough."""
    return f"event: {type_}\ndata: {json.dumps(shape, separators=(',', ':'))}\n\n".encode()


def last_seen(header: str | None, query: str | None) -> int | None:
    """The id after which a client goes on: a browser that comes back says it in the header. None: unreadable."""
    told = header if header is not None else query
    return int(told) if told is not None and re.fullmatch(r"[0-9]{1,18}", told) else None


def job_events(
    app: "App", frames: Frames, job_id: str, *, after: int, previews: Previews | None, owner: str | None
) -> Opened:
    """Everything about one job; ends after its end. Without a word on previews they are told if its request asked."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Source]:
        async with app.watching(job_id, previews=previews in ("ref", "inline"), owner=owner) as watch:
            yield _OfJob(watch, frames, after, previews)

    return opened


def all_events(
    app: "App",
    frames: Frames,
    *,
    after: int | None,
    jobs: Sequence[str] | None,
    previews: Previews,
    owner: str | None,
) -> Opened:
    """Everything about all jobs of an owner, or about these; ends only with the connection."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Source]:
        wanted = previews != "none"
        async with app.watching_all(owner=owner, jobs=jobs, after=after, previews=wanted) as watch:
            yield _OfAll(watch, frames, previews)

    return opened


class _OfJob:
    """A watch from the beginning: what the client has seen is skipped here, because some of it matters to us."""

    def __init__(self, watch: "Watch", frames: Frames, after: int, previews: Previews | None) -> None:
        self._watch = watch
        self._frames = frames
        self._seen: int | None = None
        self._over = False  # the client has been told the end before
        self._after = after
        self._previews = previews

    @property
    def ended(self) -> bool:
        return self._watch.ended

    async def next(self, timeout_s: float) -> bytes:
        events = await self._watch.next(timeout_s)
        if self._seen is None and events:
            last = max(event.seq for event in events)
            self._seen = self._after if self._after <= last else 0  # never given out: better twice than never
            self._over = events[-1].terminal and events[-1].seq <= self._seen
        if not events:
            return b""
        # All who stand at the same place are given the very same events: the bytes are put together once.
        place = (id(events), self._seen, self._previews, self._watch.previews)
        kept = self._frames.batches.get(place)
        if kept is None:
            told = b"".join([self._frame(event) for event in events if self._is_new(event)])
            self._frames.keep(place, (events, told, self._seen, self._watch.previews))
            return told
        _, told, self._seen, self._watch.previews = kept
        return told

    def _is_new(self, event: Event) -> bool:
        assert self._seen is not None
        if isinstance(event, Started) and self._previews is None:
            self._watch.previews = event.preview.get("why") == "requested"
        if not event.durable:
            return not self._over  # how it stands now, however long ago that was said
        new, self._seen = event.seq > self._seen, max(event.seq, self._seen)
        return new

    def _frame(self, event: Event) -> bytes:
        return b"id: %d\n%b" % (event.seq, self._frames.of(event, self._previews or "ref"))


class _OfAll:
    ended = False

    def __init__(self, watch: "WatchAll", frames: Frames, previews: Previews) -> None:
        self._watch = watch
        self._frames = frames
        self._previews = previews
        self._open = False

    async def next(self, timeout_s: float) -> bytes:
        if not self._open:
            # An id before there is any news: who loses the connection now can come back to this moment.
            self._open = True
            cursor = await self._watch.joined()
            return b"id: %d\n%b" % (cursor, framed("open", {"type": "open", "cursor": cursor}))
        news = await self._watch.next(timeout_s)
        return b"".join([b"id: %d\n%b" % (cursor, self._frames.of(event, self._previews)) for cursor, event in news])


class Streams:
    """All open streams of a server: they share their frames, and a server that stops lets them go at once."""

    def __init__(self, *, heartbeat_s: float = HEARTBEAT_S, stalled_s: float = STALLED_S) -> None:
        self.frames = Frames()
        self.heartbeat_s = heartbeat_s
        self.stopping = asyncio.Event()
        self.grace_s = 0.0  # after that, how long what is being drawn may take until it is given back
        self._stalled_s = stalled_s
        self._open: set[EventStream] = set()
        self._looking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: "EventStream") -> None:
        self._open.add(stream)
        if self._looking is None:
            self._look_later()

    def discard(self, stream: "EventStream") -> None:
        self._open.discard(stream)

    def stop(self) -> None:
        """End every stream after its last whole frame; clients come back to whoever serves next."""
        self.stopping.set()
        for stream in self._open:
            stream.leave("stopping")

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(min(LOOK_S, self._stalled_s), self._look)

    def _look(self) -> None:
        # One timer for all of them: a timer for each frame of each client would cost more than sending it.
        self._looking = None
        long_ago = asyncio.get_running_loop().time() - self._stalled_s
        for stream in self._open:
            if stream.sending_since < long_ago:
                stream.leave("stalled")
        if self._open:
            self._look_later()


class EventStream(Response):
    """An answer that tells a source until it ends, the client leaves or stalls, or the server stops.

    Telling is a task of its own: a wake-up that had to pass through every layer around a request would cost
    as much again as what is sent. The request itself only waits for the client to leave.
    """

    def __init__(self, streams: Streams, source: "Opened", headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__()
        self._head = [*HEADERS, *headers]
        self.sending_since = math.inf
        self._streams = streams
        self._source = source
        self._why: Literal["over", "gone", "stalled", "stopping", "broken"] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._started = False
        self._midway = False  # part of a frame is sent; nothing but its rest may follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._telling = asyncio.create_task(self._tell(scope, send))
        present = asyncio.timeout(None)
        self._telling.add_done_callback(lambda _: _expire(present))
        self._streams.add(self)
        try:
            async with present:
                if self._streams.stopping.is_set():
                    self.leave("stopping")
                while (await receive())["type"] != "http.disconnect":
                    pass
            self.leave("gone")
        except TimeoutError:
            pass  # all was told
        finally:
            self._streams.discard(self)
            if self._why != "over":
                self._telling.cancel()
            (end,) = await asyncio.gather(self._telling, return_exceptions=True)
        if isinstance(end, ImagenError) and self._started:
            log.warning("a stream breaks off: %s", end.message)
            self._why = "broken"
        elif isinstance(end, Exception):
            raise end
        if self._why == "stopping" and not self._midway:
            await self._finish(scope, send)
        elif self._why in ("stalled", "broken", "stopping"):
            await _cut(scope)

    def leave(self, why: Literal["gone", "stalled", "stopping"]) -> None:
        """Stop telling, wherever it is just now."""
        if self._why is None and self._telling is not None and not self._telling.done():
            self._why = why
            self._telling.cancel()

    def last_words(self, why: Literal["stopping", "unknown"]) -> bytes:
        """What is told where the server ends it early; nothing, since watchers come back and are told the rest then."""
        return b""

    async def _tell(self, scope: Scope, send: Send) -> None:
        # Opened before the answer begins: what is unknown or not yours is a proper refusal.
        async with self._source() as source:
            first = await source.next(FIRST_S)
            if source.ended and not first:
                # Everything was told before: 204 is how a browser is told not to come back.
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                self._why = "over"
                return
            await send({"type": "http.response.start", "status": 200, "headers": self._head})
            self._started = True
            await self._send(send, HELLO + first, more=not source.ended)
            await self._go_on(source, scope, scope.get("extensions", {}).get(DIRECT, send))
            self._why = "over"
            await asyncio.sleep(0)  # everybody is told the end before anybody's stream is cleared away

    async def _go_on(self, source: Source, scope: Scope, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        known: Callable[[], Awaitable[bool]] | None = scope.get(KNOWN)
        # Not all at once, though they may all have begun at once.
        look_at = clock() + FRESH_S * random.uniform(0.5, 1.0)
        while not source.ended:
            frames = await source.next(self._streams.heartbeat_s)
            if known is not None and clock() > look_at:
                look_at = clock() + FRESH_S
                if not await known():
                    await self._send(send, self.last_words("unknown"), more=False)
                    return
            await self._send(send, frames or HEARTBEAT, more=not source.ended)

    async def _send(self, send: Send, data: bytes, *, more: bool) -> None:
        clock = asyncio.get_running_loop().time
        for start in range(0, len(data) or 1, PIECE_BYTES):
            self._midway = start > 0
            self.sending_since = clock()
            piece, last = data[start : start + PIECE_BYTES], start + PIECE_BYTES >= len(data)
            await send({"type": "http.response.body", "body": piece, "more_body": more or not last})
        self.sending_since, self._midway = math.inf, False

    async def _finish(self, scope: Scope, send: Send) -> None:
        try:
            async with asyncio.timeout(FINISH_S):
                if not self._started:
                    await send({"type": "http.response.start", "status": 200, "headers": self._head})
                await send({"type": "http.response.body", "body": self.last_words("stopping"), "more_body": False})
        except TimeoutError:
            await _cut(scope)


def _expire(timeout: asyncio.Timeout) -> None:
    # It has not been entered when the task that waits was cancelled before it began, and is over when that one woke.
    with suppress(RuntimeError):
        timeout.reschedule(asyncio.get_running_loop().time())


async def _cut(scope: Scope) -> None:
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()  # closing would wait until the client takes what lies in the buffer, which may be never
        await asyncio.sleep(0)
