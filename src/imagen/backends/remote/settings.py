"""Reading what config.yaml or the environment says for a backend, where everything may be text."""

from collections.abc import Mapping, Sequence
from typing import Any

from imagen.core.errors import BadConfig


def seconds(keys: Mapping[str, Any], settings: Mapping[str, Any], name: str, usual: float) -> float:
    """A number of seconds: the model's, else the backend's, else the usual one."""
    value = next((said[name] for said in (keys, settings) if said.get(name) not in (None, "")), usual)
    try:
        return float(str(value))
    except ValueError:
        raise BadConfig(f"`{name}` is a number of seconds, not {value!r}", hint="write for instance 60") from None


def hosts(settings: Mapping[str, Any]) -> Sequence[str]:
    """Names of machines, as a list or with commas between them."""
    value = settings.get("file_hosts") or ()
    parts = value.split(",") if isinstance(value, str) else value
    return [str(part).strip() for part in parts if str(part).strip()]
