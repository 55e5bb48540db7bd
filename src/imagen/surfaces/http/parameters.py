"""What several routes take or answer in the same words: places in a list, parts of an id, events, keys, tags."""

import re
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Header, Query, Request

from imagen.core.errors import RequestError, UnknownJob, UnknownSeries
from imagen.core.job import Job, Series
from imagen.surfaces.http import shapes, streams
from imagen.surfaces.http.strict import MAX_QUERY, body_hash

MAX_KEY = 255
DRAWN = tuple(shapes.Drawn.model_fields)

Named = TypeVar("Named", Job, Series)

WORDS: Any = {"pattern": shapes.NO_NUL, "maxLength": MAX_QUERY}
Before = Annotated[str | None, Query(description="the id of the last one seen", json_schema_extra=WORDS)]
Part = Annotated[
    Literal["1"] | None, Query(description="1: the id may be six or more characters that one alone begins or ends with")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="the same key with the same body is the same job, however often it is sent",
        json_schema_extra={"pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    ),
]
IfNoneMatch = Annotated[str | None, Header(description="304 when it names the ETag")]

Shown = Literal["0", "1", "inline"]
PREVIEWS = "0: none; 1: where each can be fetched; inline: each as base64 in `data`"
PREVIEW_FORMS: dict[str, streams.Previews] = {"0": "none", "1": "ref", "inline": "inline"}
LastEventId = Annotated[str | None, Header(description="what a browser sends when it comes back")]
After = Annotated[
    str | None, Query(description="the same as Last-Event-ID, for whoever cannot send headers", json_schema_extra=WORDS)
]

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "server-sent events, one line of JSON each; see docs/reference/events.md",
        "content": {
            "text/event-stream": {
                # Of one event, as it is parsed; OpenAPI 3.2 has the word, and readers of 3.1 know it.
                "itemSchema": {
                    "type": "object",
                    "required": ["id", "event", "data"],
                    "properties": {
                        "id": {"type": "string", "pattern": "^[0-9]+$"},
                        "event": {"type": "string"},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"type": "object", "required": ["type"]},
                        },
                    },
                },
                "example": 'id: 1\nevent: queued\ndata: {"type":"queued","job":"01J…","seq":1}\n\n',
            }
        },
    },
    204: {"description": "it ended and everything was told before: no need to come back"},
}


def exactly(found: Named, id: str) -> Named:
    """The app understands a unique part of an id, which is for people; a program means what it says."""
    if found.id == id:
        return found
    error, noun = _UNKNOWN[type(found)]
    raise error(f"there is no {noun} {id!r}", hint=f"give the whole id, as in {found.id}", param="id")


async def idempotent(request: Request, key: str | None) -> dict[str, Any]:
    """How the app is told of an Idempotency-Key: with a hash of the body as it was sent."""
    if key is None:
        return {}
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise RequestError(
            "the Idempotency-Key cannot be used",
            hint=f"give 1 to {MAX_KEY} printable ASCII characters, for instance a UUID",
            param="Idempotency-Key",
        )
    return {"idempotency_key": key, "body_hash": await body_hash(request)}


def is_named(tag: str, if_none_match: str | None) -> bool:
    """Whether the client has this very copy already; `tag` is what the header ETag says."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


_TAG = re.compile(r'"[^"]*"')
_UNKNOWN: dict[type, tuple[type[RequestError], str]] = {Job: (UnknownJob, "job"), Series: (UnknownSeries, "series")}
