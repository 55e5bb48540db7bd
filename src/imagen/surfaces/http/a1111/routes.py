"""The door for programs made for the A1111 API: at the root, where they look for it, under /sdapi/v1.

It never changes what it promised, and takes more than it promises: fields it does not know are ignored.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, RedirectResponse

from imagen.core.errors import ImagenError, UnknownModel, Unsupported
from imagen.core.events import Preview
from imagen.core.job import Job
from imagen.core.model import Model
from imagen.models.catalog import Catalog
from imagen.reading import maybe
from imagen.surfaces.http.a1111 import lists
from imagen.surfaces.http.a1111.answer import followed, idle, pictures, progress, refused, wrong
from imagen.surfaces.http.a1111.callers import Callers, Onlookers, Seat
from imagen.surfaces.http.a1111.request import checkpoint_of, object_of, read, task_of
from imagen.surfaces.http.a1111.text import told_by
from imagen.surfaces.http.auth import Keyring
from imagen.surfaces.http.context import Context, ContextOf
from imagen.surfaces.http.foreign.fields import Fields
from imagen.surfaces.http.foreign.long_answer import LongAnswer
from imagen.surfaces.http.foreign.visits import Visit, Visits
from imagen.surfaces.http.limits import check_asked
from imagen.surfaces.http.parameters import idempotent
from imagen.surfaces.http.strict import StrictRequest

if TYPE_CHECKING:
    from imagen.app import App

ROOT = "/sdapi/v1"
ROUTE = f"{ROOT}/txt2img"

# What starts from a picture. Nobody reads what they send: the guard lets it pass unread (`UNREAD` there).
FROM_PICTURES: Mapping[str, str] = {
    "img2img": "draw from a picture",
    "extra-single-image": "enlarge pictures",
    "extra-batch-images": "enlarge pictures",
    "interrogate": "describe pictures",
}
# What that program is told to do with its memory and its files; here the engine sees to that by itself.
DONE_ALREADY: Mapping[str, Any] = {
    "unload-checkpoint": {},
    "reload-checkpoint": {},
    "refresh-checkpoints": None,
    "refresh-vae": None,
    "refresh-loras": None,
    "refresh-embeddings": None,
}

Key = Annotated[str | None, Header(alias="idempotency-key")]


class Spoken(APIRoute):
    """A route whose errors are told in the shape of that program."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def spoken(request: Request) -> Response:
            try:
                return await handler(StrictRequest(request.scope, request.receive))
            except ImagenError as error:
                return refused(error)

        return spoken


