"""Requests to one imagen server: sent again while it restarts, and refused in its own words.

A server that never answered is told at once: the address is wrong more often than the server is slow to start. One that
has answered may be away for a while, as it is when its owner restarts it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2

from imagen.away import words
from imagen.away.server import Server
from imagen.backends.remote.http import ANSWER_S, REDIRECTS, Http, maybe_sent
from imagen.backends.remote.sse import whole
from imagen.core.errors import ImagenError, RateLimited, Rejected, ServerAway, SetupError, TimedOut, Unreachable

PATIENCE_S = 60.0  # how long it may be away: a restart takes seconds, and with a move of its database a minute
PAUSES_S = (0.1, 0.25, 0.5, 1.0, 2.0)  # before each further try; the last one stays
SILENCE_S = 45.0  # of a stream: heartbeats come every 15 seconds
BETWEEN = (502, 503, 504)  # what a proxy says of a server that is not there

T = TypeVar("T")


class Absent(Exception):
    """It could not be asked now; `error` is what is said of it in the end."""

    def __init__(self, error: ImagenError, *, begun: bool = True) -> None:
        super().__init__(error.message)
        self.error = error
        self.begun = begun  # whether what was asked for may have been done all the same


class Asking:
    """One server, asked with one key."""

    def __init__(
        self,
        server: Server,
        *,
        patience_s: float = PATIENCE_S,
        answer_s: float = ANSWER_S,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = server.address.url
        self.keyed = bool(server.key)
        self.patience_s = patience_s
        self._answer_s = answer_s  # how long one answer may take
        self.was_there = False  # it answered at least once
        self.say: Callable[[str], None] = lambda _line: None  # told once of each absence, to whoever waits
        self._said = False
        self._http = Http(server.address, "the server", token=server.key, transport=transport)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def json(self, method: str, path: str, *, again: bool = True, **said: Any) -> Any:
        """The JSON of a good answer. `again`: asked twice, it does no more than asked once."""
        response = await self.ask(method, path, again=again, **said)
        try:
            return response.json()
        except ValueError:
            raise words.no_server(self.url, f"no JSON for {method} {path}") from None

    async def ask(self, method: str, path: str, *, again: bool = True, **said: Any) -> httpx2.Response:
        """A good answer, or the error that the server told."""

        if "json" in said:
            # As it is: what no JSON may hold, such as a number that is none, is refused by the server, in its words.
            said |= {"content": json.dumps(said.pop("json")).encode()}
            said["headers"] = {"content-type": "application/json", **(said.get("headers") or {})}

        async def asked() -> httpx2.Response:
            with self._heard():
                response = await self._http.ask(method, path, answer_s=self._answer_s, **said)
            self._check(response)
            return response

        return await self._patiently(asked, again=again)

    async def picture(self, path: str, **said: Any) -> bytes:
        """Bytes that may lie elsewhere: a store that the server sends us to is asked without our key."""

        async def fetched() -> bytes:
            place, more = path, said
            for _ in range(REDIRECTS):
                with self._heard(place):
                    async with self._http.stream("GET", place, silence_s=ANSWER_S, **more) as response:
                        if response.is_redirect:
                            to = urljoin(str(response.request.url), response.headers.get("location", ""))
                            place, more = to, {}
                            continue
                        if response.is_success:
                            data = await whole(response)
                        else:
                            await response.aread()
                if place is not path and not response.is_success:
                    self._refused_by_store(response)
                self._check(response)
                return data
            raise words.no_server(self.url, "it sends us from one place to the next for a picture")

        return await self._patiently(fetched, again=True)

    @asynccontextmanager
    async def stream(self, path: str, **said: Any) -> AsyncIterator[httpx2.Response]:
        """An answer that is read as it comes. Absent where it breaks off: whoever follows comes back."""
        with self._heard():
            async with self._http.stream("GET", path, silence_s=SILENCE_S, **said) as response:
                if not response.is_success:
                    await response.aread()
                self._check(response)
                yield response

    async def _patiently(self, ask: Callable[[], Awaitable[T]], *, again: bool) -> T:
        patience = Patience(self)
        while True:
            try:
                return await ask()
            except Absent as absent:
                if absent.begun and not again and self.was_there:
                    raise ServerAway(
                        f"{absent.error.message}, and whether it has done what was asked is not known",
                        hint="see `imagen jobs list` when it is back",
                    ) from absent
                await patience.with_(absent)

    def waited_for(self, absent: Absent) -> None:
        """Say that it is away and asked again."""
        if not self._said:
            self._said = True
            self.say(f"{absent.error.message}; trying again for {self.patience_s:.0f} s")

    def _refused_by_store(self, response: httpx2.Response) -> NoReturn:
        store, status = _site(str(response.request.url)), response.status_code
        if status in BETWEEN or status == 500:
            raise Absent(words.store_away(store, f"HTTP {status}"))
        raise words.store_refused(self.url, store, status, response.text)

    def _check(self, response: httpx2.Response) -> None:
        """Raise what the server said is wrong."""
        if response.is_success:
            self.was_there, self._said = True, False
            return
        asked = f"{response.request.method} {response.request.url.path}"
        if response.is_redirect:
            to = response.headers.get("location", "nowhere")
            raise words.no_server(self.url, f"{asked} is sent on to {to}, which may be the right address")
        error = words.error_of(_shape(response), self.url, asked)
        if error is not None:
            self.was_there = True
            raise Absent(error) if isinstance(error, SetupError) and error.retryable else error
        found = f"HTTP {response.status_code} for {asked}"
        if response.status_code in BETWEEN:
            raise Absent(words.away(self.url, found, was_there=self.was_there))
        raise words.no_server(self.url, found)

    @contextmanager
    def _heard(self, place: str = "/") -> Iterator[None]:
        """What the HTTP client says of a service becomes what is said of a server, or of the store of its pictures."""
        try:
            yield
        except (Unreachable, TimedOut, RateLimited) as error:
            why = error.detail or error.message
            if not place.startswith("/"):
                raise Absent(words.store_away(_site(place), why)) from error
            told = words.away(self.url, why, was_there=self.was_there)
            raise Absent(told, begun=maybe_sent(error)) from error
        except Rejected as error:
            raise words.no_server(self.url, error.detail or error.message) from error


class Patience:
    """How often one thing is tried again, and for how long."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self.renew()

    def renew(self) -> None:
        """It answers again: the next absence may take as long as the first."""
        self._tries = 0
        self._until: float | None = None

    async def with_(self, absent: Absent) -> None:
        """Wait a little; raise the error once that has no sense any more."""
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + self._asking.patience_s
        pause_s = PAUSES_S[min(self._tries, len(PAUSES_S) - 1)]
        self._tries += 1
        if not self._asking.was_there or not absent.error.retryable or now + pause_s > self._until:
            raise absent.error from absent
        if self._tries > 1:  # a stream that is only joined again, at once, was no absence
            self._asking.waited_for(absent)
        await asyncio.sleep(pause_s)


def _site(url: str) -> str:
    """Scheme and host of an address: its path and what follows may hold a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _shape(response: httpx2.Response) -> Mapping[str, Any]:
    try:
        told = response.json()
    except ValueError:
        return {}
    error = told.get("error") if isinstance(told, Mapping) else None
    return error if isinstance(error, Mapping) else {}
