"""Job and Series: what is remembered about one request, and about an ordered set of them."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from imagen.core.errors import ImagenError
from imagen.core.request import Draft, Request
from imagen.core.webhook import Delivery, Webhook

LOCAL = "local"  # the owner of whatever needed no key


class State(StrEnum):
    """Where a job stands. A terminal state is final: a retry is a new job."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return not MOVES[self]


MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.COMPLETED, State.FAILED, State.CANCELLED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One finished picture, as recorded."""

    index: int
    id: str
    url: str
    width: int
    height: int
    seed: int
    sha256: str
    pixels_sha256: str
    state: str = "stored"  # or "deleted": the record and the hash outlive the bytes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "StoredImage":
        return cls(**{key: shape[key] for key in cls.__dataclass_fields__ if key in shape})


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """What was asked and is not honoured as asked; told by a `warning` event."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request and what became of it."""

    id: str
    state: State
    request: Request | Draft  # a row that came by SQL stays a Draft until a worker resolves it
    attempt: int = 0
    failures: int = 0
    priority: int = 0
    owner: str = LOCAL
    phase: str | None = None
    progress: Mapping[str, Any] | None = None
    position: int | None = None
    waits_for: str | None = None
    images: tuple[StoredImage, ...] = ()
    warnings: tuple[Warned, ...] = ()
    error: ImagenError | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    series: str | None = None
    cell: int | None = None
    retry_of: str | None = None
    worker: str | None = None
    device: str | None = None
    cancel_requested: bool = False
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    webhook: Webhook | None = None
    delivery: Delivery | None = None  # of the end; none before it, and where nobody wants to be told of this end


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One place in a series: which prompt, model and seed belong there, and the job that fills it."""

    index: int
    prompt: str
    model: str
    seed: int
    job: Job | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """An ordered set of jobs; a comparison is one."""

    id: str
    prompts: tuple[str, ...]
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # size and steps asked for, and the folder to write to
    owner: str = LOCAL
    cancelled: bool = False
    created_at: datetime
    webhook: Webhook | None = None
    delivery: Delivery | None = None  # of its last ending

    @property
    def counts(self) -> dict[str, int]:
        """How many cells stand in each state."""
        states = [cell.job.state for cell in self.cells if cell.job]
        return {state.value: states.count(state) for state in State if state in states}

    @property
    def state(self) -> str:
        """running until every cell ended; then completed, partial or cancelled."""
        return state_of({cell.job.state for cell in self.cells if cell.job}, cancelled=self.cancelled)


def state_of(states: Set[State], *, cancelled: bool) -> str:
    """How a series stands whose cells stand like this."""
    if any(not state.terminal for state in states):
        return "running"
    if states == {State.COMPLETED}:
        return "completed"
    return "cancelled" if cancelled and State.FAILED not in states else "partial"


def cells_of(prompts: Sequence[str], models: Sequence[str], seeds: Sequence[int], first: int = 0) -> list[Cell]:
    """Every prompt with every seed for one model, then the next model: each is loaded once."""
    grid = [(model, prompt, seed) for model in models for prompt in prompts for seed in seeds]
    return [
        Cell(index=index, prompt=prompt, model=model, seed=seed)
        for index, (model, prompt, seed) in enumerate(grid, first)
    ]
