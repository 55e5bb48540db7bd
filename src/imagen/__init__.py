"""One door to every image model.

import imagen

async with imagen.open() as app:
    async for event in app.generate("a red fox", preview=True):
        print(event)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagen.app import App, open
    from imagen.core.errors import BackendError, ImagenError, RequestError, SetupError
    from imagen.core.events import (
        Cancelled,
        Completed,
        Event,
        Failed,
        Image,
        Phase,
        Preview,
        Progress,
        Queued,
        Requeued,
        Started,
        Warning,
    )
    from imagen.core.job import Job, Series, State, StoredImage
    from imagen.core.request import Draft, PreviewPolicy, Request
    from imagen.core.webhook import Delivery, Webhook
    from imagen.door import Door

_HOMES = {
    "imagen.app": ("App", "open"),
    "imagen.core.errors": ("BackendError", "ImagenError", "RequestError", "SetupError"),
    "imagen.core.events": (
        "Cancelled",
        "Completed",
        "Event",
        "Failed",
        "Image",
        "Phase",
        "Preview",
        "Progress",
        "Queued",
        "Requeued",
        "Started",
        "Warning",
    ),
    "imagen.core.job": ("Job", "Series", "State", "StoredImage"),
    "imagen.core.request": ("Draft", "PreviewPolicy", "Request"),
    "imagen.door": ("Door",),
    "imagen.core.webhook": ("Delivery", "Webhook"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "App",
    "BackendError",
    "Cancelled",
    "Completed",
    "Delivery",
    "Door",
    "Draft",
    "Event",
    "Failed",
    "Image",
    "ImagenError",
    "Job",
    "Phase",
    "Preview",
    "PreviewPolicy",
    "Progress",
    "Queued",
    "Request",
    "RequestError",
    "Requeued",
    "Series",
    "SetupError",
    "Started",
    "State",
    "StoredImage",
    "Warning",
    "Webhook",
    "open",
]


def __getattr__(name: str) -> Any:
    # Found on first use, so that `imagen --help` need not load the database library.
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'imagen' has no attribute {name!r}")
