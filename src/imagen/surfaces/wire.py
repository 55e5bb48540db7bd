"""JSON shapes: what programs read about jobs, events and series, the same at every surface.

Front ends are written against these names, so they only ever gain: tests/golden/wire.json holds them.
"""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from imagen.core.device import Device
from imagen.core.errors import ImagenError
from imagen.core.events import Cancelled, Completed, Event, Failed, Image, Preview, body_of
from imagen.core.job import Job, Series, StoredImage
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.webhook import Delivery, Webhook
from imagen.engine.comparing.document import drawn_from

PreviewForm = Literal["ref", "inline"]
Reader = Literal["here", "http"]  # somebody at this machine, or somebody who knows no path of it

# What a series was asked with; the folder that its command line writes to is nobody else's business.
SERIES_SETTINGS = ("width", "height", "steps", "negative", "guidance", "options")

MODEL_FIELDS = (
    *("name", "title", "backend", "licence", "source", "device", "enabled", "defaults", "limits", "options"),
    *("ignores", "vram_mib", "notes", "paid", "slots"),
)

# What a command is over HTTP, for somebody who cannot run it here.
_COMMAND = re.compile(r"`imagen (jobs|series|models)(?: (list|show|watch|cancel|retry)(?: ([^\s`]+))?)?`")
_BOTH = re.compile(r"`[^`]+`, or (?=(?:GET|POST) /)")  # a hint that names the command and the address
# A path of this machine: two parts or more, and no address of ours or of the web.
_PATH = re.compile(r"(?<![\w:/.~-])(?:file://)?~?/(?!v1/)(?:[^\s/'\"`,;:()]+/)+[^\s/'\"`,;:()]*")


def job_json(job: Job, *, reader: Reader = "here") -> dict[str, Any]:
    """One job as it stands now."""
    return {
        "id": job.id,
        "state": job.state.value,
        "request": request_json(job.request),
        "attempt": job.attempt,
        "progress": _progress(job),
        "position": job.position,
        "waits_for": waits_told(job, reader=reader),
        "images": [image_json(image, reader=reader) for image in job.images],
        "warnings": [{"code": warned.code, "message": warned.message} for warned in job.warnings],
        "error": error_json(job.error, reader=reader) if job.error else None,
        "timings": dict(job.timings),
        "facts": dict(job.facts),
        "priority": job.priority,
        "device": job.device,
        "worker": job.worker,
        "series": job.series,
        "cell": job.cell,
        "retry_of": job.retry_of,
        "webhook": job_webhook(job),
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
    }


def request_json(request: Request | Draft) -> dict[str, Any]:
    """What was asked, flat; a field that nobody has resolved yet is null."""
    return {name: _plain(getattr(request, name)) for name in Request.__dataclass_fields__}


def image_json(image: StoredImage, *, reader: Reader = "here") -> dict[str, Any]:
    """One picture: where it lies, or where it can be fetched."""
    shape = image.as_dict()
    return shape | {"url": image_url(image.id)} if reader == "http" else shape


def image_url(image_id: str) -> str:
    """Where a picture is fetched over HTTP."""
    return f"/v1/images/{image_id}"


def error_json(error: ImagenError, *, reader: Reader = "here") -> dict[str, Any]:
    """One error; somebody elsewhere is told neither where things lie on this machine nor to run its commands."""
    shape = error.as_dict()
    if reader == "here":
        return shape
    shape["hint"] = without_commands(shape["hint"])
    return {name: without_paths(value) if isinstance(value, str) else value for name, value in shape.items()}


def waits_told(job: Job, *, reader: Reader) -> str | None:
    """What a job waits for; it may be what a worker lacks, in the words of an error."""
    return job.waits_for and _told(job.waits_for, reader)


def _told(text: str, reader: Reader) -> str:
    return text if reader == "here" else without_paths(without_commands(text))


def without_commands(hint: str) -> str:
    """The hint with each command about jobs, series and models replaced by the address that does the same."""
    return _COMMAND.sub(_address, _BOTH.sub("", hint))


def _address(command: re.Match[str]) -> str:
    noun, verb, name = command.groups()
    if verb in (None, "list") or noun == "models":
        return f"`GET /v1/{noun}`"
    place = f"/v1/{noun}/{name or '{id}'}"
    match verb:
        case "show":
            return f"`GET {place}`"
        case "watch":
            return f"`GET {place}/events`"
        case _:
            return f"`POST {place}/{verb}`"


def without_paths(text: str) -> str:
    """The text with the paths of this machine replaced by `…` and the last name."""
    return _PATH.sub(lambda found: "…/" + found[0].rstrip("/").rpartition("/")[2], text)


