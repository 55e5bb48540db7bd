"""The files of a finished picture, brought into the image store and recorded: all of them, or none.

Where none can be stored, nothing is drawn.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from imagen.core.errors import DatabaseAway, DiskFull, ImagenError, StorageAway
from imagen.engine.drawing.settled import settled
from imagen.store.images import ImageStore
from imagen.store.queue import LeaseLost

FIRST_S = 1.0  # how soon it is tried again; then twice as long each time
LONGEST_S = 10.0
HURRIED_S = 12.0  # for how long a command that somebody waits for tries, whatever the store's own patience
PROVE_S = 5.0  # how often a worker that cannot store pictures tries it
DROP_S = 3.0  # for taking away what nobody will record; what is left after that is found by gc


class Room:
    """Can pictures be stored? Until then nothing is drawn, which would only be drawn again."""

    def __init__(self, images: ImageStore, log: Callable[[str], None]) -> None:
        self.trouble = ""  # why they could not when that was last tried; who asks what a job waits for is told
        self._images = images
        self._log = log

    async def proven(self) -> bool:
        """Has it been seen? While it has not, one try, and a pause where that fails."""
        if self._images.proven:
            return True
        try:
            await self._images.writable()
        except ImagenError as error:
            if error.message != self.trouble:
                self._log(f"nothing is drawn here until pictures can be stored: {error.message}; hint: {error.hint}")
            self.trouble = error.message
            await asyncio.sleep(PROVE_S)
            return False
        if self.trouble:
            self._log("pictures can be stored again")
        self.trouble = ""
        return True


async def stored(
    images: ImageStore,
    files: Mapping[str, bytes],
    *,
    flush: Callable[[], Awaitable[None]],
    record: Callable[[], Awaitable[int]],
    **how: Any,
) -> int:
    """Store them as `keep` does, `flush` what was said before, and `record` them; what that said.

    Where it turns out that nobody will record them, because the job is another's by now, they go again.
    """
    try:
        await keep(images, files, **how)
        await flush()
    except (asyncio.CancelledError, DatabaseAway, LeaseLost):
        await _drop(images, files)
        raise

    async def lost(recording: asyncio.Future[int]) -> None:
        if isinstance(recording.exception(), LeaseLost):
            await _drop(images, files)

    # Who is cancelled here does not know yet whether it was recorded: that is worth a moment.
    return await settled(record(), DROP_S, lost)


async def keep(
    images: ImageStore,
    files: Mapping[str, bytes],
    *,
    waiting: Callable[[str], Awaitable[None]],
    monotonic: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    patient: bool = False,
) -> None:
    """Store them. A place that is away costs time and not the picture, which is drawn: `waiting` is told why, once.

    So does a full disk for who is `patient`: room comes back, and somebody who waits at a terminal can make it.
    """
    passing = (StorageAway, DiskFull) if patient else (StorageAway,)
    left = dict(files)
    until: float | None = None
    wait_s = FIRST_S
    while left:
        # At once: to a bucket far away each is a journey, and the device may be waiting.
        ends = await asyncio.gather(*(images.put(path, data) for path, data in left.items()), return_exceptions=True)
        failed = {path: end for path, end in zip(left, ends, strict=True) if end is not None}
        if refused := next((end for end in failed.values() if not isinstance(end, passing)), None):
            await _drop(images, files)
            raise refused
        if not failed:
            return
        left = {path: left[path] for path in failed}
        away = failed[next(iter(failed))]
        assert isinstance(away, StorageAway | DiskFull)
        if until is None:
            until = monotonic() + (images.patience_s if patient else min(images.patience_s, HURRIED_S))
            await waiting(f"the picture is drawn and waits to be stored: {away.message}")
        if monotonic() + wait_s > until:
            if isinstance(away, StorageAway):
                raise away  # it would not delete either; what is there already is found by gc
            await _drop(images, files)
            raise StorageAway(away.message, hint=away.hint) from away
        await sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_S)


async def _drop(images: ImageStore, files: Mapping[str, bytes]) -> None:
    """What belongs to no recorded picture would lie there for ever."""
    with suppress(ImagenError, TimeoutError):
        async with asyncio.timeout(DROP_S):
            await images.delete_all(files)
