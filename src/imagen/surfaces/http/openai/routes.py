"""The door for programs made for the OpenAI Images API: what they send becomes a job, what becomes of it their answer.

It never changes what it promised, and takes more than it promises: fields it does not know are ignored.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from imagen.core.errors import ImagenError, RequestError
from imagen.core.job import Job
from imagen.surfaces.http.context import Context, ContextOf
from imagen.surfaces.http.foreign.long_answer import LongAnswer
from imagen.surfaces.http.foreign.visits import Visit, Visits, taken_up
from imagen.surfaces.http.limits import check_asked
from imagen.surfaces.http.openai.models import named
from imagen.surfaces.http.openai.pictures import answer, error_body
from imagen.surfaces.http.openai.request import Asked, read
from imagen.surfaces.http.openai.stream import ImageStream
from imagen.surfaces.http.parameters import idempotent
from imagen.surfaces.http.refusals import refusal
from imagen.surfaces.http.strict import StrictRequest, body_hash

ROUTE = "/v1/images/generations"
UNKEYED = f"{ROUTE} (no key)"  # keys of ours are no business of those that clients choose
REPEATED = "x-stainless-retry-count"
WARNING_CHARS = 1000  # proxies refuse answers with long headers

Key = Annotated[str | None, Header(alias="idempotency-key")]


def router() -> APIRouter:
    """The routes of the door. They are described in docs/howto/connect/openai.md and not in /openapi.json:

    what is promised there is strict, and this door is not."""
    routes = APIRouter(include_in_schema=False)
    visits = Visits()

    @routes.post(ROUTE)
    async def generations(request: Request, context: ContextOf, key: Key = None) -> Response:
        # What is wrong is said here and not by the handlers of errors: a library is also told whether to ask again.
        try:
            return await _generated(StrictRequest(request.scope, request.receive), context, visits, key)
        except ImagenError as error:
            return _refused(error)

    @routes.post("/v1/images/edits")
    @routes.post("/v1/images/variations")
    async def from_picture(request: Request, context: ContextOf) -> Response:
        what = "edit pictures" if request.scope["path"].endswith("edits") else "make variations of a picture"
        # No request carries a picture yet, so there is no model to name here.
        hint = f"models that could: none; each of GET /v1/models draws from words, with POST {ROUTE}"
        return _refused(RequestError(f"no model of this server can {what}", hint=hint, param="image"))

    @routes.post(ROUTE.removeprefix("/v1"))
    async def without_version() -> Response:
        # The most common slip in a settings form, and "there is nothing here" helps nobody to find it.
        hint = "the base URL that the program is given has to end in `/v1`"
        answer = _refused(RequestError(f"the address is {ROUTE}", hint=hint))
        answer.status_code = 404
        return answer

    @routes.post("/v1/chat/completions")
    @routes.post("/v1/responses")
    async def no_chat() -> Response:
        # Some programs ask for pictures in a chat when the model's name does not look like one of pictures.
        hint = f"pictures are drawn with POST {ROUTE}; choose the program's setting for pictures, or an alias"
        answer = _refused(RequestError("there is no chat here", hint=hint))
        answer.status_code = 404
        return answer

    @routes.get(ROUTE)
    async def not_read() -> Response:
        answer = _refused(RequestError(f"{ROUTE} takes POST", hint='send for instance {"prompt": "a red fox"}'))
        answer.status_code = 405
        answer.headers["allow"] = "OPTIONS, POST"
        return answer

    @routes.options(ROUTE)
    @routes.options("/v1/images/edits")
    @routes.options("/v1/images/variations")
    async def options() -> Response:
        return Response(status_code=204, headers={"allow": "OPTIONS, POST"})

    @routes.get("/v1/models/{id:path}")
    async def model(id: str, context: ContextOf) -> dict[str, Any]:
        return named(await context.app.model_states(), context.settings.openai.aliases, id)

    return routes


async def _generated(request: StrictRequest, context: Context, visits: Visits, key: str | None) -> Response:
    settings = context.settings
    asked = read(await request.json(), context.app.catalog, settings.openai, settings.server.public_url)
    check_asked(asked.draft, context.limits, context.app.catalog)
    warned = context.app.catalog.resolve(asked.draft, lambda: 0).warnings
    repeated = request.headers.get(REPEATED)
    cancels = asked.on_disconnect == "cancel" or (asked.on_disconnect == "auto" and asked.stream)
    with visits.arriving(context.caller.name, context.limits):
        job = await _job(request, context, visits, key, asked, repeated=repeated not in (None, "0"))
        visit = Visit(visits, context.app, job, cancels=cancels, by=context.caller.name, route=ROUTE, key=key)
    headers = {"x-request-id": job.id, "x-should-retry": "false"}
    if warnings := [*asked.warnings, *(one.message for one in warned)]:
        headers["imagen-warning"] = _header(warnings)
    if asked.stream:
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        return ImageStream(context.streams, context.app, visit, asked, pairs)
    return LongAnswer(
        context.streams,
        context.app,
        visit,
        lambda job: answer(context.app, job, asked, settings.server.public_url),
        headers=headers,
        hold_s=settings.openai.hold_s,
        comes_back=repeated is not None,
        excuse=error_body,
    )


async def _job(
    request: StrictRequest, context: Context, visits: Visits, key: str | None, asked: Asked, *, repeated: bool
) -> Job:
    keyed = await idempotent(request, key)
    hashed = await body_hash(request)
    owner = context.caller.name
    if repeated and not keyed:
        found = await taken_up(visits, context.app, owner=owner, route=UNKEYED, body_hash=hashed)
        if found is not None:
            return found
    # Remembered by its body in any case; keys of ours are no business of those that clients choose.
    once = {"route": ROUTE, **keyed} if keyed else {"route": UNKEYED, "body_hash": hashed}
    return await context.app.submit(asked.draft, owner=owner, queue_limit=context.queue_limit, waited_for=True, **once)


def _refused(error: ImagenError) -> Response:
    answer = refusal(error)
    answer.headers["x-should-retry"] = "true" if error.retryable else "false"
    return answer


def _header(warnings: list[str]) -> str:
    text = "; ".join(warnings).encode("ascii", "replace").decode()
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= WARNING_CHARS else text[: WARNING_CHARS - 3] + "..."
