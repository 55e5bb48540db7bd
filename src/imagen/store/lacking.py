"""Models that workers know and cannot draw now, in words: who says so, and why."""

from collections.abc import Iterable, Mapping
from typing import Any

from imagen.core.errors import ImagenError
from imagen.reading import some

FEW = 3  # hosts that are named; of more only how many


def lacking(said: Iterable[tuple[str, Mapping[str, Any] | None]], model: str | None) -> ImagenError | None:
    """Why a model cannot be drawn now, each reason with the hosts that say it; None when none of them says so.

    `said` is, of each worker, its `host` and its `lacks`.
    """
    hosts: dict[str, set[str]] = {}
    first: dict[str, Any] | None = None
    for host, lacks in sorted(said, key=lambda one: one[0]):  # in one order, for who looks again and again
        why = lacks.get(model) if lacks and model else None
        if why is not None:
            first = first or why
            hosts.setdefault(why["message"], set()).add(host.partition(":")[0])
    if first is None:
        return None
    told = "; ".join(f"{some(sorted(where), FEW)}: {message}" for message, where in hosts.items())
    return ImagenError.from_dict({**first, "message": told})