def event_json(event: Event, *, preview: PreviewForm = "ref", reader: Reader = "here") -> dict[str, Any]:
    """One event as one object; a preview brings its bytes only when asked for them inline."""
    shape = {
        "type": event.type,
        "job": event.job,
        "seq": event.seq,
        "at": moment(event.at),
        "attempt": event.attempt,
    } | body_of(event)
    if reader == "http":
        match event:
            case Image(image=image):
                shape["url"] = image_url(image.id)
            case Completed(images=images) | Failed(images=images) | Cancelled(images=images):
                shape["images"] = [image_json(image, reader=reader) for image in images]
            case _:
                pass
        if error := getattr(event, "error", None):
            shape["error"] = error_json(error, reader=reader)
    if isinstance(event, Preview):
        if preview == "inline":
            shape["data"] = base64.b64encode(event.data).decode()
        else:
            shape["preview_url"] = f"/v1/jobs/{event.job}/preview"
    return shape


def series_json(series: Series, *, reader: Reader = "here") -> dict[str, Any]:
    """One series with every cell; a cell nobody has submitted yet has no job."""
    settings = dict(series.settings)
    if reader == "http":
        settings = {name: settings[name] for name in SERIES_SETTINGS if name in settings}
    return {
        "id": series.id,
        "state": series.state,
        "prompts": list(series.prompts),
        "models": list(series.models),
        "seeds": list(series.seeds),
        "settings": settings,
        "counts": series.counts,
        "cells": [
            {
                "index": cell.index,
                "prompt": cell.prompt,
                "model": cell.model,
                "seed": cell.seed,
                "job": job_json(cell.job, reader=reader) if cell.job else None,
            }
            for cell in series.cells
        ],
        "webhook": series_webhook(series),
        "created_at": moment(series.created_at),
    }


def job_webhook(job: Job) -> dict[str, Any] | None:
    """Who is told of the end of a job, and whether that worked."""
    # A cell carries the webhook of its series; unless that wants to hear of each, it is told of the series alone.
    if job.webhook is None or (job.series is not None and job.delivery is None and not job.webhook.each):
        return None
    return webhook_json(job.webhook, job.delivery, end=job.state if job.state.terminal else None)


def series_webhook(series: Series) -> dict[str, Any] | None:
    """Who is told of the end of a series, and whether that worked."""
    ends = [cell.job.finished_at for cell in series.cells if cell.job and cell.job.finished_at]
    # That it ended is seen by a courier, a moment later. Nothing is forgotten within a day.
    seen = bool(ends) and max(ends) < datetime.now(UTC) - timedelta(days=1)
    wanted = series.webhook is not None and series.webhook.wants(series.state)
    over = series.state != "running" and (seen or not wanted)
    return webhook_json(series.webhook, series.delivery, end=series.state if over else None)


def webhook_json(webhook: Webhook | None, delivery: Delivery | None, *, end: str | None) -> dict[str, Any] | None:
    """Who is told of the end, and whether that worked; of the address only whose it is, for the rest may be secret."""
    if webhook is None:
        return None
    # `forgotten`: it was told or given up, so long ago that nothing is kept of it.
    state = "set" if end is None else "forgotten" if webhook.each or webhook.wants(end) else "unwanted"
    if state == "unwanted" and delivery is not None and delivery.state == "waiting":
        delivery = None  # a courier has not sorted it out yet
    told = delivery or Delivery(id="", state=state)
    return {
        "origin": webhook.origin,
        "state": told.state,
        "tries": told.tries,
        "status": told.status,
        "said": told.said,
        "next_at": moment(told.next_at),
        "ended_at": moment(told.ended_at),
    }


def device_json(device: Device, *, reader: Reader = "here") -> dict[str, Any]:
    """One device, as everybody may see it."""
    paused = device.paused
    return {
        "name": device.name,
        "slots": device.slots,
        "taken": device.taken,
        "vram_mib": device.vram_mib,
        "vram_taken_mib": device.vram_taken_mib,
        "paused": {
            "reason": paused.reason,
            "by": paused.by,
            "since": moment(paused.since),
            "until": moment(paused.until),
        }
        if paused
        else None,
        "models": list(device.models),
        "workers": list(device.workers),
        "troubled": device.troubled and _told(device.troubled, reader),
        "lacks": {model: _told(why, reader) for model, why in device.lacks.items()},
    }


def series_event_json(series_id: str, state: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """How a series stands, between the events of its jobs."""
    return {"type": "series", "series": series_id, "state": state, "counts": dict(counts)}


def model_json(
    model: Model, *, default: bool, available: bool, error: ImagenError | None, loaded: bool, reader: Reader = "http"
) -> dict[str, Any]:
    """One model for whoever chooses; its keys and files are the owner's, and may hold a secret or a path."""
    shape = model.as_dict()
    return (
        {name: shape[name] for name in MODEL_FIELDS}
        | drawn_from(model)
        | {
            "default": default,
            "available": available,
            "error": error_json(error, reader=reader) if error else None,
            "loaded": loaded,
        }
    )


def moment(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds: 2026-05-11T17:32:41.123Z."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _progress(job: Job) -> dict[str, Any] | None:
    if job.phase is None and job.progress is None:
        return None
    told = dict(job.progress or {})
    return {
        "phase": job.phase,
        "step": told.get("step"),
        "total": told.get("total"),
        "image": told.get("image"),
        "eta_s": told.get("eta_s"),
    }


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
