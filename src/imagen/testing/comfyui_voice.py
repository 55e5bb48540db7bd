"""What the fake ComfyUI says on its sockets: one message after the other, in the shapes of the real one."""

import asyncio
import copy
import json
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

LEGACY, WITH_METADATA = 1, 4  # the two kinds of frames that carry a picture
FORMATS = {"image/jpeg": 1, "image/png": 2}


class Socket(Protocol):
    """One client's websocket."""

    flags: dict[str, Any]

    async def text(self, message: str) -> None:
        """Send a text frame; never raises when the client is gone."""

    async def binary(self, message: bytes) -> None:
        """Send a binary frame; likewise."""


@dataclass(slots=True, kw_only=True)
class Item:
    """A prompt in the queue."""

    number: float
    id: str
    graph: dict[str, Any]
    extra: dict[str, Any]
    ends: list[str]

    def told(self) -> list[Any]:
        """As /queue and the history tell it."""
        return [self.number, self.id, self.graph, self.extra, self.ends]


@dataclass(slots=True, kw_only=True)
class Prompt:
    """A prompt that was accepted, and what became of it."""

    id: str
    graph: dict[str, Any] = field(repr=False)
    extra: dict[str, Any] = field(repr=False)
    stranger: bool = False
    state: str = "pending"  # then running, and completed, failed, interrupted, deleted or lost
    steps: int = 0  # that its samplers drew


class Voice:
    """Everything that is sent goes through here; a client that does not read holds up all the others."""

    def __init__(self) -> None:
        self.sockets: dict[str, Socket] = {}
        self._outbox: asyncio.Queue[tuple[str | bytes, str | None]] = asyncio.Queue()

    def tell(self, kind: str, data: Mapping[str, Any], sid: str | None) -> None:
        """A JSON message; to everybody when `sid` is None."""
        self._outbox.put_nowait((json.dumps({"type": kind, "data": data}), sid))

    def show(self, frame: bytes, sid: str | None) -> None:
        """A binary frame; likewise."""
        self._outbox.put_nowait((frame, sid))

    async def publish(self) -> None:
        """Send what there is, for ever."""
        while True:
            message, sid = await self._outbox.get()
            for socket in [one for name, one in self.sockets.items() if sid in (None, name)]:
                await (socket.text(message) if isinstance(message, str) else socket.binary(message))


@dataclass(slots=True, kw_only=True)
class Run:
    """The prompt that runs, and what is said of it; without a client, only some of that, but to everybody."""

    item: Item
    voice: Voice
    client: str | None
    previews: bool
    states: bool  # the server tells `progress_state`
    metadata: bool  # the server can say whose a preview is
    messages: list[list[Any]] = field(default_factory=list)
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    def message(self, kind: str, data: Mapping[str, Any], *, everybody: bool = False) -> None:
        """One that the history keeps as well."""
        told = {**data, "timestamp": int(time.time() * 1000)}
        self.messages.append([kind, told])
        if self.client is not None or everybody:
            self.voice.tell(kind, told, self.client)

    def node_begins(self, node_id: str) -> None:
        """A node is run now."""
        self.state(node_id, "running", 0.0, 1.0)
        if self.client is not None:
            data = {"node": node_id, "display_node": node_id, "prompt_id": self.item.id}
            self.voice.tell("executing", data, self.client)

    def node_ends(self, node_id: str, output: Any, *, cached: bool = False) -> None:
        """A node is done; what it shows, if it shows anything, is told."""
        if output:
            self.outputs[node_id] = copy.deepcopy(output)
            if self.client is not None:
                data = {"node": node_id, "display_node": node_id, "output": output, "prompt_id": self.item.id}
                self.voice.tell("executed", data, self.client)
        top = 1 if cached else self.progress[node_id]["max"]
        self.state(node_id, "finished", top, top)

    def step(self, node_id: str, value: int, top: int, picture: bytes, mime: str) -> None:
        """A node's bar moves; a preview with metadata comes before that is told, another after it."""
        self.state(node_id, "running", value, top)
        named = self._wants_metadata()
        if picture and named:
            about = {"node_id": node_id, "prompt_id": self.item.id, **_place(node_id), "image_type": mime}
            header = json.dumps(about).encode()
            self.voice.show(struct.pack(">II", WITH_METADATA, len(header)) + header + picture, self.client)
        data = {"value": value, "max": top, "prompt_id": self.item.id, "node": node_id}
        self.voice.tell("progress", data, self.client)
        if picture and not named:
            self.voice.show(struct.pack(">II", LEGACY, FORMATS[mime]) + picture, self.client)

    def state(self, node_id: str, state: str, value: float, top: float) -> None:
        """Tell the state of every node that did anything."""
        self.progress[node_id] = {
            "value": value,
            "max": top,
            "state": state,
            "node_id": node_id,
            "prompt_id": self.item.id,
            **_place(node_id),
        }
        if self.states:
            self.voice.tell("progress_state", {"prompt_id": self.item.id, "nodes": self.progress}, self.client)

    def entry(self) -> dict[str, Any]:
        """What the history keeps."""
        meta = {
            one: {"node_id": one, "display_node": one, "parent_node": None, "real_node_id": one} for one in self.outputs
        }
        status = {
            "status_str": "error" if self.failed else "success",
            "completed": not self.failed,
            "messages": self.messages,
        }
        return {"prompt": self.item.told(), "outputs": self.outputs, "status": status, "meta": meta}

    def _wants_metadata(self) -> bool:
        socket = self.voice.sockets.get(self.client) if self.client else None
        return bool(socket and self.metadata and socket.flags.get("supports_preview_metadata"))


def _place(node_id: str) -> dict[str, str | None]:
    return {"display_node_id": node_id, "parent_node_id": None, "real_node_id": node_id}
