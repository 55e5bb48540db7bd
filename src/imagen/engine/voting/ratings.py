"""Ratings from votes: how strong each model is, and how sure one can be of it.

The model is Bradley and Terry's with Davidson's ties: with strengths a and b and a share of ties v, the first wins
with a / (a + b + v sqrt(ab)), and they tie with v sqrt(ab) / (a + b + v sqrt(ab)). See docs/decisions/ratings.md.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from imagen.core.vote import Choice, Tally

CONFIDENCE = 0.95
_Z = 1.959964  # of a normal distribution, for that confidence
MIDDLE = 1000.0  # the mean of every group
POINTS = 400 / math.log(10)  # 400 points are odds of ten to one, as with chess
# Before any vote, strengths are taken to lie some 700 points around the middle. Without it a model that won all of its
# votes would be infinitely good. With half as much, intervals held the truth too rarely where models are far apart.
PRIOR_SD = 4.0
_TIE_MEAN, _TIE_SD = -0.7, 1.5  # of the logarithm of v: about one tie in five, but it may be nearly none or most
_STEPS = 60
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One model among those it can be compared with."""

    model: str
    rating: float
    low: float
    high: float
    votes: int
    wins: int
    losses: int
    ties: int
    prompts: int  # how many different ones it was seen with: votes on one prompt say little about others
    best: int = (
        1  # the places in its group that it may have: where intervals meet, the votes do not tell which is first
    )
    worst: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What was said of two models against each other."""

    a: str
    b: str
    a_wins: int
    b_wins: int
    ties: int

    @property
    def votes(self) -> int:
        return self.a_wins + self.b_wins + self.ties


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Models that votes connect, best first. Of two groups no vote says which is better."""

    votes: int
    ties: int
    models: tuple[Rating, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """What the votes say, and no more than that."""

    votes: int = 0
    sides: Mapping[str, int] = field(default_factory=dict)  # how often each side won: far apart means a habit
    groups: tuple[Group, ...] = ()
    meetings: tuple[Meeting, ...] = ()
    confidence: float = CONFIDENCE


def rate(tallies: Iterable[Tally]) -> Ratings:
    """Ratings from what was counted; skipped pairs say nothing."""
    told = [one for one in tallies if one.choice is not Choice.SKIP and one.left != one.right]
    sides = Counter({choice.value: 0 for choice in (Choice.LEFT, Choice.RIGHT, Choice.TIE)})
    prompts: dict[str, set[str]] = {}
    met: dict[tuple[str, str], list[int]] = {}
    for one in told:
        sides[one.choice.value] += one.count
        for model in (one.left, one.right):
            prompts.setdefault(model, set()).add(one.prompt)
        a, b = sorted((one.left, one.right))
        counts = met.setdefault((a, b), [0, 0, 0])
        winner = {Choice.LEFT: one.left, Choice.RIGHT: one.right}.get(one.choice)
        counts[2 if winner is None else int(winner == b)] += one.count
    meetings = [Meeting(a=a, b=b, a_wins=n[0], b_wins=n[1], ties=n[2]) for (a, b), n in sorted(met.items())]
    groups = [_group(part, prompts) for part in _connected(meetings)]
    return Ratings(
        votes=sum(sides.values()),
        sides=dict(sides),
        groups=tuple(sorted(groups, key=lambda group: (-group.votes, group.models[0].model))),
        meetings=tuple(meetings),
    )


def _connected(meetings: Sequence[Meeting]) -> list[list[Meeting]]:
    """The meetings in parts that share no model."""
    leader: dict[str, str] = {}

    def lead(model: str) -> str:
        while leader.setdefault(model, model) != model:
            leader[model] = leader[leader[model]]
            model = leader[model]
        return model

    for one in meetings:
        leader[lead(one.a)] = lead(one.b)
    parts: dict[str, list[Meeting]] = {}
    for one in meetings:
        parts.setdefault(lead(one.a), []).append(one)
    return list(parts.values())


def _group(meetings: Sequence[Meeting], prompts: Mapping[str, set[str]]) -> Group:
    names = sorted({name for one in meetings for name in (one.a, one.b)})
    strengths, covariance = _fit(names, meetings)
    errors = [math.sqrt(max(row[index], 0.0)) for index, row in enumerate(covariance)]
    # Whether one is better than another is asked of their difference: their own intervals also hold the doubt about
    # the mean, which is the same for both.
    surely = [
        [
            strengths[one] - strengths[other]
            > _Z * math.sqrt(max(covariance[one][one] + covariance[other][other] - 2 * covariance[one][other], 0.0))
            for other in range(len(names))
        ]
        for one in range(len(names))
    ]
    wins: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    ties: Counter[str] = Counter()
    for one in meetings:
        for model, won, lost in ((one.a, one.a_wins, one.b_wins), (one.b, one.b_wins, one.a_wins)):
            wins[model] += won
            losses[model] += lost
            ties[model] += one.ties
    rated = [
        Rating(
            model=name,
            rating=MIDDLE + POINTS * strength,
            low=MIDDLE + POINTS * (strength - _Z * error),
            high=MIDDLE + POINTS * (strength + _Z * error),
            votes=wins[name] + losses[name] + ties[name],
            wins=wins[name],
            losses=losses[name],
            ties=ties[name],
            prompts=len(prompts[name]),
            best=1 + sum(better[index] for better in surely),
            worst=len(names) - sum(surely[index]),
        )
        for index, (name, strength, error) in enumerate(zip(names, strengths, errors, strict=True))
    ]
    return Group(
        votes=sum(one.votes for one in meetings),
        ties=sum(one.ties for one in meetings),
        models=tuple(sorted(rated, key=lambda one: (-one.rating, one.model))),
    )


def _fit(names: Sequence[str], meetings: Sequence[Meeting]) -> tuple[list[float], list[list[float]]]:
    """The most likely strengths, as logarithms around 0, and their covariance, by Newton's method."""
    import numpy as np  # only who asks for ratings waits for it

    count = len(names)
    place = {name: index for index, name in enumerate(names)}
    a = np.array([place[one.a] for one in meetings])
    b = np.array([place[one.b] for one in meetings])
    won = np.array([[one.a_wins, one.b_wins, one.ties] for one in meetings], dtype=float)
    total = won.sum(axis=1)

    # The last of the unknowns is the logarithm of v.
    centre = np.zeros(count + 1)
    centre[count] = _TIE_MEAN
    weight = np.full(count + 1, PRIOR_SD**-2)
    weight[count] = _TIE_SD**-2

    def at(x: "np.ndarray") -> "tuple[float, np.ndarray, np.ndarray]":
        half = (x[a] - x[b]) / 2
        logits = np.stack([half, -half, np.full(len(half), x[count])], axis=1)
        top = logits.max(axis=1, keepdims=True)
        logs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        p = np.exp(logs)
        value = float((won * logs).sum() - 0.5 * (weight * (x - centre) ** 2).sum())
        lead = (p[:, 0] - p[:, 1]) / 2
        slope = (won[:, 0] - won[:, 1]) / 2 - total * lead
        gradient = -weight * (x - centre)
        np.add.at(gradient, a, slope)
        np.add.at(gradient, b, -slope)
        gradient[count] += (won[:, 2] - total * p[:, 2]).sum()
        bend = total * ((p[:, 0] + p[:, 1]) / 4 - lead**2)
        cross = -total * p[:, 2] * lead
        information = np.diag(weight)
        for rows, columns, part in (
            *((a, a, bend), (b, b, bend), (a, b, -bend), (b, a, -bend)),
            *((a, np.full_like(a, count), cross), (b, np.full_like(b, count), -cross)),
            *((np.full_like(a, count), a, cross), (np.full_like(b, count), b, -cross)),
        ):
            np.add.at(information, (rows, columns), part)
        information[count, count] += (total * p[:, 2] * (1 - p[:, 2])).sum()
        return value, gradient, information

    x = centre.copy()
    value, gradient, information = at(x)
    for _ in range(_STEPS):
        step = np.linalg.solve(information, gradient)
        if float(gradient @ step) < _CLOSE:
            break
        size = 1.0
        while size > _CLOSE:  # the hill has one top; only a step that is too long can miss it
            further = at(x + size * step)
            if further[0] >= value:
                x, (value, gradient, information) = x + size * step, further
                break
            size /= 2
        else:
            break
    # Strengths have no zero of their own: what is rated, and how surely, is the distance from the group's mean.
    around = np.eye(count, count + 1) - np.eye(count + 1)[:count].sum(axis=0) / count
    covariance = around @ np.linalg.inv(information) @ around.T
    return [float(one) for one in around @ x], [[float(one) for one in row] for row in covariance]
