"""The HTTP door put together: routes, guard, streams; and the server that listens."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from imagen.app import VERSION, App
from imagen.config import Settings
from imagen.surfaces.http import about, auth, devices, images, jobs, operations, refusals, series, votes, webhooks
from imagen.surfaces.http.a1111 import routes as a1111
from imagen.surfaces.http.guard import Guard, uvicorn_options
from imagen.surfaces.http.openai import routes as openai
from imagen.surfaces.http.shapes import limited
from imagen.surfaces.http.streams import Streams
from imagen.surfaces.mcp import http as agents
from imagen.surfaces.web import pages

if TYPE_CHECKING:
    from imagen.surfaces.logs import Log

GARBAGE = (50_000, 20, 20)  # objects made before the youngest are looked through, and how often the older ones
CLOSE_S = 3.0  # for answers under way when the server stops; streams are ended at once

ABOUT = """Jobs, series, pictures and events of an imagen server.

Errors always look like `{"error": {"type", "code", "message", "hint", "param", "retryable"}}`.
Answers and events only ever gain fields: ignore those you do not know.
"""


def make_server(app: App, *, settings: Settings, drawing: bool) -> FastAPI:
    """The ASGI application. The app is opened by the caller; with `drawing` this process is also a worker."""

    @asynccontextmanager
    async def lifespan(_server: FastAPI) -> AsyncIterator[None]:
        if not drawing:
            yield
            return
        async with app.drawing():
            yield

    server = FastAPI(
        title="imagen",
        version=VERSION,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # an address has one spelling
    )
    server.state.app = app
    server.state.settings = settings
    server.state.streams = streams = Streams()
    server.state.routers = [
        openai.router(),  # before the pictures: `generations` is none of their ids
        jobs.router,
        about.router,
        devices.router,
        series.router,
        images.router,
        votes.router,
        webhooks.router,
        operations.router(app, lambda: len(streams)),
        a1111.router(app),
        agents.router(app, streams),
        pages.router(app.pictures_origin),
    ]
    for router in server.state.routers:
        server.include_router(router)

    @server.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        from imagen.surfaces.http.docs_page import page

        return HTMLResponse(page(server.openapi()))

    @server.get("/docs/page.css", include_in_schema=False)
    async def css() -> Response:
        from imagen.surfaces.http.docs_page import CSS

        return Response(CSS, media_type="text/css")

    def openapi() -> dict[str, Any]:
        if server.openapi_schema is None:
            server.openapi_schema = limited(FastAPI.openapi(server), settings.limits)
        return server.openapi_schema

    server.openapi = openapi  # type: ignore[method-assign]  # the documented way to change the document
    refusals.install(server)
    server.add_middleware(Guard, settings=settings, keyring=auth.Keyring(app))
    return server


async def serve(
    app: App,
    listener: socket.socket,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] = lambda: None,
    log: "Log | None" = None,
    drawing: bool = False,
    grace_s: float = 0.0,
) -> None:
    """Answer what comes in at `listener` until `stop` is set; signals are the caller's affair.

    Then whoever waits for a picture that is done within `grace_s` still gets it.
    """
    server = make_server(app, settings=app.settings, drawing=drawing)
    server.state.streams.grace_s = grace_s
    asgi: Any = server
    if log is not None:
        from imagen.surfaces.logs import access

        asgi = access(server, log)
    options = uvicorn_options(app.settings)
    listening = _Server(
        uvicorn.Config(
            asgi,
            **{
                "loop": "asyncio",
                "lifespan": "on",
                "access_log": False,
                "log_config": None,
                "timeout_graceful_shutdown": round(grace_s + CLOSE_S),
                **options,
            },
        ),
        server.state.streams,
        ready,
    )
    stopping = asyncio.create_task(_stop(listening, stop))
    try:
        await listening.serve(sockets=[listener])
    finally:
        stopping.cancel()


class _Server(uvicorn.Server):
    """One that ends its streams when it stops: otherwise it would wait for watchers, who never go."""

    def __init__(self, config: uvicorn.Config, streams: Streams, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._streams = streams
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Telling a thousand watchers makes and drops ten thousand small things at once. With Python's own threshold
        # each step looked for garbage a dozen times, and every few seconds through all that was ever loaded: 200 ms.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._streams.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Whoever started us handles signals."""
        yield


async def _stop(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True
