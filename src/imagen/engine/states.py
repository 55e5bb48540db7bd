"""Which models can be asked for now, and why the others cannot."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from imagen.backends.base import Backend
from imagen.core.errors import ImagenError, TimedOut, Unsupported
from imagen.core.model import Model
from imagen.models.catalog import Catalog, switch_on

CHECK_S = 2.0  # a check that takes longer has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A model, whether it can be asked for, and whether somebody has it loaded."""

    model: Model
    available: bool
    error: ImagenError | None = None
    loaded: bool = False
    default: bool = False


async def states(
    catalog: Catalog, backend_for: Callable[[Model], Backend], loaded: Collection[str]
) -> list[ModelState]:
    """All models, each looked at with its backend's cheap check."""
    models = list(catalog.models.values())
    errors = await asyncio.gather(*(problem(model, backend_for) for model in models))
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
    """The names of those that could draw now and cost nothing; the mocks only if nothing else could."""
    free = [one.model for one in told if one.available and not one.model.paid]  # money is spent by who names the model
    real = [model.name for model in free if model.backend != "mock"]
    return real or [model.name for model in free]


async def problem(model: Model, backend_for: Callable[[Model], Backend]) -> ImagenError | None:
    """What keeps a model from drawing now; None when nothing does."""
    if not model.enabled:
        why = f": {model.off}" if model.off else ""
        return Unsupported(f"the model {model.name} is switched off{why}", hint=switch_on(model))
    try:
        async with asyncio.timeout(CHECK_S):
            checks = await backend_for(model).check(model)
    except ImagenError as error:
        return error
    except TimeoutError:
        return TimedOut(
            f"the check of {model.name} took longer than {CHECK_S:.0f} s",
            hint="see whether its backend runs and is not busy, then try again",
        )
    return next((check.error for check in checks if check.error is not None), None)
