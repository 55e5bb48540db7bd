"""Where a server is, and the login that whatever stands before it may want."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from imagen.backends.remote import address
from imagen.core.errors import BadConfig

DEFAULT = "http://127.0.0.1:8188"  # where ComfyUI listens unless told otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Address(address.Address):
    """One server, and the login before it; `url` never shows that."""

    user: str = ""
    password: str = ""

    @classmethod
    def of(cls, url: str) -> Self:
        """Read `http://user:password@host:port/path`; all but the host may be left out."""
        try:
            parts = address.split(url)
        except ValueError as exc:
            # Without the text itself: there may be a password in it.
            raise BadConfig(
                "the url of ComfyUI is no address of a web server",
                hint=f"write `backends: {{comfyui: {{url: {DEFAULT}}}}}`, or set IMAGEN_COMFYUI_URL",
                param="url",
            ) from exc
        login = urlsplit(url if "://" in url else f"http://{url}")
        return cls(**parts, user=unquote(login.username or ""), password=unquote(login.password or ""))

    def place(self, machine: str) -> str:
        """Host, port and path: behind one other server may stand several."""
        return f"{address.Address.place(self, machine)}{self.path}"
