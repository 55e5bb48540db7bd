"""A server with three callers, and a client that sends any bytes at all."""

import json
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.service_kit import PATIENCE_S, House, Program

PATIENT = {"width": 64, "height": 64, "steps": 4, "options": {"slow": 0}}
SLOW = {"width": 64, "height": 64, "steps": 200, "options": {"slow": 60}}
SOON_S = 1  # what this server grants a slow head or body, so that the tests need not wait for the usual 10 s

SETTINGS = f"limits: {{header_s: {SOON_S}, body_s: {SOON_S}, series_cells: 100, queued: 5}}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: everything up to the end of the body, or of the connection."""

    status: int = 0  # 0: the server closed without a word
    headers: Mapping[str, str]
    body: bytes
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's code; empty when there is none."""
        try:
            return str(self.json["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return ""


class Target:
    """A running server; alice and bob have keys, root has one that may do everything, bob has drawn something."""

    def __init__(self, house: House) -> None:
        self.house = house
        (house.home / "config.yaml").write_text(SETTINGS)
        self.keys = {
            name: house.run("keys", "add", name, *more).stdout.strip()
            for name, more in (("alice", ()), ("bob", ()), ("root", ("--admin",)))
        }
        self.server: Program = house.serve()
        parts = urlsplit(self.server.url)
        self.host, self.port = str(parts.hostname), int(parts.port or 0)
        self.here = f"{self.host}:{self.port}"
        self.job, self.image, self.series = self._drawn_by_bob()

    def request(
        self,
        method: str = "GET",
        path: str = "/v1/jobs",
        body: Any = None,
        *more: str,
        key: str | None = "alice",
        host: str | None = None,
        kind: str | None = "application/json",
    ) -> bytes:
        """The bytes of a proper request; `more` are further lines of its head."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or self.here}", *more]
        if key is not None:
            lines.append(f"Authorization: Bearer {self.keys.get(key, key)}")
        if body is not None:
            lines += [f"Content-Type: {kind}"] if kind else []
            if not any(line.lower().startswith(("content-length:", "transfer-encoding:")) for line in more):
                lines.append(f"Content-Length: {len(data)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=PATIENCE_S)

    def send(self, data: bytes) -> Answer:
        """Send it on a connection of its own and read one answer."""
        with self.connect() as wire:
            # Refused before all of it was sent: the answer is there all the same.
            with suppress(BrokenPipeError, ConnectionResetError):
                wire.sendall(data)
            return read_answer(wire, has_body=not data.startswith(b"HEAD"))

    def ask(self, *arguments: Any, **options: Any) -> Answer:
        return self.send(self.request(*arguments, **options))

    def draw(self, key: str, prompt: str = "a red fox") -> dict[str, Any]:
        """A job, drawn to its end."""
        told = self.ask("POST", "/v1/jobs", {"prompt": prompt, **PATIENT}, "Prefer: wait=30", key=key)
        assert told.status == 200, told.raw
        job: dict[str, Any] = told.json
        assert job["state"] == "completed", job
        return job

    def secrets(self) -> list[str]:
        """What no answer to anybody may hold."""
        return [*self.keys.values(), str(self.house.folder), "Traceback", "site-packages", "secret garden"]

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.server.pid}/fd").iterdir()))

    def _drawn_by_bob(self) -> tuple[str, str, str]:
        job = self.draw("bob", "bob's secret garden")
        asked = {"prompt": "bob's series", "models": ["mock"], "seeds": [1], **PATIENT}
        series = self.ask("POST", "/v1/series", asked, key="bob")
        assert series.status == 202, series.raw
        give_up = time.monotonic() + PATIENCE_S
        while self.ask("GET", f"/v1/series/{series.json['id']}", key="bob").json["state"] == "running":
            assert time.monotonic() < give_up
            time.sleep(0.02)
        return job["id"], job["images"][0]["id"], series.json["id"]


def read_answer(wire: socket.socket, *, has_body: bool = True) -> Answer:
    """One answer as far as it comes, and not a byte of what follows it."""
    raw = b""
    with suppress(ConnectionResetError):
        while not raw.endswith(b"\r\n\r\n"):
            seen = wire.recv(65536, socket.MSG_PEEK)
            end = (raw[-3:] + seen).find(b"\r\n\r\n")
            data = wire.recv(len(seen) if end < 0 else end + 4 - len(raw[-3:]))
            if not data:
                break
            raw += data
    lines = raw.decode("latin-1").split("\r\n")[1:]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value}
    body = b""
    # A stream has begun; nobody waits for its end here.
    if has_body and "text/event-stream" not in headers.get("content-type", ""):
        length = int(headers["content-length"]) if "content-length" in headers else None
        with suppress(ConnectionResetError):
            while length is None or len(body) < length:
                data = wire.recv(65536 if length is None else min(65536, length - len(body)))
                if not data:
                    break
                body += data
    status = int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/") else 0
    return Answer(status=status, headers=headers, body=body, raw=raw + body)
