"""How requests come to a fake: a server that can be cut off, and answers that are not the real ones."""

import asyncio
import base64
import json
import logging
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

STARTED_S = 0.005  # how often it is asked whether it listens


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that came in."""

    method: str
    path: str  # without /api before it, except for the jobs routes
    query: dict[str, str]
    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True, kw_only=True)
class Answer:
    """Something else instead of what a route would say."""

    path: str
    times: int
    status: int = 0
    body: bytes = b""
    mime: str = "text/html"
    delay_s: float = 0.0
    lost: bool = False  # do it, and break the connection instead of answering


class Door:
    """The ASGI application: looks at who comes, writes it down, and lets most of them through."""

    def __init__(self, app: Callable[[], Any], cut: Callable[[Any], None], login: str = "") -> None:
        self.requests: list[Asked] = []
        self.answers: list[Answer] = []
        self._app, self._cut = app, cut
        self._login = "Basic " + base64.b64encode(login.encode()).decode() if login else ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        refused = self._refused(headers)
        if scope["type"] == "websocket":
            if refused:
                await receive()
                await send({"type": "websocket.close", "code": 1000})  # before it was accepted: 403
                return
            await self._app()(scope, receive, send)
            return
        body = await _read(receive)
        path = scope["path"]
        plain = path.removeprefix("/api") if path.startswith("/api/") and not path.startswith("/api/jobs") else path
        query = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
        self.requests.append(Asked(method=scope["method"], path=plain, query=query, body=body, headers=headers))
        if refused:
            await _say(send, refused, b"", "text/plain")
            return
        answer = next((one for one in self.answers if one.times > 0 and one.path in (plain, "*")), None)
        if answer is not None:
            answer.times -= 1
            await asyncio.sleep(answer.delay_s)
            if answer.status:
                await _say(send, answer.status, answer.body, answer.mime)
                return
        lost = answer is not None and answer.lost
        await self._app()(scope, _again(body, receive), _nowhere if lost else send)
        if lost:
            self._cut(scope.get("client"))

    def _refused(self, headers: dict[str, str]) -> int:
        origin = urllib.parse.urlsplit(headers.get("origin", "")).netloc
        if origin and origin != headers.get("host"):
            return 403
        return 401 if self._login and headers.get("authorization") != self._login else 0


def _on_purpose(record: logging.LogRecord) -> bool:
    return "without starting response" not in record.getMessage()


class Listening:
    """A server on a port, whose connections can be cut."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, port: int) -> int:
        """Listen; the port."""
        listener = socket.create_server(("127.0.0.1", port), backlog=512)
        # Connections have it from their listener: without it a small answer may wait 40 ms for the client's system.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            self._app,
            loop="asyncio",
            ws="wsproto",
            ws_ping_interval=None,  # as the real server, which never pings
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level=None,  # a level would be set for every other server of this process too
            timeout_graceful_shutdown=1,
        )
        # An answer that is lost on purpose is no news; everything else that any server here logs is.
        logging.getLogger("uvicorn.error").addFilter(_on_purpose)
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started and not self._task.done():  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(STARTED_S)
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Nobody is answered any more, and whoever was connected is cut off."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        for listener in self._server.servers:
            listener.close()
        self.cut()
        await self._task
        logging.getLogger("uvicorn.error").removeFilter(_on_purpose)
        self._server = self._task = None

    def cut(self, client: Any = None) -> None:
        """Break one client's connection, or all, without a word."""
        for connection in list(self._server.server_state.connections) if self._server else []:
            transport = getattr(connection, "transport", None)
            if transport is not None and client in (None, transport.get_extra_info("peername")[:2]):
                transport.abort()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Whoever started us handles signals."""
        yield


async def _read(receive: Any) -> bytes:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


def _again(body: bytes, receive: Any) -> Any:
    """The body once more, for the application; then whatever comes after it."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Any:
        return left.pop() if left else await receive()

    return read


async def _say(send: Any, status: int, body: bytes, mime: str) -> None:
    headers = [(b"content-type", mime.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _nowhere(_message: Any) -> None:
    return None
