"""Asking a backend for pictures and keeping what it says."""

import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imagen.backends.base import Backend, Previews
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import RAW_RGB, Output, Preview, Signal

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(slots=True, kw_only=True)
class Watching:
    """A preview sink that wants every `stride`-th step and remembers which it was asked about."""

    max_size: int = 256
    stride: int = 1
    asked: list[int] = field(default_factory=list)

    def wants(self, step: int, total: int) -> bool:
        self.asked.append(step)
        return step < total and step % self.stride == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nobody:
    """A preview sink that wants nothing."""

    max_size: int = 256

    def wants(self, step: int, total: int) -> bool:
        return False


async def collect(
    backend: Backend,
    request: Request,
    model: Model,
    *,
    previews: Previews | None = None,
    resume: str | None = None,
    until: Callable[[Signal], bool] | None = None,
) -> list[Signal]:
    """Everything the backend says, to the end or to the first signal that `until` is true for."""
    said: list[Signal] = []
    async with aclosing(backend.generate(request, model, previews or Nobody(), resume)) as signals:
        async for signal in signals:
            said.append(signal)
            if until is not None and until(signal):
                break
    return said


def outputs(said: Sequence[Signal]) -> list[Output]:
    """The finished pictures, in order of their index."""
    return sorted((signal for signal in said if isinstance(signal, Output)), key=lambda output: output.index)


def picture(shown: Output | Preview) -> "Image":
    """The picture as Pillow sees it, fully decoded."""
    from PIL import Image

    if shown.mime == RAW_RGB:
        return Image.frombytes("RGB", (shown.width, shown.height), shown.data)
    image = Image.open(io.BytesIO(shown.data))
    image.load()
    return image


def pixels(shown: Output | Preview) -> str:
    """A hash of what can be seen, whatever the bytes around it."""
    image = picture(shown).convert("RGB")
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
