"""The five verbs: models, generate, status, compare, fetch. Each answers soon, and with kilobytes.

An answer is data and small pictures. The whole picture is where the data says: a path, or an address of the server.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from imagen.core.errors import Gone, ImagenError, NotConfigured, RequestError, UnknownImage, UnknownJob, UnknownSeries
from imagen.core.job import Job, Series, State
from imagen.core.request import Draft
from imagen.surfaces.http.limits import check_draft, check_series
from imagen.surfaces.mcp import pictures, shapes
from imagen.surfaces.mcp.forecast import forecast, waiting
from imagen.surfaces.mcp.told import image_told, job_told, line_told, series_told, sheet_told
from imagen.surfaces.mcp.waiting import Notes, job_ended, series_ended
from imagen.surfaces.wire import model_json

if TYPE_CHECKING:
    from imagen.surfaces.mcp.edge import Edge

LATEST = 10  # jobs that `status` lists
DRAWN = tuple(shapes.Drawn.model_fields)
DETAILS = ("licence", "defaults", "limits", "options", "ignores", "vram_mib", "notes")
GOES_ON = "not finished, and going on by itself: call `status` with this id and a `wait_s`, then `fetch`"
GO_ON_LATER = "this was a dry run, nothing is drawn; call it again without `dry_run`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a verb says: data in the shape it promises, and JPEGs."""

    data: Mapping[str, Any]
    pictures: tuple[bytes, ...] = field(default=(), repr=False)


async def models(edge: "Edge", asked: shapes.Models, notes: Notes) -> Answer:
    """What can be asked for now, and why the rest cannot."""
    states = await edge.app.model_states()
    if asked.model is not None:
        states = [one for one in states if one.model.name == asked.model]
        if not states:
            edge.app.catalog.get(asked.model)  # raises, with the names that come near
    told = []
    for one in sorted(states, key=lambda state: (not state.available, not state.default)):
        model = one.model
        line: dict[str, Any] = {
            "name": model.name,
            "title": model.title,
            "default": one.default,
            "available": one.available,
            "loaded": one.loaded,
            "paid": model.paid,
            "why": edge.trouble(one.error) if one.error else None,
            "size": f"{model.defaults.width}x{model.defaults.height}",
            "steps": model.defaults.steps,
        }
        if asked.model is not None:
            shape = model_json(model, default=one.default, available=one.available, error=None, loaded=one.loaded)
            line["details"] = {name: shape[name] for name in DETAILS}
        told.append(line)
    ready = any(line["available"] for line in told)
    first = "call `generate` with one of the available names, or without one for the default"
    none = "none is available: `why` says what each one lacks"
    return Answer(data={"models": told, "next": first if ready else none})


async def generate(edge: "Edge", asked: shapes.Generate, notes: Notes) -> Answer:
    """One job, safe on disk before anything is waited for."""
    fields = {name: getattr(asked, name) for name in ("prompt", "model", "seed", "n", *DRAWN)}
    draft = Draft(**fields | {"options": asked.options or {}})
    check_draft(draft, edge.limits)
    if asked.dry_run:
        name = edge.app.catalog.resolve(draft, lambda: 0).model.name
        expected = await forecast(edge, draft, await edge.app.model_states(), (await waiting(edge)).get(name, 0))
        return Answer(data={"forecast": expected, "next": GO_ON_LATER})
    job = await edge.app.submit(draft, owner=edge.owner, queue_limit=edge.queue_limit)
    return await _of_job(edge, await job_ended(edge, job, asked.wait_s, notes))


async def status(edge: "Edge", asked: shapes.Status, notes: Notes) -> Answer:
    """A job, a comparison, or the latest jobs."""
    if asked.id is None:
        jobs = [line_told(job) for job in await edge.app.jobs(limit=LATEST, owner=edge.sees)]
        return Answer(data={"jobs": jobs, "next": "call `status` or `fetch` with one of these ids"})
    found = await _found(edge, asked.id)
    await _adopt(edge, found)
    if isinstance(found, Series):
        return await _of_series(edge, await series_ended(edge, found, asked.wait_s, notes))
    return await _of_job(edge, await job_ended(edge, found, asked.wait_s, notes))


async def compare(edge: "Edge", asked: shapes.Compare, notes: Notes) -> Answer:
    """Every prompt with every model and every seed, and a sheet of them all."""
    prompts = list(dict.fromkeys(asked.prompts))
    chosen = list(dict.fromkeys(asked.models or await edge.app.usable_models()))
    seeds = list(dict.fromkeys(asked.seeds or [secrets.randbits(32)]))
    if not chosen:
        raise NotConfigured("no model is ready to draw", hint="the tool `models` says what each lacks", param="models")
    settings = {name: getattr(asked, name) for name in DRAWN if getattr(asked, name) is not None}
    check_series(prompts, chosen, seeds, edge.limits, settings)
    if asked.dry_run:
        states, busy = await edge.app.model_states(), await waiting(edge)
        draft = Draft(prompt=prompts[0], seed=seeds[0], **settings)
        expected = [await forecast(edge, replace(draft, model=name), states, busy.get(name, 0)) for name in chosen]
        count = len(prompts) * len(chosen) * len(seeds)
        return Answer(data={"forecasts": expected, "pictures": count, "next": GO_ON_LATER})
    series = await edge.app.submit_series(
        prompts, chosen, seeds, settings=settings, owner=edge.owner, queue_limit=edge.queue_limit
    )
    return await _of_series(edge, await series_ended(edge, series, asked.wait_s, notes))


