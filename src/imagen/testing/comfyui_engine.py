"""The inside of the fake ComfyUI: a queue, one worker, a cache, a history.

One Engine is one life of the server: a restart makes a new one, which knows nothing of the old one's prompts.
"""

import asyncio
import bisect
import contextlib
import random
import string
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from imagen.testing import comfyui_graph as graphs
from imagen.testing import comfyui_paint as paints
from imagen.testing.comfyui_faults import Interrupted, Phase, Trouble, phase_of
from imagen.testing.comfyui_nodes import Node
from imagen.testing.comfyui_voice import Item, Run, Voice

if TYPE_CHECKING:
    from imagen.testing.comfyui import Fake

T = TypeVar("T")

HISTORY = 10_000  # entries; then the oldest goes
IDLE_MIB, WEIGHTS_MIB, WORK_MIB = 600, 2048, 1536  # what the fake card holds at rest, per loaded file, while it draws
PREVIEW_METHODS = ("auto", "latent2rgb", "taesd", "none")


class Engine:
    """Everything a restart forgets."""

    def __init__(self, fake: "Fake") -> None:
        self.fake = fake
        self.voice = Voice()
        self.queue: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.temporary: dict[tuple[str, str, str], bytes] = {}
        self.client: str | None = None
        self.last_node: str | None = None
        self.interrupt_asked = False
        self.number = 0
        self._flags: dict[str, bool] = {}
        self._cache: dict[str, Any] = {}
        self._loaded: set[str] = set()
        self._work_mib = 0
        self._woken = asyncio.Event()
        self._brush = ThreadPoolExecutor(1, "fake-comfyui")
        self._brush.submit(int).result()  # its thread is there from the start: a test may count threads
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self.voice.publish())]

    async def close(self) -> None:
        """This life is over."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._brush.shutdown()

    # The queue.

    def put(self, item: Item) -> None:
        """Accept a prompt."""
        bisect.insort(self.queue, item, key=lambda one: one.number)
        self._status()
        self._woken.set()

    def delete(self, prompt_id: str) -> bool:
        """Take a waiting prompt out; nobody is told but for the length of the queue."""
        before = len(self.queue)
        self.queue = [item for item in self.queue if item.id != prompt_id]
        if len(self.queue) == before:
            return False
        self.fake.note(prompt_id, "deleted")
        self._status()
        return True

    def clear(self) -> None:
        """Take all waiting prompts out."""
        for item in self.queue:
            self.fake.note(item.id, "deleted")
        self.queue = []
        self._status()

    def interrupt(self, prompt_id: str | None) -> bool:
        """Stop what runs, if it is this one or none is named; takes effect at the next step or node."""
        if self.running is None or prompt_id not in (None, self.running.id):
            return False
        self.interrupt_asked = True
        return True

    def free(self, flags: Mapping[str, bool]) -> None:
        """The worker does it between two prompts."""
        self._flags.update(flags)
        self._woken.set()

    @property
    def remaining(self) -> int:
        """How many wait or run."""
        return len(self.queue) + (self.running is not None)

    @property
    def used_mib(self) -> int:
        """What the card holds now."""
        return IDLE_MIB + WEIGHTS_MIB * len(self._loaded) + self._work_mib

    def exec_info(self) -> dict[str, Any]:
        """What `status` and GET /prompt say."""
        return {"exec_info": {"queue_remaining": self.remaining}}

    def _status(self) -> None:
        self.voice.tell("status", {"status": self.exec_info()}, None)

    # The worker.

    async def _work(self) -> None:
        while True:
            self._woken.clear()
            if not self.queue and not self._flags:
                await self._woken.wait()
            if self.queue:
                await self._pass("queued", self.queue[0].id)
            if self.queue:  # nobody took it away meanwhile
                self.running = self.queue.pop(0)
                self._status()
                await self._prompt(self.running)
            self._give_back()

    def _give_back(self) -> None:
        flags, self._flags = self._flags, {}
        free = flags.get("free_memory", False)
        if flags.get("unload_models", free):
            self._loaded.clear()
            self.fake.unloaded += 1
        if free:
            self._cache.clear()

    async def _prompt(self, item: Item) -> None:
        self.interrupt_asked = False
        self.client = item.extra.get("client_id")
        self.fake.note(item.id, "running")
        run = Run(
            item=item,
            voice=self.voice,
            client=self.client,
            previews=self._previews(item) != "none",
            states=self.fake.has("progress_state"),
            metadata=self.fake.has("metadata"),
        )
        run.message("execution_start", {"prompt_id": item.id})
        await self._nodes(run)
        self.last_node = None
        self._work_mib = 0
        await asyncio.sleep(self.fake.history_lag_s)  # the end is said before it is written down
        self.running = None
        while len(self.history) >= HISTORY:
            self.history.pop(next(iter(self.history)))
        self.history[item.id] = run.entry()
        self._status()
        if run.client is not None:
            self.voice.tell("executing", {"node": None, "prompt_id": item.id}, run.client)

    async def _nodes(self, run: Run) -> None:
        graph, nodes = run.item.graph, self.fake.known_nodes
        names = {one: graphs.signature(graph, one, nodes) for one in graph}
        # What the prompt before left, as far as this one wants it; the rest goes. Seen with old and new servers.
        self._cache = {name: ui for name, ui in self._cache.items() if name in names.values()}
        cached = [one for one in graph if names[one] in self._cache]
        run.message("execution_cached", {"nodes": cached, "prompt_id": run.item.id})
        pending = graphs.needed(graph, run.item.ends, cached)
        while pending:
            ready = [one for one in pending if not any(two in pending for two in graphs.links(graph, one))]
            node_id = graphs.choose(ready, pending, graph, nodes)
            pending.remove(node_id)
            if node_id in cached:
                run.node_ends(node_id, self._cache[names[node_id]], cached=True)
                continue
            try:
                run.node_begins(node_id)
                self.last_node = node_id if run.client is not None else None
                output = await self._node(run, node_id, nodes[graph[node_id]["class_type"]])
            except (Interrupted, Trouble) as exc:
                self._failed(run, node_id, exc)
                return
            run.node_ends(node_id, output)
            run.executed.append(node_id)
            self._cache[names[node_id]] = output
        self.fake.note(run.item.id, "completed")
        run.message("execution_success", {"prompt_id": run.item.id})

    async def _node(self, run: Run, node_id: str, node: Node) -> Any:
        """Run one node; what it shows, if it shows anything."""
        self._stop_if_asked()
        phase = phase_of(node)
        if phase == "sampling":
            await self._sample(run, node_id)
            return None
        if phase is not None:
            await self._pass(phase, run.item.id)
        self.fake.course.strike(node_id, run.item.graph[node_id]["class_type"], phase, None)
        match node.does:
            case "save" | "show":
                return await self._save(run, node_id, node)
            case "stream":
                for picture in await self._pictures(run, node_id, compress_level=1):
                    run.step(node_id, 0, 1, picture, "image/png")
            case "load":
                self._loaded.add(graphs.signature(run.item.graph, node_id, self.fake.known_nodes))
            case _:
                await asyncio.sleep(0)
        return None

    async def _sample(self, run: Run, node_id: str) -> None:
        graph = run.item.graph
        total = graphs.steps_of(graph, node_id)
        size = graphs.canvas(graph, node_id)
        name = graphs.signature(graph, node_id, self.fake.known_nodes, known_only=True)
        self._work_mib = WORK_MIB
        self.fake.samplings.append((run.item.id, node_id))
        for step in range(1, total + 1):
            await self._pass("sampling", run.item.id, step)
            self._stop_if_asked()
            self.fake.course.strike(node_id, graph[node_id]["class_type"], "sampling", step)
            shown = b""
            if run.previews:
                shown = await self._aside(paints.preview, name, size.width, size.height, step, total)
            run.step(node_id, step, total, shown, "image/jpeg")
            self.fake.stepped(run.item.id)
        self.fake.sampled.append(run.item.id)

    async def _save(self, run: Run, node_id: str, node: Node) -> Any:
        prefix = str(graphs.value_of(run.item.graph, node_id, "filename_prefix", "ComfyUI"))
        kind, level = "output", 4
        if node.does == "show":
            prefix = f"ComfyUI_temp_{''.join(random.choices(string.ascii_lowercase, k=5))}"
            kind, level = "temp", 1
        if prefix.startswith("/") or ".." in prefix.split("/"):
            raise Trouble("Exception", "Saving image outside the output folder is not allowed.")
        folder, _, stem = prefix.rpartition("/")
        store = self.temporary if kind == "temp" else self.fake.saved
        number = self.fake.saved_as(folder, stem) if kind == "output" else 0
        told = []
        for data in await self._pictures(run, node_id, compress_level=level):
            number += 1
            name = f"{stem}_{number:05}_.png"
            store[kind, folder, name] = data
            told.append({"filename": name, "subfolder": folder, "type": kind})
        return {"images": told}

    async def _pictures(self, run: Run, node_id: str, *, compress_level: int) -> list[bytes]:
        graph, extra = run.item.graph, run.item.extra.get("extra_pnginfo") or {}
        size = graphs.canvas(graph, node_id)
        source = next(graphs.links(graph, node_id), node_id)
        name = graphs.signature(graph, source, self.fake.known_nodes, known_only=True)

        def draw(index: int) -> bytes:
            picture = paints.paint(f"{name} {index}" if index else name, size.width, size.height)
            return paints.png(picture, graph, extra, compress_level=compress_level)

        return [await self._aside(draw, index) for index in range(size.batch)]

    async def _aside(self, act: Callable[..., T], *told: Any) -> T:
        """Paint without holding up the socket."""
        return await asyncio.get_running_loop().run_in_executor(self._brush, act, *told)

    def _previews(self, item: Item) -> str:
        asked = item.extra.get("preview_method") if self.fake.has("preview_method") else None
        return asked if asked in PREVIEW_METHODS else self.fake.preview_method

    async def _pass(self, phase: Phase, prompt_id: str, step: int | None = None) -> None:
        """Take the time a phase takes, and wait where told to; only a sampler looks up meanwhile."""
        looks_up = phase == "sampling"
        await self.fake.course.wait(phase, step, prompt_id, lambda: looks_up and self.interrupt_asked)
        await asyncio.sleep(self.fake.pace.get(phase, 0.0))

    def _stop_if_asked(self) -> None:
        if self.interrupt_asked:
            raise Interrupted

    def _failed(self, run: Run, node_id: str, exc: Interrupted | Trouble) -> None:
        run.failed = True
        node = run.item.graph[node_id]
        about = {"prompt_id": run.item.id, "node_id": node_id, "node_type": node["class_type"]}
        about["executed"] = run.executed
        if isinstance(exc, Interrupted):
            self.fake.note(run.item.id, "interrupted")
            run.message("execution_interrupted", about, everybody=True)
            return
        self.fake.note(run.item.id, "failed")
        if exc.out_of_memory:
            self._loaded.clear()
        inputs = {"current_inputs": exc.inputs(node["inputs"]), "current_outputs": list(run.item.graph)}
        run.message("execution_error", {**about, **exc.told(), **inputs})
