"""What the record of a job says besides its state: warnings, and why an attempt was given up."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagen.core import events
from imagen.core.errors import ImagenError
from imagen.core.job import Job

if TYPE_CHECKING:
    from imagen.surfaces.mcp.edge import Edge

READ_S = 1.0  # for a row that came by SQL and has no events yet: there is nothing to wait for


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The words of a job's events."""

    warnings: tuple[str, ...] = ()
    trouble: ImagenError | None = None  # of the last attempt that failed, while the job goes on


async def record_of(edge: "Edge", job: Job) -> Record:
    """What was recorded so far; an attempt that warned again says nothing new."""
    async with edge.app.watching(job.id) as watch:
        told = await watch.next(READ_S)
    warnings = dict.fromkeys(event.message for event in told if isinstance(event, events.Warning))
    troubles = [event.error for event in told if isinstance(event, events.Requeued) and event.error is not None]
    going_on = bool(troubles) and not job.state.terminal
    return Record(warnings=tuple(warnings), trouble=troubles[-1] if going_on else None)
