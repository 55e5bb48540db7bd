"""Jobs over HTTP: submit, look, cancel, retry, delete, follow."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.responses import JSONResponse

from imagen.core.errors import Forbidden, UnknownImage
from imagen.core.job import Job
from imagen.core.request import Draft, PreviewPolicy
from imagen.surfaces.http import shapes, streams
from imagen.surfaces.http.context import Context, ContextOf
from imagen.surfaces.http.limits import check_draft
from imagen.surfaces.http.parameters import (
    DRAWN,
    EVENTS,
    PREVIEW_FORMS,
    PREVIEWS,
    WORDS,
    After,
    Before,
    IdempotencyKey,
    LastEventId,
    Part,
    Shown,
    exactly,
    idempotent,
    is_named,
)
from imagen.surfaces.http.refusals import problems
from imagen.surfaces.http.strict import StrictRoute
from imagen.surfaces.http.webhook_shapes import asked_webhook
from imagen.surfaces.wire import job_json

MAX_PAGE = 500
LOOK_S = 1.0  # how soon a request that waits notices that its client left

router = APIRouter(route_class=StrictRoute)

State = Literal["queued", "running", "completed", "failed", "cancelled"]
Prefer = Annotated[str | None, Header(description="`wait=N` waits up to N seconds (at most 60) for the end")]

LOCATION = {"Location": {"description": "where the job is", "schema": {"type": "string"}}}
APPLIED = {"Preference-Applied": {"description": "the wait that was granted", "schema": {"type": "string"}}}


@router.post(
    "/v1/jobs",
    tags=["jobs"],
    status_code=202,
    summary="Submit a job",
    responses={
        200: {
            "model": shapes.Job,
            "description": "it ended within the wait, well or not",
            "headers": LOCATION | APPLIED,
        },
        202: {"model": shapes.Job, "description": "it is queued or running", "headers": LOCATION | APPLIED},
        **problems(404, 409, 413, 415, 422),
    },
)
async def submit(
    request: Request,
    asked: shapes.NewJob,
    context: ContextOf,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """It is safe on disk when this answers, and is drawn even if the client leaves."""
    if asked.priority > 0 and not context.caller.admin:
        raise Forbidden("a priority above 0 is for admin keys", hint="leave it out", param="priority")
    draft = draft_of(asked)
    check_draft(draft, context.limits, context.app.catalog)
    job = await context.app.submit(
        draft,
        owner=context.caller.name,
        queue_limit=context.queue_limit,
        **await idempotent(request, idempotency_key),
    )
    headers = {"location": f"/v1/jobs/{job.id}"}
    wait_s = _wait(prefer, context.limits.wait_s)
    if wait_s is not None:
        headers["preference-applied"] = f"wait={wait_s:g}"
        job = await _ended(request, context, job, wait_s)
    status = 200 if wait_s is not None and job.state.terminal else 202
    return JSONResponse(job_json(job, reader="http"), status, headers)


@router.get(
    "/v1/jobs",
    tags=["jobs"],
    summary="List jobs, newest first",
    responses={200: {"model": shapes.JobPage, "description": "a page"}, **problems()},
)
async def jobs(
    context: ContextOf,
    state: Annotated[State | None, Query(description="only those in this state")] = None,
    model: Annotated[str | None, Query(description="only those of this model", json_schema_extra=WORDS)] = None,
    series: Annotated[str | None, Query(description="only those of this series", json_schema_extra=WORDS)] = None,
    q: Annotated[str | None, Query(description="only those whose prompt holds this", json_schema_extra=WORDS)] = None,
    before: Before = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> Response:
    """`next` of one page is `before` of the following one."""
    # One more than asked for tells whether there is a further page.
    found = await context.app.jobs(
        state=state,
        model=model or None,
        series=series or None,
        q=q or None,
        before=before or None,
        limit=limit + 1,
        owner=context.sees,
    )
    page = found[:limit]
    more = page[-1].id if len(found) > limit else None
    return JSONResponse({"jobs": [job_json(job, reader="http") for job in page], "next": more})


@router.get(
    "/v1/jobs/{id}",
    tags=["jobs"],
    summary="Look at a job",
    responses={200: {"model": shapes.Job, "description": "as it stands now"}, **problems(404)},
)
async def job(id: str, context: ContextOf, part: Part = None) -> Response:
    """As it stands now."""
    found = await context.app.job(id, owner=context.sees)
    return JSONResponse(job_json(found if part else exactly(found, id), reader="http"))


@router.delete(
    "/v1/jobs/{id}",
    tags=["jobs"],
    summary="Delete the pictures of a job",
    responses={200: {"model": shapes.Job, "description": "its pictures are gone"}, **problems(404, 409)},
)
async def delete(id: str, context: ContextOf) -> Response:
    """What was asked stays in the history. One that has not ended must be cancelled first."""
    found = exactly(await context.app.job(id, owner=context.sees), id)
    await context.app.delete_job(found.id)
    return JSONResponse(job_json(await context.app.job(found.id), reader="http"))


@router.post(
    "/v1/jobs/{id}/cancel",
    tags=["jobs"],
    summary="Cancel a job",
    responses={200: {"model": shapes.Job, "description": "its end is asked for"}, **problems(404)},
)
async def cancel(id: str, context: ContextOf) -> Response:
    """One that ended stays as it is, and that is no error."""
    found = exactly(await context.app.job(id, owner=context.sees), id)
    return JSONResponse(job_json(await context.app.cancel(found.id, by=context.caller.name), reader="http"))


@router.post(
    "/v1/jobs/{id}/retry",
    tags=["jobs"],
    status_code=202,
    summary="Draw a job again",
    responses={
        202: {"model": shapes.Job, "description": "the new job", "headers": LOCATION},
        **problems(404, 409, 422),
    },
)
async def retry(id: str, context: ContextOf) -> Response:
    """A new job with the same complete request; in a series it takes over the cell."""
    old = exactly(await context.app.job(id, owner=context.sees), id)
    new = await context.app.retry(old.id, queue_limit=context.queue_limit)
    return JSONResponse(job_json(new, reader="http"), 202, {"location": f"/v1/jobs/{new.id}"})


@router.get("/v1/jobs/{id}/events", tags=["events"], summary="Follow a job", responses={**EVENTS, **problems(404)})
async def job_events(
    id: str,
    context: ContextOf,
    previews: Annotated[
        Shown | None, Query(description=f"{PREVIEWS}; absent: 1 if the job's request asked for them, else 0")
    ] = None,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Everything so far, then what happens as it happens; closes after the end."""
    return streams.EventStream(
        context.streams,
        streams.job_events(
            context.app,
            context.streams.frames,
            id,
            after=streams.last_seen(last_event_id, after) or 0,
            previews=PREVIEW_FORMS[previews] if previews else None,
            owner=context.sees,
        ),
    )


