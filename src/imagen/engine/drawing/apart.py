"""Whether all who draw keep pictures in one place: what one stores elsewhere, the others cannot read."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Row

from imagen.core.errors import SetupError
from imagen.reading import some

FEW = 5  # names of workers in one line
HINT = "use the same `storage`, a bucket or one shared folder, on every machine, and start again whoever has another"


class Apart:
    """What a worker tells of those that live and store elsewhere: each place once."""

    def __init__(self, place: str, log: Callable[[str], None]) -> None:
        self._place = place
        self._log = log
        self._beats: dict[str, int] = {}
        self._told: set[str] = set()

    def look(self, workers: Iterable[Row[Any]]) -> None:
        """One line for each other place where somebody stores who counted up since the last look."""
        workers = [worker for worker in workers if worker.storage not in (None, self._place, *self._told)]
        for worker in workers:
            if self._beats.get(worker.id, worker.beat) != worker.beat and worker.storage not in self._told:
                self._told.add(worker.storage)
                self._log(
                    f"pictures are stored in {self._place} here, and in {worker.storage} by the worker {worker.id}:"
                    f" neither can read what the other stores; {HINT}"
                )
        self._beats = {worker.id: worker.beat for worker in workers}


def check_places(workers: Iterable[Mapping[str, Any]], place: str) -> str:
    """Raise when one of these workers stores elsewhere than here, naming who stores where."""
    found: dict[str, list[str]] = {place: ["this command"]}
    for worker in workers:
        if worker["storage"] is not None:
            who = f"{worker['host'].partition(':')[0]} {worker['pid']}"
            found.setdefault(worker["storage"], []).append(who)
    if len(found) > 1:
        told = "; ".join(f"{where}: {some(who, FEW)}" for where, who in found.items())
        raise SetupError(f"pictures are stored in {len(found)} places, and nobody reads all: {told}", hint=HINT)
    return place
