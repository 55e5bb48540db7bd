"""The five verbs: models, generate, status, compare, fetch. Each answers soon, and with kilobytes.

An answer is data and small pictures. The whole picture is where the data says: a path, or an address of the server.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from imagen.core.errors import (
    Gone,
    ImagenError,
    NotConfigured,
    RequestError,
    TooLarge,
    TooMany,
    UnknownImage,
    UnknownJob,
    UnknownSeries,
)
from imagen.core.job import Job, Series, State, StoredImage
from imagen.core.request import Draft
from imagen.surfaces.http.limits import check_draft, check_series
from imagen.surfaces.mcp import pictures, shapes
from imagen.surfaces.mcp.following import DRY, STANDS, after_fetch, after_job, after_series
from imagen.surfaces.mcp.forecast import forecast, total_s
from imagen.surfaces.mcp.record import record_of
from imagen.surfaces.mcp.told import image_told, job_told, line_told, notes_told, series_told, sheet_told
from imagen.surfaces.mcp.waiting import Notes, job_ended, series_ended
from imagen.surfaces.wire import model_json

if TYPE_CHECKING:
    from imagen.surfaces.mcp.edge import Edge
    from imagen.surfaces.mcp.saving import Saved

LATEST = 10  # jobs that `status` lists
DRAWN = tuple(shapes.Drawn.model_fields)
DETAILS = ("licence", "defaults", "limits", "options", "ignores", "vram_mib", "notes")
ENDING_S = 2.0  # for a job to end that was told to: a step of most models is shorter


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
            (await edge.app.models()).get(asked.model)  # raises, with the names that come near
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
            "notes": notes_told(model),
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
    try:
        check_draft(draft, edge.limits)
    except TooLarge:  # only now: at a server the models have to be asked for
        check_draft(draft, edge.limits, await edge.app.models())
    if asked.dry_run:
        name = (await edge.app.models()).resolve(draft, lambda: 0).model.name
        busy = (await edge.app.waiting()).get(name, 0)
        expected = await forecast(edge, draft, await edge.app.model_states(), busy)
        return Answer(data={"forecast": expected, "next": DRY})
    try:
        job = await edge.app.submit(draft, owner=edge.owner, queue_limit=edge.queue_limit)
    except TooMany as error:
        raise await _full(edge, error) from None
    edge.mine.add(job.id)
    return await _of_job(edge, await job_ended(edge, job, asked.wait_s, notes))


async def status(edge: "Edge", asked: shapes.Status, notes: Notes) -> Answer:
    """A job, a comparison, or the latest jobs."""
    if asked.id is None:
        if asked.cancel:
            raise RequestError("`cancel` without an id", hint="give the `id` of what is to end", param="id")
        return await _listed(edge)
    found, wait_s = await _found(edge, asked.id), asked.wait_s
    if asked.cancel:
        found, wait_s = await _cancelled(edge, found), max(wait_s, ENDING_S)
    else:
        await _adopt(edge, found)
    if isinstance(found, Series):
        return await _of_series(edge, await series_ended(edge, found, wait_s, notes))
    return await _of_job(edge, await job_ended(edge, found, wait_s, notes))


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
        states, busy = await edge.app.model_states(), await edge.app.waiting()
        draft = Draft(prompt=prompts[0], seed=seeds[0], **settings)
        expected = [await forecast(edge, replace(draft, model=name), states, busy.get(name, 0)) for name in chosen]
        each = len(prompts) * len(seeds)
        told = {"forecasts": expected, "pictures": each * len(chosen), "total_s": total_s(expected, each), "next": DRY}
        return Answer(data=told)
    try:
        series = await edge.app.submit_series(
            prompts, chosen, seeds, settings=settings, owner=edge.owner, queue_limit=edge.queue_limit
        )
    except TooMany as error:
        raise await _full(edge, error) from None
    edge.mine.update(cell.job.id for cell in series.cells if cell.job)
    return await _of_series(edge, await series_ended(edge, series, asked.wait_s, notes))


async def fetch(edge: "Edge", asked: shapes.Fetch, notes: Notes) -> Answer:
    """A picture: where it is, how it looks, and on this machine a copy of it."""
    wanted = asked.save_to if isinstance(asked, shapes.FetchHere) else None
    try:
        found = await _found(edge, asked.id, "job, picture or comparison")
    except UnknownJob as error:
        try:
            found = await edge.app.drawn_by(asked.id, owner=edge.sees)
        except UnknownImage:
            raise error from None
        index = next(image.index for image in found.images if image.id == asked.id)
    else:
        index = asked.index
    if isinstance(found, Series):
        if index:
            hint = "`fetch` a cell's picture with the `id` of its `image`; without `index` it is the sheet"
            raise RequestError("a comparison has no pictures by number", hint=hint, param="index")
        sheet = await edge.app.series_sheet(found.id)
        told = await sheet_told(edge, found, sheet)
        saved = await _saved(edge, wanted, sheet, f"sheet_{found.id}", told)
        shown = await pictures.of_sheet(sheet, large=asked.large)
        return Answer(data={"image": told} | _where(edge, told, "sheet", saved), pictures=(shown,))
    drawn = any(image.index == index for image in found.images)
    if not drawn and not (found.state.terminal and found.images):
        # As `generate` and `status` tell it: that a job failed is an answer, and no failure of the call.
        await _adopt(edge, found)
        return await _of_job(edge, await edge.app.job(found.id))
    image = _picture(found, index)
    if image.state != "stored":
        hint = "`generate` with the same request and seed draws it again"
        raise Gone(f"the picture {image.id} was deleted", hint=hint)
    told = await image_told(edge, image)
    name = f"{found.request.model}_{image.seed}_{image.id[-8:]}"
    saved = await _saved(edge, wanted, await edge.app.image_bytes(image), name, told) if wanted else None
    shown = await pictures.of_image(edge.app, image, large=asked.large)
    warnings = list((await record_of(edge, found)).warnings) or None
    data = {"image": told, "warnings": warnings} | _where(edge, told, "picture", saved)
    return Answer(data=data, pictures=(shown,))


Verb = Callable[["Edge", Any, Notes], Awaitable[Answer]]


async def _of_job(edge: "Edge", job: Job) -> Answer:
    """A job as it stands, with its first picture or how it forms."""
    small = None
    stored = [image for image in job.images if image.state == "stored"]
    with suppress(ImagenError):  # how it stands is told without a picture too, when somebody deletes it just now
        if stored:
            small = await pictures.of_image(edge.app, stored[0])
        elif not job.state.terminal:
            small = await pictures.of_job(edge.app, job.id)
    record = await record_of(edge, job)
    told = await job_told(edge, job, record)
    data = {"job": told, "next": after_job(edge, job, record, told["images"])}
    return Answer(data=data, pictures=(small,) if small else ())


async def _of_series(edge: "Edge", series: Series) -> Answer:
    """A comparison as it stands, with its sheet once it has ended."""
    sheet = await edge.app.series_sheet(series.id) if series.state != "running" else None
    told = await series_told(edge, series, sheet)
    shown = (await pictures.of_sheet(sheet),) if sheet is not None else ()
    return Answer(data={"series": told, "next": after_series(edge, series, told["cells"])}, pictures=shown)


async def _listed(edge: "Edge") -> Answer:
    """The latest jobs, and which of them stand still."""
    jobs = await edge.app.jobs(limit=LATEST, owner=edge.sees)
    if not jobs:
        return Answer(data={"jobs": [], "next": "there are no jobs yet: `generate` draws the first one"})
    still = await _standing(edge, jobs)
    following = "call `status` or `fetch` with one of these ids"
    if still:
        following += f"; {STANDS}"
    return Answer(data={"jobs": [line_told(job, stands=job.id in still) for job in jobs], "next": following})


async def _standing(edge: "Edge", jobs: Sequence[Job]) -> set[str]:
    """Those that wait and that nobody draws: an earlier process left them, and no worker draws their model."""
    if edge.served is None:
        return set()
    served = await edge.served()
    left = [job for job in jobs if job.state is State.QUEUED and job.id not in edge.mine]
    return {job.id for job in left if job.request.model not in served}


async def _full(edge: "Edge", error: TooMany) -> TooMany:
    """The queue's own refusal, with a way out that an agent has."""
    queued = await edge.app.jobs(state="queued", owner=edge.owner, limit=LATEST)
    if not queued:
        return TooMany(error.message, hint="ask for fewer pictures at once")
    still = await _standing(edge, queued)
    one = next((job for job in queued if job.id in still), queued[0])
    name = f"the comparison {one.series}" if one.series else f"the job {one.id}"
    does = "has it drawn" if one.id in still else "with a `wait_s` waits for it"
    hint = f"{name} waits: `status` with this id {does}, and with `cancel` true ends it; `status` without id lists more"
    return TooMany(error.message, hint=hint, retry_after_s=error.retry_after_s)


