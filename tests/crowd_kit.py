"""A crowd of SSE clients on raw sockets, in a process of its own: it notes what arrives when, and judges afterwards.

`python crowd_kit.py HOST PORT PATH COUNT` prints `ready` when all are connected and have the first frame,
then one line of JSON when all streams are closed.
"""

import asyncio
import json
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

AT_ONCE = 100  # connections being opened at the same moment
LONGEST_S = 240.0
AT = re.compile(rb'"at": ?"([^"]+)"')
TICK = re.compile(rb'"tick": ?(\d+)')
ENDS = {"completed", "failed", "cancelled"}
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(slots=True)
class Frame:
    """One SSE frame as a client saw it."""

    type: str
    id: int
    at: float
    arrived: float
    size: int
    data: bytes


@dataclass(slots=True, eq=False)
class Client(asyncio.Protocol):
    """One client: it only stores, so that the crowd costs the machine as little as it can."""

    request: bytes
    first: asyncio.Future[None]
    closed: asyncio.Future[None]
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    transport: Any = None
    tail: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.time(), data))
        if not self.first.done() and (b"event:" in data or b"\n:" in data):
            self.first.set_result(None)
        self.tail = (self.tail + data)[-len(LAST_CHUNK) :]  # it may come in pieces
        over = self.tail == LAST_CHUNK  # the stream has ended; the connection would stay for the next request
        if over or (len(self.pieces) == 1 and not data.startswith(b"HTTP/1.1 200")):
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.first, self.closed):
            if not future.done():
                future.set_result(None)


def request_of(host: str, port: int, path: str, *, headers: str = "") -> bytes:
    """A GET as a browser's EventSource sends it."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\nCache-Control: no-store\r\n"
        f"{headers}\r\n"
    ).encode()


async def connect(host: str, port: int, request: bytes) -> Client:
    """One client, connected."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: Client(request=request, first=loop.create_future(), closed=loop.create_future()), host, port
    )
    return client


async def crowd(host: str, port: int, path: str, count: int) -> list[Client]:
    """So many clients, connected and served their first frame."""
    request = request_of(host, port, path)
    clients: list[Client] = []
    while len(clients) < count:
        wave = [connect(host, port, request) for _ in range(min(AT_ONCE, count - len(clients)))]
        clients += await asyncio.gather(*wave)
    await asyncio.wait_for(asyncio.gather(*(client.first for client in clients)), LONGEST_S)
    return clients


def frames(client: Client) -> list[Frame]:
    """What one client received, in order; when a frame arrived is when its last byte did."""
    found: list[Frame] = []
    rest = b""
    for arrived, data in _body(client):
        rest += data
        while (end := rest.find(b"\n\n")) >= 0:
            block, rest = rest[:end], rest[end + 2 :]
            frame = _frame(block, arrived)
            if frame:
                found.append(frame)
    return found


def status(client: Client) -> int:
    """The HTTP status; 0 when none came."""
    head = b"".join(data for _, data in client.pieces)[:20].split()
    return int(head[1]) if len(head) > 1 else 0


def judge(clients: list[Client], since: float) -> dict[str, Any]:
    """Latencies of what was sent after `since`, and everything that went wrong."""
    latencies: list[float] = []
    faults: Counter[str] = Counter()
    told: list[Frame] = []
    counts = []
    for client in clients:
        got = frames(client)
        told = told or got
        counts.append(len(got))
        if status(client) != 200:
            faults[f"status {status(client)}"] += 1
        ends = [frame for frame in got if frame.type in ENDS]
        if len(ends) != 1 or got[-1] is not ends[0]:
            faults["no end, or not last"] += 1
        if [frame.id for frame in got] != sorted(frame.id for frame in got):
            faults["order"] += 1
        ticks = [int(found[1]) for frame in got if (found := TICK.search(frame.data))]
        if ticks != sorted(ticks):
            faults["order of what is live"] += 1
        latencies += [frame.arrived - frame.at for frame in got if frame.at >= since]
    latencies.sort()
    return {
        "clients": len(clients),
        "frames": [min(counts), max(counts)],
        "faults": dict(faults),
        "p50_ms": latencies[len(latencies) // 2] * 1000 if latencies else None,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000 if latencies else None,
        "worst_ms": latencies[-1] * 1000 if latencies else None,
        "measured": len(latencies),
        "schedule": [[frame.at - since, frame.size, frame.type] for frame in told if frame.at >= since],
    }


def raise_limit() -> None:
    """A thousand sockets are more than most shells allow at first."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _body(client: Client) -> Iterator[tuple[float, bytes]]:
    """The bytes of the answer without its head and without the sizes of chunks: a proxy cuts them where it likes."""
    raw, head, chunked, left = b"", True, False, 0
    for arrived, data in client.pieces:
        raw += data
        if head:
            start = raw.find(b"\r\n\r\n")
            if start < 0:
                continue
            chunked = b"transfer-encoding: chunked" in raw[:start].lower()
            raw, head = raw[start + 4 :], False
        if not chunked:
            yield arrived, raw
            raw = b""
            continue
        told = b""
        while raw:
            told, raw, left = told + raw[:left], raw[left:], left - min(left, len(raw))
            end = raw.find(b"\r\n", 2 if raw.startswith(b"\r\n") else 0)  # that of the chunk before, and the size
            if left or end < 0:
                break
            left, raw = int(raw[:end].split(b";")[0], 16), raw[end + 2 :]
            if left == 0:
                break  # the last one
        yield arrived, told


def _frame(block: bytes, arrived: float) -> Frame | None:
    given: dict[bytes, bytes] = {}
    size = 1
    for line in block.replace(b"\r", b"").split(b"\n"):
        name, colon, value = line.partition(b":")
        if name and colon:
            given[name] = value.removeprefix(b" ")
            size += len(line) + 1
    if b"data" not in given:
        return None
    found = AT.search(given[b"data"])
    at = datetime.fromisoformat(found[1].decode().replace("Z", "+00:00")).timestamp() if found else 0.0
    number = given.get(b"id", b"0")
    return Frame(
        type=given.get(b"event", b"message").decode(),
        id=int(number) if number.isdigit() else 0,
        at=at,
        arrived=arrived,
        size=size,
        data=given[b"data"],
    )


async def main() -> None:
    host, port, path, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    raise_limit()
    clients = await crowd(host, port, path, count)
    print("ready", flush=True)
    begun = time.time()
    _, open_still = await asyncio.wait([client.closed for client in clients], timeout=LONGEST_S)
    told = judge(clients, begun)
    if open_still:
        told["faults"]["never closed"] = len(open_still)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
