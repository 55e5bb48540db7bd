"""The Backend protocol: three methods, and nothing a backend could want to know about jobs."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from imagen.core.errors import Check
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Signal


class Previews(Protocol):
    """Asked live, before each preview is made: does anybody want one now?"""

    @property
    def max_size(self) -> int:
        """Longest edge worth decoding."""

    def wants(self, step: int, total: int) -> bool:
        """True when a preview of this step would be used. Never true for the last step."""


class Backend(Protocol):
    """Draws pictures. It never sees jobs, clocks, paths, retries or the database."""

    async def check(self, model: Model) -> Sequence[Check]:
        """What would go wrong if this model were asked for now; cheap, draws nothing."""

    def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Draw `request.n` pictures; picture k uses seed + k and is said as Output(index=k).

        `resume` is the token of a Handle said by an earlier, interrupted call for the same request:
        re-attach to that work instead of starting it again. Closing the iterator is cancelling:
        the outside work is really stopped before aclose() returns.
        """

    async def aclose(self) -> None:
        """Give back everything; nothing outlives this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What an entry point of the group `imagen.backends` names: how to make the backend, and its model keys."""

    create: Callable[[Mapping[str, Any]], Backend]  # takes the backend's settings from config.yaml
    keys: type  # a dataclass: the model keys this backend accepts beyond the common ones
    device: str = "cpu@{host}"  # the device of a model that names none; may use {host} and the backend's settings
    slots: int = 1
    paid: bool = False  # drawing costs money; needs explicit configuration
