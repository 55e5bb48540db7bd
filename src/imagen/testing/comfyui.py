"""An honest fake of a ComfyUI server, for tests that want no graphics card.

It speaks the real protocol: the same routes, messages, frames, refusals and races, recorded from real servers and
held against them. It loads no weights: its pictures are soft clouds of colour that depend on the graph's values.

    from imagen.testing.comfyui import Fake

    async def test_mine():
        fake = Fake()
        async with fake.serving() as url:              # http://127.0.0.1:PORT, in this event loop
            ...                                        # point your client at it
        assert fake.idle and len(fake.sampled) == 1    # look at the server, not only at the client

A test without an event loop writes `with fake.running() as url:`; then the fake runs in a thread of its own. All
that is told below may be called from either side; coroutines from outside as `fake.do(fake.restart())`.

What it is: `Fake(version="0.3.75")` has only what that version had. `files={"vae": ["ae.safetensors"]}` replaces
what a folder holds, `nodes={"Sharpen": Node.of("image:IMAGE strength:FLOAT=1,0,2 > IMAGE")}` adds a class.
`step_s`, `load_s`, `encode_s` and `decode_s` make it slow; they may be changed while it runs.

What happens to it, at once or from now on:

    fake.hold("sampling", step=2); fake.held; fake.go_on()    wait there until told
    fake.fail("it broke", node="VAEDecode"); fake.out_of_memory(step=3)
    fake.drop_sockets(after=5); fake.go_silent()              the socket breaks, or stays open and says nothing
    await fake.restart(down_s=1.0)                            forgets queue, history, jobs and temporary pictures
    fake.answer("/prompt", 500, "<html>…"); fake.delay("/system_stats", 3); fake.lose_reply()
    fake.stranger(steps=3); fake.somebody_deletes(); fake.somebody_interrupts()
    fake.remove_file("vae", "ae.safetensors"); fake.remove_node("SamplerLCM")

What it saw: `requests`, `prompts` (each accepted one and what became of it), `refused`, `samplings` (begun),
`sampled` (finished), `interrupted`, `cancelled`, `freed`, `sockets`, `connections`, `idle`.

As a program, for tests that kill it: `python -m imagen.testing.comfyui --port 8188 --step-s 0.2 --record FILE`.
"""

import asyncio
import json
import time
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.websockets import WebSocket

from imagen.testing.comfyui_engine import Engine
from imagen.testing.comfyui_faults import OUT_OF_MEMORY, Course, Failure, Hold, Phase, Trouble
from imagen.testing.comfyui_graph import somebodys
from imagen.testing.comfyui_http import make_app
from imagen.testing.comfyui_nodes import FILES, NODES, Node
from imagen.testing.comfyui_versions import features, has, known
from imagen.testing.comfyui_voice import Item, Prompt
from imagen.testing.door import Asked
from imagen.testing.served import Served

__all__ = ["Asked", "Fake", "Node", "Prompt"]


