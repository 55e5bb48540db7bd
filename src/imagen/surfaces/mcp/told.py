"""Jobs and comparisons as an agent reads them: what matters to it, small, with places it can reach."""

import asyncio
import os
from typing import TYPE_CHECKING, Any

from imagen.core.job import Cell, Job, Series, State, StoredImage
from imagen.surfaces.mcp.brief import TEXT_CHARS, request_told, shortened
from imagen.surfaces.mcp.forecast import draw_s
from imagen.surfaces.mcp.record import Record, record_of
from imagen.surfaces.wire import job_json, moment

if TYPE_CHECKING:
    from pathlib import Path

    from imagen.core.model import Model
    from imagen.surfaces.mcp.edge import Edge

PROGRESS = ("phase", "step", "total", "eta_s")
LINE_CHARS = 80  # of a prompt in a list
CELLS = 40  # of a comparison that are told one by one: about 20 KB; there may be ten thousand
PLACEHOLDER = "A placeholder to try things out with: its pictures show nothing of what a prompt says. "


async def job_told(edge: "Edge", job: Job, record: Record) -> dict[str, Any]:
    """One job."""
    shape = job_json(job, reader=edge.reader)
    return {
        "id": job.id,
        "state": job.state.value,
        "request": request_told(job.request),
        "progress": shape["progress"] and {name: shape["progress"][name] for name in PROGRESS},
        "waits_for": shape["waits_for"],
        "images": [await image_told(edge, image) for image in job.images],
        "warnings": list(record.warnings) or None,
        "error": edge.trouble(job.error) if job.error else None,
        "last_error": edge.trouble(record.trouble) if record.trouble else None,
        "draw_s": draw_s(job),
        "cost": job.facts.get("cost"),
        "series": job.series,
    }


def line_told(job: Job, *, stands: bool) -> dict[str, Any]:
    """One job of a list; `stands`: nobody draws it."""
    return {
        "id": job.id,
        "state": job.state.value,
        "model": job.request.model,
        "prompt": shortened(job.request.prompt, LINE_CHARS),
        "series": job.series,
        "waits_for": "somebody who asks for it: nobody draws it" if stands else None,
        "created_at": moment(job.created_at),
    }


def notes_told(model: "Model") -> str | None:
    """What a model is for, and what not: the sentences of its notes that fit into a line or two."""
    told = PLACEHOLDER if model.backend == "mock" else ""
    for sentence in " ".join((model.notes or "").split()).split(". "):
        if told and len(told) + len(sentence) > TEXT_CHARS:
            break
        told += sentence if sentence.endswith(".") else f"{sentence}. "
    return shortened(told.strip()) or None


async def image_told(edge: "Edge", image: StoredImage) -> dict[str, Any]:
    """One picture, and where it is."""
    told = {name: getattr(image, name) for name in ("id", "index", "width", "height", "seed", "state")}
    return told | (await edge.place(image) if image.state == "stored" else {})


async def series_told(edge: "Edge", series: Series, sheet: bytes | None) -> dict[str, Any]:
    """One comparison with its first cells; `sheet` is its contact sheet once it has ended."""
    return {
        "id": series.id,
        "state": series.state,
        "counts": series.counts,
        "cells": await asyncio.gather(*(_cell_told(edge, cell) for cell in series.cells[:CELLS])),
        "cells_left_out": len(series.cells) - CELLS if len(series.cells) > CELLS else None,
        "sheet": await sheet_told(edge, series, sheet) if sheet is not None else None,
    }


async def _cell_told(edge: "Edge", cell: Cell) -> dict[str, Any]:
    job = cell.job
    record = await record_of(edge, job) if job else Record()
    return {
        "model": cell.model,
        "prompt": shortened(cell.prompt),
        "seed": cell.seed,
        "job": job.id if job else None,
        "state": job.state.value if job else State.QUEUED.value,
        "image": await image_told(edge, job.images[0]) if job and job.images else None,
        "warnings": list(record.warnings) or None,
        "draw_s": draw_s(job) if job else None,
        "error": edge.trouble(job.error) if job and job.error else None,
        "last_error": edge.trouble(record.trouble) if record.trouble else None,
    }


async def sheet_told(edge: "Edge", series: Series, sheet: bytes) -> dict[str, Any]:
    """The contact sheet: a file in our own cache, or the address that draws it."""
    from imagen.previews.decode import size_of

    width, height = size_of(sheet)
    told = {"id": None, "index": 0, "width": width, "height": height, "seed": None, "state": "stored"}
    if edge.base_url is not None:
        return told | {"url": f"{edge.base_url}/v1/series/{series.id}/sheet.png"}
    assert edge.cache is not None
    file = edge.cache / "sheets" / f"{series.id}.png"
    await asyncio.to_thread(_write, file, sheet)
    return told | {"path": str(file)}


def _write(file: "Path", data: bytes) -> None:
    """Whole or not at all; it is drawn anew each time, so an older one is of no use."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(file)
