"""The token of a Handle where the service knows no ids of ours: a name for the call, and how far it got."""

import re
import uuid
from dataclasses import dataclass, replace
from typing import Self

_TOKEN = re.compile(r"([0-9a-f]{32})#(\d{1,4})(!?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Pictures before `index` are done; that of `index` is being asked for, or was refused before it cost anything."""

    name: str
    index: int = 0
    free: bool = False  # nothing was begun for `index`: it may be asked for again

    @classmethod
    def new(cls) -> Self:
        return cls(name=uuid.uuid4().hex)

    @classmethod
    def of(cls, token: str | None) -> Self | None:
        """Read a token; None for what is none of ours."""
        found = _TOKEN.fullmatch(token or "")
        return cls(name=found[1], index=int(found[2]), free=bool(found[3])) if found else None

    def again(self) -> Self:
        """The same place, as another call."""
        return replace(self, name=uuid.uuid4().hex)

    @property
    def token(self) -> str:
        return f"{self.name}#{self.index}{'!' if self.free else ''}"

    @property
    def key(self) -> str:
        """A name for this picture alone, the same whoever resumes; a UUID, because some services want one."""
        return str(uuid.uuid5(uuid.UUID(self.name), str(self.index)))
