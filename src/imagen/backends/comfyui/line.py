"""The one websocket to a server: what it tells goes to whoever listens for a prompt.

A line has no task of its own: the event loop calls it with each message. So it is always drained (a client that
stops reading holds up everybody else's messages), it can stay open between two calls without leaving anything
running, and a message reaches its listener without a turn of the scheduler.
"""

import asyncio
import base64
import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from imagen.backends.comfyui.address import Address

OPEN_S = 10.0  # a server that loads a model answers slowly
CLOSE_S = 1.0  # for a server to say goodbye; it forgets the old socket only then
IDLE_S = 300.0  # with nobody listening; strangers' previews may come along a line
PING_S = 20.0  # the server never pings, and what stands between us closes what is quiet
DEAD_S = 30  # without an answer of the other machine's network; a server busy loading still answers there
MAX_MESSAGE = 256 * 2**20  # bytes; a picture of 64 megapixels

# The kinds of binary frames. Preview frames with metadata come before the progress they belong to, others after it.
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One message about a prompt."""

    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A picture forming."""

    data: bytes = field(repr=False)
    mime: str
    node: str | None  # None where an old server does not say whose it is
    early: bool  # it comes before the progress it belongs to


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The line is down: what is told from now on is missed until somebody opens it again."""

    sudden: bool = True  # all that was told until now was heard; otherwise it had been silent, who knows for how long


Message = Told | Frame | Cut
Listener = Callable[[Message], None]


class LineError(Exception):
    """The line could not be opened; the words are for people."""


class Line:
    """A websocket that is opened when it is needed and stays open for a while."""

    def __init__(
        self,
        address: Address,
        client_id: str | None = None,
        *,
        on_cut: Callable[[], None] = lambda: None,
        idle_s: float = IDLE_S,
        close_s: float = CLOSE_S,
    ) -> None:
        self.client_id = client_id or uuid4().hex
        self.cuts = 0  # how often it went down
        self._fixed = client_id is not None
        self._address = address
        self._on_cut = on_cut
        self._idle_s = idle_s
        self._close_s = close_s
        self._listeners: dict[str, Listener] = {}
        self._socket: _Socket | None = None
        self._opening = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    @property
    def up(self) -> bool:
        """True while messages can arrive."""
        return self._socket is not None and self._socket.up

    async def open(self) -> None:
        """Connect, unless it is up; LineError says why it cannot be."""
        async with self._opening:
            if self.up:
                return
            if not self._listeners and not self._fixed:
                # Under its old name the server may still keep the old socket, and take this one for it. What runs
                # can only be told under the name it was handed over with.
                self.client_id = uuid4().hex
            try:
                async with asyncio.timeout(OPEN_S):
                    self._socket = await self._connect()
            except TimeoutError:
                raise LineError(f"no answer within {OPEN_S:g} s") from None
            except OSError as exc:
                raise LineError(exc.strerror or type(exc).__name__) from exc
            self._rest()

    async def reopen(self) -> None:
        """Connect anew: to a server that thinks of the old socket as alive, the new one may become silent."""
        await self.hang_up()
        await self.open()

    async def hang_up(self) -> None:
        """Close it politely, and wait a moment for the server to do the same."""
        if self._socket is not None:
            old, self._socket = self._socket, None
            old.end()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._close_s):
                    await old.gone.wait()
            old.abort()

    def close(self) -> None:
        """Close it at once."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._socket is not None:
            old, self._socket = self._socket, None
            old.end()
            old.abort()
            self._tell_cut(Cut(sudden=False))

    @contextmanager
    def listen(self, prompt_id: str, hear: Listener) -> Iterator[None]:
        """Call `hear` with everything that is told about a prompt; it must not raise, and not take long."""
        self._listeners[prompt_id] = hear
        try:
            yield
        finally:
            del self._listeners[prompt_id]
            self._rest()

    async def _connect(self) -> "_Socket":
        loop = asyncio.get_running_loop()
        here = _Socket(self._address, self.client_id, self._text, self._frame, self._cut)
        if self._tls is None and self._address.scheme == "https":
            self._tls = httpx2.create_ssl_context(trust_env=False)
        host, port = self._address.host, self._address.port
        transport, _ = await loop.create_connection(lambda: here, host, port, ssl=self._tls)
        try:
            await here.accepted
        except BaseException:
            transport.abort()
            raise
        return here

    def _text(self, text: str) -> None:
        try:
            told = json.loads(text)
            kind, data = told["type"], told["data"]
            hear = self._listeners.get(data.get("prompt_id"))
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # not a message of ComfyUI; custom nodes send what they like
        if hear is not None:
            hear(Told(type=str(kind), data=data))

    def _frame(self, data: bytes) -> None:
        if (found := read_frame(data)) is None:
            return
        prompt_id, frame = found
        if prompt_id is not None:
            if hear := self._listeners.get(prompt_id):
                hear(frame)
        elif len(self._listeners) == 1:
            # It does not say whose it is; the listener knows whether a sampler of its own runs.
            next(iter(self._listeners.values()))(frame)

    def _cut(self, socket: "_Socket") -> None:
        if socket is not self._socket:
            return  # one that was closed on purpose, or never came up
        self._socket = None
        self._on_cut()
        self._tell_cut(Cut())

    def _tell_cut(self, cut: Cut) -> None:
        self.cuts += 1
        for hear in tuple(self._listeners.values()):
            hear(cut)

    def _rest(self) -> None:
        """Close it when nobody has listened for a while."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._listeners:
            self._rest()
        else:
            self.close()


def read_frame(data: bytes) -> tuple[str | None, Frame] | None:
    """The prompt a binary frame is about, if it says so, and the picture in it; None for other kinds of frames."""
    try:
        (kind,) = struct.unpack_from(">I", data)
        if kind == PREVIEW:
            (encoding,) = struct.unpack_from(">I", data, 4)
            mime = {1: "image/jpeg", 2: "image/png"}[encoding]
            return None, Frame(data=data[8:], mime=mime, node=None, early=False)
        if kind == PREVIEW_WITH_METADATA:
            (length,) = struct.unpack_from(">I", data, 4)
            told = json.loads(data[8 : 8 + length])
            node = told.get("display_node_id") or told["node_id"]
            frame = Frame(data=data[8 + length :], mime=str(told["image_type"]), node=str(node), early=True)
            return str(told["prompt_id"]), frame
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


class _Socket(asyncio.Protocol):
    """One connection: bytes in, whole messages out."""

    def __init__(
        self,
        address: Address,
        client_id: str,
        on_text: Callable[[str], None],
        on_bytes: Callable[[bytes], None],
        on_gone: Callable[["_Socket"], None],
    ) -> None:
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self._address = address
        self._client_id = client_id
        self._on_text = on_text
        self._on_bytes = on_bytes
        self._on_gone = on_gone
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._parts: list[str] | list[bytes] = []
        self._size = 0
        self._ping: asyncio.TimerHandle | None = None

    @property
    def up(self) -> bool:
        accepted = self.accepted.done() and not self.accepted.cancelled() and self.accepted.exception() is None
        return accepted and self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        _notice_a_dead_peer(transport.get_extra_info("socket"))
        address = self._address
        headers = []
        if address.user or address.password:
            secret = base64.b64encode(f"{address.user}:{address.password}".encode())
            headers.append((b"authorization", b"Basic " + secret))
        # No Origin: a browser's would be held against the Host.
        target = f"{address.path}/ws?clientId={self._client_id}"
        self._send(Request(host=address.authority, target=target, extra_headers=headers))

    def data_received(self, data: bytes) -> None:
        try:
            self._ws.receive_data(data)
            for event in self._ws.events():
                self._handle(event)
        except ProtocolError as exc:
            self._refuse(f"it does not speak WebSocket: {exc}")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._refuse("the connection was closed")
        if self._ping is not None:
            self._ping.cancel()
        self.gone.set()
        self._on_gone(self)

    def end(self) -> None:
        """Say goodbye."""
        if self.up:
            with suppress(ProtocolError):
                self._send(CloseConnection(code=1000))

    def abort(self) -> None:
        """Drop the connection."""
        if self._ping is not None:
            self._ping.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _handle(self, event: Event) -> None:
        match event:
            case TextMessage() | BytesMessage():
                self._collect(event)
            case Ping():
                self._send(event.response())
            case AcceptConnection():
                if not self.accepted.done():
                    self.accepted.set_result(None)
                self._send(TextMessage(data=json.dumps(FLAGS)))  # the server reads it only as the first message
                self._keep_warm()
            case RejectConnection(status_code=status):
                self._refuse(f"the answer was HTTP {status}")
                self.abort()
            case CloseConnection():
                with suppress(ProtocolError):
                    self._send(event.response())
                assert self._transport is not None
                self._transport.close()
            case _:
                pass  # a pong, or more of a refusal

    def _collect(self, event: TextMessage | BytesMessage) -> None:
        self._size += len(event.data)
        if self._size > MAX_MESSAGE:
            self.abort()
            return
        self._parts.append(event.data)  # type: ignore[arg-type]  # a message is of one kind throughout
        if not event.message_finished:
            return
        parts, self._parts, self._size = self._parts, [], 0
        if isinstance(event, TextMessage):
            self._on_text("".join(parts))  # type: ignore[arg-type]  # as above
        else:
            self._on_bytes(b"".join(parts))  # type: ignore[arg-type]  # as above

    def _keep_warm(self) -> None:
        if self.up:
            self._send(Ping())
            self._ping = asyncio.get_running_loop().call_later(PING_S, self._keep_warm)

    def _send(self, event: Event) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._ws.send(event))

    def _refuse(self, why: str) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(LineError(why))


def _notice_a_dead_peer(connection: socket.socket | None) -> None:
    """Let the network itself find out that the other machine is gone, where it can."""
    if connection is None:
        return
    with suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_S // 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_S // 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)
