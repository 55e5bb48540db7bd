"""`imagen serve`: the HTTP door, and a worker beside it."""

import asyncio
import errno
import os
import socket
from contextlib import AsyncExitStack

import click

from imagen.core.errors import SetupError
from imagen.surfaces.cli import daemon
from imagen.surfaces.cli.daemon_log import telling

BACKLOG = 2048  # a thousand watchers may come back at once after a restart


@click.command()
@click.option("--host", metavar="H", help="Address to listen on; other machines need keys.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="0 takes a free one.  [default: 8450]")
@click.option("--no-worker", is_flag=True, help="Draw nothing here; `imagen worker` draws elsewhere.")
@daemon.grace_option
def serve(host: str | None, port: int | None, no_worker: bool, grace_s: float) -> None:
    """Serve the HTTP API, and draw what is submitted to it.

    SIGTERM or Ctrl-C stops it politely: what is not finished in time goes back to the queue.
    """

    async def serving(leaving: daemon.Leaving) -> None:
        from imagen.app import open as open_app
        from imagen.config import load_settings
        from imagen.reading import some
        from imagen.surfaces import logs
        from imagen.surfaces.http import auth, guard, server
        from imagen.surfaces.webhooks.courier import delivering

        said = {"host": host, "port": port}
        settings = load_settings(flags={"server": {name: value for name, value in said.items() if value is not None}})
        log = logs.begin()
        async with open_app(settings=settings) as app, AsyncExitStack() as stack:
            app.log = logs.lines(log)
            await auth.may_listen(app, settings.server.host)
            guard.make_room(settings)
            listener = stack.enter_context(listening(settings.server.host, settings.server.port))
            # Without a worker there is still somebody who sweeps, and whom the doctor sees when he is too old.
            drawing = await stack.enter_async_context(app.drawing(models=[] if no_worker else None))

            def ready() -> None:
                enabled = [model.name for model in app.catalog.models.values() if model.enabled]
                names = some(enabled, daemon.SHOWN) or "none"
                drawn = "draws nothing itself, `imagen worker` does; " if no_worker else ""
                url = url_of(listener)
                logs.announce(
                    log,
                    f"imagen: serving on {url} (models: {names}; {drawn}stop with Ctrl-C)",
                    url=url,
                )

            async def leave() -> None:
                await leaving.asked.wait()
                log.info("stopping")
                await leaving.let_finish(drawing, log)

            async with telling(app, log, drawing), delivering(app, log=log):
                left = asyncio.create_task(leave())
                try:
                    await server.serve(app, listener, stop=leaving.asked, ready=ready, log=log, grace_s=grace_s)
                    await left
                finally:
                    left.cancel()

    daemon.run(serving, grace_s=grace_s)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; what is in the way is said in words."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        # Connections have it from their listener: without it a small answer may wait 40 ms for the client's system.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as exc:
        # In its own words for an address: those of the library for a port name the address once more.
        why = exc.strerror if isinstance(exc, socket.gaierror) else os.strerror(exc.errno or 0)
        raise SetupError(f"cannot listen on {host} port {port}: {why}", hint=_HINTS.get(exc.errno or 0, _HINT)) from exc


def url_of(listener: socket.socket) -> str:
    """Where a client finds it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


_HINT = "give an address of this machine with --host, 127.0.0.1 for yourself alone"
_HINTS = {
    errno.EADDRINUSE: "another program is there, perhaps an `imagen serve`: stop it, or take a free port with --port 0",
    errno.EACCES: "ports below 1024 are for root; take a higher one with --port",
}
