"""JSON and CSV shapes of blind votes and ratings, the same at every surface; like all others they only ever gain."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from imagen.core.vote import Ballot, Hidden, Vote
from imagen.engine.voting.ratings import Group, Rating, Ratings
from imagen.surfaces.wire import moment

FIELDS = ("model", "rating", "low", "high", "votes", "wins", "losses", "ties", "prompts", "best", "worst")
COLUMNS = ("group", *FIELDS)


def ballot_json(ballot: Ballot) -> dict[str, Any]:
    """The next pair, without a word about the models."""
    pair = ballot.pair
    return {
        "series": ballot.series,
        "round": ballot.round,
        "done": ballot.done,
        "waiting": ballot.waiting,
        "total": ballot.total,
        "pair": None
        if pair is None
        else {
            "prompt": pair.prompt,
            "round": ballot.round,
            "left": _hidden(ballot.series, pair.left),
            "right": _hidden(ballot.series, pair.right),
        },
    }


def vote_json(vote: Vote) -> dict[str, Any]:
    """What was said, and of whom."""
    return {
        "id": vote.id,
        "series": vote.series,
        "round": vote.round,
        "choice": vote.choice.value,
        "left": {"model": vote.left.model, "image": vote.left.image},
        "right": {"model": vote.right.model, "image": vote.right.image},
        "created_at": moment(vote.created_at),
    }


def ratings_json(ratings: Ratings) -> dict[str, Any]:
    """Every group of models that can be compared, best first, and who met whom."""
    return {
        "votes": ratings.votes,
        "ties": sum(group.ties for group in ratings.groups),
        "confidence": ratings.confidence,
        "sides": dict(ratings.sides),
        "groups": [_group(group) for group in ratings.groups],
        "pairs": [
            {"a": one.a, "b": one.b, "a_wins": one.a_wins, "b_wins": one.b_wins, "ties": one.ties}
            for one in ratings.meetings
        ],
    }


def ratings_csv(ratings: Ratings) -> str:
    """One line for each model; a spreadsheet reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_lines(ratings))
    return text.getvalue()


def _lines(ratings: Ratings) -> Iterator[tuple[Any, ...]]:
    for number, group in enumerate(ratings.groups, 1):
        for one in group.models:
            yield number, *_rating(one).values()


def _group(group: Group) -> dict[str, Any]:
    return {"votes": group.votes, "ties": group.ties, "models": [_rating(one) for one in group.models]}


def _rating(one: Rating) -> dict[str, Any]:
    told = {name: getattr(one, name) for name in FIELDS}
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in told.items()}


def _hidden(series: str, side: Hidden) -> dict[str, Any]:
    return {
        "id": side.id,
        "url": f"/v1/series/{series}/blind/{side.id}",
        "width": side.width,
        "height": side.height,
    }
