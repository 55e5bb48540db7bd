"""The queue in memory, with the order of the real one: strict on priority, the loaded model if it may, then age."""

import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from imagen.store.order import MANY, Turn


@dataclass(slots=True, order=True)
class Waiting:
    """A job that waits. Numbers rise with age, as (created_at, id) does."""

    number: int
    at: float
    kind: int
    priority: int
    turn: Any = None
    failures: int = 0


Ask = Callable[[Turn, Turn, int], bool]


class Line:
    """Jobs that wait, by priority and model."""

    def __init__(self, kinds: int, priorities: Iterable[int]) -> None:
        self._priorities = sorted(priorities, reverse=True)
        self._lines: dict[int, list[_Row]] = {level: [_Row() for _ in range(kinds)] for level in self._priorities}
        self.size = 0

    def add(self, job: Waiting) -> None:
        """One more; one that comes back takes its old place."""
        self._lines[job.priority][job.kind].add(job)
        self.size += 1

    def only_new(self, kind: int, since: float) -> bool:
        """What `order.only_new` says of a model: do jobs of it wait, and have all of them come since then?"""
        rows = [self._lines[level][kind] for level in self._priorities]
        heads = [row.jobs[row.first] for row in rows if row.first < len(row.jobs)]
        return bool(heads) and all(head.at > since for head in heads)

    def take(self, served: Iterable[int], loaded: int | None, may_pass: Ask) -> Waiting | None:
        """What `order.heads` and `order.loaded_first` would choose for one device that draws these models."""
        for level in self._priorities:
            rows = self._lines[level]
            heads = [row.jobs[row.first] for row in (rows[kind] for kind in served) if row.first < len(row.jobs)]
            if not heads:
                continue
            oldest = min(heads, key=_number)
            chosen = oldest
            if loaded is not None and oldest.kind != loaded:
                for head in heads:
                    if head.kind == loaded:
                        waiting = self._older(rows, served, head.number)
                        if waiting < MANY and may_pass(oldest.turn, head.turn, waiting):
                            chosen = head
                        break
            rows[chosen.kind].pop()
            self.size -= 1
            return chosen
        return None

    def __iter__(self) -> Iterator[Waiting]:
        """All that wait, in no order that means anything."""
        for rows in self._lines.values():
            for row in rows:
                yield from row.jobs[row.first :]

    @staticmethod
    def _older(rows: list["_Row"], served: Iterable[int], number: int) -> int:
        return min(MANY, sum(rows[kind].older(number) for kind in served))


class _Row:
    __slots__ = ("first", "jobs")

    def __init__(self) -> None:
        self.jobs: list[Waiting] = []
        self.first = 0

    def add(self, job: Waiting) -> None:
        if not self.jobs or self.jobs[-1].number < job.number:
            self.jobs.append(job)
        else:
            bisect.insort(self.jobs, job, lo=self.first, key=_number)

    def pop(self) -> None:
        self.first += 1
        if self.first > 1000 and self.first * 2 > len(self.jobs):
            del self.jobs[: self.first]
            self.first = 0

    def older(self, number: int) -> int:
        return bisect.bisect_left(self.jobs, number, lo=self.first, key=_number) - self.first


def _number(job: Waiting) -> int:
    return job.number


def turn_of(since: datetime, number: int, name: str) -> Turn:
    """The real turn of a job: what the policy compares."""
    return Turn(since, f"{number:012d}", name)
