"""The backend: pictures one after the other on a ComfyUI server, and what would go wrong with a model there."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

from imagen.backends.base import Adopted, Previews
from imagen.backends.comfyui import errors, pictures, vram, workflow
from imagen.backends.comfyui.address import DEFAULT, Address
from imagen.backends.comfyui.keeper import Pace
from imagen.backends.comfyui.line import Line, LineError
from imagen.backends.comfyui.run import Run, ended_badly
from imagen.backends.comfyui.server import KNOWN_S, OLDEST, PER_PROMPT_PREVIEWS, Server, Stats, version_of
from imagen.backends.comfyui.story import Story
from imagen.core.errors import BadConfig, Check, ImagenError, TimedOut, Unreachable
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Handle, Notice, Output, Signal

CHECK_S = 2.0
UNLOAD_AFTER_S = 600.0  # somebody who looks at his pictures is back by then; other programs may want the card
FREED_S = 0.2  # the server is told at once and does it a moment later; a prompt sent in between would be drawn first
AWAY_S = 3.0  # a server that did not answer is not asked again for the next model of a list
TRIES = 20  # prompts of one picture: each that ended badly at the server has used up its name


class ComfyUI:
    """Draws on servers; a model says on which, and with which workflow."""

    def __init__(
        self, settings: Mapping[str, Any], pace: Pace | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._pace = pace or Pace()
        self._clock = clock
        self._servers: dict[Address, Server] = {}
        self._away: dict[Address, tuple[float, ImagenError]] = {}

    @property
    def queues(self) -> bool:
        """The server keeps a queue and draws one prompt after the other."""
        return True

    @property
    def unload_after_s(self) -> float | None:
        """By itself ComfyUI keeps what it loaded for ever."""
        return self._seconds("unload_after_s", UNLOAD_AFTER_S) or None

    async def check(self, model: Model) -> Sequence[Check]:
        """Is the server there, new enough, and does it have every node, file and word that the workflow names?"""
        try:
            server = self._server(model.keys.get("url"))
        except ImagenError as error:
            return [Check.failed("server", error)]
        if (away := self._away.get(server.address)) is not None:
            since, before = away
            if self._clock() - since < AWAY_S:
                return [Check.failed("server", before)]
        checks: list[Check] = []
        try:
            try:
                async with asyncio.timeout(CHECK_S):
                    async for check in _checks(server, model):
                        checks.append(check)
            except TimeoutError:
                raise TimedOut(
                    f"ComfyUI at {server.url} does not answer within {CHECK_S:g} s",
                    hint="it may be loading a model: try again; or its address is wrong",
                ) from None
        except ImagenError as error:
            if not checks:
                self._away[server.address] = (self._clock(), error)
            return [*checks, Check.failed("server", error)]
        return checks

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Draw `request.n` pictures, each a prompt of its own with the seed of its own."""
        server = self._server(model.keys.get("url"))
        token = _uuid(resume)
        if token is None:
            token = uuid4()
            yield Handle(token=str(token))
        call = _Call(self, server, request, model, previews, token, resumed=resume is not None)
        async with aclosing(call.signals()) as signals:
            async for signal in signals:
                yield signal

    async def release(self, model: Model) -> None:
        """Have the server give back the memory of its device, if nobody's prompt runs or waits there."""
        server = self._server(model.keys.get("url"))
        running, waiting = await server.queue()
        if not running and not waiting:
            await server.free()
            await asyncio.sleep(FREED_S)

    async def folders(self, model: Model) -> Mapping[str, Sequence[Path]]:
        """Where this server looks for each kind of file."""
        from imagen.backends.comfyui.folders import folders

        return await folders(self._server(model.keys.get("url")), self._settings.get("models_folder"))

    async def adopt(self, document: Mapping[str, Any], answers: Mapping[str, str]) -> Adopted:
        """Make a model of somebody's workflow file."""
        from imagen.backends.comfyui.adopt import adopt

        return await adopt(self._server(None), document, answers)

    async def aclose(self) -> None:
        """Close the connections to every server."""
        servers, self._servers = list(self._servers.values()), {}
        for server in servers:
            await server.aclose()

    @property
    def pace(self) -> Pace:
        """How long a server is waited for: the setting `patience_s` says for how long it may be away."""
        return replace(self._pace, away_s=self._seconds("patience_s", self._pace.away_s) or 0.0)

    def setting(self, model: Model, name: str) -> Any:
        """A key of the model, else a setting of the backend."""
        return model.keys.get(name) or self._settings.get(name)

    def _address(self, url: Any) -> Address:
        return Address.of(str(url or self._settings.get("url") or DEFAULT))

    def _server(self, url: Any) -> Server:
        address = self._address(url)
        if address not in self._servers:
            self._servers[address] = Server(address)
        return self._servers[address]

    def _seconds(self, name: str, usual: float | None) -> float | None:
        value = self._settings.get(name)
        try:
            return usual if value in (None, "") else float(str(value))
        except ValueError:
            raise BadConfig(
                f"`{name}` of the backend comfyui is a number of seconds, not {value!r}", hint="write for instance 60"
            ) from None


