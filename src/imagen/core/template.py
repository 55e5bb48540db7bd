"""A template: a graph of somebody's engine with slots in it, as data.

A slot is a whole value: `"${seed}"` becomes an integer, `"${prompt}"` a string. Text that merely contains
`${…}` is left as it is, so that a prompt with those characters stays text.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_SLOT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A graph, and the names of the values it wants."""

    graph: Mapping[str, Any] = field(repr=False)

    @property
    def slots(self) -> frozenset[str]:
        """Every name that stands in the graph as `${name}`."""
        return frozenset(_slots(self.graph))

    @property
    def digest(self) -> str:
        """A name for exactly this graph."""
        return hashlib.sha256(self.as_text().encode()).hexdigest()

    def as_text(self) -> str:
        """The graph in one spelling, whatever order its file had."""
        return json.dumps(self.graph, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def fill(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The graph with every slot replaced; KeyError names one that nobody fills."""
        filled: dict[str, Any] = _filled(self.graph, values)
        return filled


def _slots(value: Any) -> Iterator[str]:
    match value:
        case Mapping():
            for item in value.values():
                yield from _slots(item)
        case list() | tuple():
            for item in value:
                yield from _slots(item)
        case str() if found := _SLOT.fullmatch(value):
            yield found[1]


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    match value:
        case Mapping():
            return {key: _filled(item, values) for key, item in value.items()}
        case list() | tuple():
            return [_filled(item, values) for item in value]
        case str() if found := _SLOT.fullmatch(value):
            return values[found[1]]
        case _:
            return value
