"""The smallest HTTP client that speaks JSON, for scripts that ask a server now and then."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 60.0


class Refused(AssertionError):
    """The server answered with an error; it says which."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status = status
        self.body = body


def get(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """What is there, as JSON; OSError when nobody answers."""
    return _ask("GET", url, None, headers)


def post(url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
    """Send JSON and give back the answer."""
    return _ask("POST", url, body, headers)


def _ask(method: str, url: str, body: Any, headers: Mapping[str, str] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    told = {"Content-Type": "application/json"} if data is not None else {}
    request = urllib.request.Request(url, data=data, method=method, headers=told | dict(headers or {}))
    try:
        # No proxy of the person who runs this: the server is on this machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S) as answer:
            text = answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            text = refused.read()
        raise Refused(refused.code, _json(text)) from None
    return _json(text)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text.decode(errors="replace")
