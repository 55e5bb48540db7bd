"""The Backend protocol: three methods, and nothing a backend could want to know about jobs.

What only some engines can do stands below it, each as a small protocol of its own.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class PreviewWishes(Protocol):
    """What a sink may say besides, for backends that have a choice; one that does not say it leaves it to them."""

    @property
    def method(self) -> str:
        """How previews are to be made; `auto` leaves it to the backend."""

    @property
    def promised(self) -> bool:
        """Were so and so many asked for? Then it is worth waiting for the word that this is one of them."""


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


@runtime_checkable
class Queues(Protocol):
    """A backend whose engine keeps a queue of its own, and begins the next only when this one is done."""

    @property
    def queues(self) -> bool:
        """True when it may be given the next job while it decodes this one, so that the engine never waits."""


@runtime_checkable
class Releases(Protocol):
    """A backend that can give the memory of its device back without being closed."""

    @property
    def unload_after_s(self) -> float | None:
        """How long a device may have nothing to do before that is done by itself; None = it never is."""

    async def release(self, model: Model) -> None:
        """Give back what this model, and others on the same device, hold there; the next picture loads it again.

        Never while somebody's work runs or waits there: then it does nothing.
        """


@runtime_checkable
class Prepares(Protocol):
    """A backend that can do something before its first job, so that this one waits less."""

    def prepare(self) -> None:
        """Begin with it, if that is not done; said where this process draws for others and the settings say `ready`."""


@runtime_checkable
class KeepsFiles(Protocol):
    """A backend whose engine reads weights from folders on this machine."""

    async def folders(self, model: Model) -> Mapping[str, Sequence[Path]]:
        """Where the engine looks for each kind of file (`vae`, `checkpoints`, …); raises when it cannot be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One value in a graph."""

    node: str
    input: str
    kind: str  # the class of the node
    title: str = ""  # what people called the node
    value: Any = None

    @property
    def name(self) -> str:
        """`6.text`: what `--slot prompt=6.text` takes."""
        return f"{self.node}.{self.input}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A slot that could be in more than one place, or in none that is certain."""

    slot: str
    why: str
    candidates: tuple[Site, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A model made out of somebody's own workflow file."""

    graph: Mapping[str, Any]  # with its slots in it
    found: Mapping[str, tuple[Site, ...]]  # which slot fills which places
    keys: Mapping[str, Any]  # of its model.yaml: defaults, limits, options, ignores, the slots' values
    questions: tuple[Question, ...] = ()  # to be answered before it can be used
    notes: tuple[str, ...] = ()  # what was converted, left out, or is worth knowing


@runtime_checkable
class Adopts(Protocol):
    """A backend that can make a model out of a file its own users already have."""

    async def adopt(self, document: Mapping[str, Any], answers: Mapping[str, str]) -> Adopted:
        """Find the slots of a workflow; `answers` says where one is: `{"prompt": "6.text"}`.

        A RequestError says why a file cannot be taken, and what would make it possible.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """How a backend that draws by filling in a template wants to be told about it."""

    default: str  # the bundled model whose template a model gets that names none
    filled: Callable[[Set[str]], Set[str]]  # of a template's slots, those that the request or the backend fills
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of slots, as older files spell them
    knobs: frozenset[str] = frozenset()  # keys that many templates have; where one does not, it is only a warning
    # What is wrong with a document that should be a template, and what to do about it; None when nothing is.
    wrong: Callable[[Any], tuple[str, str] | None] = lambda _document: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What an entry point of the group `imagen.backends` names: how to make the backend, and its model keys."""

    create: Callable[[Mapping[str, Any]], Backend]  # takes the backend's settings from config.yaml
    keys: type  # a dataclass: the model keys this backend accepts beyond the common ones
    # The device of a model that names none: a pattern that may use {host} and the backend's settings, or a function
    # of them and of the model's own keys.
    device: str | Callable[[Mapping[str, Any]], str] = "cpu@{host}"
    slots: int | Callable[[Mapping[str, Any]], int] = (
        1  # how many jobs that device draws at once; or a function, as above
    )
    # Drawing costs money, or a function of settings and keys that says so. Such a model is enabled only by config.yaml,
    # is never chosen for anybody, and is refused where `paid_calls` is `forbidden`.
    paid: bool | Callable[[Mapping[str, Any]], bool] = False
    templates: Templates | None = None
    settings: frozenset[str] = frozenset()  # what `backends: {NAME: …}` may say; empty = anything
