"""Jobs and comparisons as an agent reads them: what matters to it, small, with places it can reach."""

import asyncio
import os
from typing import TYPE_CHECKING, Any

from imagen.core.job import Job, Series, State, StoredImage
from imagen.surfaces.mcp.forecast import draw_s
from imagen.surfaces.wire import job_json, moment, request_json

if TYPE_CHECKING:
    from pathlib import Path

    from imagen.surfaces.mcp.edge import Edge

PROGRESS = ("phase", "step", "total", "eta_s")
PROMPT_CHARS = 80  # of one line of a list


async def job_told(edge: "Edge", job: Job) -> dict[str, Any]:
    """One job."""
    shape = job_json(job, reader=edge.reader)
    return {
        "id": job.id,
        "state": job.state.value,
        "request": {name: value for name, value in request_json(job.request).items() if value not in (None, "", {})},
        "progress": shape["progress"] and {name: shape["progress"][name] for name in PROGRESS},
        "waits_for": job.waits_for,
        "images": [await image_told(edge, image) for image in job.images],
        "error": edge.trouble(job.error) if job.error else None,
        "draw_s": draw_s(job),
        "cost": job.facts.get("cost"),
        "series": job.series,
    }


def line_told(job: Job) -> dict[str, Any]:
    """One job of a list."""
    prompt = job.request.prompt
    return {
        "id": job.id,
        "state": job.state.value,
        "model": job.request.model,
        "prompt": prompt if len(prompt) <= PROMPT_CHARS else prompt[: PROMPT_CHARS - 1] + "…",
        "created_at": moment(job.created_at),
    }


async def image_told(edge: "Edge", image: StoredImage) -> dict[str, Any]:
    """One picture, and where it is."""
    told = {name: getattr(image, name) for name in ("id", "index", "width", "height", "seed", "state")}
    return told | (await edge.place(image) if image.state == "stored" else {})


async def series_told(edge: "Edge", series: Series, sheet: bytes | None) -> dict[str, Any]:
    """One comparison with every cell; `sheet` is its contact sheet once it has ended."""
    return {
        "id": series.id,
        "state": series.state,
        "counts": series.counts,
        "cells": [
            {
                "model": cell.model,
                "prompt": cell.prompt,
                "seed": cell.seed,
                "job": cell.job.id if cell.job else None,
                "state": cell.job.state.value if cell.job else State.QUEUED.value,
                "image": await image_told(edge, cell.job.images[0]) if cell.job and cell.job.images else None,
                "draw_s": draw_s(cell.job) if cell.job else None,
                "error": edge.trouble(cell.job.error) if cell.job and cell.job.error else None,
            }
            for cell in series.cells
        ],
        "sheet": await sheet_told(edge, series, sheet) if sheet is not None else None,
    }


async def sheet_told(edge: "Edge", series: Series, sheet: bytes) -> dict[str, Any]:
    """The contact sheet: a file in our own cache, or the address that draws it."""
    from imagen.previews.decode import size_of

    width, height = size_of(sheet)
    told = {"id": None, "index": 0, "width": width, "height": height, "seed": None, "state": "stored"}
    if edge.base_url is not None:
        return told | {"url": f"{edge.base_url}/v1/series/{series.id}/sheet.png"}
    file = edge.app.settings.cache_folder / "sheets" / f"{series.id}.png"
    await asyncio.to_thread(_write, file, sheet)
    return told | {"path": str(file)}


def _write(file: "Path", data: bytes) -> None:
    """Whole or not at all; it is drawn anew each time, so an older one is of no use."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(file)
