"""The guard: what every request must pass before anything of ours looks at it.

In this order: the address is readable, the name is ours (DNS rebinding), no other web site sent it, the key is good,
a stream is free, the body is JSON of a bearable size and arrives in time. A refusal names the limit it met.
"""

import asyncio
import re
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagen.config import Settings
from imagen.core.errors import BodyTooLarge, Forbidden, ImagenError, RequestError, TooMany
from imagen.engine.webhooks.addresses import is_loopback
from imagen.surfaces.http.auth import SCOPE, Caller, Keyring
from imagen.surfaces.http.connection import SET, most_connections, protocol, shape
from imagen.surfaces.http.refusals import refusal

# The same for everybody, and nothing in it that anybody owns: these need no key.
OPEN = re.compile(r"/(healthz|readyz|openapi\.json|docs(/.*)?|imagine(/.*)?|favicon\.ico)?")
STREAMS = re.compile(r"/v1/(events|(jobs|series)/[^/]+/events)")

# Clients send forms with pictures here; the answer is the same for all of them, and nobody reads what they sent.
UNREAD = re.compile(r"/v1/images/(edits|variations)|/sdapi/v1/(img2img|extra-(single|batch)-images?|interrogate)")
LARGE = {"/sdapi/v1/png-info": 32 * 2**20}  # the least that is read here: a picture is sent as text

ADDRESS_BYTES = 8192  # what other servers take too
FIELDS = 100  # headers of one request; browsers send twenty
KNOWN = "imagen.known"  # left in the scope for answers that take long
IDLE_S = 75  # longer than the minute for which proxies and clients keep a silent connection to use it again

# A page may load what this server has and is framed by nobody; anything else shows and runs nothing.
PAGE = b"default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
PLAIN = b"default-src 'none'; frame-ancestors 'none'"

