"""Everything that Replicate, or a container that Cog built, refuses or breaks with, in words that say what to do."""

import re
from collections.abc import Mapping
from typing import Any

import httpx2

from imagen.backends.remote.http import MAX_DETAIL, Http, retry_after
from imagen.core.errors import (
    BackendError,
    Crashed,
    ImagenError,
    NotConfigured,
    OutOfMemory,
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
)

TOKEN = "set IMAGEN_REPLICATE_TOKEN or `token_file`: docs/howto/use-a-cloud-model.md"
_UNSAFE = re.compile(r"nsfw|sensitive|safety|moderat|flagged", re.IGNORECASE)
_MEMORY = re.compile(r"out of memory|CUDA error: out|OutOfMemory", re.IGNORECASE)


def answered(http: Http, response: httpx2.Response) -> ImagenError:
    """An answer that is not a good one: `{title, detail, status}`, or Cog's `{detail: [...]}` and `{error}`."""
    try:
        body = response.json()
    except ValueError:
        body = None
    name, status, words = http.name, response.status_code, _words(body)
    told = f": {words}" if words else ""
    wait_s = retry_after(response, body)
    match status:
        case 401:
            return NotConfigured(
                f"{name} does not accept the token" if http.signed else f"{name} wants a token, and none was sent",
                hint=http.remedy or TOKEN,
                param="token",
            )
        case 402:
            return NotConfigured(
                f"{name} draws nothing more for this account{told}",
                hint="its credit is used up: see the billing page of the account",
            )
        case 403:
            return NotConfigured(f"{name} refuses us{told}", hint="this token may not use this model")
        case 404:
            return NotConfigured(
                f"{name} has no such model{told}",
                hint="check `model` or `deployment` of the model's YAML",
                param="model",
            )
        case 422 if "version" in words.lower():
            return NotConfigured(
                f"{name} does not have this version of the model, or not for this token{told}",
                hint="check `model` of the model's YAML: OWNER/NAME:VERSION, as its page shows",
                param="model",
            )
        case 409 | 429:
            return RateLimited(f"{name} asks for patience{told}", hint="try again later", retry_after_s=wait_s)
        case 408 | 504:
            return TimedOut(f"{name} gave up on its own work{told}", hint="try again in a moment")
        case 502 | 503:
            return Unreachable(f"{name} is not ready{told}", hint="try again in a moment", retry_after_s=wait_s)
        case _ if status >= 500:
            return Crashed(f"{name} broke: HTTP {status}{told}", hint="try again later; its status page may say more")
        case _ if 300 <= status < 400:
            return NotConfigured(f"{name} has moved: HTTP {status}", hint="write the address it is at now", param="url")
    return Rejected(
        f"{name} refuses this request{told or f': HTTP {status}'}",
        hint="see `inputs`, `extra` and `limits` in the model's YAML; `imagen models check` compares them",
    )


def failed(name: str, model: str, error: Any, logs: str) -> BackendError:
    """A prediction that ended badly, in the words of whoever wrote the model."""
    words = " ".join(str(error or "it does not say why").split())[:MAX_DETAIL]
    detail = logs[-MAX_DETAIL:] or None
    if _MEMORY.search(words) or _MEMORY.search(logs[-MAX_DETAIL:]):
        return OutOfMemory(
            f"{model} ran out of memory at {name}", hint="ask for a smaller size or another model", detail=detail
        )
    if _UNSAFE.search(words):
        return Rejected(
            f"{name} refuses what {model} would have drawn: {words}", hint="say it in other words, or try another seed"
        )
    return Crashed(
        f"{model} failed at {name}: {words}",
        hint="ask again with `imagen jobs retry`, which may be paid again; nothing is retried by itself",
        detail=detail,
    )


def stopped(name: str, model: str, status: str) -> Rejected:
    """Somebody else ended our prediction, or its time was over."""
    return Rejected(
        f"the prediction of {model} was {status} at {name}, and not by us", hint="ask again with `imagen jobs retry`"
    )


def too_long(name: str, model: str, timeout_s: float) -> Crashed:
    """It runs and runs; it was cancelled."""
    return Crashed(
        f"{model} took longer than {timeout_s:g} s at {name} and was cancelled",
        hint="set `timeout_s` of the model higher, or ask for a smaller picture",
    )


def expired(name: str, model: str) -> Rejected:
    """It was drawn, and nobody has it any more."""
    return Rejected(
        f"{model} was drawn at {name}, and its picture was deleted there before it was copied",
        hint="files are kept for an hour; asking again with `imagen jobs retry` is paid again",
    )


def no_picture(name: str, model: str) -> Crashed:
    """It ended well, and there is nothing to show."""
    return Crashed(
        f"{model} ended at {name} without a picture", hint="it must give PNG, JPEG or WebP; see its `output_format`"
    )


def unknown_end(name: str) -> Rejected:
    """A prediction may have been made, and its records are gone."""
    return Rejected(
        f"a prediction was asked for at {name}, and whether it was made cannot be known any more",
        hint="it is never asked for again by itself: see the account, then `imagen jobs retry`",
    )


def unready(http: Http, health: Mapping[str, Any]) -> ImagenError | None:
    """What keeps a container from drawing, by what it says of its health."""
    status = str(health.get("status") or "")
    setup = health.get("setup")
    logs = str(setup.get("logs") or "") if isinstance(setup, Mapping) else ""
    if status in ("READY", "BUSY"):
        return None
    if status == "STARTING":
        return Unreachable(f"{http.name} is still loading its model", hint="wait for it; its log says how far it is")
    if status in ("SETUP_FAILED", "DEFUNCT", "UNHEALTHY"):
        return NotConfigured(
            f"{http.name} cannot draw: {status}", hint="see the log of the container, and start it again",
            detail=logs[-MAX_DETAIL:] or None,
        )  # fmt: skip
    return NotConfigured(
        f"what answers at {http.address.url} is no container that Cog built",
        hint="check `url`; it listens on port 5000 unless told otherwise",
        param="url",
    )


def _words(body: Any) -> str:
    if not isinstance(body, Mapping):
        return ""
    told = body.get("detail") or body.get("error") or body.get("title")
    if isinstance(told, list):
        told = "; ".join(
            f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg')}" if isinstance(one, Mapping) else str(one)
            for one in told
        )
    return " ".join(str(told or "").split())[:MAX_DETAIL]