async def fetch(edge: "Edge", asked: shapes.Fetch, notes: Notes) -> Answer:
    """A picture: where it is, how it looks, and on this machine a copy of it."""
    wanted = asked.save_to if isinstance(asked, shapes.FetchHere) else None
    try:
        found = await _found(edge, asked.id)
    except UnknownJob as error:
        try:
            file = await edge.app.image(asked.id, owner=edge.sees)
        except UnknownImage:
            raise error from None
        found = await edge.app.job(file.job, owner=edge.sees)
        index = next(image.index for image in found.images if image.id == file.id)
    else:
        index = asked.index
    if isinstance(found, Series):
        sheet = await edge.app.series_sheet(found.id)
        told = await sheet_told(edge, found, sheet)
        saved = await _saved(edge, wanted, sheet, f"sheet_{found.id}", told) if wanted else None
        return Answer(
            data={"image": told, "saved_to": saved, "next": _next(saved, "sheet")},
            pictures=(await pictures.of_sheet(sheet),),
        )
    if not found.state.terminal and not any(image.index == index for image in found.images):
        await _adopt(edge, found)
        return await _of_job(edge, await edge.app.job(found.id))
    image = _picture(found, index)
    if image.state != "stored":
        hint = "`generate` with the same request and seed draws it again"
        raise Gone(f"the picture {image.id} was deleted", hint=hint)
    told = await image_told(edge, image)
    saved = None
    if wanted:
        name = f"{found.request.model}_{image.seed}_{image.id[-8:]}"
        saved = await _saved(edge, wanted, await edge.app.image_bytes(image), name, told)
    small = await pictures.of_image(edge.app, image)
    return Answer(data={"image": told, "saved_to": saved, "next": _next(saved, "picture")}, pictures=(small,))


Verb = Callable[["Edge", Any, Notes], Awaitable[Answer]]


async def _of_job(edge: "Edge", job: Job) -> Answer:
    """A job as it stands, with its first picture or how it forms."""
    small = None
    match job.state:
        case State.COMPLETED:
            following = "done: `path` or `url` is the whole picture; `fetch` brings it, or another one of this job"
        case State.FAILED:
            hint = edge.trouble(job.error)["hint"] if job.error else "generate it again"
            following = f"it failed and will not be tried again: {hint}"
        case State.CANCELLED:
            following = "somebody cancelled it; generate it again if it is still wanted"
        case State.QUEUED if job.waits_for:
            following = f"waits for {job.waits_for}; {GOES_ON}"
        case _:
            following = GOES_ON
    stored = [image for image in job.images if image.state == "stored"]
    with suppress(ImagenError):  # how it stands is told without a picture too, when somebody deletes it just now
        if stored:
            small = await pictures.of_image(edge.app, stored[0])
        elif not job.state.terminal:
            small = await pictures.of_job(edge.app, job.id)
    data = {"job": await job_told(edge, job), "next": following}
    return Answer(data=data, pictures=(small,) if small else ())


async def _of_series(edge: "Edge", series: Series) -> Answer:
    """A comparison as it stands, with its sheet once it has ended."""
    if series.state == "running":
        return Answer(data={"series": await series_told(edge, series, None), "next": GOES_ON})
    sheet = await edge.app.series_sheet(series.id)
    lost = sum(1 for cell in series.cells if cell.job and cell.job.state is not State.COMPLETED)
    done = "done: `sheet` shows all pictures side by side; each cell has its own"
    following = f"{done}; {lost} of {len(series.cells)} have none, and say why" if lost else done
    return Answer(
        data={"series": await series_told(edge, series, sheet), "next": following},
        pictures=(await pictures.of_sheet(sheet),),
    )


async def _found(edge: "Edge", id: str) -> Job | Series:
    """A job or a comparison; agents shorten ids as people do, so a unique part is enough."""
    try:
        return await edge.app.job(id, owner=edge.sees)
    except UnknownJob as error:
        try:
            return await edge.app.series(id, owner=edge.sees)
        except UnknownSeries:
            hint = "`status` without an id lists the latest jobs"
            raise UnknownJob(error.message, hint=hint, param="id") from None


async def _adopt(edge: "Edge", found: Job | Series) -> None:
    """What an earlier process left unfinished is drawn here, where nobody else would."""
    jobs = [cell.job for cell in found.cells if cell.job] if isinstance(found, Series) else [found]
    for job in jobs:
        if edge.adopt is not None and not job.state.terminal:
            await edge.adopt(job.id)


def _picture(job: Job, index: int) -> Any:
    for image in job.images:
        if image.index == index:
            return image
    if job.error is not None and not job.images:
        raise job.error
    if not job.images:
        raise RequestError(f"job {job.id} was cancelled and has no picture", hint="`generate` it again", param="id")
    some = "only picture 0" if len(job.images) == 1 else f"the pictures 0 to {len(job.images) - 1}"
    raise RequestError(f"job {job.id} has no picture {index}", hint=f"it has {some}", param="index")


async def _saved(edge: "Edge", wanted: str, data: bytes, name: str, told: Mapping[str, Any]) -> str:
    from imagen.surfaces.mcp.saving import save

    return await asyncio.to_thread(save, wanted, edge.folders, data, name, told.get("path") or told.get("url", ""))


def _next(saved: str | None, what: str) -> str:
    return f"the whole {what} is at `saved_to`" if saved else f"the whole {what} is at `path` or `url`"
