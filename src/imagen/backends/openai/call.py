"""One call: the words of a request go out, partial images and pictures come back."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass
from json import loads
from typing import Any
from urllib.parse import quote

import httpx2

from imagen.backends.base import Previews
from imagen.backends.openai import asking, errors
from imagen.backends.openai.dialects import Dialect
from imagen.backends.remote import pictures
from imagen.backends.remote.http import Http, from_base64
from imagen.backends.remote.sse import WHOLE, events, whole
from imagen.core.errors import ImagenError
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice, Output, Phase, Signal, Step

PATH = "images/generations"
PARTIALS = 3  # the most a server makes of one picture
STAGES = PARTIALS + 1  # a picture that is shown forming: so many steps, the last one the picture itself


class StreamRefused(Exception):
    """The server takes the request, and not its stream. Nothing was drawn."""


@dataclass(slots=True, kw_only=True)
class Call:
    """Some of the pictures of a request: `first`, and `request.n` of them."""

    http: Http
    model: Model
    dialect: Dialect
    request: Request
    previews: Previews
    first: int  # the place of its first picture among `of`
    of: int
    key: str
    silence_s: float
    hosts: Sequence[str]
    wanted: tuple[int, ...] = ()  # the steps of a picture that somebody wants to see
    id: str = ""  # what the server calls it, once it answered

    async def signals(self, *, stream: bool) -> AsyncGenerator[Signal]:
        """Everything that one call brings."""
        yield Phase(name="sampling")
        async with self._asked(stream=stream) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            self.id = response.headers.get("x-request-id", "")
            if response.status_code != 200:
                body = _json(await whole(response, WHOLE))
                if stream and errors.refuses_streams(response.status_code, errors.fault(body)):
                    raise StreamRefused
                raise errors.answered(self.http, response, body)
            if warned := response.headers.get(self.dialect.warns) if self.dialect.warns else None:
                yield Notice(code="ignored", message=f"{self.http.name} says: {warned}")
            if kind == "text/event-stream":
                async with aclosing(self._events(response)) as signals:
                    async for signal in signals:
                        yield signal
                return
            data = await whole(response, WHOLE)
        if stream and self.wanted:
            yield _unseen(self.http.name)
        if kind.startswith("image/"):  # `response_format: file` of vLLM-Omni
            for signal in await self._finished([{"data": data}], {}):
                yield signal
            return
        answer = _json(data)
        items = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(items, list):
            told = "a web page and no list of pictures" if errors.page(response) else "no list of pictures"
            raise errors.stranger(self.http, response, told)
        for signal in await self._finished(items, answer):
            yield signal

    async def end(self) -> None:
        """Whoever leaves has closed the connection; a call that outlives that is ended by its id."""
        if not (self.dialect.cancel and self.model.keys.get("idempotent")):
            return
        with suppress(ImagenError):
            if not self.id:  # left before it answered: the same key finds it
                async with self._asked(stream=bool(self.wanted)) as response:
                    self.id = response.headers.get("x-request-id", "")
            if self.id:
                await self.http.ask("POST", self.dialect.cancel.format(id=quote(self.id)))

    def _asked(self, *, stream: bool) -> AbstractAsyncContextManager[httpx2.Response]:
        partials = len(self.wanted) if stream else None
        sent = asking.body(self.request, self.model, self.dialect, partial_images=partials)
        # Two attempts at one picture are one to a server that heeds this, and the others do not mind.
        headers = {"idempotency-key": self.key, "accept": "text/event-stream" if stream else "application/json"}
        return self.http.stream("POST", PATH, json=sent, headers=headers, silence_s=self.silence_s)

    async def _events(self, response: httpx2.Response) -> AsyncGenerator[Signal]:
        """Partial images, then one finished picture after the other."""
        done = 0
        async with aclosing(events(response)) as said:
            async for event in said:
                told = _json(event.data)
                if not isinstance(told, Mapping):
                    continue  # `[DONE]`, or somebody's heartbeat
                if told.get("error") or told.get("type") == "error":
                    raise errors.said(self.http, 0, errors.fault(told if told.get("error") else {"error": told}))
                number = asking.partial_of(told)
                if number is not None:
                    for signal in await self._partial(number, done, told):
                        yield signal
                elif str(told.get("type", "")).endswith(".completed"):
                    for signal in await self._finished([told], told, done=done):
                        yield signal
                    done += 1
        if done < self.request.n:
            raise errors.cut_off(self.http)

    async def _partial(self, number: int, done: int, told: Mapping[str, Any]) -> list[Signal]:
        """A step of its own, and what is to be seen at it, if somebody still wants to."""
        if number >= len(self.wanted):
            return []
        image = self.first + done
        step, total = image * STAGES + self.wanted[number], self.of * STAGES
        said: list[Signal] = [Step(step=step, total=total, image=image)]
        if self.previews.wants(step, total):
            shown = await pictures.preview(from_base64(told.get("b64_json")), step=step, total=total, image=image)
            said += [shown] if shown is not None else []
        return said

    async def _finished(self, items: Sequence[Any], answer: Mapping[str, Any], *, done: int = 0) -> list[Signal]:
        """Each picture of an answer; more than were asked for are left."""
        said: list[Signal] = []
        if len(items) + done > self.request.n:
            said.append(
                Notice(code="more_pictures", message=f"{self.http.name} gave more pictures than were asked for")
            )
        for number, item in enumerate(items[: self.request.n - done], done):
            index = self.first + number
            picture = _output(await self._bytes(item), self, index, answer)
            if self.wanted:
                said.append(Step(step=(index + 1) * STAGES, total=self.of * STAGES, image=index))
            said.append(picture)
        return said

    async def _bytes(self, item: Any) -> bytes:
        """The picture itself: raw, as base64, or behind an address that is copied from at once."""
        if not isinstance(item, Mapping):
            return b""
        if isinstance(item.get("data"), bytes):
            return bytes(item["data"])
        if item.get("b64_json"):
            return from_base64(item["b64_json"])
        if isinstance(item.get("url"), str):
            return await self.http.file(item["url"], self.hosts) or b""
        return b""

    def facts(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """What the server, or the model's price, says about one picture."""
        told: dict[str, Any] = {}
        if self.model.keys.get("price_per_image") is not None:
            told["cost"] = self.model.keys["price_per_image"]
        if isinstance(answer.get("usage"), Mapping):
            told["usage"] = dict(answer["usage"])
        if isinstance(answer.get("peak_memory_mb"), int | float):  # SGLang
            told |= {"vram_peak_mib": round(answer["peak_memory_mb"]), "vram_method": "server"}
        return told


def _output(data: bytes, call: Call, index: int, answer: Mapping[str, Any]) -> Output:
    seed = asking.seed_of(call.request, call.model, call.dialect, index - call.first)
    return pictures.output(data, call.http.name, index=index, seed=seed, facts=call.facts(answer))


def _unseen(name: str) -> Notice:
    return Notice(
        code="preview_not_possible",
        message=f"{name} sends no partial images; `stream: false` in the model's YAML stops asking for them",
    )


def _json(data: bytes | str) -> Any:
    try:
        return loads(data)
    except ValueError:
        return None
