"""A receiver of webhooks: a real HTTP server of the standard library, which can be told to misbehave."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from standardwebhooks import Webhook

PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """One message that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def shape(self) -> dict[str, Any]:
        shape: dict[str, Any] = json.loads(self.body)
        return shape

    def checked(self, secret: str) -> Any:
        """The body, as the library of the specification gives it to who knows the secret."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass(kw_only=True)
class Receiver:
    """Notes what it is told, and answers what `answers` says: each in turn, the last one for ever.

    An answer is a status, or one of `slow`, `endless`, `dripping`, `drops`, `redirects`.
    """

    answers: list[int | str] = field(default_factory=lambda: [200])
    check: Callable[[Told], int] | None = None  # looks at a message and says the status
    headers: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    told: list[Told] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> "Receiver":
        receiver = self
        self._over = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._hear(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/hook?of=imagen"

    def ids(self) -> list[str]:
        return [one.id for one in self.told]

    def until(self, count: int, within_s: float = PATIENCE_S) -> list[Told]:
        """Wait for so many messages."""
        give_up = time.monotonic() + within_s
        while len(self.told) < count:
            assert time.monotonic() < give_up, f"{len(self.told)} of {count} messages came"
            time.sleep(0.01)
        return self.told

    def _hear(self, asked: BaseHTTPRequestHandler) -> None:
        length = int(asked.headers.get("content-length") or 0)
        heard = Told(
            path=asked.path,
            headers={name.lower(): value for name, value in asked.headers.items()},
            body=asked.rfile.read(length),
            at=time.monotonic(),
        )
        number = len(self.told)
        self.told.append(heard)
        answer = self.check(heard) if self.check else self.answers[min(number, len(self.answers) - 1)]
        match answer:
            case "slow":
                self._over.wait(PATIENCE_S)
            case "drops":
                asked.close_connection = True
            case "dripping":  # a head that never ends
                self._for_ever(asked, b"HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n", pause_s=0.05)
            case "endless":  # a body that never ends
                self._for_ever(asked, b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n", b"x" * 65536)
            case "redirects":
                self._say(asked, 307, {"location": "http://127.0.0.1:1/elsewhere"})
            case int():
                self._say(asked, answer, self.headers)
            case _:
                raise ValueError(answer)

    def _say(self, asked: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        asked.send_response(status)
        for name, value in {"content-length": "0", **headers}.items():
            asked.send_header(name, value)
        asked.end_headers()

    def _for_ever(self, asked: BaseHTTPRequestHandler, head: bytes, more: bytes, pause_s: float = 0.0) -> None:
        asked.close_connection = True
        try:
            asked.wfile.write(head)
            while not self._over.wait(pause_s):
                asked.wfile.write(more)
        except OSError:
            return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asks may hang up; that is what is tested."""
