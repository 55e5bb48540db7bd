"""Whose turn it is to draw: one call after the other, in the order they came."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turn:
    """Belongs to one call at a time. Whoever waits for it does so on the loop, and may leave at once."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[Callable[[], None]]:
        """Wait for it. What is given passes it on before the block ends: from any thread, and no more than once."""
        await self._lock.acquire()
        loop = asyncio.get_running_loop()
        passed = False

        def passes() -> None:
            nonlocal passed
            if not passed:
                passed = True
                loop.call_soon_threadsafe(self._lock.release)

        try:
            yield passes
        finally:
            passes()
