"""Money: what costs some, and the switch that forbids it."""

import os
from collections.abc import Mapping
from typing import Any

from imagen.backends.remote.address import Address
from imagen.core.errors import BadConfig, NotConfigured

SWITCH = "IMAGEN_PAID_CALLS"
ALLOWED = "allowed"


def costs(settings: Mapping[str, Any], usual: str) -> bool:
    """Whether drawing at this address costs money: as it is configured, else wherever it is on the internet."""
    said = settings.get("paid")
    try:
        address = Address.of(str(settings.get("url") or usual))
    except BadConfig:
        return True  # what cannot be read is not trusted to be free
    if address.host == Address.of(usual).host:
        return True  # whatever a model says of it
    return said if isinstance(said, bool) else address.public


def allow(service: str) -> None:
    """Called right before money would be spent; raises where the switch of this process forbids it.

    The application refuses long before. This is for whoever makes a backend without it, such as a test.
    """
    said = os.environ.get(SWITCH, "").strip()
    if said not in ("", ALLOWED):  # a slip in a switch that protects is no permission
        raise NotConfigured(
            f"{service} costs money, and {SWITCH} is `{said}`",
            hint=f"unset {SWITCH} where paid calls are meant; in tests they never are",
        )