class _Call:
    """One call of generate(): its pictures, one after the other."""

    def __init__(
        self,
        backend: ComfyUI,
        server: Server,
        request: Request,
        model: Model,
        previews: Previews,
        token: UUID,
        *,
        resumed: bool,
    ) -> None:
        self._backend = backend
        self._server = server
        self._request = request
        self._model = model
        self._previews = previews
        self._token = token
        self._resumed = resumed
        self._watched = False
        self._spent: dict[str, float] = {}
        self._frames = 0

    async def signals(self) -> AsyncGenerator[Signal]:
        """Everything, to the last picture."""
        model, server = self._model, self._server
        names = workflow.classes(workflow.fill(model, self._request, str(self._token)))
        if not server.line.up:
            server.forget()  # while nobody listened it may have been restarted
        stats, types = await self._stats(), await server.types(names)
        _able(server, model, stats, names - types.keys())
        await _opened(server.line)
        for index in range(self._request.n):
            part = self._request.part(index, 1)
            place = await self._place(index)
            drawing = workflow.prepare(
                workflow.fill(model, part, place.prompt_id),
                types,
                prompt_id=place.prompt_id,
                steps=part.steps,
                keep=self._backend.setting(model, "outputs") == "output",
            )
            if index == 0:
                for notice in drawing.notices:
                    yield notice
            try:
                async with aclosing(self._draw(index, part, drawing, place)) as signals:
                    async for signal in signals:
                        yield signal
            finally:
                if place.line is not server.line:
                    place.line.close()
        if self._watched and not self._frames and not stats.has(PER_PROMPT_PREVIEWS):
            yield Notice(
                code="preview_not_possible",
                message=f"ComfyUI {stats.version} makes previews only when it is started with `--preview-method auto`",
            )

    async def _stats(self) -> Stats:
        """What the server says of itself; one that was there before, and is away, is given time to come back."""
        pace, since = self._backend.pace, time.monotonic()
        while True:
            try:
                return await self._server.stats()
            except Unreachable:
                if not self._server.met or time.monotonic() - since > pace.away_s:
                    raise
                await asyncio.sleep(pace.ask_without_line_s)

    async def _draw(
        self, index: int, part: Request, drawing: workflow.Drawing, place: "_Place"
    ) -> AsyncGenerator[Signal]:
        server = self._server
        total = drawing.steps * self._request.n
        # The server decides this once, when the prompt is handed over.
        self._watched = self._watched or any(self._previews.wants(step, total) for step in range(1, total))
        story = Story(drawing, self._previews, index=index, n=self._request.n, loaded=server.drawn == drawing.weights)
        run = Run(
            server,
            place.line,
            drawing,
            story,
            prompt_id=place.prompt_id,
            model=self._model.name,
            pace=self._backend.pace,
        )
        method = self._backend.setting(self._model, "preview_method") or "auto"
        extra = None if place.known else {"preview_method": method if self._watched else "none"}
        async with vram.watched(server, run.begun) as peak:
            async with aclosing(run.signals(extra)) as signals:
                async for signal in signals:
                    yield signal
            data, made = await run.picture()
        server.drawn = drawing.weights
        self._frames += story.frames
        for signal in story.finish():
            yield signal
        if made > 1:
            yield Notice(code="more_pictures", message=f"the workflow gave {made} pictures; the first one is kept")
        for name, seconds in story.timings().items():
            self._spent[name] = round(self._spent.get(name, 0.0) + seconds, 4)
        facts = {**peak.facts(), "timings": dict(self._spent)}
        mime = pictures.mime_of(data)
        if mime is None:
            raise errors.no_picture(self._model.name)
        yield Output(data=pictures.without_texts(data), mime=mime, index=index, seed=part.seed, facts=facts)

    async def _place(self, index: int) -> "_Place":
        """Which prompt is to give a picture: after a restart of ours perhaps one that the server has already."""
        line = self._server.line
        for number in range(TRIES):
            # Every attempt finds the same names, and no name is used for two prompts.
            first = index == 0 and number == 0
            prompt_id = str(self._token if first else uuid5(self._token, f"{index}.{number}"))
            where = await self._server.where(prompt_id) if self._resumed else "nowhere"
            if where == "nowhere":
                return _Place(prompt_id=prompt_id, line=line, known=False)
            if where == "ended":
                entry = await self._server.history(prompt_id)
                if entry is not None and ended_badly(self._model.name, entry) is not None:
                    continue  # broken or stopped: its name is used up
            else:
                # It is told only to the client that handed it over: to listen is to go by that one's name.
                sender = await self._server.sender(prompt_id)
                if sender is not None and sender != line.client_id:
                    line = Line(self._server.address, sender)
                    await _opened(line)
            return _Place(prompt_id=prompt_id, line=line, known=True)
        raise errors.lost(self._server.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The prompt that gives a picture."""

    prompt_id: str
    line: Line  # what is told about it
    known: bool  # the server has it already


async def _opened(line: Line) -> None:
    """Open a line if it can be; without one a picture comes too."""
    with suppress(LineError):
        await line.open()


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def _able(server: Server, model: Model, stats: Stats, absent: Set[str]) -> None:
    """Raise what keeps this server from drawing this model at all."""
    requires = model.keys.get("requires") or ""
    if not stats.has(OLDEST):
        raise errors.too_old(server.url, "imagen", ".".join(map(str, OLDEST)), stats.version)
    if requires and not stats.has(version_of(str(requires))):
        raise errors.too_old(server.url, model.title or model.name, str(requires), stats.version)
    if absent:
        raise errors.missing_node(server.url, model.name, min(absent))


async def _checks(server: Server, model: Model) -> AsyncIterator[Check]:
    stats = await server.stats(KNOWN_S)
    yield Check.passed("server", note=f"ComfyUI {stats.version} at {server.url}")
    graph = workflow.fill(model, _any_request(model), str(uuid4()))
    names = workflow.classes(graph)
    types = await server.types(names, KNOWN_S)
    try:
        _able(server, model, stats, names - types.keys())
    except ImagenError as error:
        yield Check.failed("nodes", error)
    else:
        yield Check.passed("nodes", note=f"all {len(names)} kinds")
    complete = workflow.prepare(graph, types, prompt_id="", steps=1, keep=True).graph
    wrong = list(workflow.check_values(complete, types))
    for node, key, value, choices in wrong:
        where = f"{graph[node]['class_type']} (node {node}), input {key}"
        yield Check.failed(f"{key} of node {node}", errors.not_listed(model.name, where, value, choices))
    if not wrong:
        yield Check.passed("files", note="every file and word of the workflow is there")


def _any_request(model: Model) -> Request:
    usual = model.defaults
    return Request(
        prompt="",
        model=model.name,
        negative=usual.negative,
        width=usual.width,
        height=usual.height,
        steps=usual.steps,
        seed=0,
        guidance=usual.guidance,
    )
