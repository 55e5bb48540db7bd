"""Blind votes on a series: the next pair, a picture without its name, a vote, and what all votes say."""

import asyncio
import io
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection

from imagen.core.errors import RequestError
from imagen.core.job import Series
from imagen.core.vote import Ballot, BlindFile, Choice, Vote
from imagen.engine import album, pairs
from imagen.engine.ratings import Ratings, rate
from imagen.store import history, votes
from imagen.store.db import Database
from imagen.store.images import ImageStore

PNG = "image/png"


async def ballot(db: Database, series: Series, *, voter: str) -> Ballot:
    """Where this voter stands in a series, and the next pair."""
    return await asyncio.to_thread(pairs.ballot, series, await db.read(votes.of_voter, series.id, voter), voter)


async def cast(
    db: Database, series_id: str, *, voter: str, round: int, left: str, right: str, choice: str
) -> tuple[Vote, bool]:
    """Record what was said of a pair, and whether that is new; only now the names are told."""
    try:
        chosen = Choice(choice)
    except ValueError as exc:
        hint = f"one of {', '.join(Choice)}"
        raise RequestError(f"there is no choice {choice[:80]!r}", hint=hint, param="choice") from exc

    def cast_once(connection: Connection) -> tuple[Vote, bool]:
        series = history.series_one(connection, series_id)
        while True:
            before = votes.of_voter(connection, series_id, voter)
            vote = pairs.new_vote(
                series,
                before,
                voter=voter,
                round_=round,
                left=left,
                right=right,
                choice=chosen,
                now=datetime.now(UTC),
            )
            if vote in before:
                return vote, False
            # PostgreSQL lets two say it at once; then the one that came second reads what the first said.
            if votes.keep(connection, vote):
                return vote, True

    return await db.write(cast_once)


async def picture(
    db: Database, images: ImageStore, series: Series, blind: str, *, width: int | None = None
) -> BlindFile:
    """The picture behind a blind name, or with `width` its smallest copy that is at least so wide."""
    file = await album.find(db, images, pairs.picture_of(series, blind).id, width=width)
    data = await images.get(file.path)
    if file.copy == album.FULL:
        # All as PNG: where one model's pictures are JPEG, the format would be its name.
        return BlindFile(id=blind, data=await asyncio.to_thread(_plain, data, file.mime), mime=PNG, etag=blind)
    return BlindFile(id=blind, data=data, mime=file.mime, etag=f"{blind}-{file.copy}")


async def ratings(
    db: Database,
    *,
    owner: str | None = None,
    series_id: str | None = None,
    models: Sequence[str] | None = None,
    q: str | None = None,
    voter: str | None = None,
) -> Ratings:
    """What the votes say of the models."""
    told = await db.read(votes.tallies, owner=owner, series_id=series_id, models=models, q=q, voter=voter)
    return await asyncio.to_thread(rate, told)


async def unrated(db: Database, names: Sequence[str], *, owner: str | None = None) -> list[str]:
    """Those of these models that were never voted on."""
    known = await db.read(votes.models, owner=owner)
    return [name for name in names if name not in known]


def _plain(data: bytes, mime: str) -> bytes:
    if mime == PNG:
        from imagen.engine.sidecar import without_text

        return without_text(data)
    from imagen.previews.decode import decode

    packed = io.BytesIO()
    decode(data).save(packed, "PNG", compress_level=1)
    return packed.getvalue()
