"""Where a service is, and whether it is one of ours or somebody's on the internet."""

import ipaddress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from imagen.core.errors import BadConfig

_EVERYWHERE = frozenset({"localhost", "0.0.0.0", "::", "::1"})
# Names that no public name server knows.
_LOCAL_NAMES = (".local", ".lan", ".internal", ".home.arpa", ".localhost", ".test")


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
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.username or parts.password:
            # Without the text itself. A url is a key of a model, and jobs carry those.
            raise BadConfig(
                "a url may not hold a name or a password: every job would carry it",
                hint="give the token apart: see docs/howto/use-a-cloud-model.md",
                param="url",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadConfig(
                f"{url!r} is no address of a web server",
                hint="write for instance http://127.0.0.1:8000/v1",
                param="url",
            )
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or (443 if parts.scheme == "https" else 80),
            path=parts.path.rstrip("/"),
        )

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
        usual = 443 if self.scheme == "https" else 80
        return f"{self.scheme}://{self._host}" + ("" if self.port == usual else f":{self.port}")

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
