"""What a worker can draw now, of the models that it knows: it takes no others where somebody may come who can."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from imagen.backends.base import Backend
from imagen.core.errors import ImagenError, SetupError, Unreachable, Unsupported
from imagen.core.model import Model
from imagen.engine.states import problem

LOOK_S = 30.0  # how often a model is looked at
AGAIN_S = 5.0  # and one that lacks something: whoever brings it wants to see it used
TICK_S = 1.0  # how soon a model that is new in the catalog is looked at
FEW = 3  # reasons that are told one by one

# What is not there. Everything else is busy, or breaks while it draws, and is seen only by trying.
LACKING = (SetupError, Unreachable, Unsupported)

T = TypeVar("T")


class Able:
    """Looks at models with their backends' cheap checks, again and again."""

    def __init__(
        self,
        backend_for: Callable[[Model], Backend],
        *,
        log: Callable[[str], None] = lambda _line: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lacks: Mapping[str, ImagenError] = {}
        self._backend_for = backend_for
        self._log = log
        self._monotonic = monotonic
        self._looked: dict[str, tuple[Model, float]] = {}  # each as it was looked at, and when that is due again
        self._doubted = asyncio.Event()

    def takes(self, places: Mapping[str, T]) -> dict[str, T]:
        """Those that were looked at and lack nothing."""
        return {name: place for name, place in places.items() if name in self._looked and name not in self.lacks}

    def serves(self, places: Mapping[str, T]) -> dict[str, T]:
        """Those that lack nothing as far as is known; with the few that are being looked at for the first time."""
        return {name: place for name, place in places.items() if name not in self.lacks}

    def doubt(self, name: str) -> None:
        """Look at this one now: drawing it just failed."""
        if name in self._looked:
            self._looked[name] = (self._looked[name][0], self._monotonic())
            self._doubted.set()

    async def keep_looking(
        self,
        models: Callable[[], Mapping[str, Model]],
        *,
        found: Callable[[], None],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        """Until cancelled. `found` is called for each model that may be taken from now on, `changed` after a change."""
        while True:
            before = self.lacks
            self._doubted.clear()
            await self.look(models(), found=found)
            if before != self.lacks:
                with suppress(ImagenError):  # the next heartbeat says it again
                    await changed()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._doubted.wait()
            except TimeoutError:
                pass

    async def look(self, models: Mapping[str, Model], *, found: Callable[[], None] = lambda: None) -> None:
        """Look at those whose turn it is, at once; each counts as soon as its own check is back."""
        self._looked = {name: looked for name, looked in self._looked.items() if name in models}
        before = self.lacks
        if not before.keys() <= models.keys():
            self.lacks = {name: error for name, error in before.items() if name in models}
        now = self._monotonic()
        await asyncio.gather(*(self._look_at(model, found) for model in models.values() if self._due(model, now)))
        self._say(before)

    def _due(self, model: Model, now: float) -> bool:
        looked = self._looked.get(model.name)
        return looked is None or looked[0] != model or looked[1] <= now

    async def _look_at(self, model: Model, found: Callable[[], None]) -> None:
        name = model.name
        error = await problem(model, self._backend_for)
        said = self.lacks.get(name)
        might = name in self._looked and said is None
        if error is None:
            self.lacks = {other: why for other, why in self.lacks.items() if other != name}
        elif isinstance(error, LACKING) and (said is None or said.message != error.message):
            self.lacks = {**self.lacks, name: error}
        lacks = name in self.lacks
        self._looked[name] = (model, self._monotonic() + (AGAIN_S if lacks else LOOK_S))
        if not lacks and not might:
            found()

    def _say(self, before: Mapping[str, ImagenError]) -> None:
        """One line for each reason, one for them all where there are many, and one for what can be drawn now."""
        by_reason: dict[str, tuple[ImagenError, list[str]]] = {}
        for name, error in sorted(self.lacks.items()):
            if before.get(name) is not error:
                by_reason.setdefault(error.message, (error, []))[1].append(name)
        if len(by_reason) > FEW:
            names = sorted(name for _, those in by_reason.values() for name in those)
            self._log(f"not drawn here: {', '.join(names)}; `imagen doctor`, run here, says what each of them lacks")
            by_reason = {}
        for error, names in by_reason.values():
            self._log(f"not drawn here: {', '.join(names)}: {error.message}; hint: {error.hint}")
        if back := sorted(name for name in before if name not in self.lacks and name in self._looked):
            self._log(f"drawn here now: {', '.join(back)}")
