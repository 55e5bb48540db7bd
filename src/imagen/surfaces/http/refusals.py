"""Every refusal and every failure as one shape, with what to do next; nothing of the inside leaks out."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagen.core.errors import ImagenError, RequestError, Unauthorized
from imagen.reading import maybe
from imagen.surfaces.http import shapes, webhook_shapes
from imagen.surfaces.wire import error_json

RETRY_AFTER_S = 5  # where the error itself names no time
NOT_AGAIN = {"x-should-retry": "false"}  # client libraries made for OpenAI would send it again, and draw it again
log = logging.getLogger(__name__)

# What the framework itself refuses; the words for statuses that no error of ours has.
FRAMEWORK: Mapping[int, tuple[str, str, str]] = {
    404: ("not_found", "there is nothing here", "GET /docs lists what there is"),
    405: ("method_not_allowed", "this address does not take that method", "the Allow header says which it takes"),
    413: ("body_too_large", "the body is too large", "send less"),
    415: ("unsupported_media_type", "the body is not said to be JSON", "send it with `Content-Type: application/json`"),
}
TAGS = ("flag", "policy", "address", "hook")  # which of several forms a field has: no part of its name
INNER = {
    "preview": tuple(shapes.PreviewWish.model_fields),
    "webhook": tuple(webhook_shapes.JobWebhook.model_fields),
}
PROMPTS = ("prompt", "prompts")
HOOKS = {
    "url": "give an address such as https://example.com/hooks/imagen, without user and password",
    "secret": "write whsec_ and 24 to 64 random bytes as base64, or leave it out: each key has its own",
}
INSIDE = {
    "type": "imagen_error",
    "code": "internal_error",
    "message": "something went wrong inside",
    "hint": "the server's log says what; please report it",
    "param": None,
    "retryable": False,
}


def refusal(error: ImagenError) -> JSONResponse:
    """The answer that an error comes to."""
    headers = {}
    if error.retryable or error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s or RETRY_AFTER_S))
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="imagen"'
    return JSONResponse({"error": error_json(error, reader="http")}, type(error).http_status, headers)


def install(server: FastAPI) -> None:
    """Answer every exception in our shape."""
    server.add_exception_handler(ImagenError, _on_error)
    server.add_exception_handler(RequestValidationError, _on_invalid)
    server.add_exception_handler(HTTPException, _on_framework)
    server.add_exception_handler(Exception, _on_unexpected)  # outside of all middleware
    server.add_middleware(LastResort)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers besides success that a route may give, for /openapi.json."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": shapes.Error, "description": _MEANINGS[status]}
        for status in sorted({400, 401, 403, 429, 500, 503, *statuses})
    }
    for status in (429, 503):
        told[status]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "string"}}}
    return told | {"default": {"model": shapes.Error, "description": "anything else that went wrong"}}


class LastResort:
    """Around the routes: what nobody expected is logged here and told as a failure without its insides."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted if scope["type"] == "http" else send)
        except Exception:
            if scope["type"] != "http":
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise  # the connection is cut, so that nobody takes half an answer for a whole one
            await JSONResponse({"error": INSIDE}, 500, NOT_AGAIN)(scope, receive, send)


