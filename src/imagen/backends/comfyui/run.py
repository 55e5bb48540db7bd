"""One prompt on one server, from its submission to its picture, or to its cancellation.

What is true is what the server's history says; the line only tells it sooner. So two things go on at once while a
prompt runs: its listener makes signals of what the line tells, and a keeper asks the server every few seconds, opens
the line again when it went down or fell silent, and finds out when the prompt ended or was lost.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from imagen.backends.comfyui import errors
from imagen.backends.comfyui.line import Cut, Line, LineError, Message
from imagen.backends.comfyui.nodes import NodeType
from imagen.backends.comfyui.server import Server
from imagen.backends.comfyui.story import Story
from imagen.backends.comfyui.workflow import Drawing, classes
from imagen.core.errors import ImagenError, TimedOut, Unreachable
from imagen.core.signals import Notice, Signal

HISTORY_TRIES = 10  # the end is told when the history is written; this is for servers that are early

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a server is asked, and how long it is waited for; seconds."""

    ask_s: float = 2.5  # between two questions, while the line tells what happens
    ask_without_line_s: float = 0.5
    again_s: float = 0.3  # after an answer that has to be heard twice
    silent_s: float = 10.0  # of a prompt that runs and says nothing: it loads, or the server has lost our line
    silent_most_s: float = 120.0
    away_s: float = 60.0  # of the server, in the middle of a prompt: it may be busy, or come back with it
    gone_s: float = 30.0  # until a cancelled prompt has left; loading a model cannot be interrupted
    cancel_again_s: float = 5.0


