"""One agent on standard input and output; what it submits is drawn in this process where no worker draws it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen.surfaces.mcp.edge import Edge

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

    from imagen.app import App


@asynccontextmanager
async def agent(app: "App", folders: Sequence[Path]) -> AsyncIterator["Server[Any]"]:
    """The server for one agent; while inside, this process draws what it submitted or asked after."""
    from imagen.surfaces.mcp.tools import make_server

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.working())
        adopted: set[str] = set()

        async def adopt(job_id: str) -> None:
            if job_id not in adopted:
                adopted.add(job_id)
                await stack.enter_async_context(app.working([job_id]))

        edge = Edge(
            app=app,
            owner="local",
            sees=None,
            queue_limit=app.settings.limits.queued,
            folders=tuple(folders),
            adopt=adopt,
        )
        yield make_server(lambda _context: edge, here=True)


async def converse(server: "Server[Any]") -> None:
    """Answer until the other side closes its end."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
