"""The files of a finished picture, brought into the image store: all of them, or none."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from imagen.core.errors import ImagenError, StorageAway
from imagen.store.images import ImageStore

FIRST_S = 1.0  # how soon it is tried again; then twice as long each time
LONGEST_S = 10.0


async def keep(
    images: ImageStore,
    files: Mapping[str, bytes],
    *,
    waiting: Callable[[str], Awaitable[None]],
    monotonic: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Store them. A place that is away costs time and not the picture, which is drawn: `waiting` is told why, once."""
    left = dict(files)
    until: float | None = None
    wait_s = FIRST_S
    while left:
        # At once: to a bucket far away each is a journey, and the device may be waiting.
        ends = await asyncio.gather(*(images.put(path, data) for path, data in left.items()), return_exceptions=True)
        failed = {path: end for path, end in zip(left, ends, strict=True) if end is not None}
        if refused := next((end for end in failed.values() if not isinstance(end, StorageAway)), None):
            # What belongs to no recorded picture would lie there for ever.
            with suppress(ImagenError):
                await images.delete_all(files)
            raise refused
        if not failed:
            return
        left = {path: left[path] for path in failed}
        away = failed[next(iter(failed))]
        assert isinstance(away, StorageAway)
        if until is None:
            until = monotonic() + images.patience_s
            await waiting(f"the picture is drawn and waits to be stored: {away.message}")
        if monotonic() + wait_s > until:
            raise away  # it would not delete either; what is there already is found by gc
        await sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_S)
