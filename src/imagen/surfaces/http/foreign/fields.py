"""The fields of a body as clients of others send them, and the sizes they ask for, which were made for other models."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from imagen.core.errors import RequestError
from imagen.core.model import Limits


class Fields:
    """The fields of a body, each under any of its names, in the types that clients really send."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given

    def text(self, *names: str) -> str | None:
        name, value = self._first(names)
        if value is not None and not isinstance(value, str):
            raise wrong(name, value, "text")
        return value

    def flag(self, name: str) -> bool:
        value = self.given.get(name, False)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise wrong(name, value, "true or false")
        return value

    def whole(self, *names: str, low: int | None = None, high: int | None = None) -> int | None:
        name, value = self._first(names)
        if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,19}\s*", value):
            value = int(value)  # settings that people type into a form arrive as text
        if value is None or value == "":
            return None
        wanted = "a whole number" + (f" from {low} to {high}" if high is not None else "")
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(name, value, wanted)
        if (low is not None and value < low) or (high is not None and value > high):
            raise wrong(name, value, wanted if high is not None else f"{wanted} from {low}")
        return value

    def number(self, *names: str) -> float | None:
        name, value = self._first(names)
        if isinstance(value, str):
            try:
                value = float(value) if value.strip() else None
            except ValueError:
                raise wrong(name, value, "a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise wrong(name, value, "a number")
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.given.get(name, {})
        if not isinstance(value, Mapping):
            raise wrong(name, value, 'an object such as {"name": value}')
        return value

    def one_of(self, name: str, choices: Sequence[str]) -> str | None:
        value = self.given.get(name)
        if value is not None and value not in choices:
            raise wrong(name, value, f"one of {', '.join(choices)}")
        return value

    def _first(self, names: Sequence[str]) -> tuple[str, Any]:
        name = next((name for name in names if name in self.given), names[0])
        return name, self.given.get(name)


def wrong(name: str, value: Any, wanted: str) -> RequestError:
    """The refusal of a field that makes no sense."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:59] + "…"
    return RequestError(f"{name}: {shown} is not possible", hint=f"give {wanted}", param=name)


def fitting(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """The nearest size that a model draws: clients offer a fixed list, made for other models."""
    if limits.sizes:
        return min(limits.sizes, key=lambda size: _distance(width, height, *size))
    scale = min(limits.max / max(width, height), 1.0)
    scale = max(scale, limits.min / min(width, height)) if min(width, height) * scale < limits.min else scale
    fit = [min(max(round(side * scale), limits.min), limits.max) for side in (width, height)]
    return fit[0], fit[1]


def _distance(width: int, height: int, other_width: int, other_height: int) -> tuple[float, float]:
    """How far apart two sizes are: in shape first, then in area."""
    shape = abs(math.log(width * other_height / (height * other_width)))
    return round(shape, 1), abs(math.log(width * height / (other_width * other_height)))
