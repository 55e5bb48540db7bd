"""One service over HTTP: everything the client library raises becomes one of our errors, here and nowhere else."""

import base64
import binascii
import math
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import httpx2

from imagen.backends.remote.address import Address
from imagen.backends.remote.sse import whole
from imagen.core.errors import BadConfig, ImagenError, NotConfigured, RateLimited, Rejected, TimedOut, Unreachable

# All that httpx2 raises; a test holds this against the library.
LIBRARY = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.CookieConflict, httpx2.StreamError)
# After these, nothing of a request has left this machine, or nobody was there to read it.
NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
    httpx2.InvalidURL,
)

CONNECT_S = 5.0
ANSWER_S = 30.0
MAX_DETAIL = 2000  # characters of what a service says
REDIRECTS = 3

T = TypeVar("T")


class Http:
    """Asks one service, with its token, and tells nobody else what it is."""

    def __init__(
        self,
        address: Address,
        name: str,
        *,
        token: str = "",
        remedy: str = "",
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.address = address
        self.name = name  # for people: `Replicate`
        self.remedy = remedy  # what to do where its token is missing or not accepted
        self._token = token
        self._client = httpx2.AsyncClient(
            base_url=f"{address.url}/",
            headers={"user-agent": "imagen"},
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            # What it would take to check a certificate is 25 ms to load. SSL_CERT_FILE counts for every service.
            verify=httpx2.create_ssl_context() if address.scheme == "https" else False,
            trust_env=address.public,  # a proxy of the environment is for the world outside
            transport=transport,
        )

    @property
    def signed(self) -> bool:
        """Whether there is a token."""
        return bool(self._token)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def ask(self, method: str, path: str, *, answer_s: float = ANSWER_S, **said: Any) -> httpx2.Response:
        """A request and its answer, whatever its status."""
        said["headers"] = self._signed(path) | dict(said.get("headers") or {})
        try:
            timeout = httpx2.Timeout(answer_s, connect=CONNECT_S)
            return await self._client.request(method, self._full(path), timeout=timeout, **said)
        except LIBRARY as exc:
            raise self.away(exc) from exc

    @asynccontextmanager
    async def stream(self, method: str, path: str, *, silence_s: float, **said: Any) -> AsyncIterator[httpx2.Response]:
        """An answer that is read as it comes; `silence_s` is how long it may say nothing."""
        said["headers"] = self._signed(path) | dict(said.get("headers") or {})
        try:
            timeout = httpx2.Timeout(silence_s, connect=CONNECT_S, write=ANSWER_S)
            async with self._client.stream(method, self._full(path), timeout=timeout, **said) as response:
                yield response
        except LIBRARY as exc:
            raise self.away(exc) from exc

    async def file(self, url: str, hosts: Collection[str]) -> bytes | None:
        """The bytes behind an address that a service gave, or None when they are gone.

        Only from the service's own host or from `hosts` (`*.example` means every name below it).
        """
        if url.startswith("data:"):
            return data_url(url)
        place = urljoin(f"{self.address.url}/", url)
        for _ in range(REDIRECTS):
            host = urlsplit(place).hostname or ""
            if host != self.address.host and not any(_within(host, one) for one in hosts):
                raise Rejected(
                    f"{self.name} sends us to {host or 'nowhere'} for its picture, which is not configured",
                    hint=f"if that is right, add it: `file_hosts: [{host}]` under the backend in config.yaml",
                )
            async with self.stream("GET", place, silence_s=ANSWER_S) as response:
                if response.status_code in (403, 404, 410):
                    return None  # stores answer 403 to an address whose time is over
                if response.is_redirect:
                    place = urljoin(place, response.headers.get("location", ""))
                    continue
                if response.status_code != 200:
                    raise Unreachable(
                        f"{self.name} does not give its picture: HTTP {response.status_code}",
                        hint="try again in a moment",
                    )
                return await whole(response)
        raise Rejected(f"{self.name} sends us from one place to the next for its picture", hint="check its address")

    def away(self, exc: Exception) -> ImagenError:
        """The client library could not ask, or was not answered."""
        words = " ".join(str(exc).split()) or type(exc).__name__
        match exc:
            case httpx2.ConnectTimeout() | httpx2.NetworkError() | httpx2.ProxyError() | httpx2.RemoteProtocolError():
                return Unreachable(
                    f"{self.name} does not answer at {self.address.url}",
                    hint="see that it runs and that its `url` is right; then try again",
                    detail=words,
                )
            case httpx2.TimeoutException():
                return TimedOut(
                    f"{self.name} at {self.address.url} took too long to answer", hint="try again later", detail=words
                )
            case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
                return BadConfig(
                    f"the url of {self.name} is no address of a web server",
                    hint="write for instance http://127.0.0.1:8000/v1",
                    param="url",
                )
            case _:
                return Rejected(
                    f"what answers at {self.address.url} does not speak like {self.name}: {words}",
                    hint="check the address; a proxy before it may be in the way",
                )

    def said(self, response: httpx2.Response) -> Any:
        """The JSON of a good answer."""
        try:
            return response.json()
        except ValueError:
            raise self.stranger(response, "no JSON") from None

    def stranger(self, response: httpx2.Response, said: str) -> NotConfigured:
        """Something answers, and it is not what we look for."""
        asked = f"{response.request.method} {response.request.url.path}"
        return NotConfigured(
            f"what answers at {self.address.url} is not {self.name}: {said} to {asked}",
            hint="check its `url`",
            param="url",
        )

    def _full(self, path: str) -> str:
        return path if "://" in path else path.lstrip("/")

    def _signed(self, path: str) -> dict[str, str]:
        """The token, if this goes to the service itself: a store of files is somebody else."""
        if not self._token:
            return {}
        if "://" in path:
            parts = urlsplit(path)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            if (parts.scheme, parts.hostname, port) != (self.address.scheme, self.address.host, self.address.port):
                return {}
        return {"authorization": f"Bearer {self._token}"}


def maybe_sent(error: ImagenError) -> bool:
    """Whether a request that failed so may have reached the service all the same."""
    return not isinstance(error.__cause__, NEVER_SENT)


def never_begun(error: ImagenError) -> bool:
    """Whether a request that failed so has certainly begun nothing."""
    return isinstance(error, RateLimited) or not maybe_sent(error)


def retry_after(response: httpx2.Response, body: Any = None) -> float | None:
    """How long a service asks us to wait, in seconds, by its header or in its own words."""
    told = response.headers.get("retry-after", "")
    if isinstance(body, Mapping) and not told:
        told = str(body.get("retry_after") or "")
        resets = re.search(r"resets in ~?(\d+(?:\.\d+)?)\s*s", str(body.get("detail") or ""))
        told = told or (resets[1] if resets else "")
    try:
        seconds = float(told)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def data_url(url: str) -> bytes:
    """The bytes inside a `data:` address."""
    head, _, body = url.partition(",")
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    return from_base64(body)


def from_base64(text: Any) -> bytes:
    """The bytes of a picture as JSON carries them, with or without `data:` before them."""
    if not isinstance(text, str):
        return b""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text)
    except (binascii.Error, ValueError):
        return b""


def _within(host: str, allowed: str) -> bool:
    return host == allowed or (allowed.startswith("*.") and host.endswith(allowed[1:]))
