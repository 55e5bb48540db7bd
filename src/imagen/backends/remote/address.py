"""Where a service is, and whether it is one of ours or somebody's on the internet."""

import ipaddress
from dataclasses import dataclass
from typing import Self, TypedDict
from urllib.parse import urlsplit

from imagen.core.errors import BadConfig

_EVERYWHERE = frozenset({"localhost", "0.0.0.0", "::", "::1"})
# Names that no public name server knows.
_LOCAL_NAMES = (".local", ".lan", ".internal", ".home.arpa", ".localhost", ".test")


class Parts(TypedDict):
    """What an address is made of."""

    scheme: str
    host: str
    port: int
    path: str


def split(url: str) -> Parts:
    """`http://host:port/path` in parts; all but the host may be left out. ValueError where that is no web server."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("neither http nor https, or no host")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Parts(scheme=parts.scheme, host=parts.hostname, port=port, path=parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The base address of a service."""

    scheme: str  # http or https
    host: str
    port: int
    path: str = ""  # `/v1`, or what stands before it

    @classmethod
    def of(cls, url: str) -> Self:
        """Read `http://host:port/path`."""
        if "@" in url.split("://")[-1].split("/")[0]:
            # Without the text itself. A url is a key of a model, and jobs carry those.
            raise BadConfig(
                "a url may not hold a name or a password: every job would carry it",
                hint="give the token apart: see docs/howto/use-a-cloud-model.md",
                param="url",
            )
        try:
            return cls(**split(url))
        except ValueError as exc:
            raise BadConfig(
                f"{url!r} is no address of a web server",
                hint="write for instance http://127.0.0.1:8000/v1",
                param="url",
            ) from exc

    @property
    def here(self) -> bool:
        """True when the service runs on this machine."""
        return self.host in _EVERYWHERE or self.host.startswith("127.")

    @property
    def public(self) -> bool:
        """True when it is somewhere on the internet, where drawing is rarely free."""
        try:
            return ipaddress.ip_address(self.host).is_global
        except ValueError:
            return "." in self.host and not self.host.lower().endswith(_LOCAL_NAMES)

    @property
    def origin(self) -> str:
        """Scheme, host and port: who it is."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port, the usual one left out: the header Host of a request."""
        usual = 443 if self.scheme == "https" else 80
        return self._host if self.port == usual else f"{self._host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a program and a person may read it."""
        return f"{self.origin}{self.path}"

    def place(self, machine: str) -> str:
        """Host and port, where this machine goes by its name: the same from every machine that asks."""
        return f"{machine if self.here else self._host}:{self.port}"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host
