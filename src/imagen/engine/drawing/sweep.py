"""Those that are dead are buried: whoever notices puts their jobs back."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from imagen.store import presence
from imagen.store.db import Database


async def sweep(
    db: Database,
    obituaries: presence.Obituaries,
    log: Callable[[str], None],
    knows: Sequence[str],
    *,
    me: str | None = None,
    look: Callable[[Sequence[Row[Any]]], None] = lambda _rows: None,
) -> list[str]:
    """Put the jobs of dead workers back; returns their ids. `look` is shown those that live."""
    rows = await db.read(presence.everyone)
    dead = [name for name in obituaries.dead(rows) if name != me]
    look([row for row in rows if row.id not in dead])
    lost = await db.write(presence.bury, dead, datetime.now(UTC), knows)
    for job_id in lost:
        log(f"job {job_id} was left by a worker that died")
    return lost
