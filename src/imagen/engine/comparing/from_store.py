"""A comparison as the store remembers it, without a folder: its contact sheet, and what compare.json would say."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from imagen.core.job import Series, State
from imagen.engine.comparing.document import Describe, remembered
from imagen.store import album
from imagen.store.db import Database
from imagen.store.images import CELL, ImageStore, side_path

if TYPE_CHECKING:
    from imagen.engine.comparing.sheet import Picture

# One sheet at a time in a process: each takes a core and some hundred megabytes while it is drawn.
_sheets = ThreadPoolExecutor(1, thread_name_prefix="imagen-sheet")


async def series_sheet(db: Database, images: ImageStore, series: Series, describe: Describe) -> bytes:
    """The contact sheet of a series as PNG, from the cell-sized copies in the store."""
    document = remembered(series, describe)
    paths = await db.read(album.paths, [entry.job for entry in document.cells if entry.job])

    def draw() -> bytes:
        from imagen.engine.comparing.page import sheet  # Pillow, only once there is something to show

        # Read when its turn to be drawn comes: the pictures of a large series are never in memory together.
        pictures: dict[int, Picture] = {
            entry.index: partial(images.read, side_path(paths[entry.image], CELL))
            for entry in document.cells
            if entry.state is State.COMPLETED and entry.image in paths
        }
        return sheet(document, pictures)

    return await asyncio.get_running_loop().run_in_executor(_sheets, draw)


def series_sidecar(series: Series, describe: Describe) -> dict[str, Any]:
    """A series in the shape of compare.json."""
    # A folder knows only its cells; the series also knows whether it was cancelled as a whole.
    return remembered(series, describe).as_dict() | {"state": series.state}
