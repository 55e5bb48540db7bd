"""Models of services over the network, requests for them, and waiting for the fakes of those services."""

import asyncio
import os
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

from imagen.backends.base import Backend, Previews
from imagen.core.errors import ImagenError
from imagen.core.model import Defaults, Model
from imagen.core.request import Request
from imagen.core.signals import Signal
from imagen.testing.served import Served
from imagen.testing.signals import Nobody

MODELS = Path(__file__).parent / "data" / "cloud_models"
TOKEN = "r8_0123456789-not-a-real-token"


def cloud_model(backend: str, *, options: Any = None, **keys: Any) -> Model:
    """A model of one of these backends, with these keys."""
    return Model(
        name="mine",
        title="Mine",
        backend=backend,
        device="cloud",
        defaults=Defaults(width=64, height=48, steps=4),
        options=options or {},
        keys=keys,
    )


def request(prompt: str = "a red fox", **fields: Any) -> Request:
    """A small request."""
    usual: dict[str, Any] = {"model": "mine", "width": 64, "height": 48, "steps": 4, "seed": 7}
    return Request(prompt=prompt, **{**usual, **fields})


async def to_its_error(
    backend: Backend, asked: Request, model: Model, *, previews: Previews | None = None, resume: str | None = None
) -> tuple[list[Signal], ImagenError]:
    """Everything a call says until it fails, and with what it fails."""
    said: list[Signal] = []
    try:
        async with aclosing(backend.generate(asked, model, previews or Nobody(), resume)) as signals:
            async for signal in signals:
                said.append(signal)
    except ImagenError as error:
        return said, error
    raise AssertionError("it did not fail")


async def all_its_threads() -> None:
    """Start all that the fake's own loop may start, so that a claim about threads sees only the backend's."""
    workers = min(32, (os.cpu_count() or 1) + 4)
    together = threading.Barrier(workers)
    await asyncio.gather(*(asyncio.to_thread(together.wait) for _ in range(workers)))


async def until_idle(fake: Served) -> None:
    """Nothing of ours is left at the server; a connection that was closed is noticed a moment later."""
    async with asyncio.timeout(5):
        while not fake.idle:  # type: ignore[attr-defined]  # every fake of these tests says it
            await asyncio.sleep(0.01)
