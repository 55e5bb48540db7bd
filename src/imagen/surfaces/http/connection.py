"""One connection: uvicorn's own, with an end to everything a client may be slow or large at."""

import asyncio
import json
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from imagen.config import Limits
from imagen.core.errors import RequestError, code_of

HEAD_BYTES = 65_536  # what other servers take too; uvicorn with httptools would read for ever
PIPELINED = 32  # requests sent ahead of their answers; each is kept in memory until its turn
SET = "the owner of this server sets `limits: {}:` in config.yaml"
OTHERS = 512  # connections besides the streams: pages, pictures, whoever polls

LINGER_S = 1.0  # for a refusal to be read


class Connection(HttpToolsProtocol):
    """What uvicorn 0.54 leaves open: a head that never ends, in time or in bytes, and connections without number."""

    def __init__(self, limits: Limits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._late: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._refused = False
        self._at_work: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = most_connections(self._limits)
        if most is not None and len(self.connections) > most:
            self._refuse(429, "too_many", f"{most:,} connections are open, that is the limit", SET.format("streams"))
            return
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        if self._at_work is not None:
            # uvicorn tells only the newest request: a stream with another request behind it would go on for ever.
            self._at_work.disconnected = True
            self._at_work.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                message = f"the head of the request is longer than {HEAD_BYTES:,} bytes"
                self._refuse(431, "head_too_large", message, "send fewer or shorter headers, and a shorter address")
        elif self._late is None and self._answered():
            self._hurry()  # it sends the rest of a body that was refused; not for ever

    def on_message_begin(self) -> None:
        super().on_message_begin()
        ends = {"imagen.abort": self.transport.abort, "imagen.close": self.transport.close}
        self.scope["extensions"] = ends  # type: ignore[typeddict-item]
        self._in_head, self._head_bytes = True, 0
        self._relax()
        self._hurry()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._relax()
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED:
            self.transport.abort()  # no program does that; there is nobody to explain it to

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._at_work = cycle
        # For streams: once the answer has begun, no layer around it has anything to say about a frame.
        cycle.scope["extensions"]["imagen.send"] = cycle.send  # type: ignore[assignment] # the type knows only two kinds
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        hint = "send HTTP/1.1 with one length and plain headers"
        self._refuse(400, code_of(RequestError), "this is not HTTP", hint)

    def _hurry(self) -> None:
        self._late = self.loop.call_later(self._limits.header_s, self._too_late)

    def _relax(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _answered(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and bool(cycle.response_complete)

    def _too_late(self) -> None:
        if self._in_head:
            message = f"the head of the request did not arrive within {self._limits.header_s:g} s"
            self._refuse(408, "too_slow", message, SET.format("header_s"))
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str, hint: str) -> None:
        """Say why, and close as soon as the client has had the chance to read it."""
        if self.transport.is_closing() or self._refused:
            return
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        if self.pipeline or (cycle is not None and cycle.response_started and not cycle.response_complete):
            self.transport.close()  # an answer is on its way already; nothing may stand in the middle of it
            return
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # whoever works on it learns that nobody waits any more
            cycle.message_event.set()
        self._refused = True
        self._relax()
        self.transport.write(answer_bytes(status, code, message, hint))
        self.transport.write_eof()
        # Closing with unread bytes would reset the connection, and the client would never see the answer.
        self.loop.call_later(LINGER_S, self.transport.close)


def answer_bytes(status: int, code: str, message: str, hint: str) -> bytes:
    """A whole refusal, for a connection that is closed after it."""
    body = json.dumps({"error": shape(code, message, hint)}).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def shape(code: str, message: str, hint: str) -> dict[str, Any]:
    """The shape of all errors, for refusals in the words of HTTP that have no class of their own."""
    told = {"type": RequestError.type, "code": code, "message": message, "hint": hint, "param": None}
    return told | {"retryable": code == "too_many"}


def most_connections(limits: Limits) -> int | None:
    """How many may be open at once; None = as many as the machine bears."""
    return None if limits.streams is None else limits.streams + OTHERS


def protocol(limits: Limits) -> Any:
    """What uvicorn takes as its `http` argument."""
    return partial(Connection, limits)
