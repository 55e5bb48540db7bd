"""A backend that writes the prompt on a card."""

import asyncio
import io
import textwrap
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from imagen.backends.base import Previews, Registration
from imagen.core.errors import Check
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Output, Phase, Preview, Signal, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoKeys:
    """What a model.yaml of this backend may say besides the common keys."""

    ink: str = "black"


class Echo:
    """Each step writes one more share of the words."""

    async def check(self, model: Model) -> Sequence[Check]:
        return [Check.passed("font", note="Pillow brings its own")]

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        total = request.steps * request.n
        for index in range(request.n):
            yield Phase(name="sampling")
            picture = request.part(index, 1)
            for step in range(1, request.steps + 1):
                done = index * request.steps + step
                yield Step(step=done, total=total, image=index)
                if step < request.steps and previews.wants(done, total):
                    share = step / request.steps
                    data, width, height = await asyncio.to_thread(_card, picture, model, share, previews.max_size)
                    yield Preview(
                        step=done, total=total, image=index, data=data, mime="image/png", width=width, height=height
                    )
            data, _, _ = await asyncio.to_thread(_card, picture, model)
            yield Output(data=data, mime="image/png", index=index, seed=picture.seed)

    async def aclose(self) -> None:
        """Nothing is kept between two calls."""


registration = Registration(create=lambda settings: Echo(), keys=EchoKeys)


def _card(request: Request, model: Model, share: float = 1.0, max_size: int | None = None) -> tuple[bytes, int, int]:
    from PIL import Image, ImageDraw, ImageFont

    hue = request.seed * 47 % 360
    card = Image.new("RGB", (request.width, request.height), f"hsl({hue}, 60%, 85%)")
    words = request.prompt[: round(len(request.prompt) * share)]
    size = max(8, request.height // 10)
    text = textwrap.fill(words, max(1, request.width * 2 // size - 2))
    ink = str(model.keys.get("ink", "black"))
    ImageDraw.Draw(card).multiline_text((size, size), text, fill=ink, font=ImageFont.load_default(size))
    if max_size:
        card.thumbnail((max_size, max_size))
    packed = io.BytesIO()
    card.save(packed, "PNG")
    return packed.getvalue(), *card.size
