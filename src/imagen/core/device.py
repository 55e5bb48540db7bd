"""Device: what draws one thing at a time; how it is shared with others, and what keeps everybody from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

BY_ITSELF = "imagen"  # who cancels what nobody would begin, and lets a device rest
Hook = tuple[str, ...] | str  # the words of a command, or an address that is posted to


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How one device is shared, as `devices:` of the settings says."""

    vram_mib: int | None = None  # what models may hold of it together; None: one draws at a time
    before: Hook | None = None  # run before it is first used after it was given back
    after: Hook | None = None  # run after it was given back
    hook_timeout_s: int = 30
    idle_s: int | None = None  # without work for so long it is given back; None: as its backend says, else a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Why nothing is begun on a device, and who said so."""

    reason: str
    by: str
    since: datetime
    until: datetime | None = None  # when it ends by itself; None: when somebody resumes it

    def __str__(self) -> str:
        return f"paused by {self.by}: {self.reason}" if self.reason else f"paused by {self.by}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device, as everybody sees it now."""

    name: str
    slots: int = 0  # how many jobs it draws at once; 0: it drew nothing yet
    taken: int = 0
    vram_mib: int | None = None  # what models may hold of it together, where that is limited
    vram_taken_mib: int | None = None  # what the jobs that run there hold of it
    paused: Pause | None = None
    models: tuple[str, ...] = ()  # what live workers draw there
    workers: tuple[str, ...] = ()
    troubled: str | None = None  # why its workers begin nothing, although they live
    lacks: Mapping[str, str] = field(default_factory=dict)  # models that would be drawn here, and why none can be now
