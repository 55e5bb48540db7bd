"""`/mcp` of a server: the same five verbs for whoever has a key of it, over streamable HTTP.

Each request stands for itself: there are no sessions, so a restart of the server breaks no client, and any number of
them costs nothing while they are silent. A request that waits is let go when the server stops; its job goes on.
"""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from imagen.core.errors import ImagenError, TooMany, Unauthorized
from imagen.surfaces.http.auth import LOCAL, SCOPE, Caller
from imagen.surfaces.http.connection import SET
from imagen.surfaces.http.refusals import refusal
from imagen.surfaces.mcp.edge import Edge

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.surfaces.http.streams import Streams

PATH = "/mcp"
LEAVE_S = 1.0  # for answers under way when the server stops


def router(app: "App", streams: "Streams") -> APIRouter:
    """The one address. Its library is loaded by the first request that comes there, and not before."""
    routes = APIRouter(include_in_schema=False)
    door = McpDoor(app, streams)
    for path in (PATH, f"{PATH}/"):  # people type both, and not every client follows a redirect of a POST
        routes.routes.append(Route(path, door, methods=["POST"], include_in_schema=False))
    return routes


class McpDoor:
    """The ASGI application behind the address."""

    def __init__(self, app: "App", streams: "Streams") -> None:
        self._app = app
        self._streams = streams
        self._there: Counter[str] = Counter()  # requests of each caller that are under way
        self._starting: asyncio.Future[Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            who = scope.get(SCOPE)
            if not isinstance(who, Caller):
                raise Unauthorized("this server cannot tell who asks", hint="ask it through its own address")
            self._check_room(who)
            manager = await self._manager()
        except ImagenError as error:
            await refusal(error)(scope, receive, send)
            return
        self._there[who.name] += 1
        try:
            await manager.handle_request(scope, receive, send)
        finally:
            self._there -= Counter((who.name,))

    def _check_room(self, who: Caller) -> None:
        most = self._app.settings.limits.streams_per_key
        if most is not None and self._there[who.name] >= most:
            message = f"{self._there[who.name]:,} requests of {who.name!r} wait here; the limit is {most:,}"
            raise TooMany(message, hint=f"wait until some are answered; {SET.format('streams_per_key')}")

    async def _manager(self) -> Any:
        if self._starting is None or (self._starting.done() and self._starting.exception() is not None):
            self._starting = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run(self._starting))
        return await asyncio.shield(self._starting)

    async def _run(self, started: "asyncio.Future[Any]") -> None:
        """In a task of its own: whoever came first may leave first."""
        try:
            manager = await asyncio.to_thread(self._made)  # importing it would hold up every stream of the server
            async with manager.run():
                started.set_result(manager)
                await self._streams.stopping.wait()
                await asyncio.sleep(LEAVE_S)
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    def _made(self) -> Any:
        from imagen.surfaces.mcp.library import loaded

        tools = loaded()
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        return StreamableHTTPSessionManager(
            tools.make_server(self._edge, here=False),
            stateless=True,
            max_request_body_size=self._app.settings.limits.body_bytes,
        )

    def _edge(self, context: Any) -> Edge:
        """Who asks, as the guard found."""
        request = context.request
        who: Caller = request.scope[SCOPE]
        settings = self._app.settings
        base = settings.server.public_url or str(request.base_url)
        # As in `Context.queue_limit`: an admin key may fill the queue, a runaway program of this machine may not.
        unlimited = who.admin and who.name != LOCAL.name
        return Edge(
            app=self._app,
            owner=who.name,
            sees=who.sees,
            queue_limit=None if unlimited else settings.limits.queued,
            limits=settings.limits,
            base_url=base.rstrip("/"),
            keyed=who.name != LOCAL.name,
            stopping=self._streams.stopping,
        )
