"""What a server is and what can be asked of it: its version, who asks, its limits, and its models."""

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from imagen.app import VERSION
from imagen.surfaces.http import about_shapes
from imagen.surfaces.http.context import ContextOf
from imagen.surfaces.http.openai.models import listed
from imagen.surfaces.http.refusals import problems
from imagen.surfaces.http.strict import StrictRoute
from imagen.surfaces.wire import model_json

LIMITS = tuple(about_shapes.AboutLimits.model_fields)

router = APIRouter(route_class=StrictRoute)


@router.get(
    "/v1/server",
    tags=["operations"],
    summary="What this server is",
    responses={
        200: {"model": about_shapes.About, "description": "its version, who asks, its limits, and how busy it is"},
        **problems(),
    },
)
async def about(context: ContextOf) -> Response:
    """For programs that work through it, such as `imagen --server`."""
    return JSONResponse(
        {
            "version": VERSION,
            "key": {"name": context.caller.name, "admin": context.caller.admin},
            "limits": {name: getattr(context.limits, name) for name in LIMITS},
            "queue": await context.app.waiting(),
        },
        headers={"cache-control": "no-store"},
    )


@router.get(
    "/v1/models",
    tags=["models"],
    summary="List the models",
    responses={200: {"model": about_shapes.ModelList, "description": "all of them"}, **problems()},
)
async def models(context: ContextOf) -> Response:
    """What each can do, and whether it is ready."""
    states = await context.app.model_states()
    told = [
        model_json(one.model, default=one.default, available=one.available, error=one.error, loaded=one.loaded)
        for one in states
    ]
    return JSONResponse({"models": told} | listed(states, context.settings.openai.aliases))