# Two of these, and two programs on the way may each believe another one.
_ONCE = {
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"host",
    b"idempotency-key",
    b"origin",
    b"transfer-encoding",
    b"x-api-key",
}
_PLAIN_PATH = re.compile(rb"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?")
_ODD_PATH = re.compile(rb"(?i)%2f|%5c|\\|[^\x21-\x7e]")  # encoded so that two readers see two paths
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_SITE = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_NUMBERS = re.compile(r"\[.*\]|[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_ALLOWED = b"authorization, content-type, idempotency-key, if-none-match, last-event-id, prefer, range, x-api-key"
# Client libraries say what they are, in names that change from version to version.
_LIBRARY = re.compile(r"(x-stainless|openai|mcp)-[a-z-]{1,40}")
_SHOWN = b"content-range, etag, imagen-warning, location, retry-after, x-request-id, x-should-retry"


class Guard:
    """ASGI middleware around the whole application: `Guard(server, settings=…, keyring=Keyring(app))`."""

    def __init__(self, inner: ASGIApp, *, settings: Settings, keyring: Keyring) -> None:
        self._inner = inner
        self._limits = settings.limits
        self._keyring = keyring
        server = settings.server
        public = {server.public_url} if server.public_url else set()
        self._names = {"localhost", _bare(server.host), *server.hosts, *(urlsplit(url).hostname for url in public)}
        self._far = not is_loopback(server.host)
        self._sites = {_site(origin) for origin in server.origins}
        self._own = {_site("/".join(url.split("/", 3)[:3])) for url in public}
        self._open: Counter[str] = Counter()  # streams of each caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = dict(scope["headers"])
        friend = self._friend(headers)
        send = _dressed(send, friend, varies=bool(self._sites), last=b"upgrade" in headers)
        try:
            self._check_head(scope)
            self._check_host(scope, headers)
            self._check_site(scope, headers, friend)
            if friend is not None and b"access-control-request-method" in headers and scope["method"] == "OPTIONS":
                await _preflight(headers)(scope, receive, send)
                return
            if not OPEN.fullmatch(scope["path"]):
                scope[SCOPE] = await self._keyring.caller(scope["headers"])
                scope[KNOWN] = self._while_known(scope, scope[SCOPE])
            if scope["method"] == "GET" and STREAMS.fullmatch(scope["path"]):
                await self._stream(scope, receive, send)
                return
            body = await self._body(scope, headers, receive)
        except Refused as no:
            await no.answer(scope, receive, send)
        except ImagenError as error:
            await refusal(error)(scope, receive, send)
        else:
            await self._inner(scope, receive if body is None else _replayed(body, receive), send)

    def _check_head(self, scope: Scope) -> None:
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        if len(path) + len(scope["query_string"]) > ADDRESS_BYTES:
            raise Refused(414, "address_too_long", f"the address is longer than {ADDRESS_BYTES:,} bytes", "shorten it")
        if not _PLAIN_PATH.fullmatch(path):
            _check_path(path)
        if len(scope["headers"]) > FIELDS:
            raise Refused(431, "head_too_large", f"there are more than {FIELDS} headers", "send fewer")
        names = [name for name, _ in scope["headers"] if name in _ONCE]
        if len(names) != len(set(names)):
            twice = next(name for name in names if names.count(name) > 1).decode()
            raise RequestError(f"the header {twice} is there twice", hint="send it once")

    def _check_host(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """A page of another site can have its own name lead to this machine; then the name gives it away."""
        told = headers.get(b"host", b"").decode("latin-1").lower()
        if not told:
            raise RequestError("there is no Host header", hint="send the name or address of this server in it")
        found = _HOST.fullmatch(told)
        name = _bare(found[1]) if found else ""
        if name in self._names or is_loopback(name):
            return
        # No name leads to a number but the number itself, so nobody can be sent here by it.
        if found and _NUMBERS.fullmatch(found[1]) and (self._far or name == (scope.get("server") or ("",))[0]):
            return
        raise Refused(
            421,
            "unknown_host",
            f"this server is not known as {told[:80]!r}",
            "use its address, or let its owner add the name to `server: hosts:` in config.yaml",
        )

    def _friend(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The other web site that sent this, if the owner of this server trusts it."""
        if not self._sites:
            return None
        origin = headers.get(b"origin")
        if origin is None and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            # A picture in a page comes without an Origin; a page can hide where it is, but not pretend.
            origin = b"/".join(headers.get(b"referer", b"").split(b"/", 3)[:3])
        return origin if origin and _site(origin.decode("latin-1")) in self._sites else None

    def _check_site(self, scope: Scope, headers: Mapping[bytes, bytes], friend: bytes | None) -> None:
        """A browser says which page made it ask. Programs say nothing, and are believed."""
        if friend is not None:
            return
        origin = headers.get(b"origin")
        if origin is not None:
            scheme, host, port = _site(origin.decode("latin-1"))
            here = _site(f"{scheme}://{headers[b'host'].decode('latin-1')}")
            if (scheme, host, port) in self._own or (scheme in ("http", "https") and (scheme, host, port) == here):
                return
        elif headers.get(b"sec-fetch-site", b"none") in (b"same-origin", b"none"):
            return
        elif (
            scope["method"] in ("GET", "HEAD")
            and headers.get(b"sec-fetch-mode") == b"navigate"
            and headers.get(b"sec-fetch-dest") == b"document"
            and not STREAMS.fullmatch(scope["path"])
        ):
            return  # somebody followed a link, and sees the answer alone
        raise Forbidden(
            f"a page of another web site sent this{': ' + origin[:80].decode('latin-1') if origin else ''}",
            hint="the owner of this server lists sites that may under `server: origins:` in config.yaml",
        )

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        who: Caller = scope[SCOPE]
        for name, count in (("streams_per_key", self._open[who.name]), ("streams", self._open.total())):
            most: int | None = getattr(self._limits, name)
            if most is not None and count >= most:
                whose = f"{who.name!r} has" if name == "streams_per_key" else "there are"
                message = f"{whose} {count:,} event streams open; the limit is {most:,}"
                raise TooMany(
                    message, hint=f"close some, or watch many jobs on one: GET /v1/events; {SET.format(name)}"
                )
        self._open[who.name] += 1
        try:
            await self._inner(scope, receive, send)
        finally:
            self._open[who.name] -= 1
            if not self._open[who.name]:
                del self._open[who.name]

    def _while_known(self, scope: Scope, who: Caller) -> Callable[[], Awaitable[bool]]:
        """What a stream, which may last for days, asks now and then: is its key still good?"""

        async def known() -> bool:
            try:
                return await self._keyring.caller(scope["headers"]) == who
            except ImagenError as error:
                return error.http_status != 401  # a database that is away takes nobody's key

        return known

    async def _body(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, so that nothing inside ever waits for a slow one; None when there is none."""
        length = int(headers.get(b"content-length", b"0"))
        if not length and b"transfer-encoding" not in headers:
            return None
        if b"upgrade" in headers:  # nor its body
            hint = "send no Upgrade header; in Java: HttpClient.Version.HTTP_1_1"
            raise Refused(400, "request_error", "this server speaks HTTP/1.1 and nothing else", hint)
        if UNREAD.fullmatch(scope["path"]):
            return None
        reads = scope["method"] in ("GET", "HEAD")  # what they bring along means nothing, and is not looked at
        most = max(self._limits.body_bytes, LARGE.get(scope["path"], 0))
        too_large = BodyTooLarge(f"the body is larger than {most:,} bytes", hint=SET.format("body_bytes"))
        if length > most:
            raise too_large
        if not reads and headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(415, "unsupported_media_type", "the body is compressed", "send it as it is")
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if not reads and kind != b"application/json":  # what a form of another site can send is never read
            raise Refused(
                415,
                "unsupported_media_type",
                "the body is not said to be JSON",
                "send it with `Content-Type: application/json`",
            )
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError("the body is not complete", hint="send all of it")
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body"):
                        return None if reads else bytes(body)
        except TimeoutError:
            told = f"the body did not arrive within {self._limits.body_s:g} s"
            raise Refused(408, "too_slow", told, SET.format("body_s"), close=True) from None


class Refused(Exception):
    """A refusal in the words of HTTP, for which there is no error of ours."""

    def __init__(self, status: int, code: str, message: str, hint: str, *, close: bool = False) -> None:
        super().__init__(message)
        headers = {"connection": "close"} if close else None
        self.answer = JSONResponse({"error": shape(code, message, hint)}, status, headers)


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """What keeps uvicorn safe: `uvicorn.Config(server, **uvicorn_options(settings), …)`."""
    return {
        "http": protocol(settings.limits),
        "ws": "none",  # we have none, and what is not there has no holes
        "proxy_headers": False,  # nothing here depends on the address of a client, so nobody need be believed about it
        "server_header": False,
        "timeout_keep_alive": IDLE_S,
    }


def make_room(settings: Settings) -> None:
    """Let this process open as many files as there may be connections; most systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (most_connections(settings.limits) or 10_000) + 256  # database, pictures, pipes
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


def _check_path(path: bytes) -> None:
    plain = unquote_to_bytes(path)
    try:
        text = plain.decode()
    except UnicodeDecodeError:
        text = "\0"
    if _ODD_PATH.search(path) or _CONTROL.search(text) or {".", ".."} & set(text.split("/")):
        raise Refused(404, "not_found", "there is nothing here", "GET /docs lists what there is")


def _dressed(send: Send, friend: bytes | None, *, varies: bool, last: bool) -> Send:
    """Adds to each answer what keeps browsers careful with it; after the last one the connection is closed."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower(): value for name, value in message.get("headers", ())}
            page = given.get(b"content-type", b"").startswith(b"text/html")
            more = [
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
                (b"cross-origin-resource-policy", b"cross-origin" if friend else b"same-origin"),
            ]
            more.append((b"content-security-policy", PAGE if page else PLAIN))
            if last:  # the parser of uvicorn 0.54 reads no request after one that wanted another protocol
                more.append((b"connection", b"close"))
            if varies:
                more.append((b"vary", b"origin"))
            if friend:
                more += [(b"access-control-allow-origin", friend), (b"access-control-expose-headers", _SHOWN)]
            more = [(name, value) for name, value in more if name == b"vary" or name not in given]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sent


def _preflight(headers: Mapping[bytes, bytes]) -> Response:
    wanted = headers.get(b"access-control-request-headers", b"").decode("latin-1").lower()
    more = [name for name in (word.strip() for word in wanted.split(",")) if _LIBRARY.fullmatch(name)]
    told = {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": ", ".join([_ALLOWED.decode(), *more]),
        "access-control-max-age": "600",
    }
    if headers.get(b"access-control-request-private-network") == b"true":
        told["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=told)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def received() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


def _site(origin: str) -> tuple[str, str, int | None]:
    """Scheme, name and port; what a browser would not write is nobody."""
    found = _SITE.fullmatch(origin.lower())
    if found is None:
        return "", "", None
    port = int(found[3]) if found[3] else {"http": 80, "https": 443}.get(found[1])
    return found[1], found[2], port


def _bare(host: str) -> str:
    return host.strip("[]").lower()
