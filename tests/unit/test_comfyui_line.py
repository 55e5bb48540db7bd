"""The one websocket: it is always drained, leaves no task behind, and tells when it goes down."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Request, TextMessage
from wsproto.utilities import LocalProtocolError

from imagen.backends.comfyui.address import Address
from imagen.backends.comfyui.line import Cut, Frame, Line, LineError, Message, Told, read_frame
from imagen.testing.comfyui import Fake

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """The other end of a line, told what to do by the test."""

    def __init__(self, *, rude: bool = False) -> None:
        self.rude = rude  # it does not answer a goodbye
        self.requests: list[Request] = []
        self.said: list[Any] = []
        self.closed = asyncio.Event()
        self._ws = WSConnection(ConnectionType.SERVER)
        self._writer: asyncio.StreamWriter | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ws, self._writer = WSConnection(ConnectionType.SERVER), writer
        while data := await reader.read(65536):
            self._ws.receive_data(data)
            for event in self._ws.events():
                match event:
                    case Request():
                        self.requests.append(event)
                        self.send(AcceptConnection())
                    case TextMessage(data=text):
                        self.said.append(json.loads(text))
                    case CloseConnection() if not self.rude:
                        with suppress(LocalProtocolError):  # where it is the answer to our own
                            self.send(event.response())
                        writer.close()
                    case _:
                        pass
        self.closed.set()

    def send(self, *events: Event) -> None:
        assert self._writer is not None
        for event in events:
            self._writer.write(self._ws.send(event))

    def tell(self, kind: str, **data: Any) -> None:
        self.send(TextMessage(data=json.dumps({"type": kind, "data": data})))

    def cut(self) -> None:
        assert self._writer is not None
        self._writer.transport.abort()


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[Address]:
    handling: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.append(task)
        try:
            await handler(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield Address.of(f"http://ann:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}/comfy")
        async with asyncio.timeout(5):
            await asyncio.gather(*handling, return_exceptions=True)


@asynccontextmanager
async def opened(peer: Peer) -> AsyncIterator[Line]:
    async with listening(peer) as address:
        line = Line(address)
        await line.open()
        try:
            yield line
        finally:
            line.close()


async def soon(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


def frame(kind: int, head: bytes, data: bytes = b"picture") -> bytes:
    return struct.pack(">I", kind) + head + data


def named(data: bytes = b"picture", **told: Any) -> bytes:
    about = json.dumps({"node_id": "4", "prompt_id": "a", "image_type": "image/jpeg", **told}).encode()
    return frame(4, struct.pack(">I", len(about)) + about, data)


class TestOpening:
    async def test_says_who_listens_and_what_it_understands(self) -> None:
        """With the password of the address, under its path, and never with an origin."""
        peer = Peer()
        async with opened(peer) as line:
            await soon(lambda: peer.said)
            (request,) = peer.requests
            assert request.target == f"/comfy/ws?clientId={line.client_id}"
            headers = {name.lower(): value for name, value in request.extra_headers}
            assert headers[b"authorization"] == b"Basic YW5uOnNlY3JldA=="
            assert b"origin" not in headers
            assert peer.said[0] == {"type": "feature_flags", "data": {"supports_preview_metadata": True}}

    async def test_leaves_no_task(self) -> None:
        """It is the event loop that calls it."""
        async with listening(Peer()) as address:
            line = Line(address)
            before = asyncio.all_tasks()
            await line.open()
            await line.open()
            ours = asyncio.all_tasks() - before
            assert not [task for task in ours if "listening" not in repr(task)], "but those of the other end"
            line.close()

    async def test_that_is_refused_says_why(self) -> None:
        """A proxy that lets no websocket through answers like a web server."""

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            writer.close()

        async with listening(refuse) as address:
            with pytest.raises(LineError, match="404"):
                await Line(address).open()

    @pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 101 Switching\r\n\r\n"])
    async def test_to_something_else_is_an_error(self, answer: bytes) -> None:
        """And never one of the library's."""

        async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with listening(odd) as address:
            line = Line(address)
            with pytest.raises(LineError):
                await line.open()
            assert not line.up

    async def test_where_nothing_listens_is_an_error(self) -> None:
        """At once."""
        with pytest.raises(LineError):
            await Line(Address.of("http://127.0.0.1:9")).open()

    async def test_again_goes_by_a_new_name_while_nothing_runs(self) -> None:
        """Under the old one the server may still keep the old socket."""
        peer = Peer()
        async with opened(peer) as line:
            first = line.client_id
            with line.listen("a", lambda _: None):
                await line.reopen()
                assert line.client_id == first
            await line.reopen()
            assert line.client_id != first


