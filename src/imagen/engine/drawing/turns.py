"""Whose turn it is: the model that is loaded goes first, as long as nobody pays for it with more than a little waiting.

A job may be passed by younger ones of the loaded model only so far that it starts at most PATIENCE_S later than if
everybody were served in order. What is not spent on loading, because the order was changed, may be spent on passing.

Where several devices draw a model, a new job of it is left for a moment to one that has it loaded.
"""

import bisect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from imagen.engine.drawing.fleet import Fleet
from imagen.store.order import Place, Turn
from imagen.store.queue import Claim

STREAK = 16  # jobs of the loaded model in a row, while others wait
STREAK_S = 60.0
PATIENCE_S = 50.0  # one long picture below the minute that nobody is to wait longer
MEMORY = 500  # jobs of a busy time that are remembered; older ones are passed by nobody any more
SHARE = 0.3  # how much the newest duration counts
DEAR_S = 1.0  # loading that takes no longer is not worth standing aside for
ASIDE_S = 0.5  # how long somebody else is given to begin: little beside a loading, much beside a claim


@dataclass(slots=True)
class _Device:
    model: str = ""
    streak: int = 0
    since: float = 0.0
    drawn: list[Turn] = field(default_factory=list)  # since it last had nothing to do, in the order they came
    loading: str = ""  # the job that changed the model last
    changes: int = 0  # of the model, in the same time
    draw_s: float | None = None
    load_s: float = 0.0
    # By attempt: did it find its model loaded, and when did it begin?
    begun: dict[tuple[str, int], tuple[bool, float]] = field(default_factory=dict)


class Turns:
    """What one worker drew on each of its devices."""

    def __init__(self, fleet: Fleet, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._monotonic = monotonic
        self._devices: dict[str, _Device] = {}

    def loaded(self) -> list[str]:
        """What was drawn last on each device."""
        return [device.model for device in self._devices.values() if device.model]

    def preferred(self) -> list[str]:
        """The models that may go on before others."""
        now = self._monotonic()
        return [
            device.model
            for device in self._devices.values()
            if device.streak < STREAK and now - device.since < STREAK_S
        ]

    def may_pass(self, device: str, oldest: Turn, younger: Turn, waiting: int) -> bool:
        """May the younger one go first? `waiting` jobs that came before it wait, the oldest among them."""
        known = self._devices.get(device)
        if known is None:
            return False
        between = bisect.bisect_left(known.drawn, younger) - bisect.bisect_right(known.drawn, oldest)
        draw_s = known.draw_s if known.draw_s is not None else PATIENCE_S
        in_order = sum(a.model != b.model for a, b in zip(known.drawn, known.drawn[1:], strict=False))
        saved_s = max(0, in_order - known.changes) * known.load_s
        ours = waiting / self._fleet.devices(oldest.model)  # whoever draws that one works off what waits, too
        return (ours + between) * draw_s <= PATIENCE_S + saved_s

    def better_elsewhere(self, places: Mapping[str, Place]) -> set[str]:
        """The models that another device has loaded, and for which here another one would have to go."""
        found = set()
        for model in self._fleet.loaded & places.keys():
            known = self._devices.get(places[model].device)
            # What a shared card has loaded beside its last model nobody knows here.
            alone = places[model].budget_mib is None
            if known is not None and alone and known.model != model and known.load_s > DEAR_S:
                found.add(model)
        return found

    def begin(self, claim: Claim) -> None:
        """A job is begun."""
        device = self._devices.setdefault(claim.model.device, _Device())
        same = device.model == claim.model.name
        device.begun[claim.key] = (same, self._monotonic())
        device.changes += not same and bool(device.drawn)
        if same and device.streak < STREAK:
            device.streak += 1
        else:
            device.model, device.streak, device.since = claim.model.name, 1, self._monotonic()
            device.loading = "" if same else claim.job
        bisect.insort(device.drawn, claim.turn)
        del device.drawn[:-MEMORY]

    def end(self, claim: Claim) -> None:
        """It needs its device no more."""
        device = self._devices[claim.model.device]
        fresh, since = device.begun.pop(claim.key)
        took_s = self._monotonic() - since
        if fresh or device.draw_s is None:
            device.draw_s = took_s if device.draw_s is None else _mixed(device.draw_s, took_s)
        else:
            device.load_s = _mixed(device.load_s, max(0.0, took_s - device.draw_s))

    def fail(self, claim: Claim) -> None:
        """It failed, so a model that it would have loaded is not there."""
        device = self._devices[claim.model.device]
        if device.loading == claim.job:
            device.model, device.streak = "", 0

    def rest(self) -> None:
        """Nothing waits: whoever comes now is passed by nobody who was here before."""
        for device in self._devices.values():
            device.drawn.clear()
            device.changes = 0


def _mixed(old: float, new: float) -> float:
    return old + SHARE * (new - old)