def explained(errors: Sequence[Mapping[str, Any]], fields: Sequence[str] = ()) -> RequestError:
    """The first of a list of validation errors in our words."""
    # A name that is not known is most often the cause of the others.
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    where = [str(part) for part in first["loc"][1:] if part not in TAGS]
    place, param = str(first["loc"][0]), ".".join(where) or None
    given, context = first.get("input"), first.get("ctx") or {}
    match first["type"]:
        case "extra_forbidden":
            name = where[-1]
            fields = INNER.get(where[0], fields) if len(where) > 1 else fields
            near = maybe(name, fields)
            return RequestError(f"there is no field {name!r}{near}", hint=_fields(fields), param=param)
        case "missing" if param is None:
            return RequestError("there is no body", hint="send a JSON object")
        case "missing":
            return RequestError(f"`{param}` is missing", hint=f"add `{param}`", param=param)
        case "string_too_short" | "string_pattern_mismatch" if where[:1] and where[0] in PROMPTS and not _holds(given):
            return RequestError("the prompt is empty", hint="say what the picture should show", param=param)
        case "string_pattern_mismatch" if where[0] == "webhook":  # what was given may be a secret
            return RequestError(f"`{param}` cannot be used", hint=HOOKS.get(where[-1], HOOKS["url"]), param=param)
        case "one" | "both" | "wish" | "webhook":
            return RequestError(first["msg"], hint="GET /docs says what may be sent", param=param)
        case "model_attributes_type" | "model_type" | "dict_type" if param is None:
            return RequestError("the body is not a JSON object", hint='send for instance {"prompt": "a red fox"}')
    message = str(first["msg"]).removeprefix("Value error, ")
    what = param or ("the body" if place == "body" else place)
    wanted = _WANTED.get(first["type"])
    if wanted is not None:
        plural = "" if context.get("min_length") == 1 else "s"
        wanted = wanted.format_map({key: _number(value) for key, value in context.items()} | {"plural": plural})
        return RequestError(f"{what}: {_shown(given)} is not possible", hint=f"give {wanted}", param=param)
    return RequestError(f"{what}: {message}", hint="GET /docs says what may be sent", param=param)


async def _on_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImagenError)
    if type(error).http_status >= 500:
        log.warning("%s: %s", error.code, error.message)
    return refusal(error)


async def _on_unexpected(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"error": INSIDE}, 500, NOT_AGAIN)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    route = request.scope.get("route")
    field = getattr(route, "body_field", None)
    model = getattr(getattr(field, "field_info", None), "annotation", None)
    return refusal(explained(error.errors(), list(getattr(model, "model_fields", {}))))


async def _on_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    code, message, hint = FRAMEWORK.get(status, ("refused", str(error.detail), "GET /docs says what may be sent"))
    shape = {
        "type": RequestError.type if status < 500 else ImagenError.type,
        "code": code,
        "message": message,
        "hint": hint,
        "param": None,
        "retryable": False,
    }
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if status == 405:
        # The framework names the methods of the first route it looked at; an address may have several.
        routes = (route for router in request.app.state.routers for route in router.routes)
        found = {name for route in routes if route.path_regex.match(request.scope["path"]) for name in route.methods}
        headers["allow"] = ", ".join(sorted(found)) or "GET"
    return JSONResponse({"error": shape}, status, headers)


def _fields(fields: Sequence[str]) -> str:
    fields = sorted(fields, key=lambda name: not name.startswith(("prompt", "model")))
    return f"fields: {', '.join(fields)}" if fields else "GET /docs says what may be sent"


def _holds(text: Any) -> bool:
    """Whether there is more in it than blanks."""
    return not isinstance(text, str) or bool(text.strip())


def _number(value: Any) -> Any:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:59] + "…"


_WANTED = {
    "string_type": "text",
    "string_unicode": "text without halves of characters",
    "string_too_short": "at least {min_length} character{plural}",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that is not blank",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "literal_error": "one of {expected}",
    "enum": "one of {expected}",
}
_MEANINGS = {
    400: "the request is wrong; `param` names the field",
    401: "a key is needed, or this one is not known",
    403: "this key may not do that, or the request comes from where none may come",
    404: "there is none of that id, or it is somebody else's",
    409: "it contradicts an earlier request, or the state it is in",
    410: "it was there and was deleted",
    413: "the body is larger than what is read",
    415: "the body is not said to be JSON",
    422: "the model cannot do that",
    429: "a limit on what may wait or be open at once; later it may be possible",
    500: "something went wrong inside; the server's log says what",
    503: "the set-up needs its owner",
}
