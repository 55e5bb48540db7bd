"""`devices:` of config.yaml: how each device is shared."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from imagen.config.keys import DEVICE
from imagen.core.device import Hook, Sharing
from imagen.core.errors import BadConfig
from imagen.reading import Document, valued

LIKE = "write the words of a command, `[ollama, stop, llama3]`, or an address, `http://127.0.0.1:8080/unload`"


def devices_of(document: Document, said: Mapping[str, Any]) -> tuple[dict[str, Sharing], list[BadConfig]]:
    """How each device is shared, and what is wrong; of a device that is wrong nothing holds."""
    devices: dict[str, Sharing] = {}
    wrong: list[BadConfig] = []
    for name, keys in said.items():
        try:
            devices[name] = Sharing(**{key: _value(document, name, key, value) for key, value in keys.items()})
        except BadConfig as error:
            wrong.append(error)
    return devices, wrong


def _value(document: Document, name: str, key: str, value: Any) -> Any:
    document.known([key], DEVICE, "devices", name)
    kind, default, _ = DEVICE[key]
    if value is None:
        return default
    if kind == "hook":
        return _hook(document, name, key, value)
    try:
        return valued(kind, default, value)
    except ValueError as exc:
        raise document.wrong(
            f"`devices.{name}.{key}` {exc}", "devices", name, key, hint="see docs/reference/config.md"
        ) from exc


def _hook(document: Document, name: str, key: str, value: Any) -> Hook:
    if isinstance(value, list) and value and all(isinstance(word, str | int | float) for word in value) and value[0]:
        return tuple(str(word) for word in value)
    if isinstance(value, str):
        # A line for a shell is not taken apart: what its quotes and signs mean is a shell's business.
        parts = urlsplit(value) if "://" in value else None
        if parts is not None and parts.scheme in ("http", "https") and parts.hostname:
            return value
    raise document.wrong(
        f"`devices.{name}.{key}` is neither a list of words nor an address", "devices", name, key, hint=LIKE
    )
