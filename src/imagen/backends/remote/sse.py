"""Server-sent events out of an answer, and the reading of an answer that can be left at any moment."""

import asyncio
import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import httpx2

from imagen.backends.to_its_end import to_its_end
from imagen.core.errors import Crashed

MAX_BYTES = 256 * 2**20  # of one file: four times the largest picture there is as a PNG
WHOLE = 4 * MAX_BYTES  # of one answer: several pictures, as base64, and how they formed


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name, and its data as text."""

    name: str
    data: str


async def chunks(response: httpx2.Response, limit: int = WHOLE) -> AsyncGenerator[bytes]:
    """The bytes of an answer as they come; more than `limit` in all are an error.

    They are read by a task of its own. Whoever leaves a generator of the library (2.16) in the middle leaves those
    inside it to the garbage collector, which closes them some time later; a cancelled task closes them all, now.
    """
    queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def read() -> None:
        left = limit
        try:
            async for chunk in response.aiter_bytes():
                left -= len(chunk)
                if left < 0:
                    raise Crashed(
                        f"a service sends more than {max(1, limit // 2**20)} MiB at once",
                        hint="ask for a smaller size, or for fewer pictures in one request",
                    )
                queue.put_nowait(chunk)
        except Exception as exc:  # whatever it is, it belongs to whoever reads
            queue.put_nowait(exc)
        queue.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        reading.cancel()
        await to_its_end(asyncio.wait([reading]))


async def whole(response: httpx2.Response, limit: int = MAX_BYTES) -> bytes:
    """All of an answer."""
    async with aclosing(chunks(response, limit)) as parts:
        return b"".join([chunk async for chunk in parts])


async def events(response: httpx2.Response) -> AsyncGenerator[Event]:
    """Each event once it is whole; comments are heartbeats and say nothing."""
    parser = Parser()
    async with aclosing(chunks(response)) as parts:
        async for chunk in parts:
            for event in parser.feed(chunk):
                yield event


class Parser:
    """Bytes in, events out, wherever they were cut."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._rest: list[str] = []
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes."""
        text = self._decode(chunk)
        if "\n" not in text:
            self._rest.append(text)
            return []
        *lines, last = "".join([*self._rest, text]).split("\n")
        self._rest = [last]
        found = [self._line(line.removesuffix("\r")) for line in lines]
        return [event for event in found if event is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            event = Event(self._name or "message", "\n".join(self._data)) if self._data or self._name else None
            self._name, self._data = "", []
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None
