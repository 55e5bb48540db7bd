"""What became of a request to the A1111 door, in the words of that program."""

import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from imagen.app import VERSION
from imagen.core.errors import ImagenError
from imagen.core.events import Preview
from imagen.core.job import Job, State
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.engine.pictures.sidecar import parameters_text
from imagen.surfaces.http.a1111.lists import ANY, HASH
from imagen.surfaces.http.a1111.request import Asked
from imagen.surfaces.http.foreign.ends import error_of
from imagen.surfaces.http.refusals import refusal
from imagen.surfaces.wire import error_json, waits_told

if TYPE_CHECKING:
    from imagen.app import App

STARTED = 0.01  # what is under way is never at nothing: that is how clients tell it from idle

_NO_STATE: Mapping[str, Any] = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_timestamp": "0",
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}


async def pictures(app: "App", job: Job, asked: Asked, *, interrupted: bool) -> dict[str, Any]:
    """The answer to txt2img; the error of the job when it has no such end.

    One that its own caller interrupted has the pictures that were finished until then, as that program does it.
    """
    if job.state is not State.COMPLETED and not (interrupted and job.state is State.CANCELLED):
        raise error_of(job)
    assert isinstance(job.request, Request)
    images: list[str] = []
    if asked.send_images:
        for image in job.images:
            data = await app.image_bytes(image)
            images.append((await asyncio.to_thread(base64.b64encode, data)).decode())
    told = info(job, job.request, asked)
    return {"images": images, "parameters": dict(asked.echo), "info": json.dumps(told, ensure_ascii=False)}


def info(job: Job, request: Request, asked: Asked) -> dict[str, Any]:
    """What was drawn, picture by picture; it is sent as text."""
    count = len(job.images)
    seeds = [image.seed for image in job.images]
    first = job.images[0] if job.images else None
    return {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * count,
        "negative_prompt": request.negative,
        "all_negative_prompts": [request.negative] * count,
        "seed": seeds[0] if seeds else request.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * count,
        "subseed_strength": 0,
        "width": first.width if first else request.width,
        "height": first.height if first else request.height,
        "sampler_name": str(request.options.get("sampler") or ANY),
        "cfg_scale": request.guidance if request.guidance is not None else 1.0,
        "steps": request.steps,
        "batch_size": asked.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": request.model,
        "sd_model_hash": asked.model.digest()[:HASH],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [_infotext(request, asked.model, image.index, image.seed) for image in job.images],
        "styles": [],
        "job_timestamp": _timestamp(job.started_at or job.created_at),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"imagen {VERSION}",
        # Ours: what was asked and is not honoured as asked, and where to find all of it again.
        "warnings": list(asked.notes),
        "job_id": job.id,
        "image_ids": [image.id for image in job.images],
    }


def idle() -> dict[str, Any]:
    """The progress of somebody who waits for nothing."""
    return {
        "progress": 0.0,
        "eta_relative": 0.0,
        "state": dict(_NO_STATE),
        "current_image": None,
        "textinfo": None,
        "current_task": None,
    }


def progress(job: Job, preview: Preview | None, task: str | None) -> dict[str, Any]:
    """How far a job is that has not ended."""
    assert isinstance(job.request, Request)
    told = job.progress or {}
    count, image = job.request.n, told.get("image") or 0
    total = told.get("total") or 0
    each = total // count if total else job.request.steps
    state = {
        **_NO_STATE,
        "interrupted": job.cancel_requested,
        "stopping_generation": job.cancel_requested,
        "job": job.id,
        "job_count": count,
        "job_timestamp": _timestamp(job.started_at or job.created_at),
        "job_no": image,
        "sampling_step": min(max((told.get("step") or 0) - image * each, 0), each),
        "sampling_steps": each,
    }
    return {
        "progress": done(job),
        "eta_relative": told.get("eta_s") or 0.0,
        "state": state,
        "current_image": base64.b64encode(preview.data).decode() if preview else None,
        "textinfo": textinfo(job),
        "current_task": task or job.id,
    }


def followed(job: Job | None, preview: Preview | None, seen: int, *, shown: bool) -> dict[str, Any]:
    """How a task stands for a client that follows it by name; a preview that it has seen is not sent again."""
    running = job is not None and job.state is State.RUNNING
    queued = job is not None and job.state is State.QUEUED
    new = preview if shown and preview is not None and preview.tick != seen else None
    return {
        "active": running,
        "queued": queued,
        "paused": False,
        "completed": job is not None and job.state.terminal,
        "progress": done(job) if running and job else None,
        "eta": (job.progress or {}).get("eta_s") if running and job else None,
        "live_preview": f"data:{new.mime};base64,{base64.b64encode(new.data).decode()}" if new else None,
        "id_live_preview": preview.tick if preview else seen if running else -1,
        "textinfo": textinfo(job) if job else "Waiting...",
    }


def done(job: Job) -> float:
    """The part of a job that is done, from STARTED to 1."""
    told = job.progress or {}
    total = told.get("total") or 0
    part = (told.get("step") or 0) / total if total else 0.0
    return min(1.0, max(STARTED, part))


def textinfo(job: Job) -> str | None:
    """What a client may show beside its bar."""
    if job.state is State.QUEUED:
        place = f" at {job.position}" if job.position else ""
        return f"Queued{place}" + (f": {waits_told(job, reader='http')}" if job.waits_for else "")
    return job.phase


def wrong(error: ImagenError, job_id: str | None = None) -> dict[str, Any]:
    """An error in the shape of that program, with ours beside it."""
    told = error_json(error, reader="http")
    return {
        "error": type(error).__name__,
        "detail": f"{told['message']}: {told['hint']}",
        "body": "",
        "errors": told["message"],
        **{name: told[name] for name in ("code", "hint", "param", "retryable")},
        **({"job_id": job_id} if job_id else {}),
    }


def refused(error: ImagenError) -> JSONResponse:
    """The answer that an error comes to at this door."""
    answer = refusal(error)
    kept = {name: answer.headers[name] for name in ("retry-after", "www-authenticate") if name in answer.headers}
    return JSONResponse(wrong(error), answer.status_code, kept)


def _infotext(request: Request, model: Model, index: int, seed: int) -> str:
    from dataclasses import replace

    return parameters_text(replace(request, seed=seed - index), model, index)


def _timestamp(at: datetime) -> str:
    return at.strftime("%Y%m%d%H%M%S")
