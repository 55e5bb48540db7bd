"""The answer to a request that is no stream, which may take longer than clients and proxies stay with a silent one.

As long as nothing is said, the status can still tell how it ended; so nothing is said for a while (`openai: hold_s:`).
After that the answer begins, and blanks keep it alive: JSON may begin with any number of them, and every reader skips
them. A job that fails then can no longer have a status of its own. Its error is written all the same, and then the
connection is closed in the middle of the answer, so that nobody takes it for a picture; a library that asks again on
that finds the job and gets its error with the right status.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imagen.core.errors import DatabaseAway, ImagenError
from imagen.core.job import Job, State
from imagen.surfaces.http.foreign.ends import key_is_gone, server_stops
from imagen.surfaces.http.foreign.visits import Visit
from imagen.surfaces.http.guard import KNOWN
from imagen.surfaces.http.refusals import refusal
from imagen.surfaces.http.streams import ABORT, STALLED_S, Streams

if TYPE_CHECKING:
    from imagen.app import App

BLANK = b" "
PATIENCE_S = 60.0  # for one look at the job; a blank interrupts none
PIECE_BYTES = 256 * 1024  # taken by the client within STALLED_S each
ALIVE = {"cache-control": "no-store", "x-accel-buffering": "no"}  # blanks that a proxy collects keep nobody waiting
CLOSE = "imagen.close"  # an extension of our server: close the connection once everything written is taken


class LongAnswer(Response):
    """All pictures of a job in one answer, whenever that is.

    `tell` makes it of a job that ended, or raises why there is none, which `excuse` then puts into words.
    """

    media_type = "application/json"

    def __init__(
        self,
        streams: Streams,
        app: "App",
        visit: Visit,
        tell: Callable[[Job], Awaitable[Mapping[str, Any]]],
        *,
        headers: Mapping[str, str],
        hold_s: float,
        comes_back: bool,
        excuse: Callable[[ImagenError, str], Mapping[str, Any]],
    ) -> None:
        super().__init__()
        self._streams = streams
        self._app = app
        self._visit = visit
        self._tell_of = tell
        self._excuse = excuse
        self._told = {"content-type": "application/json", **ALIVE, **headers}
        self._hold_s = hold_s
        self._comes_back = comes_back
        self._begun = False
        self._gone: asyncio.Task[None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._gone = asyncio.create_task(_left(receive))
        stopping = asyncio.create_task(self._streams.stopping.wait())
        making = asyncio.create_task(self._made(scope))
        answered = False
        try:
            if await self._patiently(send, making, stopping):
                answered = await self._tell(scope, send, making)
            elif not self._gone.done():
                await self._put_off(scope, send, server_stops())
        except TimeoutError:  # it takes nothing any more
            _end(scope, ABORT)
        finally:
            stopped = stopping.done()
            for task in (making, stopping, self._gone):
                task.cancel()
            await self._visit.over(answered=answered, left=not answered and not stopped)
            await asyncio.gather(making, return_exceptions=True)

    async def _made(self, scope: Scope) -> bytes:
        """The answer, as soon as the job ended; the error of the job when it has none."""
        async with self._visit.watching() as watch:
            while not watch.ended:
                await watch.next(PATIENCE_S)
        known: Callable[[], Awaitable[bool]] | None = scope.get(KNOWN)
        if known is not None and not await known():
            raise key_is_gone()
        return await asyncio.to_thread(_encoded, await self._tell_of(await self._app.job(self._visit.job.id)))

    async def _patiently(self, send: Send, making: asyncio.Task[Any], stopping: asyncio.Task[Any]) -> bool:
        """Wait, with a blank whenever it is time for one; False when the client left or the server stops before it."""
        clock = asyncio.get_running_loop().time
        due = clock() + self._hold_s
        while not making.done():
            await asyncio.wait(
                {making, self._gone, stopping}, timeout=max(0.0, due - clock()), return_when=asyncio.FIRST_COMPLETED
            )
            if self._gone.done():
                return False
            if stopping.done() and not making.done():
                return await self._in_time(making)
            if clock() >= due and not making.done():
                due = clock() + min(self._hold_s, self._streams.heartbeat_s)
                await self._send(send, BLANK, more=True)
        return True

    async def _in_time(self, making: asyncio.Task[Any]) -> bool:
        """A server that stops finishes what is nearly done, and whoever waits for that is still answered."""
        if (await self._app.job(self._visit.job.id)).state is State.RUNNING:
            wanted = {making, self._gone}
            await asyncio.wait(wanted, timeout=self._streams.grace_s, return_when=asyncio.FIRST_COMPLETED)
        return making.done() and not self._gone.done()

    async def _tell(self, scope: Scope, send: Send, making: asyncio.Task[bytes]) -> bool:
        """The pictures, or why there are none; True when the client was there to be told, and can tell them apart."""
        try:
            body = making.result()
        except DatabaseAway as error:
            await self._put_off(scope, send, error)  # it says nothing about the job, which is where it was
            return False
        except ImagenError as error:
            return await self._fail(scope, send, error)
        return await self._send(send, body)

    async def _fail(self, scope: Scope, send: Send, error: ImagenError) -> bool:
        body = _encoded(self._excuse(error, self._visit.job.id))
        if not self._begun:
            told = refusal(error)
            self._told |= {name: told.headers[name] for name in ("retry-after",) if name in told.headers}
            return await self._send(send, body, status=told.status_code)
        await self._send(send, body, more=True)
        await self._cut(scope)
        return False

    async def _put_off(self, scope: Scope, send: Send, error: ImagenError) -> None:
        """The job goes on with whoever serves next, and so does a client that is known again then."""
        if self._begun:
            await self._cut(scope)
            return
        again = "true" if self._comes_back else "false"
        self._told |= {"x-should-retry": again, "retry-after": refusal(error).headers["retry-after"]}
        await self._send(send, _encoded(self._excuse(error, self._visit.job.id)), status=error.http_status)

    async def _send(self, send: Send, body: bytes, *, more: bool = False, status: int = 200) -> bool:
        """True when the client was still there for the last piece."""
        if not self._begun:
            self._begun = True
            told = self._told if more else self._told | {"content-length": str(len(body))}
            headers = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
            await send({"type": "http.response.start", "status": status, "headers": headers})
        there = False
        for start in range(0, len(body), PIECE_BYTES):
            there = not self._gone.done()
            piece, last = body[start : start + PIECE_BYTES], start + PIECE_BYTES >= len(body)
            async with asyncio.timeout(STALLED_S):
                await send({"type": "http.response.body", "body": piece, "more_body": more or not last})
        return there

    async def _cut(self, scope: Scope) -> None:
        if not _end(scope, CLOSE):
            raise ConnectionError("the answer is not complete")  # any other server ends the connection on that
        async with asyncio.timeout(STALLED_S):
            await self._gone


def _encoded(shape: Mapping[str, Any]) -> bytes:
    return json.dumps(shape).encode()


def _end(scope: Scope, how: str) -> bool:
    end = scope.get("extensions", {}).get(how)
    if end is not None:
        end()
    return end is not None


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
