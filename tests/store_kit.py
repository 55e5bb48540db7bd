"""What the store's and the runner's tests share: a real database, and small requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from imagen.core.errors import UnknownModel
from imagen.core.events import Event, Image, Started
from imagen.core.model import Model
from imagen.core.request import Draft, PreviewPolicy, Request
from imagen.engine.drawing.started import previews_by
from imagen.engine.drawing.started import started as started_with
from imagen.previews.policy import merge
from imagen.store import journal, presence, queue
from imagen.store.columns import iso
from imagen.store.db import Database
from imagen.store.intake import NewJob
from imagen.store.order import Wish, place_of
from imagen.store.queue import Claim

MODEL = Model(name="test", backend="script", device="cpu@here")
OTHER = Model(name="other", backend="script", device="cpu@here")
PLACE = place_of(MODEL)
WORKER = "worker-1"


def request(**changes: Any) -> Request:
    """A small complete request."""
    return replace(Request(prompt="a fox", model="test", width=8, height=8, steps=4, seed=7), **changes)


def new(model: Model = MODEL, *, preview: PreviewPolicy | None = None, **changes: Any) -> NewJob:
    """A job ready for the queue."""
    return NewJob(request=request(model=model.name, **changes), model=model, preview=preview)


def resolve(draft: Draft) -> NewJob:
    """What the catalog does, for two models."""
    models = {"test": MODEL, "other": OTHER, None: MODEL}
    if draft.model not in models:
        raise UnknownModel(f"no model {draft.model}", hint="use test or other")
    model = models[draft.model]
    return NewJob(
        request=request(prompt=draft.prompt, model=model.name, seed=7 if draft.seed is None else draft.seed),
        model=model,
        preview=draft.preview,
    )


@asynccontextmanager
async def database(place: Path | str) -> AsyncIterator[Database]:
    """A fresh database with one worker in its list: SQLite in a folder, or at an address."""
    db = Database(f"sqlite:///{place / 'imagen.db'}" if isinstance(place, Path) else place)
    await db.open()
    await db.write(arrive, WORKER)
    try:
        yield db
    finally:
        await db.close()


def arrive(connection: Connection, worker: str, *, models: tuple[str, ...] = (), solo: bool = False) -> None:
    """Put a worker of this process into the list."""
    from datetime import UTC, datetime

    serves = dict.fromkeys(models, PLACE)
    presence.arrive(connection, worker, version="0", serves=serves, solo=solo, now=datetime.now(UTC))


def started(claim: Claim, watched: bool) -> Started:
    """The event a worker records with its claim."""
    return started_with(claim, watched, merge(claim.preview))


PREVIEWS = previews_by(merge)  # what `started` says of them


async def take(db: Database, worker: str = WORKER, **how: Any) -> Claim | None:
    """Claim the next job."""
    wishes = {name: how.pop(name) for name in ("places", "knows", "loaded") if name in how}
    return await db.write(queue.claim, wish(worker, **wishes), **{"resolve": resolve, "started": started} | how)


def wish(worker: str = WORKER, **changes: Any) -> Wish:
    """Both models, where `PLACE` is."""
    said: dict[str, Any] = {"places": {"test": PLACE, "other": PLACE}, "knows": ("test", "other")}
    return Wish(worker=worker, previews=PREVIEWS, **said | changes)


async def record(db: Database, job: str) -> list[Event]:
    """The durable events of a job."""
    told = await db.read(journal.news, job, 0, 2**60)
    return list(told.events)


def grammar(events: list[Event]) -> None:
    """Assert what holds for every record, whatever happened."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), "numbers without gaps"
    assert events[0].type == "queued"
    ends = [event for event in events if event.terminal]
    assert len(ends) <= 1
    assert not ends or events[-1] is ends[0], "the end comes last"
    drawn = [event.image.index for event in events if isinstance(event, Image)]
    assert len(drawn) == len(set(drawn)), "no picture is recorded twice"
    assert iso(events[0].at) <= iso(events[-1].at)
