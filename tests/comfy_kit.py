"""A bare client of ComfyUI, which writes down all it hears, and what a recording comes to without its chances."""

import json
import os
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

TRANSCRIPT = json.loads((Path(__file__).parent / "data" / "comfy-transcript.json").read_text())
# A real server, for `-m live`; read before the tests hide what the environment says.
REAL = os.environ.get("IMAGEN_COMFYUI_URL", "")
PATIENCE_S = 60.0
LARGEST = 2**28  # bytes of one message
PROGRESS = "progress"

Entry = dict[str, Any]
Seen = Callable[["Bare", Entry], Awaitable[None]]


@dataclass(kw_only=True)
class Bare:
    """One client: its HTTP connection, its websocket, and everything that came, as in the transcript."""

    url: str
    http: httpx2.AsyncClient
    socket: Any
    name: str
    entries: list[Entry] = field(default_factory=list)

    async def ask(self, method: str, path: str, **said: Any) -> httpx2.Response:
        """A request; its answer is written down."""
        answer = await self.http.request(method, path, **said)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        entry = {"kind": "http", "req": f"{method} {path}", "status": answer.status_code}
        self.entries.append(entry | {"body": answer.json() if is_json else ""})
        return answer

    async def submit(self, graph: Mapping[str, Any], **extra: Any) -> str:
        """POST /prompt; the prompt's id."""
        prompt_id = str(uuid.uuid4())
        body = {"prompt": graph, "client_id": self.name, "prompt_id": prompt_id, "extra_data": extra}
        answer = await self.ask("POST", "/prompt", json=body)
        assert answer.status_code == 200, answer.text
        return prompt_id

    async def hear(self) -> Entry:
        """The next message of the websocket."""
        message = await self.socket.receive(PATIENCE_S)
        entry = read(message.data)
        self.entries.append(entry)
        return entry

    async def until(self, kind: str, **data: Any) -> Entry:
        """Everything up to a message of this type, and with this in it."""
        while True:
            entry = await self.hear()
            told = entry.get("msg", {})
            if told.get("type") == kind and data.items() <= told["data"].items():
                return entry

    async def draw(self, graph: Mapping[str, Any], *, seen: Seen | None = None, **extra: Any) -> dict[str, Any]:
        """A prompt from its submission to its end; its entry in the history. `seen` is called at the first step."""
        prompt_id = await self.submit(graph, **extra)
        if seen is not None:
            await seen(self, await self.until(PROGRESS, prompt_id=prompt_id))
        await self.until("executing", node=None, prompt_id=prompt_id)
        answer = await self.ask("GET", f"/history/{prompt_id}")
        self.entries[-1]["req"] = "GET /history/{prompt_id}"
        found: dict[str, Any] = answer.json()[prompt_id]
        return found

    async def picture(self, history: Mapping[str, Any]) -> bytes:
        """The bytes of the first picture in a history entry."""
        image = next(iter(history["outputs"].values()))["images"][0]
        answer = await self.http.get("/view", params=image)
        assert answer.status_code == 200
        return bytes(answer.content)


@asynccontextmanager
async def bare(url: str, *, name: str = "", flags: bool = True) -> AsyncIterator[Bare]:
    """A client that listens."""
    name = name or uuid.uuid4().hex
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as http:
        address = f"{url.replace('http', 'ws', 1)}/ws?clientId={name}"
        async with http.websocket(address, max_message_size_bytes=LARGEST) as socket:
            client = Bare(url=url, http=http, socket=socket, name=name)
            if flags:
                said = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
                await socket.send_json(said)
                client.entries.append({"kind": "ws-sent", "msg": said})
            await client.until("feature_flags" if flags else "status")
            yield client


def read(data: str | bytes | bytearray) -> Entry:
    """A message, as the transcript writes it."""
    if isinstance(data, str):
        return {"kind": "ws-text", "msg": json.loads(data)}
    event, second = struct.unpack_from(">II", data)
    entry: Entry = {"kind": "ws-binary", "event": event, "image_type": second, "data": bytes(data[8:])}
    if event == 4:
        entry["metadata"] = json.loads(data[8 : 8 + second])
        entry["data"] = bytes(data[8 + second :])
    entry["image_magic"] = entry["data"][:4].hex()
    return entry


def story(entries: list[Entry]) -> list[Any]:
    """What does not change from one run to the next: the order, the nodes, how far, and which keys."""
    return [_told(entry) for entry in entries if "GET /view" not in entry.get("req", "")]


def keys(value: Any) -> Any:
    """The shape of some JSON: names all the way down, and of lists their first items' shapes."""
    if isinstance(value, Mapping):
        return {name: keys(one) for name, one in sorted(value.items())}
    return [keys(one) for one in value[:3]] if isinstance(value, list) else type(value).__name__


def _told(entry: Entry) -> Any:
    if entry["kind"] == "ws-binary":
        about = entry.get("metadata", {"image_type": entry.get("image_type")})
        place = about.get("node_id"), about["image_type"]
        return "frame", entry["event"], place, entry["image_magic"], sorted(about)
    if entry["kind"] == "http" and entry["req"].startswith("GET /history"):
        (found,) = entry["body"].values()
        status = found["status"]
        kinds = [(kind, sorted(data)) for kind, data in status["messages"]]
        ended = status["status_str"], status["completed"], kinds
        return entry["req"], sorted(found), found["prompt"][4:], keys(found["outputs"]), keys(found["meta"]), ended
    if entry["kind"] == "http":
        return entry["req"].split(" {")[0], entry["status"], keys(entry["body"])
    kind, data = entry["msg"]["type"], entry["msg"]["data"]
    if kind == "progress_state":
        node, state = list(data["nodes"].items())[-1]
        return kind, node, state["state"], state["value"], state["max"], sorted(state)
    if kind == "status":
        return kind, keys(data), data["status"]["exec_info"]["queue_remaining"]
    if kind == "execution_cached":
        return kind, sorted(data["nodes"]), sorted(data)
    if kind == PROGRESS:
        return kind, data["node"], data["value"], data["max"], sorted(data)
    return kind, data.get("node", data.get("node_id")), sorted(data)
