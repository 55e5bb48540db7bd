"""Which server is meant, and the key it is asked with."""

from dataclasses import dataclass, field
from typing import Self

from imagen.backends.remote.address import Address, split
from imagen.config import Settings
from imagen.core.errors import NotConfigured, RequestError
from imagen.reading import maybe

KEY_FROM = "IMAGEN_KEY"
NAMED = ("url", "key")  # what `servers:` in config.yaml says of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Another imagen server."""

    address: Address
    key: str = field(default="", repr=False)

    @classmethod
    def of(cls, server: str, settings: Settings, *, key: str | None = None) -> Self:
        """An address as it was typed, or a name under `servers:` in config.yaml."""
        named = settings.servers.get(server)
        if named is not None:
            settings.document.known(named, NAMED, "servers", server)
        if named is None and not any(sign in server for sign in ":./") and server != "localhost":
            known = ", ".join(settings.servers) or "none yet"
            raise RequestError(
                f"there is no server {server!r} in config.yaml{maybe(server, settings.servers)}",
                hint=f"give an address such as http://gpu.example:8450, or one of those under `servers:` ({known})",
                param="server",
            )
        address = _address(str(named.get("url") or "") if named is not None else server)
        known_by = (one.get("key") for one in settings.servers.values() if _same(one.get("url"), address))
        told = key or settings.environ.get(KEY_FROM) or (named or {}).get("key") or next(filter(None, known_by), "")
        return cls(address=address, key=_word(str(told)))


def _address(url: str) -> Address:
    url = url.strip()
    if "@" in url.split("://")[-1].split("/")[0]:
        # Without the text itself, which holds a secret.
        raise RequestError(
            "the address of a server holds no name or password",
            hint=f"give the key in {KEY_FROM}, or under `servers:` in config.yaml",
            param="server",
        )
    if "?" in url or "#" in url:
        raise RequestError(
            f"the address of a server ends before the `{'?' if '?' in url else '#'}`: {url!r}",
            hint="write for instance http://gpu.example:8450; a key is given in IMAGEN_KEY",
            param="server",
        )
    try:
        parts = split(url)
    except ValueError as exc:
        raise RequestError(
            f"{url!r} is no address of a web server",
            hint="write for instance http://gpu.example:8450",
            param="server",
        ) from exc
    parts["path"] = parts["path"].removesuffix("/v1")
    return Address(**parts)


def _same(url: object, address: Address) -> bool:
    try:
        return isinstance(url, str) and _address(url) == address
    except RequestError:
        return False


def _word(key: str) -> str:
    key = key.strip()
    if not key.isascii() or any(letter.isspace() or not letter.isprintable() for letter in key):
        # It would break the header it is sent in; and the message must not repeat it.
        raise NotConfigured("the key for that server is no key", hint="a key is one word of plain characters")
    return key
