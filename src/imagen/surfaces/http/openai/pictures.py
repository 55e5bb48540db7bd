"""Finished pictures and the events of their making, in the words of the OpenAI Images API."""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagen.core.errors import ImagenError
from imagen.core.events import Image, Preview
from imagen.core.job import Job, State, StoredImage
from imagen.core.request import Request
from imagen.surfaces.http.foreign.ends import error_of
from imagen.surfaces.http.openai.request import Asked
from imagen.surfaces.wire import error_json, image_url

if TYPE_CHECKING:
    from imagen.app import App

QUALITY = 95  # of JPEG and WebP; beyond it files grow and pictures do not
ALPHA = (4, 6)  # colour types of PNG

# Nothing is counted in tokens here; clients add the numbers up without looking whether there are any.
USAGE: Mapping[str, Any] = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A picture as it is sent."""

    b64_json: str
    output_format: str
    background: str


async def answer(app: "App", job: Job, asked: Asked, public_url: str | None) -> dict[str, Any]:
    """What a request that is no stream gets in the end; the error of the job when it has no such end."""
    if job.state is not State.COMPLETED:
        raise error_of(job)
    assert isinstance(job.request, Request)
    data: list[dict[str, Any]] = []
    formats, backgrounds = ["png"], ["opaque"]
    for image in job.images:
        told: dict[str, Any]
        if asked.url and public_url is not None:
            told = {"url": public_url.rstrip("/") + image_url(image.id)}
        else:
            shown = await show(app, image, asked)
            told = {"b64_json": shown.b64_json}
            formats.append(shown.output_format)
            backgrounds.append(shown.background)
        data.append(told | _facts(image))
    return {
        "created": round((job.finished_at or job.created_at).timestamp()),
        "data": data,
        "output_format": formats[-1],
        "background": backgrounds[-1],
        "size": f"{job.request.width}x{job.request.height}",
        "usage": USAGE,
        "model": job.request.model,
        "job_id": job.id,
    }


async def show(app: "App", image: StoredImage, asked: Asked) -> Shown:
    """The bytes of a picture in the format that was asked for."""
    data = await app.image_bytes(image)
    return await asyncio.to_thread(_shown, data, asked.output_format, asked.output_compression)


def partial(event: Preview, index: int) -> dict[str, Any]:
    """The picture as it forms. Its format is that of these very bytes; its size is that of the picture to come."""
    return {
        "type": "image_generation.partial_image",
        "b64_json": base64.b64encode(event.data).decode(),
        "partial_image_index": index,
        "created_at": round(event.at.timestamp()),
        "size": f"{event.target_width}x{event.target_height}",
        "quality": "auto",
        "background": "auto",
        "output_format": event.mime.partition("/")[2],
        "job_id": event.job,
        "image": event.image,
        "step": event.step,
        "total": event.total,
        "width": event.width,
        "height": event.height,
    }


def completed(event: Image, shown: Shown) -> dict[str, Any]:
    """One finished picture."""
    return {
        "type": "image_generation.completed",
        "b64_json": shown.b64_json,
        "created_at": round(event.at.timestamp()),
        "size": f"{event.image.width}x{event.image.height}",
        "quality": "auto",
        "background": shown.background,
        "output_format": shown.output_format,
        "usage": USAGE,
        "job_id": event.job,
        "image": event.image.index,
        **_facts(event.image),
    }


def error_body(error: ImagenError, job_id: str | None = None) -> dict[str, Any]:
    """The shape that the libraries read errors from, with the job it is about."""
    return {"error": error_json(error, reader="http") | ({"job_id": job_id} if job_id else {})}


def _facts(image: StoredImage) -> dict[str, Any]:
    return {"seed": image.seed, "width": image.width, "height": image.height, "id": image.id}


def _shown(data: bytes, wanted: str | None, compression: int | None) -> Shown:
    from imagen.previews.decode import PNG, decode, kind_of

    kind = kind_of(data)
    stored = kind.mime.partition("/")[2] if kind else "png"
    if wanted in (None, stored) and (compression is None or stored == "png"):
        opaque = kind is not PNG or data[25] not in ALPHA
        return Shown(
            b64_json=base64.b64encode(data).decode(),
            output_format=stored,
            background="opaque" if opaque else "transparent",
        )
    from imagen.previews.encode import encode_small

    format = wanted or stored
    picture = decode(data)
    if format == "png":
        data = _png(picture)
    else:
        data = encode_small(picture, format, max(1, QUALITY if compression is None else compression))
    opaque = format == "jpeg" or not picture.has_transparency_data
    return Shown(
        b64_json=base64.b64encode(data).decode(),
        output_format=format,
        background="opaque" if opaque else "transparent",
    )


def _png(picture: Any) -> bytes:
    import io

    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
