"""Pictures over HTTP: whole, in part or as a small copy, never all of one in memory; and how they are deleted.

A request brings an id and nothing else: which file that is, and what it is called, only the rows say.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse

from imagen.core.errors import RequestError
from imagen.surfaces.http import shapes
from imagen.surfaces.http.context import ContextOf
from imagen.surfaces.http.parameters import IfNoneMatch, is_named
from imagen.surfaces.http.refusals import problems
from imagen.surfaces.http.strict import StrictRoute

if TYPE_CHECKING:
    from imagen.engine.pictures.album import StoredFile

MAX_WIDTH = 65_535
# What an id shows never changes, so it need not be asked for again; and no cache that others use may keep it.
CACHING = "private, max-age=31536000, immutable"
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
UNKNOWN_TYPE = ("application/octet-stream", "bin")  # which browsers save and never show

router = APIRouter(route_class=StrictRoute)

Width = Annotated[
    int | None,
    Query(ge=1, le=MAX_WIDTH, description="the smallest copy that is at least so wide; absent: the picture itself"),
]
Range = Annotated[str | None, Header(description="`bytes=0-999`; of several ranges none is taken")]
IfRange = Annotated[str | None, Header(description="the ETag for which Range is meant; otherwise all is sent")]

_BYTES: dict[str, Any] = {
    "content": {mime: {"schema": {"type": "string", "contentMediaType": mime}} for mime in EXTENSIONS},
    "headers": {"ETag": {"description": "the hash of the picture", "schema": {"type": "string"}}},
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", **_BYTES},
    206: {"description": "the part of it that was asked for", **_BYTES},
    307: {
        "description": "`s3: {reads: presigned}`: it is at this address for a while; send no key there",
        "headers": {"Location": {"description": "a signed address", "schema": {"type": "string", "format": "uri"}}},
    },
    304: {"description": "the one that If-None-Match names"},
    416: {"model": shapes.Error, "description": "it has no such bytes; Content-Range says how many it has"},
}
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", re.IGNORECASE)


@router.get(
    "/v1/images/{id}",
    tags=["images"],
    summary="Fetch a picture",
    response_class=Response,
    responses={**problems(404, 410), **_ANSWERS},
)
async def image(
    id: str,
    context: ContextOf,
    w: Width = None,
    if_none_match: IfNoneMatch = None,
    range: Range = None,
    if_range: IfRange = None,
) -> Response:
    """As it was stored, byte for byte; or, where `w` says so, one of its small copies."""
    file = await context.app.image(id, owner=context.sees, width=w)
    headers = headers_of(file)
    if is_named(headers["etag"], if_none_match):
        return _unchanged(headers)
    if (signed := await context.app.signed_url(file)) is not None:
        url, holds_s = signed
        # Kept for half as long as it holds, so that whoever follows a kept one still has the other half.
        return RedirectResponse(url, 307, {"cache-control": f"private, max-age={holds_s // 2}"})
    try:
        part = None if if_range is not None and if_range != headers["etag"] else part_of(range, file.size)
    except RequestError as error:
        shape = error.as_dict() | {"code": "range_not_satisfiable"}
        return JSONResponse({"error": shape}, 416, {"content-range": f"bytes */{file.size}", "accept-ranges": "bytes"})
    start, end = part or (0, file.size)
    headers["content-length"] = str(end - start)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{file.size}"
    stream = context.app.image_chunks(file, start=start, end=end)
    # Read before the answer begins: a picture that cannot be read is an error, not an answer that breaks off.
    first = await anext(stream, b"")
    return StreamingResponse(_joined(first, stream), 206 if part else 200, headers)


@router.head("/v1/images/{id}", include_in_schema=False)
async def head(id: str, context: ContextOf, w: Width = None, if_none_match: IfNoneMatch = None) -> Response:
    """What GET would say about it."""
    file = await context.app.image(id, owner=context.sees, width=w)
    headers = headers_of(file)
    return _unchanged(headers) if is_named(headers["etag"], if_none_match) else Response(headers=headers)


@router.get(
    "/v1/images/{id}/sidecar.json",
    tags=["images"],
    summary="What is recorded beside a picture",
    responses={200: {"model": dict[str, Any], "description": "see docs/reference/sidecar.md"}, **problems(404, 410)},
)
async def sidecar(id: str, context: ContextOf) -> Response:
    """The request that draws it again, and how it was drawn."""
    return JSONResponse(await context.app.sidecar(id, owner=context.sees), headers={"cache-control": CACHING})


@router.delete(
    "/v1/images/{id}",
    tags=["images"],
    status_code=204,
    summary="Delete a picture",
    responses={204: {"description": "it is gone"}, **problems(404)},
)
async def delete(id: str, context: ContextOf) -> Response:
    """For ever. Its job stays and says `state: deleted`; deleting it again changes nothing."""
    await context.app.delete_image(id, owner=context.sees)
    return Response(status_code=204)


def headers_of(file: "StoredFile") -> dict[str, str]:
    """What is said of a picture, whatever part of it is sent."""
    mime, extension = (file.mime, EXTENSIONS[file.mime]) if file.mime in EXTENSIONS else UNKNOWN_TYPE
    name = re.sub(r"[^0-9A-Za-z_-]", "_", file.id)
    return {
        "content-type": mime,
        "content-length": str(file.size),
        "content-disposition": f'inline; filename="{name}.{extension}"',
        "etag": f'"{file.etag}"',
        "accept-ranges": "bytes",
        "cache-control": CACHING,
        "x-content-type-options": "nosniff",
    }


def part_of(header: str | None, size: int) -> tuple[int, int] | None:
    """The one range that was asked for, as start and end; None for all of it. What cannot be read asks for all."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), int(match[2]) + 1 if match[2] else size
        if start >= end and match[2]:
            return None
    if start >= size:
        raise RequestError(f"the picture has {size:,} bytes", hint="ask for a range within them", param="range")
    return start, min(end, size)


def _unchanged(headers: dict[str, str]) -> Response:
    return Response(status_code=304, headers={name: headers[name] for name in ("etag", "cache-control")})


async def _joined(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk
