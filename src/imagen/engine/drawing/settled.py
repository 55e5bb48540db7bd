"""A write that has begun, and whoever waits for it is cancelled: what came of it still decides what is to be done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def settled(work: Awaitable[T], within_s: float, seen: Callable[[asyncio.Future[T]], Awaitable[None]]) -> T:
    """What came of the work, which goes on when the caller is cancelled; `seen` looks at it before the caller does.

    Who is cancelled waits so long for it at most; if it takes longer, nobody looks at it.
    """
    working = asyncio.ensure_future(work)
    working.add_done_callback(lambda done: done.cancelled() or done.exception())  # also if nobody waits any more
    try:
        return await asyncio.shield(working)
    finally:
        await asyncio.wait({working}, timeout=within_s)
        if working.done() and not working.cancelled():
            await seen(working)
