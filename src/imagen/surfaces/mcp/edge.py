"""Who asks and how they are answered: somebody at this machine, or a caller of a server."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen.core.errors import ImagenError
from imagen.surfaces.wire import Reader, error_json, image_url

if TYPE_CHECKING:
    from imagen.config import Limits
    from imagen.core.job import StoredImage
    from imagen.door import Door

_COMMAND = re.compile(r"`imagen (jobs|series|models)(?: (list|show|watch|check))?(?: [^\s`]+)?`")
_ADDRESS = re.compile(r"`?GET /v1/(jobs|series|models)[^\s`,;:)]*`?")
_ONE = re.compile(r"\bat least 1(?: characters?)?$")
_TOOLS = {"jobs": "status", "series": "status", "models": "models"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One call's view of the app."""

    app: "Door"
    owner: str  # of what is submitted
    sees: str | None  # whose jobs may be looked at; None: everybody's
    queue_limit: int | None
    limits: "Limits"  # how much one request may ask for
    base_url: str | None = None  # where pictures are fetched; None: who asks is at this machine and wants paths
    folders: tuple[Path, ...] = ()  # where copies may be put
    cache: Path | None = None  # where sheets are put for who asks at this machine
    keyed: bool = False  # whether who asks gave a key, which its pictures want as well
    stopping: asyncio.Event | None = None  # set when the process is about to end
    adopt: Callable[[str], Awaitable[None]] | None = None  # draw this job here if nobody else would
    served: Callable[[], Awaitable[Collection[str]]] | None = None  # the models that a worker draws for everybody
    mine: set[str] = field(default_factory=set)  # jobs that are drawn here if nobody else draws them

    @property
    def here(self) -> bool:
        """Whether who asks is at this machine."""
        return self.base_url is None

    @property
    def reader(self) -> Reader:
        """Whom errors are written for."""
        return "here" if self.here else "http"

    def leaving(self) -> bool:
        """Whether nobody should be kept waiting any more."""
        return self.stopping is not None and self.stopping.is_set()

    async def place(self, image: "StoredImage") -> dict[str, str]:
        """Where a picture is, as its reader can reach it."""
        if self.base_url is not None:
            return {"url": self.base_url + image_url(image.id)}
        path = await self.app.image_path(image)
        return {"path": str(path)} if path is not None else {"url": image.url}

    def trouble(self, error: ImagenError) -> dict[str, Any]:
        """An error for an agent: a hint names the tool where it would have named a command or an address."""
        shape = error_json(error, reader=self.reader)
        told = {name: shape[name] for name in ("code", "message", "hint", "param", "retryable")}
        return told | {"hint": in_tools(shape["hint"])}


def in_tools(hint: str) -> str:
    """The hint in the words of the five verbs."""
    hint = _COMMAND.sub(lambda found: f"the tool `{_TOOLS[found[1]]}`", hint)
    hint = _ADDRESS.sub(lambda found: f"the tool `{_TOOLS[found[1]]}`", hint)
    hint = _ONE.sub(lambda found: "some text" if "character" in found[0] else "one or more", hint)
    return hint.replace("GET /docs says what may be sent", "the tool's schema says what may be sent")
