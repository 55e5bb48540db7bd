"""How far the clock of this machine and another one are apart."""

from collections.abc import Awaitable
from datetime import UTC, datetime


async def difference_s(asked: Awaitable[datetime]) -> float:
    """Seconds between our time and the one that is `asked` for; how long the answer takes does not count."""
    before = datetime.now(UTC)
    theirs = await asked
    ours = min(max(theirs, before), datetime.now(UTC))
    return abs((theirs - ours).total_seconds())
