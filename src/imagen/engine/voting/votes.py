"""Blind votes on a series: the next pair, a picture without its name, a vote, and what all votes say."""

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import Connection

from imagen.core.errors import RequestError
from imagen.core.job import LOCAL, Series
from imagen.core.vote import Ballot, BlindFile, Choice, Vote
from imagen.engine.pictures import album
from imagen.engine.voting import pairs
from imagen.engine.voting.ratings import Ratings, rate
from imagen.models.catalog import Catalog
from imagen.store import history, votes
from imagen.store.db import Database
from imagen.store.images import ImageStore

PNG = "image/png"


class SeriesOf(Protocol):
    """Finds a series that an owner may see."""

    def __call__(self, series_id: str, *, owner: str | None = None) -> Awaitable[Series]:
        """One series with its cells, by its id or a unique part of it."""


class Votes:
    """Blind votes on the series of an owner. Part of the app."""

    def __init__(self, db: Database, images: ImageStore, *, catalog: Callable[[], Catalog], series: SeriesOf) -> None:
        self._db = db
        self._images = images
        self._catalog = catalog
        self._series = series

    async def ballot(self, series_id: str, *, voter: str = LOCAL, owner: str | None = None) -> Ballot:
        """Two pictures of a series without their names, the next ones that this voter has not compared."""
        series = await self._series(series_id, owner=owner)
        before = await self._db.read(votes.of_voter, series.id, voter)
        return await asyncio.to_thread(pairs.ballot, series, before, voter)

    async def picture(
        self, series_id: str, blind: str, *, width: int | None = None, owner: str | None = None
    ) -> BlindFile:
        """A picture of a pair; neither its bytes nor what is said of them tell the model."""
        series = await self._series(series_id, owner=owner)
        file = await album.find(self._db, self._images, pairs.picture_of(series, blind).id, width=width)
        data = await self._images.get(file.path)
        if file.copy == album.FULL:
            # All as PNG: where one model's pictures are JPEG, the format would be its name.
            return BlindFile(id=blind, data=await asyncio.to_thread(_plain, data, file.mime), mime=PNG, etag=blind)
        return BlindFile(id=blind, data=data, mime=file.mime, etag=f"{blind}-{file.copy}")

    async def cast(
        self,
        series_id: str,
        *,
        round: int,
        left: str,
        right: str,
        choice: str,
        voter: str = LOCAL,
        owner: str | None = None,
    ) -> tuple[Vote, bool]:
        """Say which of a pair is better: left, right, tie or skip. Told with the names, and whether it is new."""
        found = (await self._series(series_id, owner=owner)).id
        try:
            chosen = Choice(choice)
        except ValueError as exc:
            hint = f"one of {', '.join(Choice)}"
            raise RequestError(f"there is no choice {choice[:80]!r}", hint=hint, param="choice") from exc

        def cast_once(connection: Connection) -> tuple[Vote, bool]:
            series = history.series_one(connection, found)
            while True:
                before = votes.of_voter(connection, found, voter)
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

        return await self._db.write(cast_once)

    async def ratings(
        self,
        *,
        series_id: str | None = None,
        models: Sequence[str] | None = None,
        q: str | None = None,
        voter: str | None = None,
        owner: str | None = None,
    ) -> Ratings:
        """How good each model is by the votes, and how sure that is; of one series, some models, prompts or a voter."""
        if series_id is not None:
            series_id = (await self._series(series_id, owner=owner)).id
        catalog = self._catalog()
        known = await self._db.read(votes.models, owner=owner) if models else ()
        for name in models or ():
            # Told apart from a model that nobody has voted on yet: that one is known.
            if name not in known and name not in catalog.models and name not in catalog.broken:
                catalog.get(name)
        told = await self._db.read(votes.tallies, owner=owner, series_id=series_id, models=models, q=q, voter=voter)
        return await asyncio.to_thread(rate, told)


def _plain(data: bytes, mime: str) -> bytes:
    if mime == PNG:
        from imagen.engine.pictures.sidecar import without_text

        return without_text(data)
    from imagen.previews.decode import decode

    packed = io.BytesIO()
    decode(data).save(packed, "PNG", compress_level=1)
    return packed.getvalue()
