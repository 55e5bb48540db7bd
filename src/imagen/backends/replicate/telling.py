"""What a prediction tells as it goes, as signals: its phase, its steps out of its log, its pictures as they form."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from imagen.backends.base import Previews
from imagen.backends.remote import pictures
from imagen.core.signals import Phase, PhaseName, Signal, Step

PHASES: dict[str, PhaseName] = {"starting": "loading", "processing": "sampling"}
# A progress bar of tqdm, which nearly every model prints: ` 25%|██▌       | 7/28 [00:01<00:03,  6.1it/s]`.
_BAR = re.compile(r"(\d{1,3})%\|[^|\n\r]*\|\s*(\d+)/(\d+)")


class Teller:
    """Of one call: steps only rise, through all its pictures."""

    def __init__(self, previews: Previews, *, n: int, steps: int, intermediate: bool) -> None:
        self._previews = previews
        self._n = n
        self._usual = max(1, steps)
        self._intermediate = intermediate
        self._per: int | None = None  # steps of one picture, as first heard
        self._said = 0
        self._phase = ""
        self._log = ""

    def status(self, status: str) -> Iterator[Signal]:
        """A phase, when it is another one."""
        name = PHASES.get(status)
        if name and name != self._phase:
            self._phase = name
            yield Phase(name=name)

    def begin(self) -> None:
        """The next picture has a log of its own."""
        self._log = ""

    def log(self, index: int, text: str, *, whole: bool) -> Iterator[Signal]:
        """Some of a log, or all there is by now."""
        self._log = text[-4000:] if whole else (self._log + text)[-4000:]
        bars = _BAR.findall(self._log)
        if bars:
            _, done, total = map(int, bars[-1])
            if total > 0:
                yield from self._step(index, done, total)

    async def output(self, index: int, number: int, fetch: Callable[[], Awaitable[bytes | None]]) -> AsyncIterator[Any]:
        """One of the outputs of a model that gives its picture as it forms, which is not the last one."""
        if not self._intermediate:
            return
        if self._per is None or self._said < index * self._per + number + 1:
            for signal in self._step(index, number + 1, self._per or self._usual, last=False):
                yield signal
        per = self._per or self._usual
        total = per * self._n
        if self._said < total and self._previews.wants(self._said, total):
            data = await fetch()
            if data:
                shown = await pictures.preview(data, step=self._said, total=total, image=index)
                if shown is not None:
                    yield shown

    def end(self, index: int) -> Iterator[Signal]:
        """The picture is there: its last step is done, if any was told."""
        if self._per is not None:
            yield from self._step(index, self._per, self._per)

    def _step(self, index: int, done: int, total: int, *, last: bool = True) -> Iterator[Signal]:
        """A bar of another length counts as a share of the first one's."""
        if self._per is None:
            self._per = total
        here = min(round(done / total * self._per), self._per if last else self._per - 1)
        step = index * self._per + max(here, 0)
        if step > self._said:
            self._said = step
            yield Step(step=step, total=self._per * self._n, image=index)
