"""Blind votes over HTTP: two pictures without names, what is better, and the ratings that follow.

Nothing that is sent before the vote tells the model: not the ids, which say nothing of time, not the bytes, out of
which every text is taken, and not the headers or the sides, which are drawn by lot.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from starlette.responses import JSONResponse

from imagen.surfaces.http import vote_shapes
from imagen.surfaces.http.context import ContextOf
from imagen.surfaces.http.images import CACHING, Width
from imagen.surfaces.http.parameters import WORDS, IfNoneMatch, exactly, is_named
from imagen.surfaces.http.refusals import problems
from imagen.surfaces.http.strict import StrictRoute
from imagen.surfaces.wire_votes import ballot_json, ratings_csv, ratings_json, vote_json

router = APIRouter(route_class=StrictRoute)

_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the picture, with its pixels alone",
        "content": {
            mime: {"schema": {"type": "string", "contentMediaType": mime}} for mime in ("image/png", "image/webp")
        },
    },
    304: {"description": "the one that If-None-Match names"},
}
_CSV = {"text/csv": {"schema": {"type": "string"}}}


@router.get(
    "/v1/series/{id}/pairs",
    tags=["votes"],
    summary="The next pair to vote on",
    responses={200: {"model": vote_shapes.Ballot, "description": "two pictures, or none"}, **problems(404)},
)
async def pairs(
    id: str,
    context: ContextOf,
    next: Annotated[
        str | None, Query(description="as in `?next`; there is nothing else to ask for", json_schema_extra=WORDS)
    ] = None,
) -> Response:
    """The same pair on the same sides until it is voted on; every voter has another order and other sides."""
    found = exactly(await context.app.series(id, owner=context.sees), id)
    ballot = await context.app.ballot(found.id, voter=context.caller.name)
    return JSONResponse(ballot_json(ballot), headers={"cache-control": "no-store"})


@router.get(
    "/v1/series/{id}/blind/{picture}",
    tags=["votes"],
    summary="A picture of a pair",
    response_class=Response,
    responses={**problems(404, 410), **_PICTURE},
)
async def blind(
    id: str,
    picture: str,
    context: ContextOf,
    w: Width = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The same pixels as the picture's, and nothing in the file that tells what drew them."""
    found = exactly(await context.app.series(id, owner=context.sees), id)
    file = await context.app.blind_picture(found.id, picture, width=w)
    tag = f'"{file.etag}"'
    if is_named(tag, if_none_match):
        return Response(status_code=304, headers={"etag": tag, "cache-control": CACHING})
    headers = {
        "etag": tag,
        "cache-control": CACHING,
        "content-disposition": f'inline; filename="{file.id}.{file.mime.removeprefix("image/")}"',
        "x-content-type-options": "nosniff",
    }
    return Response(file.data, media_type=file.mime, headers=headers)


@router.post(
    "/v1/series/{id}/votes",
    tags=["votes"],
    status_code=201,
    summary="Vote on a pair",
    responses={
        200: {"model": vote_shapes.Vote, "description": "the same was said before; nothing has changed"},
        201: {"model": vote_shapes.Vote, "description": "it counts, and these are the names"},
        **problems(404, 409, 413, 415, 422),
    },
)
async def vote(id: str, asked: vote_shapes.NewVote, context: ContextOf) -> Response:
    """Final: the names are told with the answer."""
    found = exactly(await context.app.series(id, owner=context.sees), id)
    cast, new = await context.app.vote(
        found.id,
        voter=context.caller.name,
        round=asked.round,
        left=asked.left,
        right=asked.right,
        choice=asked.choice,
    )
    return JSONResponse(vote_json(cast), 201 if new else 200)


@router.get(
    "/v1/ratings",
    tags=["votes"],
    summary="How good models are by the votes",
    responses={
        200: {"model": vote_shapes.Ratings, "description": "with an interval for each", "content": _CSV},
        **problems(404),
    },
)
async def ratings(
    context: ContextOf,
    series: Annotated[str | None, Query(description="only votes on this series", json_schema_extra=WORDS)] = None,
    models: Annotated[
        str | None, Query(description="only votes between these, with commas between", json_schema_extra=WORDS)
    ] = None,
    q: Annotated[str | None, Query(description="only votes on prompts that hold this", json_schema_extra=WORDS)] = None,
    voter: Annotated[str | None, Query(description="only votes of this caller", json_schema_extra=WORDS)] = None,
    format: Annotated[Literal["json", "csv"], Query(description="csv: one line for each model")] = "json",
) -> Response:
    """Only what votes support: models that no votes connect are in different groups and are not compared."""
    if series is not None:
        series = exactly(await context.app.series(series, owner=context.sees), series).id
    names = [name.strip() for name in models.split(",") if name.strip()] if models is not None else None
    found = await context.app.ratings(series_id=series, models=names, q=q, voter=voter, owner=context.sees)
    headers = {"cache-control": "no-store"}
    if format == "csv":
        headers["content-disposition"] = 'attachment; filename="ratings.csv"'
        return Response(ratings_csv(found), media_type="text/csv; charset=utf-8", headers=headers)
    return JSONResponse(ratings_json(found), headers=headers)
