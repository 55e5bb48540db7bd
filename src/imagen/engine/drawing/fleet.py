"""What the live workers say of themselves: on how many devices a model is drawn, who has it loaded, who is here too."""

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Row


class Fleet:
    """As one worker saw it last; until then it is alone."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._drawn: dict[str, int] = {}
        self._loaded: frozenset[str] = frozenset()
        self._alone = False

    def look(self, alive: Iterable[Row[Any]], paused: Collection[str]) -> None:
        """Whoever draws only what it submitted itself, or begins nothing now, is of no help to others."""
        everyone = list(alive)
        workers = [one for one in everyone if not one.solo and (one.id == self._worker or not one.troubled)]
        mine = {device for worker in workers if worker.id == self._worker for device in worker.places or ()}
        drawn: dict[str, set[str]] = {}
        loaded = set()
        for worker in workers:
            for device, models in (worker.places or {}).items():
                if device in paused:
                    continue
                for model in models:
                    drawn.setdefault(model, set()).add(device)
                if device not in mine:
                    loaded |= {*models} & {*(worker.loaded or ())}
        self._drawn = {model: len(devices) for model, devices in drawn.items()}
        self._loaded = frozenset(loaded)
        others = [one for one in everyone if one.id != self._worker]
        # Where a command draws that works only its own jobs, it does not say.
        self._alone = not any(one.solo or mine & {*(one.places or ())} for one in others)

    def devices(self, model: str) -> int:
        """How many draw it."""
        return max(1, self._drawn.get(model, 1))

    @property
    def alone(self) -> bool:
        """Does nobody else draw on our devices, as far as one can tell?"""
        return self._alone

    @property
    def loaded(self) -> frozenset[str]:
        """What is loaded on a device that is not ours, as far as one can tell from here."""
        return self._loaded
