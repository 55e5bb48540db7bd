"""Which models can be asked for now, and why the others cannot."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from imagen.backends.base import Backend
from imagen.core.errors import Check, Crashed, ImagenError, TimedOut, Unsupported
from imagen.core.model import Model
from imagen.models.catalog import Catalog, switch_on

CHECK_S = 2.0  # a check is a look, not a job; one that takes longer has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A model, whether it can be asked for, and whether somebody has it loaded."""

    model: Model
    available: bool
    error: ImagenError | None = None
    loaded: bool = False
    default: bool = False


async def states(
    catalog: Catalog,
    backend_for: Callable[[Model], Backend],
    loaded: Collection[str],
    said: Mapping[str, ImagenError | None] = MappingProxyType({}),
) -> list[ModelState]:
    """All models, each looked at with its backend's cheap check; of those in `said` their workers know better."""
    models = list(catalog.models.values())

    async def look(model: Model) -> ImagenError | None:
        return said[model.name] if model.enabled and model.name in said else await problem(model, backend_for)

    errors = await asyncio.gather(*(look(model) for model in models))
    return [
        ModelState(
            model=model,
            available=error is None,
            error=error,
            loaded=model.name in loaded,
            default=model.name == catalog.default,
        )
        for model, error in zip(models, errors, strict=True)
    ]


def usable(told: Iterable[ModelState]) -> list[str]:
    """The names of those that could draw now and cost nothing; the mocks only if nothing else could.

    The default model is among them whatever it is: somebody wants it.
    """
    free = [one for one in told if one.available and not one.model.paid]  # money is spent by who names the model
    real = any(one.model.backend != "mock" for one in free)
    return [one.model.name for one in free if one.model.backend != "mock" or one.default or not real]


async def checked(
    model: Model, backend_for: Callable[[Model], Backend], late: TimedOut, *, limit_s: float = CHECK_S
) -> Sequence[Check] | ImagenError:
    """What its backend says of a model, or what kept it from saying anything: `late` where it took too long."""
    try:
        async with asyncio.timeout(limit_s):
            return await backend_for(model).check(model)
    except ImagenError as error:
        return error
    except TimeoutError:
        return late
    except Exception as exc:  # a backend may come from anywhere, and the others' checks go on
        return Crashed(
            f"the check of the backend {model.backend!r} broke: {type(exc).__name__}: {exc}",
            hint="that is a mistake in the backend; tell its author",
        )


async def problem(model: Model, backend_for: Callable[[Model], Backend]) -> ImagenError | None:
    """What keeps a model from drawing now; None when nothing does."""
    if not model.enabled:
        why = f": {model.off}" if model.off else ""
        return Unsupported(f"the model {model.name} is switched off{why}", hint=switch_on(model))
    late = TimedOut(
        f"the check of {model.name} took longer than {CHECK_S:.0f} s",
        hint="see whether its backend runs and is not busy, then try again",
    )
    told = await checked(model, backend_for, late)
    if isinstance(told, ImagenError):
        return told
    return next((check.error for check in told if check.error is not None), None)
