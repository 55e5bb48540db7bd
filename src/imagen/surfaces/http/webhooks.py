"""Webhooks over HTTP: the secret that signs them, and sending one again. The sending itself is the courier's."""

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from imagen.surfaces.http import shapes, webhook_shapes
from imagen.surfaces.http.context import ContextOf
from imagen.surfaces.http.parameters import exactly
from imagen.surfaces.http.refusals import problems
from imagen.surfaces.http.strict import StrictRoute
from imagen.surfaces.wire import job_json, series_json

router = APIRouter(route_class=StrictRoute, tags=["webhooks"])


@router.get(
    "/v1/webhooks/secret",
    summary="The secret of your webhooks",
    responses={
        200: {"model": webhook_shapes.WebhookSecret, "description": "for the receiver, and for nobody else"},
        **problems(),
    },
)
async def secret(context: ContextOf) -> Response:
    """Signs every message to a webhook that brought no secret of its own; each key has another one."""
    first, *_ = await context.app.outbox.secrets(context.caller.name)
    return JSONResponse({"secret": first}, headers={"cache-control": "no-store"})


@router.post(
    "/v1/jobs/{id}/webhook",
    status_code=202,
    summary="Send the webhook of a job again",
    responses={202: {"model": shapes.Job, "description": "it is tried anew"}, **problems(404, 409)},
)
async def tell_again(id: str, context: ContextOf) -> Response:
    """With the id it had, so that a receiver that has seen it knows. 409 when there is nothing to tell."""
    found = exactly(await context.app.job(id, owner=context.sees), id)
    return JSONResponse(job_json(await context.app.tell_again(found.id), reader="http"), 202)


@router.post(
    "/v1/series/{id}/webhook",
    status_code=202,
    summary="Send the webhook of a series again",
    responses={202: {"model": shapes.Series, "description": "it is tried anew"}, **problems(404, 409)},
)
async def tell_series_again(id: str, context: ContextOf) -> Response:
    """That of its last ending, with the id it had. 409 when there is nothing to tell."""
    found = exactly(await context.app.series(id, owner=context.sees), id)
    return JSONResponse(series_json(await context.app.tell_series_again(found.id), reader="http"), 202)
