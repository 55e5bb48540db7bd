"""What a server says of itself while something that it needs is away: at once, and of the right one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from imagen.core.errors import DatabaseAway
from imagen.surfaces.http import operations, refusals
from imagen.surfaces.http.auth import LOCAL, SCOPE

SOON_S = 0.05


@dataclass
class Hanging:
    """An app of which some parts never answer."""

    silent: set[str] = field(default_factory=set)

    async def _asked(self, part: str) -> None:
        if part in self.silent:
            await asyncio.Event().wait()

    async def check_store(self) -> str:
        await self._asked("database")
        return "there"

    async def ready(self) -> None:
        await self.check_store()
        await self._asked("store")

    async def happened(self, _after: int | None) -> NoReturn:
        await self._asked("counts")
        raise DatabaseAway("the database is gone", hint="see whether it runs")

    @property
    def devices(self) -> "Hanging":
        return self

    async def paused(self) -> dict[str, Any]:
        await self._asked("database")
        return {}

    @property
    def catalog(self) -> Any:
        raise AssertionError("nothing is counted before the database told where to begin")


@asynccontextmanager
async def asked(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    server = FastAPI()
    server.include_router(operations.router(app, prompt_s=SOON_S))
    refusals.install(server)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=_as_owner(server)), base_url="http://x") as client:
        yield client


def _as_owner(inner: ASGIApp) -> ASGIApp:
    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        await inner({**scope, SCOPE: LOCAL}, receive, send)

    return guarded


@pytest.mark.parametrize(
    ("silent", "path", "code", "words"),
    [
        ("database", "/readyz", "database_away", "the database does not answer within"),
        ("database", "/readyz?pictures=no", "database_away", "the database does not answer within"),
        ("store", "/readyz", "storage_away", "the image store does not answer within"),
    ],
)
async def test_what_does_not_answer_in_time_is_named(silent: str, path: str, code: str, words: str) -> None:
    """The one that is late, and that it may be there again later."""
    async with asked(Hanging({silent})) as client:
        answer = await client.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["retryable"]) == (503, code, True)
    assert words in error["message"]
    assert "retry-after" in answer.headers


async def test_jobs_are_accepted_while_only_the_store_is_silent() -> None:
    """Whoever decides which servers are asked does not look at it."""
    async with asked(Hanging({"store"})) as client:
        assert (await client.get("/readyz?pictures=no")).status_code == 200


@pytest.mark.parametrize("silent", [{"database", "counts"}, {"counts"}, set()], ids=["away", "gone since", "refuses"])
async def test_the_numbers_say_that_it_is_not_ready_while_the_database_is_away(silent: set[str]) -> None:
    """Soon, and nothing else: a queue that cannot be looked at is not empty."""
    async with asked(Hanging(silent)) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert [line for line in answer.text.splitlines() if not line.startswith("#")] == ["imagen_ready 0.0"]
