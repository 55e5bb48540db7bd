"""Is the record sound? Read straight from the tables after everything was done to those who write them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from imagen.store.tables import events, images, jobs, slots

MAX_FAILURES = 3
ENDS = {"completed", "failed", "cancelled"}
FREED = ENDS | {"requeued"}


@dataclass(slots=True)
class Verdict:
    """What is wrong (nothing, when all is well), and what there was."""

    faults: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    requeued: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # why jobs failed
    attempts: Counter[int] = field(default_factory=Counter)
    pictures: int = 0

    def wrong(self, what: str) -> None:
        self.faults.append(what)

    def __str__(self) -> str:
        requeued = ", ".join(f"{count} {reason}" for reason, count in self.requeued.most_common()) or "none"
        lines = [
            f"ended: {_counts(self.states)}; {self.pictures} pictures; attempts a job: {_counts(self.attempts)}",
            f"put back: {requeued}",
        ]
        lines += [f"failed: {_counts(self.reasons)}"] if self.reasons else []
        return "\n".join(lines + [f"WRONG: {fault}" for fault in self.faults[:40]])


def judge(
    connection: Connection,
    store: Path | Callable[[str], bytes | None],
    capacity: Mapping[str, int],
    expected: Collection[str],
) -> Verdict:
    """`capacity` are the slots of each device, `expected` the prompts of which there is exactly one job each.

    `store` is the folder of the pictures, or reads one of them by its path where there is no folder.
    """
    verdict = Verdict()
    rows = connection.execute(select(jobs)).all()
    told: dict[str, list[Row[Any]]] = defaultdict(list)
    order = connection.execute(select(events).order_by(events.c.pos)).all()
    for event in order:
        told[event.job_id].append(event)
    drawn: dict[str, list[Row[Any]]] = defaultdict(list)
    for image in connection.execute(select(images).order_by(images.c.job_id, images.c.idx)).all():
        drawn[image.job_id].append(image)
    _accepted(verdict, Counter(row.prompt for row in rows), expected)
    for row in rows:
        _job(verdict, row, told[row.id], drawn[row.id])
    _devices(verdict, order, capacity)
    _pictures(verdict, [image for found in drawn.values() for image in found], store)
    for slot in connection.execute(select(slots).where(slots.c.job_id.is_not(None))).all():
        verdict.wrong(f"slot {slot.slot} of {slot.device} is still held by {slot.job_id}")
    return verdict


def _accepted(verdict: Verdict, prompts: Counter[str], expected: Collection[str]) -> None:
    for prompt in sorted({*prompts, *expected}):
        if prompts[prompt] != (prompt in expected):
            verdict.wrong(f"{prompt!r}: {prompts[prompt]} jobs instead of {int(prompt in expected)}")


def _job(verdict: Verdict, row: Row[Any], told: Sequence[Row[Any]], drawn: Sequence[Row[Any]]) -> None:
    """One job's record: numbers, attempts, pictures, the end."""
    name = f"{row.prompt!r} ({row.id})"
    types = [event.type for event in told]
    verdict.states[row.state] += 1
    verdict.attempts[row.attempt] += 1
    if row.state not in ENDS:
        verdict.wrong(f"{name} is stuck: {row.state}, {types}")
    if [event.seq for event in told] != list(range(1, len(told) + 1)) or row.seq != len(told):
        verdict.wrong(f"{name}: the numbers are {[event.seq for event in told]}, the job says {row.seq}")
    if types[:1] != ["queued"]:
        verdict.wrong(f"{name} begins with {types[:1]}")
    ends = [type_ for type_ in types if type_ in ENDS]
    if len(ends) != (row.state in ENDS) or (ends and (types[-1] != ends[0] or ends[0] != row.state)):
        verdict.wrong(f"{name} is {row.state} and was told {types}")
    _attempts(verdict, name, row, told)
    shown = [event.body["index"] for event in told if event.type == "image"]
    recorded = [image.idx for image in drawn]
    if sorted(shown) != recorded or len(set(shown)) != len(shown):
        verdict.wrong(f"{name}: told pictures {shown}, recorded {recorded}")
    if row.state == "completed":
        last = [image["id"] for image in told[-1].body.get("images", [])]
        if recorded != list(range(row.n)) or last != [image.id for image in drawn]:
            verdict.wrong(f"{name}: completed with pictures {recorded} of {row.n}, told {len(last)}")
    if row.state == "failed":
        error = row.error or {}
        verdict.reasons[f"{error.get('code')}, {row.failures} failures"] += 1
        if not error.get("message") or not error.get("hint"):
            verdict.wrong(f"{name} failed without saying why: {error}")
        if row.failures < MAX_FAILURES and not (row.options or {}).get("fail"):
            verdict.wrong(f"{name} failed for what was done around it: {error}")
    for event in told:
        if event.type == "requeued":
            said = event.body["reason"]
            verdict.requeued["because their worker died" if "died" in said else said] += 1


def _attempts(verdict: Verdict, name: str, row: Row[Any], told: Sequence[Row[Any]]) -> None:
    """Each attempt begins with `started`, one higher than the last, and is silent once it was given up."""
    current, running = 0, False
    for event in told:
        match event.type:
            case "queued" | "cancelled":
                fine = event.attempt == current
                running = False
            case "started":
                fine = event.attempt == current + 1 and not running
                current, running = event.attempt, True
            case "warning":  # of the request itself, before anybody draws, or of an attempt
                fine = event.attempt == current and (running or current == 0)
            case "failed" if event.attempt == 0:  # a row by SQL that could not be read
                fine = current == 0
            case _:
                fine = event.attempt == current and running
                running = running and event.type not in FREED
        if not fine:
            verdict.wrong(f"{name}: {event.type} of attempt {event.attempt} (number {event.seq}) came after {current}")
            return
    if row.attempt != current:
        verdict.wrong(f"{name}: attempt {row.attempt}, and {current} were told")


def _devices(verdict: Verdict, order: Sequence[Row[Any]], capacity: Mapping[str, int]) -> None:
    """In the order of recording: never more jobs on a device than it has slots."""
    holds: dict[str, set[str]] = defaultdict(set)
    where: dict[str, str] = {}
    for event in order:
        if event.type == "started":
            device = event.body["device"]
            where[event.job_id] = device
            holds[device].add(event.job_id)
            if len(holds[device]) > capacity.get(device, 0):
                verdict.wrong(f"{device} drew {sorted(holds[device])} at once, it takes {capacity.get(device, 0)}")
        elif event.type in FREED and event.job_id in where:
            holds[where.pop(event.job_id)].discard(event.job_id)


def _pictures(verdict: Verdict, rows: Sequence[Row[Any]], store: Path | Callable[[str], bytes | None]) -> None:
    """Every recorded picture lies there, whole."""
    verdict.pictures = len(rows)
    for image in rows:
        data = _read(store / image.path) if isinstance(store, Path) else store(image.path)
        if data is None:
            verdict.wrong(f"picture {image.id} is recorded and not there: {image.path}")
        elif hashlib.sha256(data).hexdigest() != image.sha256:
            verdict.wrong(f"picture {image.id} is not what was recorded")
    for path, count in Counter(image.path for image in rows).items():
        if count > 1:
            verdict.wrong(f"{path} is recorded {count} times")


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _counts(counted: Counter[Any]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in sorted(counted.items())) or "nothing"
