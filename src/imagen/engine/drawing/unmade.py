"""In place of a backend that its settings forbid to make: a job of it fails with the reason, like any other."""

from collections.abc import AsyncGenerator, Sequence

from imagen.backends.base import Previews
from imagen.core.errors import Check, ImagenError
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Signal


class Unmade:
    """Draws nothing, and says why."""

    def __init__(self, error: ImagenError) -> None:
        self._error = error

    async def check(self, model: Model) -> Sequence[Check]:
        return [Check.failed("settings", self._error)]

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        for signal in self._refused():
            yield signal

    async def aclose(self) -> None:
        """Nothing was opened."""

    def _refused(self) -> Sequence[Signal]:
        raise self._error
