"""Who asks: a key becomes a Caller. Without keys in the database everybody is the owner of this machine."""

import base64
import binascii
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from imagen.core import job
from imagen.core.errors import NotConfigured, Unauthorized
from imagen.engine.webhooks.addresses import is_loopback

if TYPE_CHECKING:
    from imagen.app import App

FRESH_S = 2.0  # a removed key works this much longer; a lookup for every request would be a query for every request
MOST_KNOWN = 1000  # remembered answers; wrong keys are remembered too, and anybody can make those up
SCOPE = "imagen.caller"  # where the guard leaves the caller for the routes

_shown = HTTPBearer(
    auto_error=False, description="A key made with `imagen keys add`. None is needed where there are none."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whoever sent a request."""

    name: str
    admin: bool = False

    @property
    def sees(self) -> str | None:
        """The `owner` to give the app when reading: an admin sees what everybody made."""
        return None if self.admin else self.name


LOCAL = Caller(name=job.LOCAL, admin=True)


def caller(request: Request, _key: Annotated[object, Security(_shown)] = None) -> Caller:
    """The dependency of every route that is not open to all. The guard has looked the key up already."""
    found = request.scope.get(SCOPE)
    if not isinstance(found, Caller):  # a server put together without the guard answers nobody
        raise _unauthorized("this server cannot tell who asks")
    return found


class Keyring:
    """Looks keys up, and remembers for a moment what it found."""

    def __init__(self, app: "App", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        # A server that strangers reach stays locked when its last key is taken away.
        self._always = not is_loopback(app.settings.server.host)
        self._clock = clock
        self._any: tuple[float, bool] = (float("-inf"), True)
        self._known: dict[bytes, tuple[float, Caller | None]] = {}

    async def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Who sent these headers; Unauthorized without a key that is known."""
        if not await self.locked():
            return LOCAL
        secret = _secret(headers)
        if secret is None:
            raise _unauthorized("this server wants a key")
        found = await self._look_up(secret)
        if found is None:
            raise _unauthorized("this key is not known here")
        return found

    async def locked(self) -> bool:
        """Whether a key is needed: there are some, or others than this machine can ask."""
        if self._always:
            return True
        looked_at, locked = self._any
        if self._clock() - looked_at > FRESH_S:
            locked = bool(await self._app.keys())
            self._any = (self._clock(), locked)
        return locked

    async def _look_up(self, secret: str) -> Caller | None:
        # Found by its hash, so there is nothing to compare and no time to measure; the secret itself is not kept.
        digest = sha256(secret.encode("utf-8", "surrogateescape")).digest()
        looked_at, found = self._known.get(digest, (float("-inf"), None))
        if self._clock() - looked_at > FRESH_S:
            key = await self._app.key_of(secret)
            found = Caller(name=key.name, admin=key.admin) if key else None
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[digest] = (self._clock(), found)
        return found


async def may_listen(app: "App", host: str) -> None:
    """Refuse to listen where strangers can reach, as long as there is no key to know them by."""
    if not is_loopback(host) and not await app.keys():
        raise NotConfigured(
            f"{host} can be reached from other machines, and there is no key yet",
            hint="make one with `imagen keys add NAME`, or listen on 127.0.0.1",
        )


def _secret(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key in `Authorization: Bearer`, in `x-api-key`, or in Basic, which older clients send."""
    told = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, rest = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return rest.strip()
            if scheme.lower() == "basic":
                try:
                    user, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
                    return password or user
                except (binascii.Error, UnicodeDecodeError):
                    return ""
        elif name == b"x-api-key":
            told = value.decode("latin-1").strip()
    return told


def _unauthorized(message: str) -> Unauthorized:
    return Unauthorized(
        message, hint="send `Authorization: Bearer KEY`; its owner makes one with `imagen keys add NAME`"
    )