async def _found(edge: "Edge", id: str, what: str = "job or comparison") -> Job | Series:
    """A job or a comparison; agents shorten ids as people do, so a unique part is enough."""
    try:
        return await edge.app.job(id, owner=edge.sees)
    except UnknownJob as error:
        try:
            return await edge.app.series(id, owner=edge.sees)
        except UnknownSeries:
            message = error.message.replace("there is no job", f"there is no {what}")
            several = message == error.message
            hint = error.hint if several else "`status` without an id lists the latest jobs"
            raise UnknownJob(message, hint=hint, param="id") from None


async def _cancelled(edge: "Edge", found: Job | Series) -> Job | Series:
    by = "an agent" if edge.here else edge.owner
    ended: Job | Series
    if isinstance(found, Series):
        ended = await edge.app.cancel_series(found.id, by=by)
    else:
        ended = await edge.app.cancel(found.id, by=by)
    if edge.here:
        await edge.app.sweep()  # what a dead process left running has nobody else to end it
    return ended


async def _adopt(edge: "Edge", found: Job | Series) -> None:
    """What an earlier process left unfinished is drawn here, where nobody else would."""
    jobs = [cell.job for cell in found.cells if cell.job] if isinstance(found, Series) else [found]
    for job in jobs:
        if edge.adopt is not None and not job.state.terminal:
            await edge.adopt(job.id)


def _picture(job: Job, index: int) -> StoredImage:
    for image in job.images:
        if image.index == index:
            return image
    some = "only picture 0" if len(job.images) == 1 else f"the pictures 0 to {len(job.images) - 1}"
    raise RequestError(f"job {job.id} has no picture {index}", hint=f"it has {some}", param="index")


async def _saved(edge: "Edge", wanted: str | None, data: bytes, name: str, told: Mapping[str, Any]) -> "Saved | None":
    from imagen.surfaces.mcp.saving import save

    if not wanted:
        return None
    return await asyncio.to_thread(save, wanted, edge.folders, data, name, told.get("path") or told.get("url", ""))


def _where(edge: "Edge", told: Mapping[str, Any], what: str, saved: "Saved | None") -> dict[str, Any]:
    path, differs = (saved.path, saved.differs) if saved else (None, None)
    return {"saved_to": path, "next": after_fetch(edge, told, what, path, differs)}
