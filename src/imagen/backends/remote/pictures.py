"""A picture as it came over the network: what it is, and how large."""

import asyncio
from collections.abc import Mapping
from typing import Any

from imagen.core.errors import Crashed
from imagen.core.signals import Output, Preview


def mime_of(data: bytes) -> str | None:
    """The kind of picture by its first bytes, or None for something else; what a server says of it is often wrong."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def output(data: bytes, name: str, *, index: int, seed: int | None, facts: Mapping[str, Any]) -> Output:
    """A finished picture; its bytes stay as they are."""
    mime = mime_of(data)
    if mime is None:
        raise Crashed(
            f"{name} gave something that is no picture ({len(data)} bytes)" if data else f"{name} gave no picture",
            hint="it must answer with PNG, JPEG or WebP; see its log, and the `output_format` of the model",
        )
    return Output(data=data, mime=mime, index=index, seed=seed, facts=facts)


async def preview(data: bytes, *, step: int, total: int, image: int) -> Preview | None:
    """A picture as it forms, or None for what cannot be read: a preview never costs the job."""
    mime = mime_of(data)
    size = await asyncio.to_thread(_size, data) if mime else None
    if mime is None or size is None:
        return None
    width, height = size
    return Preview(step=step, total=total, image=image, data=data, mime=mime, width=width, height=height)


def _size(data: bytes) -> tuple[int, int] | None:
    """In a thread, because Pillow takes a while to load."""
    from imagen.previews.decode import Unreadable, size_of

    try:
        return size_of(data)
    except Unreadable:
        return None