class Fake(Served):
    """A ComfyUI server that draws nothing; see the module's own description."""

    mime = "text/html"

    def __init__(
        self,
        *,
        version: str = "0.33.0",
        nodes: Mapping[str, Node] | None = None,
        files: Mapping[str, Sequence[str]] | None = None,
        folders: Mapping[str, Sequence[Path | str]] | None = None,
        preview_method: str = "none",
        step_s: float = 0.0,
        load_s: float = 0.0,
        encode_s: float = 0.0,
        decode_s: float = 0.0,
        history_lag_s: float = 0.001,
        vram_total_mib: int = 24_576,
        login: str = "",  # `name:password` that each request must bring
        record: Path | None = None,
    ) -> None:
        super().__init__(login)
        self.version = version
        self.nodes = {**NODES, **(nodes or {})}
        self.files: dict[str, Sequence[str]] = {**FILES, **(files or {})}
        self.folders = dict(folders or {})  # what /internal/folder_paths says beyond its own places
        self.preview_method = preview_method  # of prompts that ask for none of their own
        self.step_s, self.load_s, self.encode_s, self.decode_s = step_s, load_s, encode_s, decode_s
        self.history_lag_s = history_lag_s  # between the word of success and the history
        self.vram_total_mib = vram_total_mib
        self.record = record
        self.prompts: list[Prompt] = []
        self.refused: list[dict[str, Any]] = []
        self.samplings: list[tuple[str, str]] = []
        self.sampled: list[str] = []
        self.interrupted: list[str | None] = []
        self.cancelled: list[str] = []
        self.freed: list[dict[str, Any]] = []
        self.unloaded = 0
        self.connections = 0  # websockets that were opened, ever
        self.saved: dict[tuple[str, str, str], bytes] = {}  # output files outlive a restart
        self.course = Course()
        self._drop_after: int | None = None
        self._deaf: int = 0
        self._engine: Engine | None = None
        self._clients: list[tuple[str, Any]] = []

    def make_app(self) -> Starlette:
        """The routes of this version."""
        return make_app(self)

    async def aclose(self) -> None:
        """Stop listening and forget everything but the records."""
        await self._listening.stop()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    # What happens to it.

    def hold(self, phase: Phase, *, step: int | None = None, prompt_id: str | None = None) -> None:
        """The worker waits before it does this, until `go_on`."""
        self.course.holds.append(Hold(phase=phase, step=step, prompt_id=prompt_id))

    def go_on(self) -> None:
        """Nothing is held any more."""
        self.course.holds.clear()

    def fail(
        self,
        message: str,
        *,
        kind: str = "RuntimeError",
        node: str | None = None,
        step: int | None = None,
        times: int = 1,
    ) -> None:
        """A node fails: a class or an id, else any sampler; at a step, or as it begins."""
        self.course.failures.append(Failure(trouble=Trouble(kind, message), node=node, step=step, times=times))

    def out_of_memory(self, *, node: str | None = None, step: int | None = None, times: int = 1) -> None:
        """A node needs more memory than the card has."""
        trouble = Trouble("torch.OutOfMemoryError", OUT_OF_MEMORY, out_of_memory=True)
        self.course.failures.append(Failure(trouble=trouble, node=node, step=step, times=times))

    def drop_sockets(self, *, after: int = 0) -> None:
        """Every websocket breaks, now or once that many more messages were delivered; prompts run on."""
        self._drop_after = after or None
        if not after:
            self.soon(self._break_sockets)

    def go_silent(self, *, reconnects: int = 1) -> None:
        """Sockets stay open and hear nothing more, as do those of the next connections; the one after them works."""
        self._deaf = reconnects
        self.soon(lambda: self.engine.voice.sockets.clear())

    async def restart(self, *, down_s: float = 0.0, version: str | None = None) -> None:
        """Break all connections and forget queue, history, jobs, cache and temporary pictures."""
        port = urllib.parse.urlsplit(self.url).port or 0
        await self._listening.stop()
        engine, self._engine, self._app = self._engine, None, None
        if engine is not None:
            await engine.close()
        for prompt in self.prompts:
            if prompt.state in ("pending", "running"):
                self.note(prompt.id, "lost")
        self.version = version or self.version
        await asyncio.sleep(down_s)
        await self._listen(port)

    def lose_reply(self, path: str = "/prompt", *, times: int = 1) -> None:
        """The next requests to a path are carried out, and the connection breaks instead of the answer."""
        super().lose_reply(path, times=times)

    def stranger(self, *, steps: int = 3, size: int = 64, client_id: str | None = None, front: bool = False) -> str:
        """Somebody else's prompt, in the same queue; without a client id its progress is told to everybody."""
        prompt_id = str(uuid.uuid4())
        graph = somebodys(steps, size, uuid.uuid4().int % 2**53)
        extra: dict[str, Any] = {"preview_method": "auto", "create_time": int(time.time() * 1000)}
        if client_id:
            extra["client_id"] = client_id

        def put() -> None:
            number = -1.0 if front else float(self.engine.number)
            self.engine.number += 1
            self.accept(Item(number=number, id=prompt_id, graph=graph, extra=extra, ends=["6"]), stranger=True)

        self.soon(put)
        return prompt_id

    def somebody_deletes(self, prompt_id: str | None = None) -> None:
        """Somebody takes a waiting prompt, or all, out of the queue."""
        self.soon(self.engine.clear if prompt_id is None else lambda: self.engine.delete(prompt_id))

    def somebody_interrupts(self) -> None:
        """Somebody stops whatever runs."""
        self.soon(lambda: self.engine.interrupt(None))

    def remove_file(self, folder: str, name: str) -> None:
        """A file is no longer there."""
        self.files[folder] = [one for one in self.files[folder] if one != name]

    def remove_node(self, name: str) -> None:
        """A class is no longer there."""
        del self.nodes[name]

    # What it saw.

    @property
    def held(self) -> bool:
        """The worker waits where it was told to."""
        return self.course.held

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return self.engine.remaining == 0

    @property
    def sockets(self) -> list[str]:
        """The names of the clients that listen."""
        return [sid for sid, _ in self._clients]

    @property
    def mine(self) -> list[Prompt]:
        """The accepted prompts that are not a stranger's."""
        return [one for one in self.prompts if not one.stranger]

    def prompt(self, prompt_id: str) -> Prompt:
        """The newest accepted prompt of this id."""
        return next(one for one in reversed(self.prompts) if one.id == prompt_id)

    # What its parts ask of it.

    @property
    def engine(self) -> Engine:
        """This life of the server."""
        if self._engine is None:
            self._loop = asyncio.get_running_loop()
            self._engine = Engine(self)
        return self._engine

    @property
    def known_nodes(self) -> dict[str, Node]:
        """The classes of this version."""
        return known(self.nodes, self.version)

    @property
    def features(self) -> dict[str, Any]:
        """What the server says it can."""
        return features(self.version)

    def has(self, feature: str) -> bool:
        """Whether this version has it."""
        return has(self.version, feature)

    def accept(self, item: Item, *, stranger: bool = False) -> None:
        """A prompt goes into the queue."""
        self.prompts.append(Prompt(id=item.id, graph=item.graph, extra=item.extra, stranger=stranger))
        self.note(item.id, "pending")
        self.engine.put(item)

    def note(self, prompt_id: str, state: str) -> None:
        """Write down what became of a prompt."""
        self.prompt(prompt_id).state = state
        if self.record is not None:
            with self.record.open("a") as file:
                file.write(json.dumps({"prompt": prompt_id, "state": state}) + "\n")

    @property
    def pace(self) -> dict[str, float]:
        """Seconds that each phase takes."""
        return {"loading": self.load_s, "encoding": self.encode_s, "sampling": self.step_s, "decoding": self.decode_s}

    def saved_as(self, folder: str, stem: str) -> int:
        """How many pictures of this name there are."""
        return sum(one == folder and name.startswith(f"{stem}_") for _, one, name in self.saved)

    def stepped(self, prompt_id: str) -> None:
        """A sampler drew a step."""
        self.prompt(prompt_id).steps += 1

    def connected(self, sid: str, socket: WebSocket) -> None:
        """A client listens."""
        self.connections += 1
        self._clients.append((sid, socket))

    def disconnected(self, sid: str, socket: WebSocket) -> None:
        """A client is gone."""
        self._clients = [(one, two) for one, two in self._clients if two is not socket]

    def deafens(self) -> bool:
        """Whether a new socket hears nothing after its first message."""
        self._deaf -= 1
        return self._deaf >= 0

    def delivered(self) -> None:
        """A message went out."""
        if self._drop_after is not None:
            self._drop_after -= 1
            if self._drop_after <= 0:
                self._drop_after = None
                self._break_sockets()

    async def _listen(self, port: int) -> None:
        self._engine = Engine(self)
        await super()._listen(port)

    def _break_sockets(self) -> None:
        for _, socket in self._clients:
            self._listening.cut(tuple(socket.client or ()))


if __name__ == "__main__":
    from imagen.testing.comfyui_program import main

    main()
