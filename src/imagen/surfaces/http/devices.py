"""Devices over HTTP: what there is, and pausing one to have it for something else."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse

from imagen.core.errors import Forbidden
from imagen.surfaces.http.context import Context, ContextOf
from imagen.surfaces.http.refusals import problems
from imagen.surfaces.http.shapes import NO_NUL, Asked, Said
from imagen.surfaces.http.strict import StrictRoute
from imagen.surfaces.wire import device_json

router = APIRouter(route_class=StrictRoute, tags=["devices"])

# `path`: whoever names devices may put a slash into the name.
Name = Annotated[str, Path(description="as GET /v1/devices says it", pattern=NO_NUL, max_length=1000)]


class NewPause(Asked):
    """Why, and how soon."""

    reason: Annotated[str, Field(max_length=500, pattern=NO_NUL)] = Field(
        "", description="told to whoever waits for the device"
    )
    now: bool = Field(False, description="give back what runs there, instead of letting it end")

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "a training run", "now": False}]})


UNSAID = NewPause(reason="", now=False)


class Paused(Said):
    """Why nothing is begun on a device."""

    reason: str
    by: str
    since: str
    until: str | None = Field(description="when it ends by itself; null: when somebody resumes it")


class Device(Said):
    """What draws one thing at a time, or a few."""

    name: str
    slots: int = Field(description="how many jobs it draws at once; 0: it drew nothing yet")
    taken: int
    vram_mib: int | None = Field(description="what models may hold of it together, where they share it")
    vram_taken_mib: int | None = Field(description="what the jobs that run there hold of it")
    paused: Paused | None
    models: list[str] = Field(description="what live workers draw there")
    workers: list[str]
    troubled: str | None = Field(
        description="why live workers begin nothing there, such as a store that takes no pictures"
    )
    lacks: dict[str, str] = Field(description="model: why no live worker can draw it there now; its jobs wait")


class DeviceList(Said):
    """All devices, by name."""

    devices: list[Device]


@router.get(
    "/v1/devices",
    summary="List the devices",
    responses={200: {"model": DeviceList, "description": "all of them"}, **problems()},
)
async def devices(context: ContextOf) -> Response:
    """What each draws, how much of it is taken, and whether it is paused."""
    return JSONResponse({"devices": [device_json(device, reader="http") for device in await context.app.devices.all()]})


@router.post(
    "/v1/devices/{name:path}/pause",
    summary="Pause a device",
    responses={200: {"model": Device, "description": "it is paused"}, **problems(404, 413, 415, 422)},
)
async def pause(name: Name, context: ContextOf, asked: NewPause = UNSAID) -> Response:
    """Nothing is begun there until it is resumed, whatever stops and starts meanwhile. For admin keys."""
    _for_admins(context)
    by = context.caller.name
    (device,) = await context.app.devices.pause([name], by=by, reason=asked.reason, now=asked.now)
    return JSONResponse(device_json(device, reader="http"))


@router.post(
    "/v1/devices/{name:path}/resume",
    summary="Resume a device",
    responses={200: {"model": Device, "description": "jobs begin there again"}, **problems(404)},
)
async def resume(name: Name, context: ContextOf) -> Response:
    """Changes nothing when it was not paused. For admin keys."""
    _for_admins(context)
    (device,) = await context.app.devices.resume([name])
    return JSONResponse(device_json(device, reader="http"))


def _for_admins(context: Context) -> None:
    if not context.caller.admin:
        raise Forbidden(
            "only an admin's key may pause or resume a device",
            hint="the owner of this server makes one: `imagen keys add NAME --admin`",
        )
