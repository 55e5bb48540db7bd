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
from imagen.surfaces.http.context import Context, ContextOf
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
    request: Request, asked: shapes.NewSeries, context: ContextOf, idempotency_key: IdempotencyKey = None
) -> Response:
    """Every prompt with every model and every seed; each model's jobs together, so that it is loaded once."""
    once = await idempotent(request, idempotency_key)
    return await _submitted(asked, context, owner=context.caller.name, **once)


@router.get(
    "/v1/series",
    tags=["series"],
    summary="List series, newest first",
    responses={200: {"model": shapes.SeriesPage, "description": "a page"}, **problems()},
)
async def series_list(
    context: ContextOf, before: Before = None, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20
) -> Response:
    """Without their cells; `next` of one page is `before` of the following one."""
    found = await context.app.series_list(limit + 1, before=before or None, owner=context.sees)
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
async def series(id: str, context: ContextOf, part: Part = None) -> Response:
    """With every cell and the job that fills it."""
    found = await context.app.series(id, owner=context.sees)
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
async def put(id: str, asked: shapes.NamedSeries, context: ContextOf) -> Response:
    """Sent again, it changes nothing; sent with further cells, it adds these. The id is a ULID of the sender's."""
    if not ULID.fullmatch(id):
        hint = "give a ULID: 26 characters of 0-9 and A-Z without I, L, O and U"
        raise RequestError(f"{id!r:.80} is no id for a series", hint=hint, param="id")
    owner = context.caller.name
    with suppress(UnknownSeries):
        found = await context.app.series(id)
        if found.id == id and context.sees not in (None, found.owner):
            raise Conflict(f"there is a series {id} already", hint="make a new id", param="id")
        owner = found.owner if found.id == id else owner
    cells = [Cell(**cell.model_dump()) for cell in asked.cells] if asked.cells is not None else None
    if len({cell.index for cell in cells or ()}) < len(cells or ()):
        raise RequestError("two cells have the same index", hint="number them", param="cells")
    return await _submitted(asked, context, owner=owner, series_id=id, cells=cells)


@router.post(
    "/v1/series/{id}/cancel",
    tags=["series"],
    summary="Cancel a series",
    responses={200: {"model": shapes.Series, "description": "the end of its jobs is asked for"}, **problems(404)},
)
async def cancel(id: str, context: ContextOf) -> Response:
    """Cells that ended stay as they are."""
    found = exactly(await context.app.series(id, owner=context.sees), id)
    return _answer(await context.app.cancel_series(found.id, by=context.caller.name))


@router.post(
    "/v1/series/{id}/retry",
    tags=["series"],
    status_code=202,
    summary="Draw what failed again",
    responses={202: {"model": shapes.Series, "description": "its new jobs are queued"}, **problems(404, 409, 422)},
)
async def retry(id: str, context: ContextOf) -> Response:
    """The failed and the cancelled cells; what is completed stays."""
    found = exactly(await context.app.series(id, owner=context.sees), id)
    return _answer(await context.app.retry_series(found.id, queue_limit=context.queue_limit), 202)


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
async def models(id: str, asked: shapes.MoreModels, context: ContextOf) -> Response:
    """A column for each model that is not there yet."""
    old = exactly(await context.app.series(id, owner=context.sees), id)
    wanted = list(dict.fromkeys(asked.models))
    check_series(
        old.prompts, [*old.models, *(name for name in wanted if name not in old.models)], old.seeds, context.limits
    )
    return _answer(await context.app.add_models(old.id, wanted, queue_limit=context.queue_limit), 202)


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
async def sheet(id: str, context: ContextOf) -> Response:
    """As it stands now: a cell that is not drawn yet says so."""
    data = await context.app.series_sheet(id, owner=context.sees)
    return Response(data, media_type="image/png", headers={"cache-control": "private, no-cache"})


@router.get(
    "/v1/series/{id}/sidecar.json",
    tags=["series"],
    summary="What is known of a series, as compare.json",
    responses={200: {"model": dict[str, Any], "description": "see docs/reference/sidecar.md"}, **problems(404)},
)
async def sidecar(id: str, context: ContextOf) -> Response:
    """Sizes, seeds, times and errors of every cell."""
    return JSONResponse(await context.app.series_sidecar(id, owner=context.sees))


@router.get(
    "/v1/series/{id}/events",
    tags=["events"],
    summary="Follow a series",
    response_class=Response,
    responses={**EVENTS, **problems(404)},
)
async def events(
    id: str,
    context: ContextOf,
    previews: Annotated[Shown, Query(description=PREVIEWS)] = "0",
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """The events of its jobs, and `series` with state and counts whenever these change; closes when it is over."""

    return streams.EventStream(
        context.streams,
        series_events(
            context.app,
            context.streams.frames,
            id,
            after=streams.last_seen(last_event_id, after),
            previews=PREVIEW_FORMS[previews],
            owner=context.sees,
        ),
    )


async def _submitted(asked: shapes.NewSeries, context: Context, **how: Any) -> Response:
    prompts = list(dict.fromkeys(asked.prompts or [asked.prompt or ""]))
    models = list(dict.fromkeys(asked.models or await context.app.usable_models()))
    seeds = list(dict.fromkeys(asked.seeds or [secrets.randbits(32) if asked.seed is None else asked.seed]))
    if not models:
        raise NotConfigured("no model is ready to draw", hint="GET /v1/models says what each one lacks", param="models")
    settings = {name: getattr(asked, name) for name in DRAWN if getattr(asked, name) is not None}
    check_series(prompts, models, seeds, context.limits)
    check_draft(Draft(prompt=prompts[0], model=models[0], **settings), context.limits, context.app.catalog)
    how |= {"webhook": asked_webhook(asked.webhook), "queue_limit": context.queue_limit}
    new = await context.app.submit_series(prompts, models, seeds, settings=settings, **how)
    return _answer(new, 202, {"location": f"/v1/series/{new.id}"})


def _answer(series: Series, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(series_json(series, reader="http"), status, headers)
