"""A hub on this machine: the questions huggingface_hub asks of a file, and a store elsewhere that sends it."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "5" * 40
TOKEN = "hf_the_secret_of_a_test"


@dataclass(slots=True, kw_only=True)
class Hub:
    """What there is, how it behaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)  # ORG/REPO/path -> what it holds
    small: set[str] = field(default_factory=set)  # those that are not kept by their hash
    gated: set[str] = field(default_factory=set)  # ORG/REPO
    accepted: bool = True  # the owner of the token accepted the licences
    status: int | None = None  # every answer, while it is in trouble
    ranges: bool = True  # False: it sends everything, whatever part is asked for
    drop_after: int | None = None  # bytes of each answer after which the line breaks
    drops: int = 0  # how often it still does
    spoiled: set[str] = field(default_factory=set)  # these arrive with a wrong byte
    asked: list[str] = field(default_factory=list)  # METHOD path
    sent: list[tuple[str, int]] = field(default_factory=list)  # path, and from which byte
    leaked: int = 0  # how often a token came to the store, which is somebody else's machine
    url: str = ""
    store: str = ""

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest()


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A hub and its store, each on a port of its own."""
    hub = Hub()
    doors = [_Server(("127.0.0.1", 0), _door(kind, hub)) for kind in (_Front, _Store)]
    hub.url, hub.store = (f"http://127.0.0.1:{door.server_address[1]}" for door in doors)
    threads = [threading.Thread(target=door.serve_forever, args=(0.02,), daemon=True) for door in doors]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for door, thread in zip(doors, threads, strict=True):
            door.shutdown()
            thread.join()
            door.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Whoever goes away in the middle is part of the tests."""


def _door(kind: type["_Handler"], told: Hub) -> type["_Handler"]:
    return type(kind.__name__, (kind,), {"hub": told})


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Front(_Handler):
    """Knows what there is and who may have it; large files lie in the store."""

    def do_HEAD(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path).lstrip("/")
        hub.asked.append(f"{self.command} {path}")
        owner, name, *rest = path.split("/")
        repo = f"{owner}/{name}"
        token = self.headers.get("Authorization")
        if hub.status is not None:
            return self.answer(hub.status, {})
        if token not in (None, f"Bearer {TOKEN}"):
            return self.answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if repo not in {"/".join(file.split("/")[:2]) for file in hub.files}:
            return self.answer(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        if repo in hub.gated and not (token and hub.accepted):
            told = f"Access to model {repo} is restricted."
            return self.answer(403 if token else 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": told})
        file = f"{repo}/{'/'.join(rest[2:])}"
        commit = {"X-Repo-Commit": COMMIT}
        if rest[:1] != ["resolve"] or rest[1] not in ("main", COMMIT):
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        if file not in hub.files:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", **commit})
        if file in hub.small:
            body = hub.files[file]
            return self.answer(200, {**commit, "ETag": '"' + "a" * 40 + '"', "Content-Length": str(len(body))}, body)
        large = {"X-Linked-Size": str(len(hub.files[file])), "X-Linked-ETag": f'"{hub.sha256(file)}"'}
        return self.answer(302, {**commit, **large, "Location": f"{hub.store}/{file}?signed=yes"})

    def do_GET(self) -> None:
        self.do_HEAD()


class _Store(_Handler):
    """Sends bytes, also from the middle, to whoever has the address."""

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path).lstrip("/")
        hub.leaked += "Authorization" in self.headers
        body = hub.files[path]
        if path in hub.spoiled:
            body = body[:-1] + bytes([body[-1] ^ 1])
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and hub.ranges else 0
        hub.sent.append((path, start))
        headers = {"Content-Length": str(len(body) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if hub.drop_after is not None and hub.drops > 0:
            hub.drops -= 1
            self.answer(206 if start else 200, headers, body[start : start + hub.drop_after])
            self.close_connection = True
            self.connection.close()
            return
        self.answer(206 if start else 200, headers, body[start:])
