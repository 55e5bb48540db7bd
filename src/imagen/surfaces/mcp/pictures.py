"""Small pictures for an answer: a few kilobytes that show what was drawn. The whole picture stays where it is."""

import asyncio
from typing import TYPE_CHECKING

from imagen.core.errors import MissingFile

if TYPE_CHECKING:
    from imagen.core.job import StoredImage
    from imagen.door import Door

SMALL_PX = 256  # enough to see what it is; a model that looks at it pays by the pixel
SHEET_PX = 512  # of several pictures and the words between them
SMALL_BYTES = 48 * 1024  # base64 makes it 64 KiB; clients cut answers off at 100 KB and less
LARGE_PX = 1024  # only where it was asked for
LARGE_BYTES = 200 * 1024
QUALITIES = (82, 65, 45)


async def of_image(app: "Door", image: "StoredImage", *, large: bool = False) -> bytes:
    """A small JPEG of a stored picture, or a large one."""
    if large:
        return await small(await app.image_bytes(image), LARGE_PX, LARGE_BYTES)
    try:
        data = await app.image_bytes(image, size="thumbnail")
    except MissingFile:  # the copy is gone or was never made; the picture itself may be there
        data = await app.image_bytes(image)
    return await small(data, SMALL_PX)


async def of_job(app: "Door", job_id: str) -> bytes | None:
    """A small JPEG of a picture that is being drawn, where it shows one."""
    shown = await app.forming(job_id)
    return await small(shown, SMALL_PX) if shown is not None else None


async def of_sheet(sheet: bytes, *, large: bool = False) -> bytes:
    """A small JPEG of a contact sheet, or a large one."""
    return await (small(sheet, LARGE_PX, LARGE_BYTES) if large else small(sheet, SHEET_PX))


async def small(data: bytes, longest: int, most: int = SMALL_BYTES) -> bytes:
    """A JPEG of at most this many pixels a side and this many bytes."""
    return await asyncio.to_thread(_small, data, longest, most)


def _small(data: bytes, longest: int, most: int) -> bytes:
    from imagen.previews.decode import Unreadable, decode, shrink
    from imagen.previews.encode import encode_small

    try:
        image = decode(data, fit=(longest, longest))
    except Unreadable as exc:
        raise MissingFile(
            f"the picture cannot be read: {exc}", hint="it was changed outside imagen; generate it again"
        ) from exc
    while True:
        for quality in QUALITIES:
            told = encode_small(image, "jpeg", quality)
            if len(told) <= most:
                return told
        longest //= 2
        image = shrink(image, (longest, longest))
