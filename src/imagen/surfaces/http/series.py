"""Series over HTTP: every prompt with every model and every seed, followed and shown as one."""

import re
import secrets
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse

from imagen.core.errors import Conflict, NotConfigured, RequestError, UnknownSeries
from imagen.core.job import Cell, Series
from imagen.core.request import Draft
from imagen.surfaces.http import shapes, streams
from imagen.surfaces.http.context import Door, DoorOf
from imagen.surfaces.http.limits import check_draft, check_series
from imagen.surfaces.http.parameters import (
    DRAWN,
    EVENTS,
    PREVIEW_FORMS,
    PREVIEWS,
    After,
    Before,
    IdempotencyKey,
    LastEventId,
    Part,
    Shown,
    exactly,
    idempotent,
)
from imagen.surfaces.http.refusals import problems
from imagen.surfaces.http.series_stream import series_events
from imagen.surfaces.http.strict import StrictRoute
from imagen.surfaces.http.webhook_shapes import asked_webhook
from imagen.surfaces.wire import series_json

MAX_PAGE = 100
ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")

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
    once = await idempotent(request, idempotency_key)
    return await _submitted(asked, door, owner=door.caller.name, **once)


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
async def series(id: str, door: DoorOf, part: Part = None) -> Response:
    """With every cell and the job that fills it."""
    found = await door.app.series(id, owner=door.sees)
    return _answer(found if part else exactly(found, id))


@router.put(
    "/v1/series/{id}",
    tags=["series"],
    status_code=202,
    summary="Submit a series under an id",
    responses={
        202: {"model": shapes.Series, "description": "its jobs are queued", "headers": LOCATION},
        **problems(404, 409, 413, 415, 422),
    },
)
async def put(id: str, asked: shapes.NamedSeries, door: DoorOf) -> Response:
    """Sent again, it changes nothing; sent with further cells, it adds these. The id is a ULID of the sender's."""
    if not ULID.fullmatch(id):
        hint = "give a ULID: 26 characters of 0-9 and A-Z without I, L, O and U"
        raise RequestError(f"{id!r:.80} is no id for a series", hint=hint, param="id")
    owner = door.caller.name
    with suppress(UnknownSeries):
        found = await door.app.series(id)
        if found.id == id and door.sees not in (None, found.owner):
            raise Conflict(f"there is a series {id} already", hint="make a new id", param="id")
        owner = found.owner if found.id == id else owner
    cells = [Cell(**cell.model_dump()) for cell in asked.cells] if asked.cells is not None else None
    if len({cell.index for cell in cells or ()}) < len(cells or ()):
        raise RequestError("two cells have the same index", hint="number them", param="cells")
    return await _submitted(asked, door, owner=owner, series_id=id, cells=cells)


@router.post(
    "/v1/series/{id}/cancel",
    tags=["series"],
    summary="Cancel a series",
    responses={200: {"model": shapes.Series, "description": "the end of its jobs is asked for"}, **problems(404)},
)
async def cancel(id: str, door: DoorOf) -> Response:
    """Cells that ended stay as they are."""
    found = exactly(await door.app.series(id, owner=door.sees), id)
    return _answer(await door.app.cancel_series(found.id, by=door.caller.name))


@router.post(
    "/v1/series/{id}/retry",
    tags=["series"],
    status_code=202,
    summary="Draw what failed again",
    responses={202: {"model": shapes.Series, "description": "its new jobs are queued"}, **problems(404, 409, 422)},
)
async def retry(id: str, door: DoorOf) -> Response:
    """The failed and the cancelled cells; what is completed stays."""
    found = exactly(await door.app.series(id, owner=door.sees), id)
    return _answer(await door.app.retry_series(found.id, queue_limit=door.queue_limit), 202)


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
    old = exactly(await door.app.series(id, owner=door.sees), id)
    wanted = list(dict.fromkeys(asked.models))
    check_series(
        old.prompts, [*old.models, *(name for name in wanted if name not in old.models)], old.seeds, door.limits
    )
    return _answer(await door.app.add_models(old.id, wanted, queue_limit=door.queue_limit), 202)


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

    return streams.EventStream(
        door.streams,
        series_events(
            door.app,
            door.streams.frames,
            id,
            after=streams.last_seen(last_event_id, after),
            previews=PREVIEW_FORMS[previews],
            owner=door.sees,
        ),
    )


async def _submitted(asked: shapes.NewSeries, door: Door, **how: Any) -> Response:
    prompts = list(dict.fromkeys(asked.prompts or [asked.prompt or ""]))
    models = list(dict.fromkeys(asked.models or await door.app.usable_models()))
    seeds = list(dict.fromkeys(asked.seeds or [secrets.randbits(32) if asked.seed is None else asked.seed]))
    if not models:
        raise NotConfigured("no model is ready to draw", hint="GET /v1/models says what each one lacks", param="models")
    settings = {name: getattr(asked, name) for name in DRAWN if getattr(asked, name) is not None}
    check_series(prompts, models, seeds, door.limits)
    check_draft(Draft(prompt=prompts[0], model=models[0], **settings), door.limits, door.app.catalog)
    how |= {"webhook": asked_webhook(asked.webhook), "queue_limit": door.queue_limit}
    new = await door.app.submit_series(prompts, models, seeds, settings=settings, **how)
    return _answer(new, 202, {"location": f"/v1/series/{new.id}"})


def _answer(series: Series, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(series_json(series, reader="http"), status, headers)
