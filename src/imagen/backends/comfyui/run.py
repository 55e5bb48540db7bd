"""One prompt on one server, from its submission to its picture, or to its cancellation.

What is true is what the server's history says; the line only tells it sooner. So two things go on at once while a
prompt runs: what the line tells becomes signals, and a keeper asks the server every few seconds.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from imagen.backends.comfyui import errors
from imagen.backends.comfyui.keeper import Keeper, Pace
from imagen.backends.comfyui.line import Line, Message
from imagen.backends.comfyui.nodes import NodeType
from imagen.backends.comfyui.server import Server
from imagen.backends.comfyui.story import Story
from imagen.backends.comfyui.workflow import Drawing, classes
from imagen.backends.to_its_end import to_its_end
from imagen.core.errors import ImagenError, TimedOut, Unreachable
from imagen.core.signals import Notice, Signal

HISTORY_TRIES = 10  # the end is told when the history is written; this is for servers that are early

T = TypeVar("T")


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
        self._server = server
        self._line = line
        self._drawing = drawing
        self._story = story
        self._id = prompt_id
        self._model = model
        self._pace = pace
        self._keeper = Keeper(server, line, story, prompt_id=prompt_id, model=model, pace=pace)
        self._signals: deque[Signal] = deque()
        self._news = asyncio.Event()
        self._handed_over = False  # the server has it, or may have it
        self._fault: Exception | None = None

    @property
    def begun(self) -> asyncio.Event:
        """Set when the prompt does not wait for others any more."""
        return self._keeper.begun

    async def signals(self, extra_data: Mapping[str, Any] | None) -> AsyncGenerator[Signal]:
        """Hand the prompt over with this data, or with None find it again, and tell what happens until it is over."""
        keeping: asyncio.Task[None] | None = None
        with self._line.listen(self._id, self._hear):
            try:
                if extra_data is None:
                    self._handed_over = True
                else:
                    await to_its_end(self._submit(extra_data))
                if self._keeper.deaf:
                    yield _no_line(self._server.url)
                watch = self._keeper.keep(found=extra_data is None)
                keeping = asyncio.create_task(watch, name=f"comfyui-{self._id}")
                keeping.add_done_callback(lambda _: self._news.set())
                while True:
                    self._news.clear()
                    while self._signals:
                        yield self._signals.popleft()
                    if self._fault is not None:
                        raise self._fault
                    if self._story.over:
                        break
                    if keeping.done():
                        # Over, or nowhere, or out of reach for long: then the next attempt looks for it.
                        self._handed_over = not isinstance(keeping.exception(), ImagenError | None)
                        keeping.result()
                        break
                    await self._news.wait()
                self._handed_over = False
            finally:
                if keeping is not None:
                    keeping.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)
                if self._handed_over:
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
            self._keeper.hear(message)
        except Exception as exc:  # a fault of ours must not end the line, on which others may listen
            self._fault = exc
        self._news.set()

    async def _submit(self, extra_data: Mapping[str, Any]) -> None:
        body = {
            "prompt": self._drawing.graph,
            "prompt_id": self._id,
            "client_id": self._line.client_id,
            "extra_data": extra_data,
        }
        try:
            status, answer = await self._server.submit(body)
        except (Unreachable, TimedOut) as error:
            # The answer may be all that got lost. A server that is away says so again here, at once.
            if not await self._nowhere():
                self._handed_over = True
                return
            if isinstance(error, TimedOut):
                raise  # it may still be on its way
            status, answer = await self._server.submit(body)
        self._handed_over = status == 200
        if status != 200 or answer.get("node_errors"):
            # With a 200 the server draws a part of the workflow: that is withdrawn.
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
        if await self._server.where(self._id) != "nowhere":
            return False
        await asyncio.sleep(self._pace.again_s)
        return await self._server.where(self._id) == "nowhere"

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
        """Take it out of the server, and wait until it has really left; one that is away for long runs nothing."""
        asked_at, away_since = float("-inf"), None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.gone_s):
                while not self._story.over:
                    now = time.monotonic()
                    try:
                        if now - asked_at > self._pace.cancel_again_s:
                            await self._server.cancel(self._id)
                            asked_at = now
                        if await self._server.where(self._id) in ("ended", "nowhere"):
                            return
                        away_since = None
                    except ImagenError:
                        away_since = now if away_since is None else away_since
                        if now - away_since > self._pace.cancel_again_s:
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


def _no_line(url: str) -> Notice:
    return Notice(
        code="no_live_progress",
        message=f"ComfyUI at {url} tells no steps and no previews: its WebSocket cannot be opened "
        "(what stands before it may be in the way); the picture comes all the same",
    )
