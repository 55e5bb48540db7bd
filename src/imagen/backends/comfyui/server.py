"""One ComfyUI server over HTTP: its routes, what it knows of itself, and every answer that is not a good one."""

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import httpx2

from imagen.backends.comfyui import errors
from imagen.backends.comfyui.address import Address
from imagen.backends.comfyui.line import Line
from imagen.backends.comfyui.nodes import NodeType, node_type, node_types

CONNECT_S = 3.0
ANSWER_S = 30.0  # a server that loads a model answers nobody for seconds
KEEP_S = 50.0  # connections; the server keeps them for 75
KNOWN_S = 5.0  # how long what a server said of itself is fresh enough for a check

# What a server can do, by its version.
PER_PROMPT_PREVIEWS = (0, 5, 0)
JOBS = (0, 6, 0)
CANCEL_JOBS = (0, 26, 0)
INTERRUPT_BY_ID = (0, 3, 57)
OLDEST = (0, 3, 45)  # before it, a client cannot choose the id of a prompt

T = TypeVar("T")

Whereabouts = Literal["waiting", "running", "ended", "nowhere"]


def version_of(text: str) -> tuple[int, ...]:
    """`0.3.75` as numbers that can be compared; what is no number ends it."""
    numbers = []
    for part in text.strip().lstrip("v").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a server says about itself and its machine."""

    version: str
    devices: tuple[Mapping[str, Any], ...]
    raw: Mapping[str, Any]

    def has(self, since: tuple[int, ...]) -> bool:
        """True where something that came with version `since` is there; an unknown version is taken for new."""
        return not version_of(self.version) or version_of(self.version) >= since


class Server:
    """Asks and is told; keeps its connections, and what cannot change while the server runs."""

    def __init__(self, address: Address, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.address = address
        self.url = address.url
        self.drawn: str | None = None  # the model drawn last, as far as we know: its weights are loaded
        self.line = Line(address, on_cut=self.forget)
        self._http = httpx2.AsyncClient(
            base_url=address.url,
            auth=(address.user, address.password) if address.user or address.password else None,
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            limits=httpx2.Limits(keepalive_expiry=KEEP_S),
            verify=address.scheme == "https",  # what it would take to check a certificate is 25 ms to load
            trust_env=False,  # a proxy of the environment is for the world outside, not for the machine next door
            transport=transport,
        )
        self.met = False  # it has answered this process before: away now, it is probably being restarted
        self._stats: tuple[float, Stats] | None = None
        self._types: dict[str, tuple[float, NodeType | None]] = {}
        self._all: tuple[float, Mapping[str, NodeType]] | None = None
        self._asking = asyncio.Lock()

    def forget(self) -> None:
        """It may have been restarted: all it said may have changed."""
        self.drawn = None
        self._stats = None
        self._types.clear()
        self._all = None

    async def aclose(self) -> None:
        """Close every connection."""
        self.line.close()
        await self._http.aclose()

    async def stats(self, fresh_s: float | None = None) -> Stats:
        """Version and devices: as known, or not older than `fresh_s`."""
        async with self._asking:
            if self._stats is None or _older(self._stats[0], fresh_s):
                raw = await self.get_json("/system_stats")
                system, devices = raw.get("system"), raw.get("devices")
                if not isinstance(system, Mapping) or not isinstance(devices, list):
                    raise errors.no_comfyui(self.url, "/system_stats")
                version = str(system.get("comfyui_version") or "")
                self._stats = (time.monotonic(), Stats(version=version, devices=tuple(devices), raw=raw))
                self.met = True
            return self._stats[1]

    @property
    def version(self) -> str:
        """As it said last; empty before it was asked."""
        return self._stats[1].version if self._stats else ""

    async def types(self, names: Collection[str], fresh_s: float | None = None) -> dict[str, NodeType]:
        """The node classes of these names that the server has: as known, or not older than `fresh_s`."""
        async with self._asking:
            old = [n for n in names if (known := self._types.get(n)) is None or _older(known[0], fresh_s)]
            # What was not there may have been installed meanwhile.
            absent = [n for n in names if n not in old and self._types[n][1] is None]
            await together(*(self._ask_type(name) for name in sorted({*old, *absent})))
            found = {name: self._types[name][1] for name in names}
        return {name: kind for name, kind in found.items() if kind is not None}

    async def node(self, name: str) -> NodeType | None:
        """One node class, or None where the server has no such."""
        return (await self.types([name], KNOWN_S)).get(name)

    async def nodes(self) -> Mapping[str, NodeType]:
        """Every node class of the server: more than a megabyte, so kept for some seconds."""
        if self._all is None or _older(self._all[0], KNOWN_S):
            self._all = (time.monotonic(), node_types(await self.get_json("/object_info")))
        return self._all[1]

    async def submit(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """Hand a prompt over: the status, and what the server says to it."""
        response = await self._ask("POST", "/prompt", json=body)
        if response.status_code not in (200, 400):
            raise errors.answered(self.url, response)
        return response.status_code, self._json(response)

    async def history(self, prompt_id: str) -> Mapping[str, Any] | None:
        """What became of a prompt, once it is over."""
        entry = (await self.get_json(f"/history/{prompt_id}")).get(prompt_id)
        return entry if isinstance(entry, Mapping) else None

    async def queue(self) -> tuple[list[Any], list[Any]]:
        """The prompts that run, and those that wait; anybody's."""
        answer = await self.get_json("/queue")
        running, pending = answer.get("queue_running"), answer.get("queue_pending")
        if not isinstance(running, list) or not isinstance(pending, list):
            raise errors.no_comfyui(self.url, "/queue")
        return running, pending

    async def where(self, prompt_id: str) -> Whereabouts:
        """What the server does with a prompt now. `nowhere` is certain only when it is said twice."""
        if (await self.stats()).has(JOBS):
            response = await self._ask("GET", f"/api/jobs/{prompt_id}")
            if response.status_code == 404:
                return "nowhere"
            if response.status_code != 200:
                raise errors.answered(self.url, response)
            states: dict[str, Whereabouts] = {"pending": "waiting", "in_progress": "running"}
            return states.get(self._json(response).get("status", ""), "ended")
        # The queue first: a prompt that ends between the two questions is then seen twice, and not never.
        for state, items in zip(("running", "waiting"), await self.queue(), strict=True):
            if any(prompt_id in item[1:2] for item in items):
                return "running" if state == "running" else "waiting"
        return "nowhere" if await self.history(prompt_id) is None else "ended"

    async def sender(self, prompt_id: str) -> str | None:
        """The client that handed over a prompt which runs or waits: only its line is told about it."""
        running, pending = await self.queue()
        extra: Any = next((item[3] for item in [*running, *pending] if prompt_id in item[1:2]), None)
        found = extra.get("client_id") if isinstance(extra, Mapping) else None
        return str(found) if found else None

    async def cancel(self, prompt_id: str) -> None:
        """Take one prompt out of the queue, or interrupt it; nobody else's is touched."""
        stats = await self.stats()
        if stats.has(CANCEL_JOBS):
            await self._post(f"/api/jobs/{prompt_id}/cancel", {})
            return
        await self._post("/queue", {"delete": [prompt_id]})
        if not stats.has(INTERRUPT_BY_ID):
            # These interrupt whatever runs, so only when that is ours.
            running, _ = await self.queue()
            if not any(prompt_id in item[1:2] for item in running):
                return
        await self._post("/interrupt", {"prompt_id": prompt_id})

    async def view(self, image: Mapping[str, Any]) -> bytes | None:
        """The bytes of a picture it made; None when the file is gone."""
        asked = {key: str(image.get(key, "")) for key in ("filename", "subfolder", "type")}
        response = await self._ask("GET", "/view", params=asked)
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise errors.answered(self.url, response)
        if response.headers.get("content-type", "").startswith("text/"):
            raise errors.no_comfyui(self.url, "/view")  # a proxy's page
        return response.content

    async def free(self) -> None:
        """Give the memory of the device back; done when the prompt that runs is over."""
        await self._post("/free", {"unload_models": True, "free_memory": True})
        self.drawn = None

    async def get_json(self, path: str) -> Mapping[str, Any]:
        """What a route says; an ImagenError when that is not a JSON object."""
        response = await self._ask("GET", path)
        if response.status_code != 200:
            raise errors.answered(self.url, response)
        return self._json(response)

    async def _ask_type(self, name: str) -> None:
        raw = (await self.get_json(f"/object_info/{name}")).get(name)
        self._types[name] = (time.monotonic(), None if raw is None else node_type(name, raw))

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        response = await self._ask("POST", path, json=body)
        if response.status_code != 200:
            raise errors.answered(self.url, response)

    async def _ask(self, method: str, path: str, **said: Any) -> httpx2.Response:
        try:
            try:
                return await self._http.request(method, path, **said)
            except (httpx2.ReadError, httpx2.RemoteProtocolError):
                if method != "GET":
                    raise
                # A kept connection that the server closed at the same moment; to ask twice does no harm.
                return await self._http.request(method, path, **said)
        except errors.LIBRARY as exc:
            raise errors.away(self.url, exc) from exc

    def _json(self, response: httpx2.Response) -> Mapping[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, Mapping):
            raise errors.no_comfyui(self.url, response.request.url.path)
        return answer


async def together(*asked: Coroutine[Any, Any, T]) -> list[T]:
    """Ask several things at once; the first error ends the others, and nothing of it goes on."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


def _older(at: float, fresh_s: float | None) -> bool:
    return fresh_s is not None and time.monotonic() - at > fresh_s
