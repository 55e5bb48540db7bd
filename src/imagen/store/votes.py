"""Statements about blind votes: keep one, read those of a voter, count what was said of which models."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select

from imagen.core.vote import Choice, Side, Tally, Vote
from imagen.store.columns import upsert
from imagen.store.tables import images, jobs, series, votes


def of_voter(connection: Connection, series_id: str, voter: str) -> list[Vote]:
    """What one voter said of the pairs of one series, oldest first."""
    query = select(votes).where(votes.c.series_id == series_id, votes.c.voter == voter)
    return [_vote(row) for row in connection.execute(query.order_by(votes.c.created_at, votes.c.id))]


def keep(connection: Connection, vote: Vote) -> bool:
    """Record a vote; False when this voter has voted on this pair in this round meanwhile."""
    row = {
        "id": vote.id,
        "series_id": vote.series,
        "voter": vote.voter,
        "pair": vote.pair,
        "round": vote.round,
        "left_image": vote.left.image,
        "right_image": vote.right.image,
        "left_model": vote.left.model,
        "right_model": vote.right.model,
        "choice": vote.choice.value,
        "created_at": vote.created_at,
    }
    added = upsert(connection, votes).values(row).on_conflict_do_nothing().returning(votes.c.id)
    return connection.execute(added).first() is not None


def tallies(
    connection: Connection,
    *,
    owner: str | None = None,
    series_id: str | None = None,
    models: Sequence[str] | None = None,
    q: str | None = None,
    voter: str | None = None,
) -> list[Tally]:
    """How often what was said of which two models about which prompt; with `models` only where both are among them."""
    said = (votes.c.left_model, votes.c.right_model, votes.c.choice, jobs.c.prompt)
    query = (
        select(*said, func.count().label("count"))
        .join(series, series.c.id == votes.c.series_id)
        # A vote outlives the picture and the job that it was about.
        .join(images, images.c.id == votes.c.left_image, isouter=True)
        .join(jobs, jobs.c.id == images.c.job_id, isouter=True)
        .where(votes.c.choice != Choice.SKIP.value)
    )
    if owner is not None:
        query = query.where(series.c.owner == owner)
    if series_id is not None:
        query = query.where(votes.c.series_id == series_id)
    if models is not None:
        query = query.where(votes.c.left_model.in_(models), votes.c.right_model.in_(models))
    if q:
        query = query.where(jobs.c.prompt.icontains(q, autoescape=True))
    if voter is not None:
        query = query.where(votes.c.voter == voter)
    return [
        Tally(
            left=row.left_model,
            right=row.right_model,
            choice=Choice(row.choice),
            prompt=row.prompt or "",
            count=row._mapping["count"],
        )
        for row in connection.execute(query.group_by(*said))
    ]


def models(connection: Connection, *, owner: str | None = None) -> set[str]:
    """Every model that was ever voted on, also one that is no longer there."""
    sides = (votes.c.left_model, votes.c.right_model)
    query = select(*sides).join(series, series.c.id == votes.c.series_id).distinct()
    if owner is not None:
        query = query.where(series.c.owner == owner)
    return {name for row in connection.execute(query) for name in row}


def _vote(row: Row[Any]) -> Vote:
    return Vote(
        id=row.id,
        series=row.series_id,
        voter=row.voter,
        round=row.round,
        left=Side(image=row.left_image, model=row.left_model),
        right=Side(image=row.right_image, model=row.right_model),
        choice=Choice(row.choice),
        created_at=row.created_at,
    )
