"""JSON shapes: what programs read about jobs, events and series, the same at every surface.

Front ends are written against these names, so they only ever gain: tests/golden/wire.json holds them.
"""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from imagen.core.events import Event, Preview, body_of
from imagen.core.job import Job, Series
from imagen.core.request import Draft, Request

PreviewForm = Literal["ref", "inline"]


def job_json(job: Job) -> dict[str, Any]:
    """One job as it stands now."""
    return {
        "id": job.id,
        "state": job.state.value,
        "request": request_json(job.request),
        "attempt": job.attempt,
        "progress": _progress(job),
        "position": job.position,
        "waits_for": job.waits_for,
        "images": [image.as_dict() for image in job.images],
        "error": job.error.as_dict() if job.error else None,
        "timings": dict(job.timings),
        "facts": dict(job.facts),
        "priority": job.priority,
        "device": job.device,
        "worker": job.worker,
        "series": job.series,
        "cell": job.cell,
        "retry_of": job.retry_of,
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
    }


def request_json(request: Request | Draft) -> dict[str, Any]:
    """What was asked, flat; a field that nobody has resolved yet is null."""
    return {name: _plain(getattr(request, name)) for name in Request.__dataclass_fields__}


def event_json(event: Event, *, preview: PreviewForm = "ref") -> dict[str, Any]:
    """One event as one object; a preview brings its bytes only when asked for them inline."""
    shape = {
        "type": event.type,
        "job": event.job,
        "seq": event.seq,
        "at": moment(event.at),
        "attempt": event.attempt,
    } | body_of(event)
    if isinstance(event, Preview):
        if preview == "inline":
            shape["data"] = base64.b64encode(event.data).decode()
        else:
            shape["preview_url"] = f"/v1/jobs/{event.job}/preview"
    return shape


def series_json(series: Series) -> dict[str, Any]:
    """One series with every cell; a cell nobody has submitted yet has no job."""
    return {
        "id": series.id,
        "state": series.state,
        "prompts": list(series.prompts),
        "models": list(series.models),
        "seeds": list(series.seeds),
        "settings": dict(series.settings),
        "counts": series.counts,
        "cells": [
            {
                "index": cell.index,
                "prompt": cell.prompt,
                "model": cell.model,
                "seed": cell.seed,
                "job": job_json(cell.job) if cell.job else None,
            }
            for cell in series.cells
        ],
        "created_at": moment(series.created_at),
    }


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
