"""Series over HTTP: every prompt with every model and every seed, followed and shown as one."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse

from imagen.core.errors import NotConfigured
from imagen.core.events import Event
from imagen.core.job import Series
from imagen.surfaces.http import shapes, streams
from imagen.surfaces.http.context import DoorOf
from imagen.surfaces.http.limits import check_series
from imagen.surfaces.http.native import (
    DRAWN,
    EVENTS,
    PREVIEW_FORMS,
    PREVIEWS,
    After,
    Before,
    IdempotencyKey,
    LastEventId,
    Shown,
    idempotent,
)
from imagen.surfaces.http.refusals import problems
from imagen.surfaces.http.strict import StrictRoute
from imagen.surfaces.wire import series_json

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.engine.tide import WatchAll

MAX_PAGE = 100
LOOK_S = 5.0  # how soon a stream notices models that were added after it began
QUIET_S = 1.0  # a series that is over and says nothing for so long has said everything

router = APIRouter(route_class=StrictRoute)

LOCATION = {"Location": {"description": "where the series is", "schema": {"type": "string"}}}


@router.post(
    "/v1/series",
    tags=["series"],
    status_code=202,
    summary="Submit a series",
    responses={
        202: {"model": shapes.Series, "description": "its jobs are queued", "headers": LOCATION},
        **problems(404, 409, 413, 415, 422),
    },
)
async def submit(
    request: Request, asked: shapes.NewSeries, door: DoorOf, idempotency_key: IdempotencyKey = None
) -> Response:
    """Every prompt with every model and every seed; each model's jobs together, so that it is loaded once."""
    prompts = list(dict.fromkeys(asked.prompts or [asked.prompt or ""]))
    models = list(dict.fromkeys(asked.models or await door.app.usable_models()))
    seeds = list(dict.fromkeys(asked.seeds or [secrets.randbits(32) if asked.seed is None else asked.seed]))
    if not models:
        raise NotConfigured("no model is ready to draw", hint="GET /v1/models says what each one lacks", param="models")
    check_series(prompts, models, seeds, door.limits)
    new = await door.app.submit_series(
        prompts,
        models,
        seeds,
        settings={name: getattr(asked, name) for name in DRAWN if getattr(asked, name) is not None},
        owner=door.caller.name,
        queue_limit=door.queue_limit,
        **await idempotent(request, idempotency_key),
    )
    return _answer(new, 202, {"location": f"/v1/series/{new.id}"})


@router.get(
    "/v1/series",
    tags=["series"],
    summary="List series, newest first",
    responses={200: {"model": shapes.SeriesPage, "description": "a page"}, **problems()},
)
async def series_list(
    door: DoorOf, before: Before = None, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20
) -> Response:
    """Without their cells; `next` of one page is `before` of the following one."""
    found = await door.app.series_list(limit + 1, before=before or None, owner=door.sees)
    page = found[:limit]
    lines = [series_json(one, reader="http") for one in page]
    for line in lines:
        del line["cells"]
    return JSONResponse({"series": lines, "next": page[-1].id if len(found) > limit else None})


@router.get(
    "/v1/series/{id}",
    tags=["series"],
    summary="Look at a series",
    responses={200: {"model": shapes.Series, "description": "as it stands now"}, **problems(404)},
)
async def series(id: str, door: DoorOf) -> Response:
    """With every cell and the job that fills it."""
    return _answer(await door.app.series(id, owner=door.sees))


@router.post(
    "/v1/series/{id}/cancel",
    tags=["series"],
    summary="Cancel a series",
    responses={200: {"model": shapes.Series, "description": "the end of its jobs is asked for"}, **problems(404)},
)
async def cancel(id: str, door: DoorOf) -> Response:
    """Cells that ended stay as they are."""
    return _answer(await door.app.cancel_series(id, by=door.caller.name, owner=door.sees))


@router.post(
    "/v1/series/{id}/retry",
    tags=["series"],
    status_code=202,
    summary="Draw what failed again",
    responses={202: {"model": shapes.Series, "description": "its new jobs are queued"}, **problems(404, 409, 422)},
)
async def retry(id: str, door: DoorOf) -> Response:
    """The failed and the cancelled cells; what is completed stays."""
    return _answer(await door.app.retry_series(id, owner=door.sees), 202)


@router.post(
    "/v1/series/{id}/models",
    tags=["series"],
    status_code=202,
    summary="Add models to a series",
    responses={
        202: {"model": shapes.Series, "description": "the new cells are queued"},
        **problems(404, 409, 413, 415, 422),
    },
)
async def models(id: str, asked: shapes.MoreModels, door: DoorOf) -> Response:
    """A column for each model that is not there yet."""
    old = await door.app.series(id, owner=door.sees)
    wanted = list(dict.fromkeys(asked.models))
    check_series(
        old.prompts, [*old.models, *(name for name in wanted if name not in old.models)], old.seeds, door.limits
    )
    return _answer(await door.app.add_models(old.id, wanted, owner=door.sees), 202)


