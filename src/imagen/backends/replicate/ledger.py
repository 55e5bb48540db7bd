"""The token of a Handle for paid work: which predictions exist, and since when another one may exist unheard of.

It is said before each prediction is asked for, and again once its id is known. Whoever resumes therefore knows
every id but perhaps the last, and for that one the time at which it was asked for.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self

CLOCKS_S = 60.0  # how far two clocks may be apart
SENDING_S = 180.0  # how long after it was written down a request may still have been sent, with all its waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What was asked for, in the order of the pictures."""

    ids: tuple[str | None, ...] = ()  # None: to be asked for (again)
    done: int = 0  # so many pictures, from the first on, were handed over
    asking: int | None = None  # the picture whose prediction is being asked for
    at: datetime | None = None  # since when

    @classmethod
    def of(cls, token: str | None, n: int) -> Self | None:
        """Read a token; None for what is none of ours."""
        try:
            told = json.loads(token or "")
            at = datetime.fromisoformat(told["at"]) if told["at"] else None
            ids = tuple(one if isinstance(one, str) else None for one in told["ids"])
            asking, done = told["asking"], int(told["done"])
        except (ValueError, TypeError, KeyError):
            return None
        if len(ids) != n or not (asking is None or (isinstance(asking, int) and 0 <= asking < n)):
            return None
        return cls(ids=ids, done=done, asking=asking, at=at)

    @classmethod
    def new(cls, n: int) -> Self:
        return cls(ids=(None,) * n)

    @property
    def token(self) -> str:
        at = self.at.isoformat() if self.at else None
        told = {"ids": list(self.ids), "done": self.done, "asking": self.asking, "at": at}
        return json.dumps(told, separators=(",", ":"))

    def about_to_ask(self, index: int) -> Self:
        """Written down before a prediction is asked for."""
        return replace(self, asking=index, at=datetime.now(UTC))

    def has(self, index: int, prediction_id: str) -> Self:
        """Written down once it is known."""
        ids = tuple(prediction_id if place == index else one for place, one in enumerate(self.ids))
        return replace(self, ids=ids, asking=None, at=None)

    def refused(self) -> Self:
        """What was being asked for was certainly not made."""
        return replace(self, asking=None, at=None)

    def without(self, index: int) -> Self:
        """Its prediction was stopped before it gave anything: another one has to be asked for."""
        return replace(self, ids=tuple(None if place == index else one for place, one in enumerate(self.ids)))

    @property
    def window(self) -> tuple[datetime, datetime] | None:
        """Between which times, by the service's clock, the prediction was made that was being asked for."""
        if self.at is None:
            return None
        return self.at - timedelta(seconds=CLOCKS_S), self.at + timedelta(seconds=SENDING_S + CLOCKS_S)
