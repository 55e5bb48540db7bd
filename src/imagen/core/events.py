"""What is recorded and streamed about a job: eleven kinds, one union.

Durable events are numbered 1, 2, 3 … per job without gaps and are written in the transaction of the
state they tell of. Ephemeral ones (phase, progress, preview) carry the last durable number and a
tick; a reader may miss some, and an end comes instead of those just before it. Exactly one terminal event comes last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, ClassVar

from imagen.core.errors import ImagenError
from imagen.core.job import StoredImage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    type: ClassVar[str]
    durable: ClassVar[bool] = True
    terminal: ClassVar[bool] = False

    job: str
    seq: int = 0
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(_Event):
    """The job is accepted and safe on disk."""

    type: ClassVar[str] = "queued"
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(_Event):
    """A worker has it; `request` is complete: model, seed, steps, size, options."""

    type: ClassVar[str] = "started"
    request: Mapping[str, Any]
    worker: str
    device: str
    preview: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase(_Event):
    """loading, encoding, sampling, decoding or saving."""

    type: ClassVar[str] = "phase"
    durable: ClassVar[bool] = False
    phase: str
    tick: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(_Event):
    """Step `step` of `total` of the whole job is done."""

    type: ClassVar[str] = "progress"
    durable: ClassVar[bool] = False
    step: int
    total: int
    image: int = 0
    eta_s: float | None = None
    tick: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(_Event):
    """The picture as it forms, small and encoded."""

    type: ClassVar[str] = "preview"
    durable: ClassVar[bool] = False
    step: int
    total: int
    image: int = 0
    index: int = 0
    mime: str
    width: int
    height: int
    target_width: int
    target_height: int
    method: str
    estimate: bool
    decode_ms: float = 0.0
    data: bytes = field(repr=False)
    tick: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning(_Event):
    """Something was asked and could not be honoured; the job goes on."""

    type: ClassVar[str] = "warning"
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(_Event):
    """One picture of the job is stored."""

    type: ClassVar[str] = "image"
    image: StoredImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeued(_Event):
    """The attempt ended without an end of the job; it will be tried again."""

    type: ClassVar[str] = "requeued"
    reason: str
    error: ImagenError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(_Event):
    """All pictures are stored."""

    type: ClassVar[str] = "completed"
    terminal: ClassVar[bool] = True
    images: tuple[StoredImage, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    preview_cost: Mapping[str, float] = field(default_factory=dict)
    vram_peak_mib: int | None = None
    vram_method: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(_Event):
    """It will not be tried again; pictures already stored stay."""

    type: ClassVar[str] = "failed"
    terminal: ClassVar[bool] = True
    error: ImagenError
    images: tuple[StoredImage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(_Event):
    """Somebody stopped it; pictures already stored stay."""

    type: ClassVar[str] = "cancelled"
    terminal: ClassVar[bool] = True
    by: str
    step: int | None = None
    images: tuple[StoredImage, ...] = ()


Ephemeral = Phase | Progress | Preview
Durable = Queued | Started | Warning | Image | Requeued | Completed | Failed | Cancelled
Event = Ephemeral | Durable

KINDS: tuple[type[Event], ...] = (
    Queued,
    Started,
    Phase,
    Progress,
    Preview,
    Warning,
    Image,
    Requeued,
    Completed,
    Failed,
    Cancelled,
)
BY_TYPE: dict[str, type[Event]] = {kind.type: kind for kind in KINDS}
_ENVELOPE = {item.name for item in fields(_Event)}


def body_of(event: Event) -> dict[str, Any]:
    """What the event says beyond its envelope, ready for JSON; preview bytes are not part of it."""
    body: dict[str, Any] = {}
    for item in fields(event):
        if item.name in _ENVELOPE or item.name == "data":
            continue
        match getattr(event, item.name):
            case ImagenError() as error:
                body[item.name] = error.as_dict()
            case StoredImage() as image:
                body |= image.as_dict()
            case tuple() as images:
                body[item.name] = [image.as_dict() for image in images]
            case Mapping() as mapping:
                body[item.name] = dict(mapping)
            case value:
                body[item.name] = value
    return body


def from_body(type_: str, body: Mapping[str, Any], **envelope: Any) -> Event | None:
    """Rebuild a recorded event; None for a type of a later version, which readers ignore."""
    kind = BY_TYPE.get(type_)
    if kind is None:
        return None
    if kind is Image:
        return Image(image=StoredImage.from_dict(body), **envelope)
    said: dict[str, Any] = {}
    for item in fields(kind):
        if item.name in _ENVELOPE or item.name not in body:
            continue
        value = body[item.name]
        if item.name == "error" and value is not None:
            value = ImagenError.from_dict(value)
        elif item.name == "images":
            value = tuple(StoredImage.from_dict(image) for image in value)
        said[item.name] = value
    return kind(**said, **envelope)
