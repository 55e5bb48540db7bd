"""What a request would come to, from what the latest jobs of its model took; nothing is drawn."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from imagen.core.job import Job
from imagen.core.request import Draft, Request
from imagen.surfaces.mcp.brief import request_told

if TYPE_CHECKING:
    from imagen.engine.states import ModelState
    from imagen.surfaces.mcp.edge import Edge

LATEST = 40  # jobs that are looked at: enough for a median, few enough to be of this week
DRAWING = ("encode", "sample", "decode")  # what a comparison calls latency; loading and waiting stand apart
LOADED_S = 0.05  # less is the time to see that the model is loaded already
ALIKE = ("width", "height", "steps", "n")


async def forecast(edge: "Edge", draft: Draft, states: Sequence["ModelState"], waiting: int) -> dict[str, Any]:
    """One request; raises what submitting it would raise."""
    resolved = (await edge.app.models()).resolve(draft, lambda: secrets.randbits(32))
    state = next((one for one in states if one.model.name == resolved.model.name), None)
    return {
        "model": resolved.model.name,
        "available": state is not None and state.available,
        "error": edge.trouble(state.error) if state is not None and state.error is not None else None,
        "request": request_told(resolved.request),
        "warnings": [warned.message for warned in resolved.warnings],
        "paid": resolved.model.paid,
        # Whose jobs these were is nobody's business, and a median does not tell it.
        "seen": seen(resolved.request, await edge.app.jobs(state="completed", model=resolved.model.name, limit=LATEST)),
        "vram_mib": resolved.model.vram_mib,
        "waiting": waiting,
    }


def seen(request: Request, jobs: Sequence[Job]) -> dict[str, Any] | None:
    """The medians of jobs like this one, or of all where there was none; None when the model never drew."""
    if not jobs:
        return None
    alike = [job for job in jobs if all(getattr(job.request, name) == getattr(request, name) for name in ALIKE)]
    among = alike or jobs
    loads = [job.timings.get("load", 0.0) for job in jobs]
    peaks = [job.facts["vram_peak_mib"] for job in among if job.facts.get("vram_peak_mib")]
    return {
        "jobs": len(among),
        "like_this": bool(alike),
        "draw_s": _median(draw_s(job) for job in among),
        "load_s": _median(took_s for took_s in loads if took_s > LOADED_S) or 0.0,
        "vram_peak_mib": max(peaks, default=None),
        "cost": _median(job.facts.get("cost") for job in among),
    }


def draw_s(job: Job) -> float | None:
    """What drawing took, without loading and waiting."""
    return round(sum(job.timings.get(part, 0.0) for part in DRAWING), 3) if job.timings else None


def total_s(forecasts: Sequence[Mapping[str, Any]], each: int) -> float | None:
    """What so many pictures of each model take, one after another; None where a model never drew."""
    times = [(told["seen"]["draw_s"], told["seen"]["load_s"]) for told in forecasts if told["seen"]]
    if len(times) < len(forecasts) or any(draws is None for draws, _ in times):
        return None
    return round(float(sum(draws * each + loads for draws, loads in times)), 1)


def _median(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return round(median(told), 3) if told else None
