"""The HTTP door in the process of the test: a real server on a free port, and a client that checks every answer."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from jsonschema import Draft202012Validator

from imagen.app import App
from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.surfaces.http import server
from tests import NOWHERE

SMALL: Mapping[str, Any] = {"prompt": "a red fox", "model": "mock", "width": 32, "height": 32}
PATIENCE_S = 60.0


@dataclass(kw_only=True)
class Served:
    """A server that runs, and its app."""

    app: App
    url: str
    home: Path
    stop: asyncio.Event
    clients: list[httpx2.AsyncClient] = field(default_factory=list)

    def client(self, key: str | None = None) -> httpx2.AsyncClient:
        """Somebody who asks; what was answered holds no path of this machine."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        client = httpx2.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=PATIENCE_S,
            trust_env=False,
            event_hooks={"response": [self._look]},
        )
        self.clients.append(client)
        return client

    async def _look(self, response: httpx2.Response) -> None:
        if response.headers.get("content-type") == "application/json":
            text = (await response.aread()).decode()
            assert str(self.home) not in text, "a path of the server"
            assert "Traceback" not in text


@asynccontextmanager
async def serving(
    home: Path, *, drawing: bool = True, environ: Mapping[str, str] | None = None, port: int = 0
) -> AsyncIterator[Served]:
    """A server in a home, with a worker unless `drawing` says no."""
    settings = load_settings(home=home, environ={"IMAGEN_COMFYUI_URL": NOWHERE} | dict(environ or {}))
    async with open_app(settings=settings) as app:
        listener = socket.create_server(("127.0.0.1", port))
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(server.serve(app, listener, stop=stop, ready=ready.set, drawing=drawing))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            running.result()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        served = Served(app=app, url=address, home=home, stop=stop)
        try:
            yield served
        finally:
            for client in served.clients:
                await client.aclose()
            stop.set()
            await running


async def submit(client: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A small job; its record."""
    answer = await client.post("/v1/jobs", json={**SMALL, "options": {"slow": 0}, **fields})
    assert answer.status_code == 202, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def drawn(client: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A small job that ended; its record."""
    body = {**SMALL, "options": {"slow": 0}, **fields}
    answer = await client.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def follow(
    client: httpx2.AsyncClient, address: str, *, last: str | None = None, until: str | None = None
) -> list[tuple[str, str, dict[str, Any]]]:
    """Each event of a stream as type, id and data; to its end, or to the first of type `until`."""
    told = []
    headers = {} if last is None else {"Last-Event-ID": last}
    async with client.sse(address, headers=headers) as source:
        async for one in source:
            told.append((one.event, one.id, json.loads(one.data)))
            if one.event == until:
                break
    return told


async def until(condition: Any) -> Any:
    """Wait for something that can only be looked at."""
    async with asyncio.timeout(PATIENCE_S):
        while not (value := await condition()):
            await asyncio.sleep(0.02)
    return value


class Contract:
    """What /openapi.json promises, held against answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def check(self, method: str, path: str, answer: httpx2.Response) -> None:
        """AssertionError when this answer is not one that the document tells of."""
        told = self.document["paths"][path][method]["responses"]
        assert str(answer.status_code) in told, f"{method} {path} answered {answer.status_code}, which is not told"
        content = told[str(answer.status_code)].get("content", {})
        kind = answer.headers.get("content-type", "").partition(";")[0]
        assert kind in content or not answer.content, f"{method} {path} sent {kind!r}, told are {sorted(content)}"
        if kind == "application/json":
            schema = content[kind]["schema"] | {"components": self.document["components"]}
            Draft202012Validator(schema).validate(answer.json())
