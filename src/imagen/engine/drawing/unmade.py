"""In place of a backend that cannot be made: a job of it fails with the reason, like any other."""

from collections.abc import AsyncGenerator, Callable, Sequence

from imagen.backends.base import Backend, Previews
from imagen.core.errors import Check, ImagenError
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Signal
from imagen.engine.drawing.runner import broke
from imagen.store.queue import Claim


def made(backend_for: Callable[[Model], Backend], claim: Claim) -> Backend:
    """The backend that draws this job, or what says in its place why there is none."""
    try:
        return backend_for(claim.model)
    except ImagenError as error:
        return Unmade(error)
    except Exception as exc:  # a backend may come from anywhere
        return Unmade(broke(claim, exc))


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
