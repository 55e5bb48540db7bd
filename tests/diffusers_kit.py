"""Tiny pipelines of diffusers in the test's own process: asked, drawn, and looked at."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagen.backends import diffusers
from imagen.backends.base import Registration
from imagen.backends.diffusers.backend import Diffusers
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.signals import Notice, Signal
from imagen.models.catalog import Catalog, load_catalog
from imagen.testing.signals import collect, outputs

PATIENCE_S = 60


def catalog(folder: Path) -> Catalog:
    there = Registration(create=Diffusers, keys=diffusers.DiffusersKeys, device=diffusers.device)
    found = load_catalog(
        folders=(folder,),
        configured={},
        default_model=None,
        backends={"diffusers": there},
        backend_settings={"diffusers": {}},
        host="here",
    )
    assert not found.broken
    return found


def asked(folder: Path, name: str, **fields: Any) -> tuple[Request, Model]:
    draft = Draft(**{"prompt": "a red fox", "model": name, "seed": 7, **fields})
    resolved = catalog(folder).resolve(draft, lambda: 7)
    return resolved.request, resolved.model


@asynccontextmanager
async def drawing() -> AsyncIterator[Diffusers]:
    backend = Diffusers({})
    try:
        yield backend
    finally:
        await backend.aclose()


def drawn(folder: Path, name: str, *, previews: Any = None, **fields: Any) -> list[Signal]:
    """Everything that is said about one request by a fresh backend."""

    async def run() -> list[Signal]:
        async with drawing() as backend:
            return await collect(backend, *asked(folder, name, **fields), previews=previews)

    return asyncio.run(run())


def pixels(said: list[Signal]) -> list[bytes]:
    return [output.data for output in outputs(said)]


def notices(said: list[Signal]) -> list[str]:
    return [signal.message for signal in said if isinstance(signal, Notice)]


class Gate:
    """A sink that holds the drawing thread at a step until it is let go."""

    max_size = 64

    def __init__(self, step: int) -> None:
        self.step = step
        self.reached = threading.Event()
        self.open = threading.Event()

    def wants(self, step: int, total: int) -> bool:
        if step == self.step:
            self.reached.set()
            self.open.wait(PATIENCE_S)
        return False


@dataclass
class Counting:
    """How often a module is called."""

    module: Any
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.module.register_forward_hook(self._called)

    def _called(self, *_: Any) -> None:
        self.count += 1


def loaded(backend: Diffusers) -> Any:
    """The pipeline it has loaded."""
    assert backend._open is not None
    return backend._open[1]
