"""Who is alive: workers say so by counting up, and whoever watches decides by its own monotonic clock.

No clock is compared between machines, so a clock that jumps ends no lease. A process on the same
host is known dead the moment it is gone.
"""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, insert, or_, select, update

from imagen.core.errors import Crashed, ImagenError
from imagen.store import intake, queue
from imagen.store.journal import KEEP_S
from imagen.store.order import Place
from imagen.store.tables import is_running, jobs, live, previews, slots, watchers, workers

HEARTBEAT_S = 3.0
LEASE_S = 12.0  # four missed beats

Lacks = Mapping[str, tuple[str, ImagenError]]  # by model: the device on which it would be drawn, and why it is not


def arrive(
    connection: Connection,
    worker: str,
    *,
    version: str,
    serves: Mapping[str, Place],
    solo: bool,
    now: datetime,
    storage: str | None = None,
    lacks: Lacks | None = None,
) -> None:
    """Enter the list of workers; `serves` are the models that it draws for everybody, and where.

    `lacks` are those that it knows and cannot draw now: the device of each, and the reason. Where it stores pictures is
    said because all have to do that in one place.
    """
    connection.execute(
        insert(workers).values(
            id=worker,
            host=host(),
            pid=os.getpid(),
            pid_started=pid_started(os.getpid()) or "",
            version=version,
            beat=0,
            solo=solo,
            models=sorted(serves),
            places=_by_device(serves),
            started_at=now,
            storage=storage,
            lacks=_lacks_json(lacks or {}),
        )
    )


def is_listed(connection: Connection, worker: str) -> bool:
    """Are we still in the list, or were we buried?"""
    row = select(workers.c.id).where(workers.c.id == worker).with_for_update(read=True, key_share=True)
    return connection.execute(row).one_or_none() is not None


def beat(
    connection: Connection,
    worker: str,
    serves: Mapping[str, Place],
    loaded: Iterable[str] = (),
    troubled: str | None = None,
    lacks: Lacks | None = None,
) -> bool:
    """Still here; false when we were taken for dead and have to arrive anew. `troubled`: why nothing is begun.

    `lacks` is long, so it is said when it changed; None: as it was said last.
    """
    told: dict[str, Any] = {"models": sorted(serves), "places": _by_device(serves), "loaded": sorted(loaded)}
    told["troubled"] = troubled
    if lacks is not None:
        told["lacks"] = _lacks_json(lacks)
    touched = connection.execute(update(workers).where(workers.c.id == worker).values(beat=workers.c.beat + 1, **told))
    return touched.rowcount == 1


def holds(connection: Connection, worker: str) -> list[str]:
    """The jobs that are this worker's, as the database sees it."""
    return list(connection.execute(select(jobs.c.id).where(is_running, jobs.c.worker == worker)).scalars())


def leave(connection: Connection, worker: str) -> None:
    """Go, having given back everything; what was taken in the very moment in which we were stopped, too."""
    _put_back(connection, worker)
    # This waits for a claim of ours that is under way. Nobody will hear what it took.
    connection.execute(delete(workers).where(workers.c.id == worker))
    _put_back(connection, worker)


def everyone(connection: Connection) -> list[Row[Any]]:
    """All workers that ever arrived and did not leave, dead or alive."""
    return list(connection.execute(select(workers)).all())


def bury(connection: Connection, dead: Iterable[str], now: datetime, knows: Iterable[str] = ()) -> list[str]:
    """Take the jobs of dead workers away from them and tidy up; returns the ids of the jobs put back or ended.

    `knows` are the models of the caller's own catalog.
    """
    names = list(dead)
    connection.execute(delete(workers).where(workers.c.id.in_(names)))
    # A running job whose worker is not even listed was left by one that was buried while it slept.
    lost = connection.execute(
        select(jobs.c.id, jobs.c.worker)
        .where(is_running, or_(jobs.c.worker.is_(None), jobs.c.worker.not_in(select(workers.c.id))))
        .with_for_update(skip_locked=True)
    ).all()
    for row in lost:
        queue.requeue(
            connection,
            row.id,
            reason=f"worker {row.worker} died",
            error=Crashed(
                f"the worker {row.worker} died while drawing",
                hint=f"three deaths end a job; `imagen jobs retry {row.id}` starts it anew once the reason is mended",
            ),
        )
    alive = {model for row in everyone(connection) for model in (*row.models, *(row.lacks or ()))}
    intake.fail_unknown_models(connection, now, {*knows, *alive})
    _tidy(connection, now)
    return [row.id for row in lost]


