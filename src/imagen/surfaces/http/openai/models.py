"""The names that can be asked for, as clients of OpenAI list them: models first, then what stands for one."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagen.core.errors import UnknownModel

if TYPE_CHECKING:
    from imagen.engine.states import ModelState

OWNER = "imagen"
CREATED = 0  # nobody knows when; clients want a number


def listed(states: Sequence["ModelState"], aliases: Mapping[str, str | None]) -> dict[str, Any]:
    """OpenAI's list: `object` and `data`. What is switched off is left out; the default comes first."""
    enabled = sorted((one for one in states if one.model.enabled), key=lambda one: not one.default)
    default = next((one.model.name for one in states if one.default), None)
    names = [one.model.name for one in enabled]
    known = {one.model.name for one in states}  # a model of that name is what is meant by it
    means = {alias: name or default for alias, name in aliases.items() if alias not in known}
    return {
        "object": "list",
        "data": [_named(name) for name in names]
        + [_named(alias) | {"alias_of": name} for alias, name in means.items() if name in names],
    }


def named(states: Sequence["ModelState"], aliases: Mapping[str, str | None], id: str) -> dict[str, Any]:
    """One of the list."""
    data: list[dict[str, Any]] = listed(states, aliases)["data"]
    found = next((one for one in data if one["id"] == id), None)
    if found is None:
        raise UnknownModel(f"there is no model {id!r}", hint="see `GET /v1/models` for the names", param="model")
    return found


def _named(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": OWNER}
