"""Compare: one prompt over several models, planned, begun, or gone on with where it stopped."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from imagen.core.errors import ImagenError, RequestError, UnknownSeries
from imagen.core.ids import new_id
from imagen.core.job import Cell, Series, cells_of
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.webhook import Webhook
from imagen.engine.comparing.document import (
    DOCUMENT,
    MAX_CELLS,
    Asked,
    Describe,
    Document,
    Entry,
    entry_of,
    joined,
    read,
    remembered,
)
from imagen.engine.comparing.folder import Folder
from imagen.engine.comparing.run import Comparison, Jobs

Value = TypeVar("Value")
Resolve = Callable[[Draft], tuple[Request, Model]]


def plan(
    prompts: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    *,
    settings: Mapping[str, Any],
    resolve: Resolve,
) -> Document:
    """Check every cell before anything runs; the whole comparison, not begun."""
    count = len(prompts) * len(models) * len(seeds)
    if not 0 < count <= MAX_CELLS:
        raise RequestError(
            f"{len(prompts)} prompts × {len(models)} models × {len(seeds)} seeds are {count} cells",
            hint=f"a comparison has from 1 to {MAX_CELLS} cells",
            param="models",
        )
    asked = Asked.of(settings)
    entries = _checked(cells_of(prompts, models, seeds), asked, resolve)
    return Document(
        series=new_id(),
        prompts=_each(entry.prompt for entry in entries),
        models=_each(entry.model for entry in entries),
        seeds=_each(entry.seed for entry in entries),
        settings=asked,
        cells=tuple(replace(entry, index=index) for index, entry in enumerate(entries)),
    )


async def begin(document: Document, wanted: Path, jobs: Jobs, *, webhook: Webhook | None = None) -> Comparison:
    """Take the folder, write compare.json and queue every cell."""
    folder = await asyncio.to_thread(Folder.claim, wanted, lambda sheet: replace(document, sheet=sheet).as_bytes())
    comparison = Comparison(replace(document, sheet=folder.sheet), folder, jobs, None, webhook=webhook)
    try:
        await comparison.submit(document.cells)
    except ImagenError:
        folder.abandon()
        raise
    return comparison


async def resume(
    target: str,
    jobs: Jobs,
    *,
    resolve: Resolve,
    describe: Describe,
    folder_for: Callable[[Series], Path],
    retry_failed: bool = False,
    add_models: Sequence[str] = (),
) -> Comparison:
    """Go on with a comparison, named by its folder or its series; with `add_models`, with more columns.

    `folder_for` says where a series lies that was named by its id.
    """
    folder, document, series = await _reopen(target, jobs, describe, folder_for)
    try:
        document = joined(document, series, describe) if series else document
        document = _widened(document, add_models, resolve)
        folder.tidy()
    except BaseException:
        folder.close()
        raise
    return Comparison(document, folder, jobs, series, retry_failed=retry_failed)


def folder_of(target: str, param: str) -> Path | None:
    """The folder of a comparison that somebody named; None where nothing has that name."""
    path = Path(target).expanduser()
    if path.name == DOCUMENT and path.is_file():
        path = path.parent
    if not path.exists():
        return None
    if not (path / DOCUMENT).is_file():
        raise RequestError(
            f"{path} is no folder with a {DOCUMENT}",
            hint="name the folder that `imagen compare` wrote to, or a series of `imagen series list`",
            param=param,
        )
    return path


async def _reopen(
    target: str, jobs: Jobs, describe: Describe, folder_for: Callable[[Series], Path]
) -> tuple[Folder, Document, Series | None]:
    if (path := folder_of(target, "resume")) is not None:
        folder, document = await _opened(path)
        with suppress(UnknownSeries):
            found = await jobs.series(document.series)
            return folder, document, found if found.id == document.series else None
        return folder, document, None
    try:
        series = await jobs.series(target)
    except UnknownSeries as unknown:
        raise UnknownSeries(
            f"{target} is neither a folder nor a series",
            hint="name the folder that `imagen compare` wrote to, or a series of `imagen series list`",
            param="resume",
        ) from unknown
    path = folder_for(series)
    if (path / DOCUMENT).is_file():
        folder, document = await _opened(path)
        if document.series == series.id:
            return folder, document, series
        folder.close()
    # A series that has no folder here, or whose folder is gone: what the store remembers becomes one.
    document = remembered(series, describe)
    folder = await asyncio.to_thread(Folder.claim, path, lambda sheet: replace(document, sheet=sheet).as_bytes())
    return folder, replace(document, sheet=folder.sheet), series


async def _opened(path: Path) -> tuple[Folder, Document]:
    folder = await asyncio.to_thread(Folder.open, path.absolute())
    try:
        return folder, read(folder.document(), str(path / DOCUMENT))
    except BaseException:
        folder.close()
        raise


def _widened(document: Document, models: Sequence[str], resolve: Resolve) -> Document:
    """The comparison with the columns it does not have yet, each cell checked."""
    fresh = [name for name in models if name not in document.models]
    if not fresh:
        return document
    first = max(cell.index for cell in document.cells) + 1
    cells = _checked(cells_of(document.prompts, fresh, document.seeds, first), document.settings, resolve)
    return replace(
        document,
        models=_each((*document.models, *(cell.model for cell in cells))),
        cells=(*document.cells, *cells),
    )


def _checked(cells: Sequence[Cell], asked: Asked, resolve: Resolve) -> list[Entry]:
    """Each cell under the names that its job will have; what was typed twice is there once."""
    entries: dict[tuple[str, str, int], Entry] = {}
    for cell in cells:
        draft = Draft(prompt=cell.prompt, model=cell.model, seed=cell.seed, n=1, **asked.given())
        request, model = resolve(draft)
        said = replace(cell, prompt=request.prompt, model=request.model)
        entries.setdefault((said.model, said.prompt, said.seed), entry_of(said, request, model))
    return list(entries.values())


def _each(values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(values))
