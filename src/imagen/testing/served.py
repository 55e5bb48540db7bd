"""What the fakes of services have in common: a port, an event loop of their own when wanted, and troubles on order."""

import asyncio
import threading
import urllib.parse
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette

from imagen.testing.door import Answer, Asked, Door, Listening

T = TypeVar("T")

PATIENCE_S = 10.0  # for what is asked of the fake's own thread


class Served:
    """A service on a port of this machine.

    `async with fake.serving() as url:` listens in this event loop, `with fake.running() as url:` in a thread of its
    own. All that is told may be called from either side; coroutines from outside as `fake.do(fake.restart())`.
    """

    mime = "application/json"  # of answers given in place of its own

    def __init__(self, login: str = "") -> None:
        """`login`: a `name:password` that each request must bring."""
        self.url = ""
        self._app: Starlette | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening = Listening(self)
        self._door = Door(self._routes, self._listening.cut, login)

    def make_app(self) -> Starlette:
        """The routes."""
        raise NotImplementedError

    def forget(self) -> None:
        """What a restart takes away."""

    async def settle(self) -> None:
        """End what still runs inside."""

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Listen in this event loop; its address."""
        self._loop = asyncio.get_running_loop()
        await self._listen(port)
        try:
            yield self.url
        finally:
            await self.aclose()

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        """Listen in a thread of its own; its address."""
        ready, stop = threading.Event(), asyncio.Event()

        async def serve() -> None:
            async with self.serving(port):
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
        thread.start()
        ready.wait(PATIENCE_S)
        try:
            yield self.url
        finally:
            self.soon(stop.set)
            thread.join(PATIENCE_S)

    async def aclose(self) -> None:
        """End what runs inside, and listen no more."""
        await self.settle()
        await self._listening.stop()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the fake's own event loop, and wait for it."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S + 60)

    async def restart(self, *, down_s: float = 0.0) -> None:
        """Break all connections, be away for a while, and come back having forgotten what a restart takes away."""
        port = urllib.parse.urlsplit(self.url).port or 0
        await self._listening.stop()
        self.forget()
        await asyncio.sleep(down_s)
        await self._listen(port)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application, for whoever has a server of their own."""
        await self._door(scope, receive, send)

    def answer(self, path: str, status: int, body: str | bytes, *, mime: str | None = None, times: int = 1) -> None:
        """The next requests to a path get this instead, and nothing is done."""
        data = body.encode() if isinstance(body, str) else body
        self._door.answers.append(Answer(path=path, times=times, status=status, body=data, mime=mime or self.mime))

    def delay(self, path: str, seconds: float, *, times: int = 1) -> None:
        """The next requests to a path wait before anything is done."""
        self._door.answers.append(Answer(path=path, times=times, delay_s=seconds))

    def lose_reply(self, path: str, *, times: int = 1) -> None:
        """The next requests to a path are carried out, and the connection breaks instead of the answer."""
        self._door.answers.append(Answer(path=path, times=times, lost=True))

    def shut(self) -> None:
        """From now on no request gets through; what runs inside runs on. So a service is for whoever died."""
        self.answer("*", 503, b"", times=2**31)

    def open(self) -> None:
        """No answer is replaced any more, and none is lost or delayed."""
        self._door.answers.clear()

    def cut(self) -> None:
        """Break every connection, now."""
        self.soon(self._listening.cut)

    @property
    def requests(self) -> list[Asked]:
        """Every request, oldest first."""
        return self._door.requests

    def asked(self, method: str, ending: str = "") -> list[Asked]:
        """The requests of one kind."""
        return [one for one in self.requests if one.method == method and one.path.endswith(ending)]

    def soon(self, act: Callable[[], Any]) -> None:
        """In the fake's own loop: at once when that is where we are."""
        if self._loop is None or self._loop is _current():
            act()
        else:
            self._loop.call_soon_threadsafe(act)

    def _routes(self) -> Starlette:
        if self._app is None:
            self._app = self.make_app()
        return self._app

    async def _listen(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{await self._listening.start(port)}"


def _current() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
