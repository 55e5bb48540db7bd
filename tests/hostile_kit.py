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
    """One answer, as far as it comes."""
    raw = b""
    head_end = -1
    length: int | None = None
    headers: dict[str, str] = {}
    try:
        while head_end < 0 or length is None or len(raw) < head_end + length:
            data = wire.recv(65536)
            if not data:
                break
            raw += data
            if head_end < 0 and b"\r\n\r\n" in raw:
                head_end = raw.index(b"\r\n\r\n") + 4
                lines = raw[: head_end - 4].decode("latin-1").split("\r\n")[1:]
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                length = 0 if not has_body else int(headers["content-length"]) if "content-length" in headers else None
                if "text/event-stream" in headers.get("content-type", ""):
                    length = 0  # it has begun; nobody waits for its end here
    except ConnectionResetError:
        pass
    status = int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/") else 0
    return Answer(status=status, headers=headers, body=raw[max(head_end, 0) :], raw=raw)
