"""The page /imagine: plain files, served as they lie here; everything else it asks of the public API like anybody."""

import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
FOR_EVER = "public, max-age=31536000, immutable"  # its address changes with its content
HERE = "@here@"  # where the files of this version are; index.html says it
# Stricter than what other pages of this server get: a page that shows what people typed runs nothing but its files,
# and has no sink that could turn text into markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_PICTURES = re.compile(r"(img-src|connect-src) 'self'")
# An address of the page shows the view that its path names; the page reads it by itself.
VIEWS = (
    "/imagine",
    "/imagine/gallery",
    "/imagine/ratings",
    "/imagine/series",
    "/imagine/series/{id}",
    "/imagine/series/{id}/vote",
)


@cache
def statics() -> dict[str, bytes]:
    """Every file of the page by its name."""
    folder = files(__package__) / "static"
    return {
        entry.name: entry.read_bytes()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.rpartition(".")[2] in TYPES
    }


@cache
def version() -> str:
    """One hash of all files: modules import each other by name, so they change address together."""
    told = hashlib.sha256()
    for name, data in statics().items():
        told.update(f"{name}\0{len(data)}\0".encode() + data)
    return told.hexdigest()[:16]


def router(pictures_origin: str | None = None) -> APIRouter:
    """The page, which may load pictures from this site too: where the server sends browsers for them, if it does."""
    policy = _PICTURES.sub(rf"\g<0> {pictures_origin}", POLICY) if pictures_origin else POLICY

    def page(request: Request, status: int = 200) -> Response:
        tag = f'"{version()}"'
        headers = {"etag": tag, "cache-control": "no-cache", "content-security-policy": policy}
        if status == 200 and tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        text = statics()["index.html"].replace(HERE.encode(), f"/imagine/static/{version()}".encode())
        return Response(text, status, media_type=TYPES["html"], headers=headers)

    async def view(request: Request) -> Response:
        """The page itself; which view it shows is its own affair."""
        return page(request)

    async def lost(rest: str, request: Request) -> Response:
        """A page that is not there, said by the page to whoever has a browser."""
        if "text/html" not in request.headers.get("accept", ""):
            raise HTTPException(404)
        return page(request, 404)

    routes = APIRouter(include_in_schema=False)
    for path in VIEWS:
        for spelled in (path, f"{path}/"):
            routes.add_api_route(spelled, view, methods=["GET", "HEAD"])
    routes.add_api_route("/imagine/static/{hash}/{name}", static, methods=["GET", "HEAD"])
    routes.add_api_route("/imagine/{rest:path}", lost, methods=["GET", "HEAD"])
    return routes


async def static(hash: str, name: str) -> Response:
    """One file of this version. A page of another version asks for files that are not here, and is loaded again."""
    data = statics().get(name) if hash == version() else None
    if data is None or name == "index.html":
        raise HTTPException(404)
    return Response(data, media_type=TYPES[name.rpartition(".")[2]], headers={"cache-control": FOR_EVER})
