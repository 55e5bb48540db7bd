"""An agent with the official client library of the protocol, on standard input and output or over HTTP."""

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests import NOWHERE
from tests.service_kit import PROGRAM
from tests.serving_kit import Served, serving

# As a process that draws, as one that has a server draw, and over HTTP, at last as clients of the year before do it.
WAYS = ("stdio", "stdio-away", "http", "http-2025")
KILOBYTES = 100_000  # what clients take as an answer without cutting it
FAST: dict[str, Any] = {"options": {"slow": 0}, "width": 64, "height": 64}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a tool answered."""

    data: Any
    pictures: list[bytes]
    error: Any
    notes: list[tuple[float, float | None, str | None]]
    size: int  # of the whole answer, as text


class Agent:
    """Somebody who calls tools. The client itself holds each answer against the schema that was promised."""

    def __init__(self, client: Client, served: Served | None = None) -> None:
        self.client = client
        self.served = served
        self.notes: list[tuple[float, float | None, str | None]] = []

    async def __call__(self, verb: str, *, patience_s: float | None = None, **arguments: Any) -> Told:
        self.notes = []
        answer = await self.client.call_tool(
            verb, arguments, read_timeout_seconds=patience_s, progress_callback=self._note
        )
        texts = [one.text for one in answer.content if isinstance(one, types.TextContent)]
        pictures = [one for one in answer.content if isinstance(one, types.ImageContent)]
        assert all(one.mime_type == "image/jpeg" for one in pictures)
        assert len(texts) == 1, "one text for clients that read no structured content"
        if not answer.is_error:
            assert json.loads(texts[0]) == answer.structured_content
        return Told(
            data=answer.structured_content,
            pictures=[base64.b64decode(one.data) for one in pictures],
            error=json.loads(texts[0])["error"] if answer.is_error else None,
            notes=self.notes,
            size=len(answer.model_dump_json()),
        )

    async def _note(self, progress: float, total: float | None, message: str | None) -> None:
        self.notes.append((progress, total, message))


@asynccontextmanager
async def agent(way: str, folder: Path, **options: Any) -> AsyncIterator[Agent]:
    """An agent in a home of its own; over HTTP with a server in this process."""
    if way == "stdio":
        async with on_stdio(folder, **options) as one:
            yield one
        return
    async with serving(folder / "home", environ={"IMAGEN_DEFAULT_MODEL": "mock"}) as served:
        if way == "stdio-away":
            own = {"IMAGEN_SERVER": served.url, "IMAGEN_HOME": str(folder / "own")}
            async with on_stdio(folder, environ=own, **options) as one:
                one.served = served
                yield one
            return
        async with over_http(served, way=way, **options) as one:
            yield one


@asynccontextmanager
async def on_stdio(folder: Path, *arguments: str, environ: dict[str, str] | None = None) -> AsyncIterator[Agent]:
    """`imagen mcp`, started by its client as a person's settings say."""
    (folder / "here").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEN_")}
    own = {"IMAGEN_HOME": str(folder / "home"), "IMAGEN_COMFYUI_URL": NOWHERE, "IMAGEN_DEFAULT_MODEL": "mock"}
    program = StdioServerParameters(
        command=str(PROGRAM), args=["mcp", *arguments], env=kept | own | (environ or {}), cwd=folder / "here"
    )
    async with started(program) as one:
        yield one


@asynccontextmanager
async def started(program: StdioServerParameters) -> AsyncIterator[Agent]:
    """A program that speaks on standard input and output."""
    async with Client(stdio_client(program)) as client:
        yield Agent(client)


@asynccontextmanager
async def over_http(served: Served, *, way: str = "http", key: str | None = None) -> AsyncIterator[Agent]:
    """`/mcp` of a server."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        mode = "legacy" if way == "http-2025" else "auto"
        transport = streamable_http_client(f"{served.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield Agent(client, served)