def router(app: "App") -> APIRouter:
    """The routes of the door. They are described in docs/howto/connect/a1111.md and not in /openapi.json:

    what is promised there is strict, and this door is not."""
    routes = APIRouter(include_in_schema=False, route_class=Spoken)
    callers, visits, onlookers, keyring = Callers(), Visits(), Onlookers(), Keyring(app)

    def seat(request: Request, context: ContextOf) -> Seat:
        return callers.seat(context.caller, request.client.host if request.client else None)

    Mine = Annotated[Seat, Depends(seat)]  # noqa: N806 a type, which stands in annotations only

    @routes.post(ROUTE)
    async def txt2img(request: Request, context: ContextOf, mine: Mine, key: Key = None) -> Response:
        asked = read(
            await request.json(),
            context.app.catalog,
            context.limits,
            checkpoint=mine.checkpoint,
            aliases=context.settings.openai.aliases,
        )
        check_asked(asked.draft, context.limits, context.app.catalog)
        # Whoever leaves may have lost the connection; whoever wants it stopped says so with `interrupt`.
        cancels = context.settings.openai.on_disconnect == "cancel"
        with visits.arriving(context.caller.name, context.limits):
            keyed = await idempotent(request, key)
            once = {"route": ROUTE, **keyed} if keyed else {}
            job = await context.app.submit(
                asked.draft, owner=context.caller.name, queue_limit=context.queue_limit, waited_for=True, **once
            )
            visit = Visit(visits, context.app, job, cancels=cancels, by=context.caller.name, route=ROUTE, key=key)
        mine.begin(job.id, asked.task)

        async def tell(job: Job) -> Mapping[str, Any]:
            interrupted = job.id in mine.interrupted
            mine.end(job.id)
            return await pictures(context.app, job, asked, interrupted=interrupted)

        return LongAnswer(
            context.streams,
            context.app,
            visit,
            tell,
            headers={"x-request-id": job.id},
            hold_s=context.settings.openai.hold_s,
            comes_back=False,
            excuse=wrong,
        )

    @routes.get(f"{ROOT}/options")
    async def options(context: ContextOf, mine: Mine) -> dict[str, Any]:
        return lists.options(_model(context.app.catalog, mine))

    @routes.post(f"{ROOT}/options")
    async def set_options(request: Request, context: ContextOf, mine: Mine) -> None:
        wanted = Fields(object_of(await request.json())).text("sd_model_checkpoint")
        catalog = context.app.catalog
        if not wanted or wanted == _model(catalog, mine).name:
            return
        found = checkpoint_of(wanted, catalog)
        if found is None:
            if wanted in catalog.models or wanted in catalog.broken:
                catalog.get(wanted)  # which says best what is wrong with it
            names = ", ".join(one["title"] for one in lists.checkpoints(catalog))
            message = f"there is no checkpoint {wanted!r}{maybe(wanted, catalog.models)}"
            raise UnknownModel(message, hint=f"checkpoints: {names}", param="sd_model_checkpoint")
        mine.checkpoint = found

    @routes.get(f"{ROOT}/sd-models")
    async def checkpoints(context: ContextOf) -> list[dict[str, Any]]:
        return lists.checkpoints(context.app.catalog)

    @routes.get(f"{ROOT}/samplers")
    async def samplers(context: ContextOf, mine: Mine) -> list[dict[str, Any]]:
        return lists.samplers(_model(context.app.catalog, mine))

    @routes.get(f"{ROOT}/schedulers")
    async def schedulers(context: ContextOf, mine: Mine) -> list[dict[str, Any]]:
        return lists.schedulers(_model(context.app.catalog, mine))

    @routes.get(f"{ROOT}/memory")
    async def memory(_context: ContextOf) -> dict[str, Any]:
        return lists.memory()

    @routes.get(f"{ROOT}/progress")
    async def how_far(request: Request, context: ContextOf, mine: Mine) -> dict[str, Any]:
        job = await mine.job(context.app)
        if job is None:
            return idle()
        shown = request.query_params.get("skip_current_image", "false").lower() not in ("true", "1", "yes", "on")
        preview = await _preview(context, job) if shown else None
        task = next((name for name, job_id in mine.tasks.items() if job_id == job.id and name != job.id), None)
        return progress(job, preview, task)

    @routes.post("/internal/progress")
    async def how_far_by_name(request: Request, context: ContextOf, mine: Mine) -> dict[str, Any]:
        fields = Fields(object_of(await request.json()))
        shown = fields.flag("live_preview") if "live_preview" in fields.given else True
        seen = fields.whole("id_live_preview")
        job = await mine.job(context.app, task_of(fields.text("id_task")) or "")
        preview = await _preview(context, job) if job is not None and shown and not job.state.terminal else None
        return followed(job, preview, -1 if seen is None else seen, shown=shown)

    @routes.get("/internal/ping")
    async def ping(_context: ContextOf) -> dict[str, Any]:
        return {}

    @routes.post(f"{ROOT}/interrupt")
    async def interrupt(context: ContextOf, mine: Mine) -> dict[str, Any]:
        if job := await mine.meant(context.app, visits):
            await _stop(context, mine, job)
        return {}

    @routes.post(f"{ROOT}/skip")
    async def skip(context: ContextOf, mine: Mine) -> None:
        job = await mine.meant(context.app, visits)
        # One picture of several cannot be left out; stopping all of them for it would lose the others.
        if job is not None and getattr(job.request, "n", 1) == 1:
            await _stop(context, mine, job)

    @routes.post(f"{ROOT}/png-info")
    async def png_info(request: Request, _context: ContextOf) -> dict[str, Any]:
        text = Fields(object_of(await request.json())).text("image") or ""
        return await asyncio.to_thread(told_by, text)

    async def _preview(context: Context, job: Job) -> Preview | None:
        onlookers.look(context.app, job.id, context.streams.stopping)
        return await context.app.preview(job.id)

    for name, told in lists.FIXED.items():
        routes.add_api_route(f"{ROOT}/{name}", _answers(told), methods=["GET"])
    for name, told in DONE_ALREADY.items():
        routes.add_api_route(f"{ROOT}/{name}", _answers(told), methods=["POST"])
    for name, what in FROM_PICTURES.items():
        routes.add_api_route(f"{ROOT}/{name}", _refuses(what), methods=["POST"])
    taken: dict[str, set[str]] = {}
    for route in routes.routes:
        if isinstance(route, APIRoute):
            taken.setdefault(route.path, {"OPTIONS"}).update(route.methods or ())
    for path, methods in taken.items():
        routes.add_api_route(path, _allows(methods), methods=["OPTIONS"])

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def root(request: Request) -> Response:
        # Browsers come here too. Clients made for Draw Things look here for a server and its model, without a key.
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/imagine", headers={"vary": "accept"})
        model = None if await keyring.locked() else app.catalog.default
        return JSONResponse({"model": model, "upscaler": None}, headers={"vary": "accept"})

    return routes


async def _stop(context: Context, mine: Seat, job: Job) -> None:
    mine.interrupted.add(job.id)
    await context.app.cancel(job.id, by=context.caller.name)


def _model(catalog: Catalog, mine: Seat) -> Model:
    """The model that this caller chose; the default one where that is gone."""
    chosen = mine.checkpoint and checkpoint_of(mine.checkpoint, catalog)
    return catalog.get(chosen or None)


def _answers(told: Any) -> Callable[[Context], Coroutine[Any, Any, Any]]:
    async def fixed(_context: ContextOf) -> Any:
        return told

    return fixed


def _refuses(what: str) -> Callable[[Context], Coroutine[Any, Any, None]]:
    async def refuse(_context: ContextOf) -> None:
        hint = "models that could: none; each of `sd-models` draws from words, with `txt2img`"
        raise Unsupported(f"no model of this server can {what}", hint=hint)

    return refuse


def _allows(methods: set[str]) -> Callable[[Context], Coroutine[Any, Any, Response]]:
    async def options(_context: ContextOf) -> Response:
        return Response(status_code=204, headers={"allow": ", ".join(sorted(methods))})

    return options
