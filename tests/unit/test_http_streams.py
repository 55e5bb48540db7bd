"""A stream by itself: who stalls is let go, who is silent is told that we are there, a frame is made once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from imagen.core.errors import Unreachable
from imagen.core.events import Progress, Queued
from imagen.surfaces.http.streams import ABORT, EventStream, Frames, Source, Streams, last_seen


class Told:
    """A source that says what it is given."""

    def __init__(self, *frames: bytes | Exception, ends: bool = True) -> None:
        self.left = list(frames)
        self.ends = ends

    @property
    def ended(self) -> bool:
        return self.ends and not self.left

    async def next(self, timeout_s: float) -> bytes:
        if not self.left:
            await asyncio.sleep(timeout_s)
            return b""
        frame = self.left.pop(0)
        if isinstance(frame, Exception):
            raise frame
        return frame


class Client:
    """The other end, in the words of ASGI."""

    def __init__(self, *, takes: int = 1_000_000) -> None:
        self.sent: list[dict[str, Any]] = []
        self.cut = False
        self.left = asyncio.Event()
        self._takes = takes

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def whole(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if len(self.sent) >= self._takes:
            await asyncio.Event().wait()  # its buffer is full, and it does not read
        self.sent.append(message)

    def abort(self) -> None:
        self.cut = True

    def watches(self, streams: Streams, source: Source) -> Awaitable[None]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Source]:
            yield source

        scope = {"type": "http", "extensions": {ABORT: self.abort}}
        return EventStream(streams, opened)(scope, self.receive, self.send)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_source_is_told_to_its_end() -> None:
    """A start, every frame, and a proper end."""
    client = Client()
    await client.watches(Streams(), Told(b"a\n\n", b"b\n\n"))
    assert client.sent[0]["status"] == 200
    assert client.body.endswith(b"a\n\nb\n\n")
    assert client.whole


async def test_silence_is_filled() -> None:
    """A comment now and then, so that nobody between takes the connection for dead."""
    client = Client()
    running = asyncio.ensure_future(client.watches(Streams(heartbeat_s=0.01), Told(b"a\n\n", ends=False)))
    await until(lambda: client.body.count(b"\n: ") >= 3)
    client.left.set()
    await running


async def test_whoever_takes_nothing_is_let_go() -> None:
    """After a while, with what was waiting for him; his connection is cut, not closed politely."""
    streams, client = Streams(stalled_s=0.05), Client(takes=2)
    await client.watches(streams, Told(b"a\n\n", b"b\n\n", b"c\n\n"))
    assert client.cut
    assert len(streams) == 0


async def test_whoever_leaves_is_noticed_at_once() -> None:
    """Not at the next frame, which may be an hour away."""
    streams, client = Streams(), Client()
    running = asyncio.ensure_future(client.watches(streams, Told(ends=False)))
    await until(lambda: len(streams) == 1)
    client.left.set()
    await running
    assert len(streams) == 0
    assert not client.cut


async def test_stopping_ends_what_is_open_and_what_comes() -> None:
    """With a proper end, so that no frame is half."""
    streams, early, late = Streams(), Client(), Client()
    running = asyncio.ensure_future(early.watches(streams, Told(b"a\n\n", ends=False)))
    await until(lambda: b"a" in early.body)
    streams.stop()
    await running
    await late.watches(streams, Told(b"a\n\n", ends=False))
    assert early.whole
    assert late.whole


async def test_stopping_does_not_wait_for_who_takes_nothing() -> None:
    """His connection is cut instead."""
    streams, client = Streams(), Client(takes=2)
    running = asyncio.ensure_future(client.watches(streams, Told(b"a\n\n", b"b\n\n", ends=False)))
    await until(lambda: len(client.sent) == 2)
    streams.stop()
    await running
    assert client.cut


async def test_an_error_before_the_beginning_is_a_refusal() -> None:
    """It passes on to whoever writes refusals, and nothing was sent."""
    client = Client()
    with pytest.raises(Unreachable):
        await client.watches(Streams(), Told(Unreachable("no database", hint="start it")))
    assert client.sent == []


async def test_an_error_in_the_middle_breaks_the_stream_off() -> None:
    """Cut, so that the client comes back with its last id, and does not take it for the end."""
    client = Client()
    await client.watches(Streams(), Told(b"a\n\n", Unreachable("no database", hint="start it")))
    assert client.cut
    assert not client.whole


def test_an_event_is_encoded_once() -> None:
    """All who watch are sent the same bytes, not equal ones."""
    frames = Frames()
    made = [frames.of(Progress(job="J", seq=2, attempt=1, step=3, total=9, tick=4), "none") for _ in range(2)]
    assert made[0] is made[1]
    assert frames.of(Progress(job="J", seq=2, attempt=1, step=4, total=9, tick=5), "none") is not made[0]
    assert frames.of(Progress(job="K", seq=2, attempt=1, step=3, total=9, tick=4), "none") != made[0]


def test_frames_are_not_kept_for_ever() -> None:
    """What is kept is bounded, however many jobs there are."""
    frames = Frames()
    first = frames.of(Queued(job="first", seq=1), "none")
    for number in range(2000):
        frames.of(Queued(job=f"J{number}", seq=1), "none")
    assert frames.of(Queued(job="first", seq=1), "none") is not first


@pytest.mark.parametrize(
    ("header", "query", "seen"),
    [
        (None, None, None),
        ("7", None, 7),
        (None, "7", 7),
        ("7", "3", 7),
        ("", "3", None),
        ("x", "3", None),
        ("-1", None, None),
        ("１", None, None),
        ("9" * 19, None, None),
        (" 7", None, None),
    ],
)
def test_what_was_seen_last_is_read_carefully(header: str | None, query: str | None, seen: int | None) -> None:
    """The header wins; what is no id is none."""
    assert last_seen(header, query) == seen