def _put_back(connection: Connection, worker: str) -> None:
    for job_id in holds(connection, worker):
        queue.unheard(connection, job_id, worker)


def _lacks_json(lacks: Lacks) -> dict[str, Any] | None:
    """As much of each reason as is shown to others."""
    shown = ("code", "message", "hint")
    told = {}
    for model, (device, error) in sorted(lacks.items()):
        told[model] = {"device": device, **{name: error.as_dict()[name] for name in shown}}
    return told or None


def _by_device(places: Mapping[str, Place]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for model, place in sorted(places.items()):
        told.setdefault(place.device, []).append(model)
    return told


def _tidy(connection: Connection, now: datetime) -> None:
    running = select(jobs.c.id).where(is_running)
    stale = now - timedelta(seconds=KEEP_S)
    held = and_(slots.c.job_id == jobs.c.id, slots.c.attempt == jobs.c.attempt)
    for slot in connection.execute(select(slots).join(jobs, held).where(~is_running)).all():
        # Exactly what was seen: meanwhile somebody may have taken it for another job.
        connection.execute(
            update(slots)
            .where(slots.c.device == slot.device, slots.c.slot == slot.slot)
            .where(slots.c.job_id == slot.job_id, slots.c.attempt == slot.attempt)
            .values(job_id=None, attempt=None, vram_mib=None)
        )
    connection.execute(delete(watchers).where(watchers.c.expires_at < now))
    connection.execute(delete(live).where(live.c.updated_at < stale, live.c.job_id.not_in(running)))
    connection.execute(delete(previews).where(previews.c.job_id.not_in(select(live.c.job_id))))


class Obituaries:
    """Remembers when each worker was last seen to count up, by our clock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: dict[str, tuple[tuple[int, datetime], float]] = {}
        self._looked = monotonic()

    def dead(self, rows: Iterable[Row[Any]]) -> list[str]:
        """Workers that are gone: their process does not exist, or they have not counted for a whole lease."""
        now = self._monotonic()
        if now - self._looked > LEASE_S / 2:
            self._seen.clear()  # it is us who slept: nobody could have been seen meanwhile
        self._looked = now
        here = host()
        gone = []
        for row in rows:
            # Whoever was buried and arrives anew counts from the start, and may be where it was last seen.
            counts = (row.beat, row.started_at)
            counted, since = self._seen.get(row.id, (None, now))
            if counted != counts:
                since = now
            self._seen[row.id] = (counts, since)
            vanished = row.host == here and pid_started(row.pid) != (row.pid_started or None)
            if vanished or now - since > LEASE_S:
                gone.append(row.id)
        return gone


_host = ""


def host() -> str:
    """This host, this boot, this process namespace: where a process id means something."""
    global _host
    if not _host:
        boot = _read("/proc/sys/kernel/random/boot_id")[:8]
        try:
            namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        except OSError:
            namespace = ""
        _host = ":".join(part for part in (platform.node(), boot, namespace) if part)
    return _host


def pid_started(pid: int) -> str | None:
    """When a process started, so that a reused number is not taken for it; None when there is no such process."""
    if Path("/proc/self/stat").exists():
        stat = _read(f"/proc/{pid}/stat")
        # The name in brackets may hold anything, spaces and brackets too. A zombie is as good as gone.
        fields = stat.rpartition(")")[2].split()
        return fields[19] if fields and fields[0] != "Z" else None
    try:
        told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return told.stdout.strip() or None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
