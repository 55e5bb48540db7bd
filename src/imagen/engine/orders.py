"""What is asked for, made ready for the queue: a draft, the cells of a series, and a job that ended once more."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from imagen.core.errors import Conflict, UnknownModel
from imagen.core.job import Cell, Job, Series, State, cells_of
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.models.catalog import Catalog
from imagen.store.intake import NewJob, Once, Resolve

_SERIES_FIELDS = ("width", "height", "steps", "negative", "guidance", "options")


def of_draft(draft: Draft, catalog: Catalog) -> NewJob:
    """What somebody typed, checked and completed."""
    resolved = catalog.resolve(draft, lambda: secrets.randbits(32))
    return NewJob(
        request=resolved.request,
        model=resolved.model,
        preview=draft.preview,
        warnings=resolved.warnings,
        priority=draft.priority,
        webhook=draft.webhook,
    )


def hash_of(draft: Draft) -> str:
    """What tells one draft from another."""
    hook = draft.webhook.as_text() if draft.webhook else None  # its address is not in what Python tells of it
    return sha256(repr((draft, hook)).encode()).hexdigest()


def once(route: str, owner: str, key: str | None, body_hash: str) -> Once | None:
    """By what a request that comes again is known; None where the caller gave it no key."""
    return Once(route=route, owner=owner, key=key, body_hash=body_hash) if key is not None else None


def of_cells(
    cells: Sequence[Cell], settings: Mapping[str, Any], resolve: Resolve, *, series: str, owner: str
) -> list[NewJob]:
    """A job for each cell; raises for the first that cannot be."""
    asked = {name: settings[name] for name in _SERIES_FIELDS if settings.get(name) is not None}
    return [
        replace(
            resolve(Draft(prompt=cell.prompt, model=cell.model, seed=cell.seed, **asked)),
            series=series,
            cell=cell.index,
            owner=owner,
        )
        for cell in cells
    ]


def more_columns(series: Series, models: Sequence[str]) -> tuple[list[str], list[Cell]]:
    """The models that a series does not have yet, and their cells, numbered after those it has."""
    new = [model for model in dict.fromkeys(models) if model not in series.models]
    first = max((cell.index for cell in series.cells), default=-1) + 1
    cells = cells_of(series.prompts, new, series.seeds)
    return new, [replace(cell, index=first + number) for number, cell in enumerate(cells)]


def again(old: Job, resolve: Resolve, record: Mapping[str, Any] | None) -> NewJob:
    """The same request once more; `record` is the model as the job carries it."""
    if not old.state.terminal:
        hint = f"wait for its end, or `imagen jobs cancel {old.id}` first"
        raise Conflict(f"job {old.id} is {old.state.value}", hint=hint)
    request = old.request
    try:
        new = resolve(Draft(**{name: getattr(request, name) for name in Request.__dataclass_fields__}))
    except UnknownModel:
        # The model left the catalog; the job still carries all of it.
        if record is None or not isinstance(request, Request):
            raise
        new = NewJob(request=request, model=Model.from_dict(record))
    # What failed is mended in its place; what was drawn stays recorded there, and drawn again it is a job of its own.
    place = (None, None) if old.state is State.COMPLETED else (old.series, old.cell)
    return replace(
        new,
        series=place[0],
        cell=place[1],
        retry_of=old.id,
        priority=old.priority,
        owner=old.owner,
        webhook=old.webhook,
    )
