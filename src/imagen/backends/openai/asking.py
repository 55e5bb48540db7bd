"""What is sent: a request in the words of one kind of server. Pure functions."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from imagen.backends.openai.dialects import Dialect
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice

FIELDS = ("seed", "steps", "negative", "guidance")  # of a request, that OpenAI's own API has no names for


def names(model: Model, dialect: Dialect) -> dict[str, str]:
    """What the server calls each of FIELDS; the model's own words win, and null takes one away."""
    told = {**dialect.fields, **(model.keys.get("fields") or {})}
    return {field: str(name) for field, name in told.items() if name}


def body(request: Request, model: Model, dialect: Dialect, *, partial_images: int | None = None) -> dict[str, Any]:
    """The JSON of one call; `partial_images` is None for an answer in one piece."""
    sent: dict[str, Any] = {"prompt": request.prompt, "n": request.n, "size": f"{request.width}x{request.height}"}
    if model.keys.get("model"):
        sent["model"] = model.keys["model"]
    if dialect.response_format:
        sent["response_format"] = dialect.response_format
    mine: dict[str, Any] = {}
    for field, name in names(model, dialect).items():
        value = getattr(request, field)
        if value not in (None, ""):
            _put(mine, name, value)
    if dialect.negative_bar and request.negative:
        sent["prompt"] = f"{request.prompt}|{request.negative}"
    if dialect.in_prompt:
        tag = dialect.in_prompt
        # What somebody typed is text: it may not open the tag that steers the server.
        words = request.prompt.replace(f"<{tag}>", "").replace(f"</{tag}>", "")
        sent["prompt"] = f"{words} <{tag}>{json.dumps(mine)}</{tag}>" if mine else words
    else:
        sent |= mine
    options = {name: value for name, value in request.options.items() if value is not None}
    sent |= {dialect.options: options} if dialect.options and options else options
    sent |= dialect.outlives if model.keys.get("idempotent") else dialect.ends
    sent |= model.keys.get("extra") or {}
    if partial_images is not None:
        sent |= {"stream": True, "partial_images": partial_images}
    return sent


def notices(request: Request, model: Model, dialect: Dialect) -> Iterator[Notice]:
    """What was asked and this kind of server cannot be told."""
    told = names(model, dialect)
    where = model.title or model.name
    if "seed" not in told:
        yield Notice(
            code="seed_not_used", message=f"{where} takes no seed: the same request gives another picture each time"
        )
    elif request.n > 1 and model.keys.get("together"):
        yield Notice(
            code="seed_not_used",
            message=f"{where} draws {request.n} pictures of one seed; the seeds of the others it does not say",
        )
    usual = model.defaults
    asked = {
        "negative": bool(request.negative) and not dialect.negative_bar,
        "steps": request.steps != usual.steps,
        "guidance": request.guidance not in (None, usual.guidance),
    }
    for field, said in asked.items():
        if said and field not in told and field not in model.ignores:
            yield Notice(code="ignored", message=f"{where} cannot be told `{field}`")


def seed_of(request: Request, model: Model, dialect: Dialect, index: int) -> int | None:
    """The seed of a picture, where it is known."""
    known = "seed" in names(model, dialect) and not (model.keys.get("together") and index)
    return request.seed + index if known else None


def _put(into: dict[str, Any], name: str, value: Any) -> None:
    """`a.b.c` is a field inside fields."""
    *outer, last = name.split(".")
    for part in outer:
        into = into.setdefault(part, {})
    into[last] = value


def partial_of(event: Mapping[str, Any]) -> int | None:
    """The number of a partial image, or None for another event."""
    if not str(event.get("type", "")).endswith(".partial_image"):
        return None
    index = event.get("partial_image_index", 0)
    return index if isinstance(index, int) else 0
