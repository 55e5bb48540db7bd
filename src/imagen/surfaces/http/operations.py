"""For whoever runs the server: is it alive, does it accept jobs, and how is it doing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from imagen.core.errors import DatabaseAway, Forbidden, ImagenError, StorageAway
from imagen.surfaces.http.auth import Caller, caller
from imagen.surfaces.http.metrics import Tally
from imagen.surfaces.http.refusals import problems

if TYPE_CHECKING:
    from imagen.app import App

FRESH_S = 1.0  # how long an answer of /readyz holds
TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "see docs/howto/run-it-as-a-service.md",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
PROMPT_S = 3.0  # whoever asks for it rarely waits longer; the database itself is patient

Pictures = Annotated[
    bool,
    Query(
        description="`no`: leave out the store of pictures, and only say whether jobs are accepted. For who decides "
        "which servers are asked: while a store that they share is away, all of them accept jobs, which wait"
    ),
]


def router(app: "App", open_streams: Callable[[], int] = lambda: 0, *, prompt_s: float = PROMPT_S) -> APIRouter:
    """GET /healthz, /readyz and /metrics. `prompt_s`: what takes longer to answer is said to be away."""
    routes = APIRouter(tags=["operations"])
    tally = Tally(app, open_streams)

    async def accepts() -> int:
        await app.check_store()
        return len(await app.devices.paused())

    async def keeps() -> int:
        await app.ready()
        return 0

    late, hint = f"does not answer within {prompt_s:g} s", "see `imagen doctor` on that machine"
    database = _Look(accepts, lambda: DatabaseAway(f"the database {late}", hint=hint, retry_after_s=5.0))
    store = _Look(keeps, lambda: StorageAway(f"the image store {late}", hint=hint, retry_after_s=5.0))

    # Checkers of uptime ask with HEAD; the server leaves the body out.
    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz", summary="Whether this process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", summary="Whether jobs are accepted and pictures stored", responses=problems(503))
    async def readyz(pictures: Pictures = True) -> dict[str, str]:
        paused, *_ = await _found(database, *([store] if pictures else []), within_s=prompt_s)
        # How many, and not which: nobody is asked for a key here.
        return {"status": "ready"} | ({"paused": f"{paused} of the devices"} if paused else {})

    @routes.get("/metrics", summary="Numbers for Prometheus", response_class=Response, responses=TEXT | problems(401))
    async def metrics(who: Annotated[Caller, Depends(caller)]) -> Response:
        if not who.admin:
            raise Forbidden("these are the numbers of everybody's jobs", hint="use the key of an admin")
        try:
            await _found(database, store, within_s=prompt_s)
            ready = True
        except DatabaseAway:
            return tally.without_database()
        except ImagenError:
            ready = False
        try:
            async with asyncio.timeout(prompt_s):  # it may have gone since that look
                return await tally.answer(ready=ready)
        except (TimeoutError, DatabaseAway):
            return tally.without_database()

    return routes


class _Look:
    """Looks once a second at most, and never twice at once: it asks the database or writes a file, for anybody."""

    def __init__(self, look: Callable[[], Awaitable[int]], late: Callable[[], ImagenError]) -> None:
        self.late = late
        self._look = look
        self._looking: asyncio.Task[ImagenError | int] | None = None
        self._looked_at = float("-inf")

    def begun(self) -> "asyncio.Task[ImagenError | int]":
        """The look that is under way or still fresh, else a new one."""
        now = time.monotonic()
        if self._looking is None or (self._looking.done() and now - self._looked_at > FRESH_S):
            self._looking, self._looked_at = asyncio.create_task(self._wrong()), now
        return self._looking

    async def _wrong(self) -> ImagenError | int:
        try:
            return await self._look()
        except ImagenError as error:
            return error


async def _found(*looks: _Look, within_s: float) -> list[int]:
    """What each of these found; raises what the first of them has to say against it, or that it is late."""
    begun = [look.begun() for look in looks]
    await asyncio.wait(begun, timeout=within_s)
    told = []
    for look, looking in zip(looks, begun, strict=True):
        found = looking.result() if looking.done() else look.late()
        if isinstance(found, ImagenError):
            raise found
        told.append(found)
    return told