class Run:
    """One prompt of ours: `signals()` is to be closed, whatever happens, and then it is nowhere in the queue."""

    def __init__(
        self,
        server: Server,
        line: Line,
        drawing: Drawing,
        story: Story,
        *,
        prompt_id: str,
        model: str,
        pace: Pace,
    ) -> None:
        self.begun = asyncio.Event()  # it does not wait for others any more
        self._server = server
        self._line = line
        self._drawing = drawing
        self._story = story
        self._id = prompt_id
        self._model = model
        self._pace = pace
        self._signals: deque[Signal] = deque()
        self._news = asyncio.Event()
        self._cut = asyncio.Event()
        self._over = asyncio.Event()
        self._handed_over = False  # the server has it, or may have it
        self._ended = False
        self._error: Exception | None = None
        self._cuts = line.cuts

    async def signals(self, extra_data: Mapping[str, Any] | None) -> AsyncGenerator[Signal]:
        """Hand the prompt over with this data, or with None find it again, and tell what happens until it is over."""
        keeper: asyncio.Task[None] | None = None
        with self._line.listen(self._id, self._hear):
            try:
                if extra_data is None:
                    self._handed_over = True
                else:
                    await to_its_end(self._submit(extra_data))
                if not self._line.up:
                    yield Notice(
                        code="no_live_progress",
                        message=f"ComfyUI at {self._server.url} tells no steps and previews: its WebSocket cannot be "
                        "opened (a proxy may be in the way); the picture comes all the same",
                    )
                # One that was found again may be over already.
                first_s = 0.0 if extra_data is None else self._usual_pause_s()
                keeper = asyncio.create_task(self._keep(first_s), name=f"comfyui-{self._id}")
                keeper.add_done_callback(lambda _: self._news.set())
                while True:
                    self._news.clear()
                    while self._signals:
                        yield self._signals.popleft()
                    if self._error is not None:
                        raise self._error
                    if self._ended:
                        break
                    if keeper.done():
                        keeper.result()  # a fault in it is told, never waited for
                    await self._news.wait()
            finally:
                if keeper is not None:
                    keeper.cancel()
                    await asyncio.gather(keeper, return_exceptions=True)
                if self._handed_over and not self._ended:
                    await to_its_end(self._withdraw())

    async def picture(self) -> tuple[bytes, int]:
        """The bytes of the picture, and how many the prompt made; the error it ended with otherwise."""
        outputs: Mapping[str, Any] = self._story.outputs
        if not self._story.whole or not self._images(outputs):
            outputs = await self._outcome()
        images = self._images(outputs)
        if not images:
            raise errors.no_picture(self._model)
        data = await self._server.view(images[0])
        if data is None:
            raise errors.picture_gone(self._model)
        return data, len(images)

    def _hear(self, message: Message) -> None:
        try:
            self._signals.extend(self._story.hear(message, time.monotonic()))
        except Exception as exc:  # a fault of ours must not end the line, on which others may listen
            self._error = self._error or exc
            self._news.set()
        if self._story.begun:
            self.begun.set()
        if self._story.over:
            self._over.set()
            self._ended = True
        if isinstance(message, Cut):
            self._cut.set()
        if self._signals or self._ended:
            self._news.set()

    async def _submit(self, extra_data: Mapping[str, Any]) -> None:
        body = {
            "prompt": self._drawing.graph,
            "prompt_id": self._id,
            "client_id": self._line.client_id,
            "extra_data": extra_data,
        }
        for last in (False, True):
            try:
                status, answer = await self._server.submit(body)
            except (Unreachable, TimedOut):
                # The answer may be all that got lost. A server that is away says so again here, at once.
                if await self._nowhere():
                    if last:
                        raise
                    continue
                self._handed_over = True
                return
            break
        self._handed_over = status == 200
        if status != 200 or answer.get("node_errors"):
            # A 200 with errors runs a part of the workflow: that part is withdrawn.
            self._server.forget()
            types: Mapping[str, NodeType] = {}
            with suppress(ImagenError):
                types = await self._server.types(classes(self._drawing.graph))
            raise errors.refused(self._server.url, self._model, answer, self._drawing.graph, types)
        if answer.get("prompt_id") != self._id:
            self._id = str(answer.get("prompt_id"))
            raise errors.too_old(self._server.url, self._model, "0.3.45", self._server.version)

    async def _nowhere(self) -> bool:
        """True when the server said twice that it does not know the prompt."""
        for _ in range(2):
            if await self._server.where(self._id) != "nowhere":
                return False
            await asyncio.sleep(self._pace.again_s)
        return True

    async def _keep(self, pause_s: float) -> None:
        """Ask the server, again and again, what became of the prompt; ends by telling so."""
        silent_s = self._pace.silent_s
        listening_since = time.monotonic()
        away_since: float | None = None
        nowhere = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._cut.wait()
            self._cut.clear()
            if not self._line.up:
                with suppress(LineError):
                    await self._line.open()
                    listening_since = time.monotonic()
            now = time.monotonic()
            try:
                where = await self._server.where(self._id)
            except ImagenError as error:
                away_since = now if away_since is None else away_since
                if now - away_since > self._pace.away_s:
                    self._fail(error)
                    return
                pause_s = self._pace.again_s
                continue
            away_since = None
            nowhere = nowhere + 1 if where == "nowhere" else 0
            pause_s = self._pace.again_s if nowhere else self._usual_pause_s()
            if where == "ended":
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.again_s / 3):
                        await self._over.wait()
                if not self._over.is_set():
                    self._line.close()  # it told nothing of the end: one that the server has forgotten
                self._end()
                return
            if nowhere == 2:
                self._fail(self._missing())
                return
            if where == "running":
                self.begun.set()
                heard_at = max(self._story.heard_at or 0.0, listening_since)
                if self._line.up and time.monotonic() - heard_at > silent_s:
                    with suppress(LineError):
                        await self._line.reopen()
                    listening_since = time.monotonic()
                    silent_s = min(silent_s * 2, self._pace.silent_most_s)
            else:
                listening_since = time.monotonic()

    def _usual_pause_s(self) -> float:
        return self._pace.ask_s if self._line.up else self._pace.ask_without_line_s

    def _missing(self) -> ImagenError:
        """Why the server does not know it any more."""
        unbroken = self._line.up and self._line.cuts == self._cuts
        if unbroken and not self._story.begun:
            return errors.stopped(self._model)  # the server was there all the time: somebody cleared its queue
        return errors.lost(self._server.url)

    def _end(self) -> None:
        self._ended = True
        self._news.set()

    def _fail(self, error: ImagenError) -> None:
        self._error = error
        # It is nowhere, or the server is away: there is nothing left to withdraw.
        self._handed_over = False
        self._news.set()

    async def _outcome(self) -> Mapping[str, Any]:
        """What the history has of it: the outputs of its nodes, or the error it ended with."""
        if self._story.failure is not None:
            raise errors.broke(self._model, self._story.failure)
        if self._story.stopped:
            raise errors.stopped(self._model)
        entry = await self._server.history(self._id)
        for _ in range(HISTORY_TRIES):
            if entry is not None:
                break
            await asyncio.sleep(self._pace.again_s / HISTORY_TRIES)
            entry = await self._server.history(self._id)
        if entry is None:
            raise errors.lost(self._server.url)
        if error := ended_badly(self._model, entry):
            raise error
        self._story.took_s = took_s(entry)
        outputs = entry.get("outputs")
        return outputs if isinstance(outputs, Mapping) else {}

    def _images(self, outputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The pictures among the outputs, the one that was meant first."""
        given = [outputs.get(node) for node in self._drawing.outputs]
        return [
            image
            for output in given
            for image in (output.get("images") or () if isinstance(output, Mapping) else ())
            if isinstance(image, Mapping) and image.get("filename")
        ]

    async def _withdraw(self) -> None:
        """Take it out of the server, and wait until it has really left; a server that is away runs nothing."""
        with suppress(ImagenError, TimeoutError):
            async with asyncio.timeout(self._pace.gone_s):
                asked_at = float("-inf")
                while not self._story.over:
                    if time.monotonic() - asked_at > self._pace.cancel_again_s:
                        await self._server.cancel(self._id)
                        asked_at = time.monotonic()
                    if await self._server.where(self._id) in ("ended", "nowhere"):
                        return
                    self._news.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._pace.again_s / 3):
                            await self._news.wait()


def ended_badly(model: str, entry: Mapping[str, Any]) -> ImagenError | None:
    """The error in an entry of the history; None for a prompt that ended well."""
    status = entry.get("status")
    status = status if isinstance(status, Mapping) else {}
    if status.get("status_str") == "success" or status.get("completed") is True:
        return None
    told = {kind: data for kind, data in status.get("messages") or () if isinstance(data, Mapping)}
    if "execution_error" in told:
        return errors.broke(model, told["execution_error"])
    if "execution_interrupted" in told:
        return errors.stopped(model)
    return None if entry.get("outputs") else errors.no_picture(model)


def took_s(entry: Mapping[str, Any]) -> float | None:
    """How long a prompt of the history ran, by the server's clock."""
    status = entry.get("status")
    messages = status.get("messages") if isinstance(status, Mapping) else None
    at = {kind: data.get("timestamp") for kind, data in messages or () if isinstance(data, Mapping)}
    begun, ended = at.get("execution_start"), at.get("execution_success")
    if isinstance(begun, int | float) and isinstance(ended, int | float):
        return max(0.0, (ended - begun) / 1000)
    return None


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do something whole: a cancellation that comes meanwhile is heard when it is done."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        task.exception()  # looked at, so that it is not reported as forgotten
        raise cancelled
    return task.result()
