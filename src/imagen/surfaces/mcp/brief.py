"""Texts and requests as short as an answer wants them."""

from typing import Any

from imagen.core.request import Draft, Request
from imagen.surfaces.wire import request_json

TEXT_CHARS = 200  # whoever asked knows the prompt, and a long one fills an answer


def shortened(text: str, most: int = TEXT_CHARS) -> str:
    """The text, or its beginning."""
    return text if len(text) <= most else text[: most - 1] + "…"


def request_told(request: Request | Draft) -> dict[str, Any]:
    """What was asked, without what was left blank, its texts shortened."""
    return {name: _brief(value) for name, value in request_json(request).items() if value not in (None, "", {})}


def _brief(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _brief(one) for name, one in value.items()}
    return shortened(value) if isinstance(value, str) else value
