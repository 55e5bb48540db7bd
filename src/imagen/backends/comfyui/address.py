"""Where a server is: read from what people write, and shown without what is secret in it."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from imagen.core.errors import BadConfig

DEFAULT = "http://127.0.0.1:8188"  # where ComfyUI listens unless told otherwise

_EVERYWHERE = frozenset({"localhost", "0.0.0.0", "::", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server."""

    scheme: str  # http or https
    host: str
    port: int
    path: str = ""  # of a server behind another one: `/comfy`
    user: str = ""
    password: str = ""

    @classmethod
    def of(cls, url: str) -> Self:
        """Read `http://user:password@host:port/path`; all but the host may be left out."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            # Without the text itself: there may be a password in it.
            raise BadConfig(
                "the url of ComfyUI is no address of a web server",
                hint=f"write `backends: {{comfyui: {{url: {DEFAULT}}}}}`, or set IMAGEN_COMFYUI_URL",
                param="url",
            )
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or (443 if parts.scheme == "https" else 80),
            path=parts.path.rstrip("/"),
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    @property
    def here(self) -> bool:
        """True when the server runs on this machine."""
        return self.host in _EVERYWHERE or self.host.startswith("127.")

    @property
    def shown(self) -> str:
        """The address for people: never with a password."""
        return f"{self.scheme}://{self.authority}{self.path}"

    def place(self, machine: str) -> str:
        """Host and port, where this machine goes by its name: the same from every machine that asks."""
        return f"{machine if self.here else self._host}:{self.port}{self.path}"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        usual = 443 if self.scheme == "https" else 80
        return self._host if self.port == usual else f"{self._host}:{self.port}"
