"""One try to tell a receiver: its name is resolved once, only that is asked, no redirect followed, all in bounds."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imagen.core.errors import Forbidden
from imagen.engine.webhooks.addresses import Address, Reach
from imagen.store.webhooks import Answer

if TYPE_CHECKING:
    import ssl

    import httpx2

ANSWER_S = 10.0  # for everything: name, connection, request, answer; a receiver should note it down and answer
LOOKUPS = 16  # as many as messages may be under way, so that one name that hangs leaves room for others
GONE = 410  # how a receiver says that it wants nothing more

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class Post:
    """Sends messages. Made once for a process, because the certificates that are trusted take long to read."""

    def __init__(self, reach: Reach, *, resolve: Resolve | None = None, answer_s: float = ANSWER_S) -> None:
        self._reach = reach
        # Threads of its own: looking up a name that nobody answers for takes long, and pictures need the others.
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="imagen-names")
        self._resolve = resolve or self._look_up
        self._answer_s = answer_s
        self._trusted: ssl.SSLContext | None = None

    async def send(self, url: str, owner: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post the body, and say what came of it; of the answer only its status and `Retry-After` are read."""
        import httpx2

        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(self._answer_s):
                addresses = await self._resolve(host, port)
                self._reach.permit(host, addresses, owner)
                return await self._ask(url, addresses, headers, body)
        except Forbidden as error:
            return Answer(ok=False, final=True, said=error.message)
        except TimeoutError:
            return Answer(ok=False, said=f"no answer within {self._answer_s:g} s")
        except socket.gaierror:
            return Answer(ok=False, said=f"the name {host} is not found")
        except (httpx2.HTTPError, OSError) as exc:
            return Answer(ok=False, said=_words(exc))

    def close(self) -> None:
        """Wait for no name any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, url: str, addresses: Sequence[Address], headers: Mapping[str, str], body: bytes) -> Answer:
        import httpx2

        if self._trusted is None:
            self._trusted = await asyncio.to_thread(httpx2.create_ssl_context)
        # A proxy would resolve the name anew, and a redirect lead elsewhere: neither is wanted here.
        async with httpx2.AsyncClient(verify=self._trusted, trust_env=False, timeout=None) as client:
            for last, address in enumerate(addresses, 1):
                try:
                    return await self._ask_one(client, url, address, headers, body)
                except httpx2.ConnectError:
                    if last == len(addresses):
                        raise
        raise OSError("it has no address")

    async def _ask_one(
        self, client: "httpx2.AsyncClient", url: str, address: Address, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        parts = urlsplit(url)
        place = f"[{address}]" if address.version == 6 else str(address)
        port = f":{parts.port}" if parts.port else ""
        target = f"{parts.scheme}://{place}{port}{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        request = client.build_request(
            "POST",
            target,
            content=body,
            headers={"host": parts.netloc, "content-type": "application/json", **headers},
            extensions={"sni_hostname": parts.hostname},  # whose certificate it has to be
        )
        # The body of the answer is left where it is: it may be endless, and whoever asked must not read by us.
        answer = await client.send(request, stream=True, follow_redirects=False)
        await answer.aclose()
        status = answer.status_code
        if answer.is_success:
            return Answer(ok=True, status=status)
        said = f"the receiver answered {status}"
        if answer.is_redirect:
            said += ", and redirects are not followed"
        wait = answer.headers.get("retry-after", "")
        return Answer(
            ok=False,
            status=status,
            said=said,
            final=status == GONE,
            retry_after_s=float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 7 else 0.0,
        )

    async def _look_up(self, host: str, port: int) -> Sequence[Address]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [ip_address(str(address[0])) for *_, address in found]


def _words(exc: Exception) -> str:
    """What broke, for whoever has the job; not more of it than is good for a stranger."""
    said = str(exc)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "the certificate of the receiver is not trusted: " + said.partition("failed: ")[2].partition(" (_ssl")[0]
    if "refused" in said or "connection attempts failed" in said.lower():
        return "the receiver does not take connections"
    return f"the connection broke: {type(exc).__name__}"
