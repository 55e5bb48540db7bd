"""The jobs routes of the fake ComfyUI: one look instead of queue and history, and a cancel that knows any state."""

import json
import uuid
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from imagen.testing.comfyui_voice import Item

if TYPE_CHECKING:
    from imagen.testing.comfyui import Fake


class Json(JSONResponse):
    """As the real server labels it."""

    media_type = "application/json; charset=utf-8"


STATES = ("pending", "in_progress", "completed", "failed", "cancelled")


def is_id(value: Any) -> bool:
    """Whether this is a UUID in its one accepted spelling."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def routes(fake: "Fake") -> list[BaseRoute]:
    """`/api/jobs` and what is below it."""

    async def all_jobs(request: Request) -> Response:
        query = request.query_params
        wanted = [word.strip() for word in query.get("status", ",".join(STATES)).split(",") if word.strip()]
        if fault := _fault(wanted, dict(query)):
            return Json({"error": fault}, 400)
        found = [_brief(item, "in_progress") for item in filter(None, [fake.engine.running])]
        found += [_brief(item, "pending") for item in fake.engine.queue]
        found += [_ended(prompt_id, entry) for prompt_id, entry in fake.engine.history.items()]
        found = [job for job in found if job["status"] in wanted]
        found = [_counted(fake, job) for job in found]
        by_time = query.get("sort_by") == "execution_duration"
        found.sort(key=_duration if by_time else _created, reverse=query.get("sort_order", "desc") == "desc")
        offset, limit = max(0, int(query.get("offset", 0))), int(query["limit"]) if "limit" in query else None
        shown = found[offset:][:limit]
        pages = {"offset": offset, "limit": limit, "total": len(found), "has_more": offset + len(shown) < len(found)}
        return Json({"jobs": shown, "pagination": pages})

    async def one_job(request: Request) -> Response:
        job_id = request.path_params["job_id"]
        running = fake.engine.running
        if job_id in fake.engine.history:
            return Json(_counted(fake, _ended(job_id, fake.engine.history[job_id], whole=True)))
        if running is not None and running.id == job_id:
            return Json(_counted(fake, _brief(running, "in_progress")))
        for item in fake.engine.queue:
            if item.id == job_id:
                return Json(_counted(fake, _brief(item, "pending")))
        return Json({"error": "Job not found"}, 404)

    def stop(job_id: str) -> bool:
        return fake.engine.delete(job_id) or fake.engine.interrupt(job_id)

    async def cancel(request: Request) -> Response:
        job_id = request.path_params["job_id"]
        fake.cancelled.append(job_id)
        return Json({"cancelled": stop(job_id)})

    async def cancel_many(request: Request) -> Response:
        try:
            ids = json.loads(await request.body()).get("job_ids")
        except (ValueError, AttributeError):
            return Json({"error": "Request body must be valid JSON"}, 400)
        if not isinstance(ids, list):
            return Json({"error": "job_ids must be a list"}, 400)
        wrong = [str(one) for one in ids if not is_id(one)]
        if wrong:
            return Json({"error": "job_ids contains invalid id(s)", "invalid_ids": wrong}, 400)
        fake.cancelled += ids
        return Json({"cancelled": any([stop(one) for one in ids])})

    found: list[BaseRoute] = [Route("/api/jobs", all_jobs), Route("/api/jobs/{job_id}", one_job)]
    if fake.has("jobs_cancel"):
        found.insert(0, Route("/api/jobs/cancel", cancel_many, methods=["POST"]))
        found.append(Route("/api/jobs/{job_id}/cancel", cancel, methods=["POST"]))
    return found


def _fault(wanted: list[str], query: dict[str, str]) -> str | None:
    if wrong := [word for word in wanted if word not in STATES]:
        return f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(STATES)}"
    if query.get("sort_by", "created_at") not in ("created_at", "execution_duration"):
        return "sort_by must be 'created_at' or 'execution_duration'"
    if query.get("sort_order", "desc") not in ("asc", "desc"):
        return "sort_order must be 'asc' or 'desc'"
    for name in ("limit", "offset"):
        if not query.get(name, "1").removeprefix("-").isdigit():
            return f"{name} must be an integer"
    return "limit must be a positive integer" if int(query.get("limit", 1)) < 1 else None


def _counted(fake: "Fake", job: dict[str, Any]) -> dict[str, Any]:
    return {**job, "previewable_outputs_count": job["outputs_count"]} if fake.has("previewable") else job


def _brief(item: Item, status: str) -> dict[str, Any]:
    return {
        "id": item.id,
        "status": status,
        "priority": item.number,
        "create_time": item.extra.get("create_time", 0),
        "outputs_count": 0,
    }


def _ended(prompt_id: str, entry: dict[str, Any], *, whole: bool = False) -> dict[str, Any]:
    number, _, graph, extra, _ = entry["prompt"]
    messages = dict(entry["status"]["messages"])
    last: dict[str, Any] = next((messages[kind] for kind in _ENDS if kind in messages), {})
    pictures = [
        {**one, "nodeId": node_id, "mediaType": kind}
        for node_id, output in entry["outputs"].items()
        for kind, ones in output.items()
        for one in ones
    ]
    status = "completed"
    if entry["status"]["status_str"] == "error":
        status = "cancelled" if "execution_interrupted" in messages else "failed"
    job = {
        "id": prompt_id,
        "status": status,
        "priority": number,
        "create_time": extra.get("create_time", 0),
        "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
        "execution_end_time": last.get("timestamp"),
        "execution_error": messages.get("execution_error"),
        "outputs_count": len(pictures),
        "preview_output": next(iter(sorted(pictures, key=lambda one: one["type"] != "output")), None),
    }
    job = {key: value for key, value in job.items() if value is not None}
    if whole:
        job["outputs"] = entry["outputs"]
        job["execution_status"] = entry["status"]
        job["workflow"] = {"prompt": graph, "extra_data": extra}
    return job


_ENDS = ("execution_success", "execution_error", "execution_interrupted")


def _created(job: dict[str, Any]) -> Any:
    return job["create_time"]


def _duration(job: dict[str, Any]) -> Any:
    return job.get("execution_end_time", 0) - job.get("execution_start_time", 0)