class TestListening:
    async def test_hears_what_is_about_its_prompt(self) -> None:
        """Text and pictures; what is about others is not passed on."""
        peer, heard = Peer(), list[Message]()
        async with opened(peer) as line:
            with line.listen("a", heard.append):
                peer.tell("status", status={})
                peer.tell("progress", prompt_id="b", value=1)
                peer.tell("progress", prompt_id="a", value=2)
                peer.send(BytesMessage(data=named(prompt_id="b")), BytesMessage(data=named()))
                await soon(lambda: len(heard) == 2)
        assert heard[0] == Told(type="progress", data={"prompt_id": "a", "value": 2})
        assert heard[1] == Frame(data=b"picture", mime="image/jpeg", node="4", early=True)

    async def test_two_prompts_are_kept_apart(self) -> None:
        """Each listener hears its own."""
        peer, first, second = Peer(), list[Message](), list[Message]()
        async with opened(peer) as line:
            with line.listen("a", first.append), line.listen("b", second.append):
                peer.send(BytesMessage(data=frame(1, struct.pack(">I", 1))))  # it could be either's
                peer.tell("executing", prompt_id="a", node="1")
                peer.tell("executing", prompt_id="b", node="2")
                await soon(lambda: first and second)
        assert [one.data["node"] for one in [*first, *second] if isinstance(one, Told)] == ["1", "2"]

    async def test_a_large_picture_in_pieces_is_one_message(self) -> None:
        """Other libraries stop at one megabyte."""
        peer, heard, data = Peer(), list[Message](), bytes(20 * 2**20)
        async with opened(peer) as line:
            with line.listen("a", heard.append):
                whole = named(data)
                middle = len(whole) // 2
                peer.send(BytesMessage(data=whole[:middle], message_finished=False), BytesMessage(data=whole[middle:]))
                await soon(lambda: heard)
        assert isinstance(heard[0], Frame)
        assert heard[0].data == data

    @pytest.mark.parametrize("text", ["", "no json", "[]", "3", "null", '{"type": 3}', '{"type": "a", "data": []}'])
    async def test_what_is_no_message_is_skipped(self, text: str) -> None:
        """A custom node may send what it likes, and the next message counts."""
        peer, heard = Peer(), list[Message]()
        async with opened(peer) as line:
            with line.listen("a", heard.append):
                peer.send(TextMessage(data=text))
                peer.tell("executing", prompt_id="a", node=None)
                await soon(lambda: heard)
        assert len(heard) == 1


class TestGoingDown:
    async def test_is_told_and_it_opens_again(self) -> None:
        """To whoever listens, and to whoever wants to know that the server may have been restarted."""
        peer, heard, cuts = Peer(), list[Message](), list[None]()
        async with listening(peer) as address:
            line = Line(address, on_cut=lambda: cuts.append(None))
            await line.open()
            with line.listen("a", heard.append):
                peer.cut()
                await soon(lambda: heard)
                assert (heard, len(cuts), line.up, line.cuts) == ([Cut()], 1, False, 1)
                await line.open()
                peer.tell("executing", prompt_id="a", node="1")
                await soon(lambda: len(heard) == 2)
            line.close()

    async def test_a_goodbye_of_the_server_is_the_same(self) -> None:
        """It is answered, and that was that."""
        peer, heard = Peer(), list[Message]()
        async with opened(peer) as line:
            with line.listen("a", heard.append):
                peer.send(CloseConnection(code=1001))
                await soon(lambda: heard)
            assert not line.up

    async def test_on_purpose_waits_for_the_server_to_let_go(self) -> None:
        """A server that still keeps the old socket would silence the new one."""
        peer = Peer()
        async with opened(peer) as line:
            await line.hang_up()
            assert not line.up
            assert peer.closed.is_set()

    async def test_a_server_that_does_not_let_go_is_not_waited_for(self) -> None:
        """It may be the one that hangs."""
        peer = Peer(rude=True)
        async with listening(peer) as address:
            line = Line(address, close_s=0.01)
            await line.open()
            async with asyncio.timeout(5):
                await line.hang_up()
            assert not line.up


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (frame(1, struct.pack(">I", 1)), (None, "image/jpeg", None, False)),
        (frame(1, struct.pack(">I", 2)), (None, "image/png", None, False)),
        (named(), ("a", "image/jpeg", "4", True)),
        (named(node_id="4.0.1", display_node_id="4"), ("a", "image/jpeg", "4", True)),
    ],
)
def test_a_frame_is_read(data: bytes, expected: tuple[Any, ...]) -> None:
    """With and without a name on it."""
    found = read_frame(data)
    assert found is not None
    assert (found[0], found[1].mime, found[1].node, found[1].early) == expected
    assert found[1].data == b"picture"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\0\0", frame(3, b"text"), frame(1, b""), frame(1, struct.pack(">I", 9))),
        *(frame(4, struct.pack(">I", size) + b"{}") for size in (2, 99, 2**32 - 1)),
        frame(4, struct.pack(">I", 2) + b"[]"),
    ],
)
def test_other_frames_are_none(data: bytes) -> None:
    """Broken ones too."""
    assert read_frame(data) is None


async def test_it_closes_when_nobody_has_listened_for_a_while() -> None:
    """Strangers' previews may come along it."""
    fake = Fake()
    async with fake.serving() as url:
        line = Line(Address.of(url), idle_s=0.02)
        await line.open()
        with line.listen("a", lambda _: None):
            await asyncio.sleep(0.1)
            assert line.up
        await soon(lambda: not line.up)
        await soon(lambda: not fake.sockets)
