"""One agent on standard input and output; what it submits is drawn in this process where no worker draws it."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from imagen.core.job import LOCAL
from imagen.surfaces.mcp.edge import Edge

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

    from imagen.app import App
    from imagen.away.client import Away
    from imagen.config import Limits

HALVES = "a half of a character (a lone surrogate) is no text"


@asynccontextmanager
async def agent(app: "App", folders: Sequence[Path]) -> AsyncIterator["Server[Any]"]:
    """The server for one agent; while inside, this process draws what it submitted or asked after."""
    from imagen.surfaces.mcp.tools import make_server

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.working())
        mine: set[str] = set()

        async def adopt(job_id: str) -> None:
            if job_id not in mine:
                mine.add(job_id)
                await stack.enter_async_context(app.working([job_id]))

        async def served() -> set[str]:
            return {model for worker in await app.workers() if not worker["solo"] for model in worker["models"]}

        limits = app.settings.limits
        edge = Edge(
            app=app,
            owner=LOCAL,
            sees=None,
            queue_limit=limits.queued,
            limits=limits,
            folders=tuple(folders),
            cache=app.settings.cache_folder,
            adopt=adopt,
            served=served,
            mine=mine,
        )
        yield make_server(lambda _context: edge, here=True)


async def agent_away(away: "Away", folders: Sequence[Path], limits: "Limits") -> "Server[Any]":
    """The server for one agent whose pictures are drawn at another imagen; copies of them are put here."""
    from imagen.surfaces.mcp.tools import make_server

    told = (await away.about()).get("limits", {})
    edge = Edge(
        app=away,
        owner=LOCAL,
        sees=None,
        queue_limit=None,
        limits=replace(limits, **{name: told[name] for name in limits.__dataclass_fields__ if name in told}),
        base_url=away.url,
        folders=tuple(folders),
        keyed=away.keyed,
    )
    return make_server(lambda _context: edge, here=True)


async def converse(server: "Server[Any]") -> None:
    """Answer until the other side closes its end."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(_Heard(read, write), write, server.create_initialization_options())


class _Heard:
    """What was read; a request that cannot be understood is answered here.

    The library (2.3) drops such a line, for instance one with half of a character, and its client waits for ever.
    """

    def __init__(self, read: Any, write: Any) -> None:
        self._read = read
        self._write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read, name)

    async def __aenter__(self) -> "_Heard":
        await self._read.__aenter__()
        return self

    async def __aexit__(self, *gone: Any) -> bool | None:
        return cast("bool | None", await self._read.__aexit__(*gone))

    def __aiter__(self) -> "_Heard":
        return self

    async def __anext__(self) -> Any:
        while isinstance(item := await self._read.__anext__(), Exception):
            if (answer := _refusal(item)) is None:
                break
            await self._write.send(answer)
        return item


def _refusal(wrong: Exception) -> Any:
    """The answer to a line that is JSON, has an id and still cannot be read; None for any other."""
    import mcp_types as types
    from mcp.shared.message import SessionMessage
    from pydantic import ValidationError

    told = wrong.errors()[0] if isinstance(wrong, ValidationError) else None
    try:
        asked = json.loads(told["input"]) if told and isinstance(told["input"], str) else None
    except ValueError:
        return None
    if told is None or not isinstance(asked, dict) or type(asked.get("id")) not in (int, str) or "method" not in asked:
        return None
    error = types.ErrorData(code=types.INVALID_PARAMS, message=f"{told['msg']}; {HALVES}")
    return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=asked["id"], error=error))
