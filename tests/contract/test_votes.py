"""Votes in the store: each is kept once, belongs to its voter, and counts for who may see its series."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Connection, insert
from tests.store_kit import database

from imagen.core.ids import new_id
from imagen.core.vote import Choice, Side, Tally, Vote
from imagen.store import votes
from imagen.store.db import Database
from imagen.store.tables import images, jobs, series

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def drawn(connection: Connection, owner: str, prompt: str) -> tuple[str, str]:
    """A series of one prompt, and a picture in it."""
    series_id, job_id, image_id = new_id(), new_id(), new_id()
    connection.execute(
        insert(series).values(id=series_id, prompts=[prompt], models=[], seeds=[], owner=owner, created_at=NOW)
    )
    connection.execute(insert(jobs).values(id=job_id, prompt=prompt, series_id=series_id, created_at=NOW))
    hashes = {"sha256": "0" * 64, "pixels_sha256": "0" * 64}
    connection.execute(
        insert(images).values(
            id=image_id,
            job_id=job_id,
            idx=0,
            url="",
            width=1,
            height=1,
            seed=1,
            path="",
            mime="",
            created_at=NOW,
            **hashes,
        )
    )
    return series_id, image_id


async def a_vote(db: Database, *, owner: str = "local", prompt: str = "a fox", choice: Choice = Choice.LEFT) -> Vote:
    series_id, image = await db.write(drawn, owner, prompt)
    return Vote(
        id=new_id(),
        series=series_id,
        voter="ann",
        round=1,
        left=Side(image=image, model="test"),
        right=Side(image=new_id(), model="other"),
        choice=choice,
        created_at=NOW,
    )


async def test_a_vote_is_kept_as_it_was(place: str) -> None:
    """Read back it is the same, for its voter only."""
    async with database(place) as db:
        vote = await a_vote(db)
        assert await db.write(votes.keep, vote)
        assert await db.read(votes.of_voter, vote.series, "ann") == [vote]
        assert await db.read(votes.of_voter, vote.series, "ben") == []


async def test_a_pair_is_voted_on_once_in_a_round(place: str) -> None:
    """Ten at once, on either side: one is kept. Another round or voter is another vote."""
    async with database(place) as db:
        vote = await a_vote(db)
        mirrored = replace(vote, left=vote.right, right=vote.left)
        same = [replace(one, id=new_id()) for one in (vote, mirrored) for _ in range(5)]
        kept = await asyncio.gather(*(db.write(votes.keep, one) for one in same))
        assert sum(kept) == 1
        assert await db.write(votes.keep, replace(vote, id=new_id(), round=2))
        assert await db.write(votes.keep, replace(vote, id=new_id(), voter="ben"))


async def test_votes_are_counted_by_what_was_said(place: str) -> None:
    """By models, choice and prompt; skipped pairs are not counted; filters take away."""
    async with database(place) as db:
        mine = await a_vote(db)
        theirs = await a_vote(db, owner="ben", prompt="An Owl", choice=Choice.TIE)
        skipped = await a_vote(db, choice=Choice.SKIP)
        for one in (mine, replace(mine, id=new_id(), voter="ben"), theirs, skipped):
            assert await db.write(votes.keep, one)
        fox = Tally(left="test", right="other", choice=Choice.LEFT, prompt="a fox", count=2)
        owl = Tally(left="test", right="other", choice=Choice.TIE, prompt="An Owl", count=1)

        async def told(**filters: object) -> list[Tally]:
            found = await db.read(votes.tallies, **filters)  # type: ignore[arg-type]  # each of its own type
            return sorted(found, key=lambda one: one.prompt, reverse=True)

        assert await told() == [fox, owl]
        assert await told(owner="local") == [fox]
        assert await told(owner="ben") == [owl]
        assert await told(series_id=theirs.series) == [owl]
        assert await told(q="owl") == [owl]
        assert await told(q="%") == []
        assert await told(voter="ben") == [replace(fox, count=1)]
        assert await told(models=["test", "other"]) == [fox, owl]
        assert await told(models=["test"]) == []
        assert await told(models=[]) == []


async def test_a_vote_outlives_its_pictures(place: str) -> None:
    """The rows of a picture may go; what was said of the models stays."""
    async with database(place) as db:
        vote = await a_vote(db)
        await db.write(votes.keep, replace(vote, left=replace(vote.left, image=new_id())))
        (one,) = await db.read(votes.tallies)
        assert (one.left, one.right, one.prompt, one.count) == ("test", "other", "", 1)
