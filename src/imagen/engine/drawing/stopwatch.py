"""Where the time of an attempt went: load, encode, sample, decode, save."""

from collections.abc import Callable

_BUCKET = {"loading": "load", "encoding": "encode", "sampling": "sample", "decoding": "decode", "saving": "save"}


class Stopwatch:
    """Time runs in one bucket at a time; until a backend says otherwise it is loading."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since = monotonic()
        self._spent = dict.fromkeys(_BUCKET.values(), 0.0)
        self.phase = "loading"

    def enter(self, phase: str) -> None:
        """From now on it is `phase`."""
        self._settle()
        self.phase = phase

    def split(self) -> dict[str, float]:
        """Seconds per bucket, and in all."""
        self._settle()
        split = {name: round(seconds, 4) for name, seconds in self._spent.items()}
        return split | {"total": round(sum(self._spent.values()), 4)}

    def _settle(self) -> None:
        now = self._monotonic()
        self._spent[_BUCKET[self.phase]] += now - self._since
        self._since = now
