"""Everything such a server refuses or breaks with, in words that say what to do."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import httpx2

from imagen.backends.remote.http import MAX_DETAIL, Http, retry_after
from imagen.core.errors import (
    Crashed,
    ImagenError,
    NotConfigured,
    OutOfMemory,
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
)
from imagen.reading import some

NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
NO_ROUTE = (404, 405, 501)  # the last one of servers that know no POST at all
SHOWN = 5  # names of models, of the hundreds that some have
_VERSION = re.compile(r"/v\d")  # nearly always /v1; some clouds have /api/v3 or /v1/openai
UNSAFE = ("moderation_blocked", "content_policy_violation", "content_filter")


def answered(http: Http, response: httpx2.Response, body: Any) -> ImagenError:
    """An answer that is not a good one."""
    if page(response) and response.status_code in NO_ROUTE:
        return stranger(http, response, f"HTTP {response.status_code} with a web page")
    error = fault(body)
    return said(http, response.status_code, error, retry_after_s=retry_after(response, error))


def fault(body: Any) -> Mapping[str, Any]:
    """The error inside an answer: `{error: {message, code, …}}`, or the `{detail: …}` of FastAPI."""
    if not isinstance(body, Mapping):
        return {}
    error = body.get("error")
    if isinstance(error, Mapping):
        return error
    told = error or body.get("message") or body.get("detail")
    if isinstance(told, list):
        told = "; ".join(
            f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg')}" if isinstance(one, Mapping) else str(one)
            for one in told
        )
    return {"message": str(told)} if told else {}


def said(http: Http, status: int, error: Mapping[str, Any], *, retry_after_s: float | None = None) -> ImagenError:
    """One error of a server; a stream has no status, so 0 means that only the words tell."""
    name, code = http.name, str(error.get("code") or error.get("type") or "")
    words = " ".join(str(error.get("message") or "").split())[:MAX_DETAIL]
    told = f": {words}" if words else ""
    if code in NO_MONEY or status == 402:
        return NotConfigured(
            f"{name} draws nothing more for this account{told}",
            hint="its credit or its limit is used up: see the billing page of the account",
        )
    if status == 401:
        return NotConfigured(
            f"{name} does not accept the token" if http.signed else f"{name} wants a token, and none was sent",
            hint=http.remedy or "give the model's `token_env`: docs/howto/use-a-cloud-model.md",
            param="token",
        )
    if status == 403:
        return NotConfigured(
            f"{name} refuses us{told}", hint="the token may not use this model, or the account is not verified"
        )
    if status in NO_ROUTE or code == "model_not_found":
        ends = versioned(http) or code == "model_not_found"
        return NotConfigured(
            f"{name} has no such model or no such route{told}",
            hint=f"check `url` (it ends in /v1) and `model`; {http.address.url}/models lists what there is"
            if ends
            else where(http),
        )
    if code in UNSAFE:
        return Rejected(f"{name} refuses this prompt{told}", hint="its rules do not allow it: say it in other words")
    if "out of memory" in words.lower():
        return OutOfMemory(f"{name} ran out of memory{told}", hint="ask for a smaller size or another model")
    if status == 429:
        return RateLimited(f"{name} asks for patience{told}", hint="try again later", retry_after_s=retry_after_s)
    if status in (408, 504):
        return TimedOut(f"{name} gave up on its own work{told}", hint="try again, or ask for a smaller picture")
    if status in (502, 503):
        return Unreachable(
            f"{name} is not ready{told or f': HTTP {status}'}",
            hint="it may be loading its model: try again in a moment",
            retry_after_s=retry_after_s,
        )
    if status >= 500:
        hint = "its log says why; try again if it is not yours"
        return Crashed(f"{name} broke: HTTP {status}{told}", hint=hint if words else f"{hint}; {where(http)}")
    if 300 <= status < 400:
        return NotConfigured(
            f"{name} has moved: HTTP {status}", hint="write the address it is at now into `url`", param="url"
        )
    return Rejected(
        f"{name} refuses this request{told or f': HTTP {status}'}",
        hint="see the model's `dialect`, `fields`, `extra` and `limits` in its YAML",
        param=str(error["param"]) if error.get("param") else None,
    )


def stranger(http: Http, response: httpx2.Response, told: str) -> NotConfigured:
    """Something answers, and it is no such server."""
    asked = f"{response.request.method} {response.request.url.path}"
    return NotConfigured(
        f"what answers at {http.address.url} is no server with an OpenAI Images API: {told}, to {asked}",
        hint=where(http),
        param="url",
    )


def no_model(http: Http, model: str, wanted: str, listed: Sequence[str]) -> NotConfigured:
    """It lists what it has, and this is not there; the nearest names come first."""
    near = get_close_matches(wanted, listed, n=SHOWN, cutoff=0.4)
    there = some([*near, *(one for one in listed if one not in near)], SHOWN)
    return NotConfigured(
        f"{http.name} has no model {wanted!r}",
        hint=f"change `model` of {model}; it has: {there}" if listed else "it has none yet: add it there",
        param="model",
    )


def where(http: Http) -> str:
    """What to do about a `url` that leads elsewhere."""
    if versioned(http):
        return "is `url` right? It is the API's own address, which ends in /v1; something else may listen there"
    return f"`url` ends in /v1: write {http.address.url}/v1"


def versioned(http: Http) -> bool:
    """Whether the address looks like that of an API."""
    return bool(_VERSION.search(http.address.path))


def page(response: httpx2.Response) -> bool:
    """Whether it answers as a web site does, which no API would."""
    return "html" in response.headers.get("content-type", "").lower()


def unknown_end(http: Http, detail: str) -> Crashed:
    """A call that cost money may have been drawn, and nobody can be asked."""
    return Crashed(
        f"a paid call to {http.name} was interrupted, and whether it was drawn and paid for cannot be known",
        hint="it is never sent again by itself: see the account, and ask again with `imagen jobs retry`",
        detail=detail or None,
    )


def cut_off(http: Http) -> Unreachable:
    """The stream ended before the picture."""
    return Unreachable(f"{http.name} ended its answer before the picture", hint="nothing to do: it is asked again")


def too_few(http: Http, given: int, asked: int) -> Crashed:
    """Some of the pictures of one call are missing."""
    return Crashed(
        f"{http.name} gave {given} of {asked} pictures",
        hint="ask for fewer at once, or set `together: false` for this model",
    )


def refuses_streams(status: int, error: Mapping[str, Any]) -> bool:
    """It is the stream that the server does not want, and not the request."""
    if status not in (400, 404, 406, 415, 422, 501):
        return False
    words = f"{error.get('message')} {error.get('param')}".lower()
    return "stream" in words or "partial_images" in words