@router.get(
    "/v1/series/{id}/sheet.png",
    tags=["series"],
    summary="The contact sheet",
    response_class=Response,
    responses={
        200: {
            "description": "every picture on one page, with what is known of it",
            "content": {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}},
        },
        **problems(404),
    },
)
async def sheet(id: str, door: DoorOf) -> Response:
    """As it stands now: a cell that is not drawn yet says so."""
    data = await door.app.series_sheet(id, owner=door.sees)
    return Response(data, media_type="image/png", headers={"cache-control": "private, no-cache"})


@router.get(
    "/v1/series/{id}/sidecar.json",
    tags=["series"],
    summary="What is known of a series, as compare.json",
    responses={200: {"model": dict[str, Any], "description": "see docs/reference/sidecar.md"}, **problems(404)},
)
async def sidecar(id: str, door: DoorOf) -> Response:
    """Sizes, seeds, times and errors of every cell."""
    return JSONResponse(await door.app.series_sidecar(id, owner=door.sees))


@router.get(
    "/v1/series/{id}/events",
    tags=["events"],
    summary="Follow a series",
    response_class=Response,
    responses={**EVENTS, **problems(404)},
)
async def events(
    id: str,
    door: DoorOf,
    previews: Annotated[Shown, Query(description=PREVIEWS)] = "0",
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """The events of its jobs, and `series` with state and counts whenever these change; closes when it is over."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[streams.Source]:
        # Refused here, before the stream begins, when there is no such series.
        first = await door.app.series(id, owner=door.sees)
        seen = streams.last_seen(last_event_id, after)
        async with AsyncExitStack() as stack:
            source = _OfSeries(door.app, door.streams.frames, first, seen, PREVIEW_FORMS[previews], stack)
            yield source

    return streams.EventStream(door.streams, opened)


class _OfSeries:
    """The jobs of a series as one source; which jobs these are may change while it is told."""

    def __init__(
        self,
        app: "App",
        frames: streams.Frames,
        series: Series,
        after: int | None,
        previews: streams.Previews,
        stack: AsyncExitStack,
    ) -> None:
        self.ended = False
        self._app = app
        self._frames = frames
        self._series = series
        self._rejoined = after is not None
        self._cursor = self._safe = after or 0
        self._previews = previews
        self._stack = stack
        self._watch: WatchAll | None = None
        self._jobs: frozenset[str] = frozenset()
        self._seqs: dict[str, int] = {}  # the last durable event told of each job
        self._done: set[str] = set()  # jobs whose end was told
        self._said: tuple[str, dict[str, int]] | None = None

    async def next(self, timeout_s: float) -> bytes:
        """Events, then what they came to."""
        over = self._series.state != "running"
        watch = await self._watched()
        news = await watch.next(QUIET_S if over else min(timeout_s, LOOK_S))
        told = [self._told(cursor, event) for cursor, event in news if self._is_new(event)]
        if not news or any(event.durable for _, event in news):
            # What happened is told from the events, how it stands from the record.
            self._series = await self._app.series(self._series.id)
            if _jobs(self._series) == self._jobs:
                self._safe = self._cursor
                over = over and self._series.state != "running"
                self.ended = self._series.state != "running" and (self._jobs <= self._done or (over and not news))
            if self._to_say(bool(told)):
                told.append(self._state())
        return b"".join(told)

    async def _watched(self) -> "WatchAll":
        jobs = _jobs(self._series)
        if self._watch is None or jobs != self._jobs:
            # From where the old jobs were all there were; what is told twice from there on is left out.
            await self._stack.aclose()
            self._jobs = jobs
            self._watch = await self._stack.enter_async_context(
                self._app.watching_all(jobs=sorted(jobs), after=self._safe, previews=self._previews != "none")
            )
        return self._watch

    def _is_new(self, event: Event) -> bool:
        if not event.durable:
            return True
        new = event.seq > self._seqs.get(event.job, 0)
        self._seqs[event.job] = max(event.seq, self._seqs.get(event.job, 0))
        if event.terminal:
            self._done.add(event.job)
        return new

    def _told(self, cursor: int, event: Event) -> bytes:
        self._cursor = max(self._cursor, cursor)
        return b"id: %d\n%b" % (cursor, self._frames.of(event, self._previews))

    def _to_say(self, told: bool) -> bool:
        now = (self._series.state, self._series.counts)
        if now == self._said or (self._series.state != "running" and not self.ended):
            return False  # that it is over is said last
        if self.ended and not told and self._said is None and self._rejoined:
            return False  # it was over before this client came back: there is nothing to say
        self._said = now
        return True

    def _state(self) -> bytes:
        shape = {
            "type": "series",
            "series": self._series.id,
            "state": self._series.state,
            "counts": self._series.counts,
        }
        return b"id: %d\n%b" % (self._cursor, streams.framed("series", shape))


def _jobs(series: Series) -> frozenset[str]:
    return frozenset(cell.job.id for cell in series.cells if cell.job)


def _answer(series: Series, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(series_json(series, reader="http"), status, headers)