@router.get("/v1/events", tags=["events"], summary="Follow all jobs", responses={200: EVENTS[200], **problems()})
async def all_events(
    context: ContextOf,
    jobs: Annotated[str, Query(description="only these: ids with commas between", json_schema_extra=WORDS)] = "",
    previews: Annotated[Shown, Query(description=PREVIEWS)] = "0",
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """One connection for everything. Begins with what is live now, or after `Last-Event-ID`."""
    named = [name for name in jobs.split(",") if name] if jobs else None
    seen = streams.last_seen(last_event_id, after)
    if seen is None and (last_event_id or after):
        seen = 0 if named else None  # unreadable: everything of these jobs again, but never a whole history
    return streams.EventStream(
        context.streams,
        streams.all_events(
            context.app,
            context.streams.frames,
            after=seen,
            jobs=named,
            previews=PREVIEW_FORMS[previews],
            owner=context.sees,
        ),
    )


@router.get(
    "/v1/jobs/{id}/preview",
    tags=["jobs"],
    summary="The picture as it forms",
    response_class=Response,
    responses={
        200: {
            "description": "the latest preview",
            "content": {
                mime: {"schema": {"type": "string", "contentMediaType": mime}} for mime in ("image/jpeg", "image/webp")
            },
            "headers": {"ETag": {"description": "differs from preview to preview", "schema": {"type": "string"}}},
        },
        304: {"description": "still the one that If-None-Match names"},
        **problems(404),
    },
)
async def preview(id: str, context: ContextOf, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """404 while there is none and after the end."""
    shown = await context.app.preview(id, owner=context.sees)
    if shown is None:
        raise UnknownImage(
            f"job {id} shows no preview now",
            hint="there is one while it is drawn, if its request or somebody who follows asked for previews",
            param="id",
        )
    tag = f'"{shown.attempt}-{shown.tick}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if is_named(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(shown.data, media_type=shown.mime, headers=headers)


def draft_of(asked: shapes.NewJob) -> Draft:
    """The draft that a body says."""
    fields = {name: getattr(asked, name) for name in ("prompt", "model", "seed", "n", "priority", *DRAWN)}
    wish = asked.preview
    match wish:
        case None:
            policy = None
        case bool():
            policy = PreviewPolicy() if wish else PreviewPolicy(method="off")
        case _:
            policy = PreviewPolicy(**wish.model_dump())
    return Draft(**fields | {"options": asked.options or {}}, preview=policy, webhook=asked_webhook(asked.webhook))


async def _ended(request: Request, context: Context, job: Job, wait_s: float) -> Job:
    import asyncio

    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    async with context.app.watching(job.id) as watch:
        while not watch.ended and not context.streams.stopping.is_set():
            left = until - loop.time()
            if left <= 0 or await request.is_disconnected():
                break
            await watch.next(min(left, LOOK_S))
    return await context.app.job(job.id)


def _wait(prefer: str | None, limit_s: float) -> float | None:
    """Preferences that cannot be read are ignored, as their RFC wants it."""
    found = re.search(r'(?:^|[,;\s])wait\s*=\s*"?([0-9]{1,6})"?\s*(?:$|[,;\s])', prefer or "", re.IGNORECASE)
    return min(float(found[1]), limit_s) if found else None
