"""An honest fake of a server with an OpenAI Images API, for tests that want neither a graphics card nor an account.

It answers in the shapes of the published API, as the `openai` package reads them, and refuses what the real ones do.

    from imagen.testing.openai_images import FakeImages

    async def test_mine():
        fake = FakeImages()
        async with fake.serving() as url:              # http://127.0.0.1:PORT; the API is below /v1
            ...                                        # point your client at f"{url}/v1"
        assert fake.idle and len(fake.drawn) == 1

What it is: `models=("gpt-image-2",)`; `token="sk-…"` is asked for where it is given; `streams=False` ignores `stream`
as most servers do, `streams=None` refuses it; `strict=True` refuses unknown fields as OpenAI does; `urls=True`
answers with addresses; `seeded=False` draws another picture each time. `step_s` makes it slow.

What happens to it: `fail(status, message, code=…)`, `rate_limit(times, retry_after_s)`, `drop(after=…)` (the
connection breaks after so many partial images), `fail_in_stream(message)`, `expire_files()`, `blank()` (an answer
without a picture), and all that `Served` has.

What it saw: `requests`, `calls` (each that was begun), `drawn`, `cancelled` (left by its client), `idle`.
"""

import asyncio
import base64
import io
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from imagen.testing.comfyui_paint import paint
from imagen.testing.served import Served

KNOWN = {
    *("prompt", "model", "n", "size", "quality", "background", "output_format", "output_compression"),
    *("moderation", "style", "user", "response_format", "stream", "partial_images"),
}


class FakeImages(Served):
    """A server that draws soft clouds of colour; see the module's own description."""

    def __init__(
        self,
        *,
        models: tuple[str, ...] = ("gpt-image-2", "gpt-image-1"),
        token: str = "",
        streams: bool | None = True,
        strict: bool = False,
        urls: bool = False,
        seeded: bool = True,
        step_s: float = 0.0,
        heed_keys: bool = False,
    ) -> None:
        super().__init__()
        self.models, self.token, self.streams, self.strict = models, token, streams, strict
        self.urls, self.seeded, self.step_s, self.heed_keys = urls, seeded, step_s, heed_keys
        self.calls: list[dict[str, Any]] = []
        self.drawn: list[str] = []
        self.cancelled: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self._running = 0
        self._chance = itertools.count(1)
        self._failures: list[tuple[int, dict[str, Any], dict[str, str]]] = []
        self._drop_after: int | None = None
        self._stream_error = ""
        self._blank = False
        self._answers: dict[str, dict[str, Any]] = {}

    @property
    def idle(self) -> bool:
        """Nothing is being drawn."""
        return self._running == 0

    def fail(self, status: int, message: str, *, code: str | None = None, times: int = 1, **headers: str) -> None:
        """The next calls are refused with this."""
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._failures += [(status, {"error": error}, named)] * times

    def rate_limit(self, *, times: int = 1, retry_after_s: float | None = None) -> None:
        """The next calls come too soon."""
        headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:g}"}
        body = {"error": {"message": "Rate limit reached for images per minute.", "type": "requests", "param": None,
                          "code": "rate_limit_exceeded"}}  # fmt: skip
        self._failures += [(429, body, headers)] * times

    def drop(self, *, after: int = 0) -> None:
        """The connection of the next streamed call breaks after so many partial images."""
        self._drop_after = after

    def fail_in_stream(self, message: str) -> None:
        """The next streamed call breaks with an error event."""
        self._stream_error = message

    def blank(self) -> None:
        """The next answer has everything but the picture."""
        self._blank = True

    def expire_files(self) -> None:
        """No address that was given leads anywhere any more."""
        self.files.clear()

    def make_app(self) -> Starlette:
        """The routes of the API."""
        return Starlette(
            routes=[
                Route("/v1/models", self._list, methods=["GET"]),
                Route("/v1/images/generations", self._generate, methods=["POST"]),
                Route("/files/{name}", self._file, methods=["GET"]),
            ]
        )

    async def _list(self, request: Request) -> Response:
        if refused := self._stranger(request):
            return refused
        told = [{"id": name, "object": "model", "created": 1, "owned_by": "fake"} for name in self.models]
        return JSONResponse({"object": "list", "data": told})

    async def _file(self, request: Request) -> Response:
        data = self.files.get(request.path_params["name"])
        return Response(data, media_type="image/png") if data else Response(status_code=403)

    async def _generate(self, request: Request) -> Response:
        if refused := self._stranger(request):
            return refused
        if self._failures:
            status, body, headers = self._failures.pop(0)
            return JSONResponse(body, status, headers=headers)
        try:
            asked = json.loads(await request.body())
        except ValueError:
            return _refuse(400, "We could not parse the JSON body of your request.", None)
        if wrong := self._wrong(asked):
            return wrong
        key = request.headers.get("idempotency-key", "")
        if self.heed_keys and key in self._answers:
            return JSONResponse(self._answers[key])
        self.calls.append(asked)
        if asked.get("stream") and self.streams:
            return StreamingResponse(self._streamed(asked, request), media_type="text/event-stream")
        answer = await self._whole(asked, request)
        if answer is None:
            return Response(status_code=499)
        self._answers[key] = answer
        return JSONResponse(answer)

    def _stranger(self, request: Request) -> Response | None:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return _refuse(401, "Incorrect API key provided: sk-****.", "invalid_api_key")
        return None

    def _wrong(self, asked: Mapping[str, Any]) -> Response | None:
        if not isinstance(asked.get("prompt"), str) or not asked["prompt"]:
            return _refuse(400, "Missing required parameter: 'prompt'.", "missing_required_parameter", "prompt")
        unknown = sorted(set(asked) - KNOWN)
        if self.strict and unknown:
            return _refuse(400, f"Unknown parameter: '{unknown[0]}'.", "unknown_parameter", unknown[0])
        if self.strict and "response_format" in asked:
            return _refuse(400, "Unknown parameter: 'response_format'.", "unknown_parameter", "response_format")
        if asked.get("model") and asked["model"] not in self.models:
            return _refuse(404, f"The model '{asked['model']}' does not exist.", "model_not_found", "model")
        if asked.get("stream") and self.streams is None:
            return _refuse(400, "Unsupported parameter: 'stream' is not supported with this model.", None, "stream")
        if not 0 <= asked.get("partial_images", 0) <= 3:
            return _refuse(400, "partial_images must be between 0 and 3.", "invalid_value", "partial_images")
        if not 1 <= asked.get("n", 1) <= 10:
            return _refuse(400, "n must be between 1 and 10.", "invalid_value", "n")
        if "[unsafe]" in asked["prompt"]:
            said = "Your request was rejected by the safety system."
            return _refuse(400, said, "moderation_blocked")
        return None

    async def _whole(self, asked: Mapping[str, Any], request: Request) -> dict[str, Any] | None:
        """An answer in one piece; None when nobody waits for it any more."""
        items = []
        self._running += 1
        try:
            for number in range(asked.get("n", 1)):
                for _ in range(4):
                    await asyncio.sleep(self.step_s)
                    if await request.is_disconnected():
                        self.cancelled.append(dict(asked))
                        return None
                items.append(self._item(asked, self._paint(asked, number)))
        finally:
            self._running -= 1
        answer: dict[str, Any] = {"created": int(time.time()), "data": items}
        if self._blank:
            self._blank = False
            answer["data"] = [{"b64_json": "", "url": None} for _ in items]
        return answer | _about(asked)

    def _item(self, asked: Mapping[str, Any], data: bytes) -> dict[str, Any]:
        if self.urls or asked.get("response_format") == "url":
            name = f"{len(self.files)}.png"
            self.files[name] = data
            return {"url": f"{self.url}/files/{name}"}
        return {"b64_json": base64.b64encode(data).decode()}

    async def _streamed(self, asked: Mapping[str, Any], request: Request) -> AsyncIterator[bytes]:
        partials = asked.get("partial_images") or 0
        drop, self._drop_after = self._drop_after, None
        error, self._stream_error = self._stream_error, ""
        ended = False
        self._running += 1
        try:
            for number in range(asked.get("n", 1)):
                data = self._paint(asked, number)
                for index in range(partials):
                    await asyncio.sleep(self.step_s)
                    yield b": still drawing\n\n"
                    if drop == index:
                        ended = True
                        self.cut()
                        await asyncio.sleep(10)
                    told = {"partial_image_index": index, "b64_json": _forming(data, index + 1, partials + 1)}
                    yield _event("image_generation.partial_image", told | _about(asked, usage=False))
                await asyncio.sleep(self.step_s)
                if error:
                    ended = True
                    body = {"type": "error", "error": {"message": error, "type": "server_error", "code": None}}
                    yield f"event: error\ndata: {json.dumps(body)}\n\n".encode()
                    return
                told = {"b64_json": "" if self._blank else base64.b64encode(data).decode()}
                yield _event("image_generation.completed", told | _about(asked))
            ended = True
        finally:
            self._blank = False
            self._running -= 1
            if not ended:
                self.cancelled.append(dict(asked))

    def _paint(self, asked: Mapping[str, Any], number: int) -> bytes:
        """The same words and seed give the same picture; without a seed, none comes twice."""
        seed = asked.get("seed") if self.seeded else None
        what = f"{asked['prompt']} {asked.get('model')} {next(self._chance) if seed is None else seed + number}"
        self.drawn.append(what)
        size = str(asked.get("size") or "auto")
        wide, _, high = ("1024x1024" if size == "auto" else size).partition("x")
        into = io.BytesIO()
        paint(what, int(wide), int(high)).save(into, "PNG", compress_level=1)
        return into.getvalue()


def _forming(data: bytes, step: int, total: int) -> str:
    with Image.open(io.BytesIO(data)) as picture:
        grey = Image.new("RGB", picture.size, (128, 128, 128))
        into = io.BytesIO()
        Image.blend(grey, picture.convert("RGB"), step / total).save(into, "PNG", compress_level=1)
    return base64.b64encode(into.getvalue()).decode()


def _about(asked: Mapping[str, Any], *, usage: bool = True) -> dict[str, Any]:
    told: dict[str, Any] = {
        "created_at": int(time.time()),
        "size": asked.get("size") or "1024x1024",
        "quality": asked.get("quality") or "high",
        "background": "opaque",
        "output_format": "png",
    }
    if usage:
        details = {"image_tokens": 0, "text_tokens": 8}
        told["usage"] = {
            "input_tokens": 8, "output_tokens": 100, "total_tokens": 108, "input_tokens_details": details,
        }  # fmt: skip
    return told


def _event(kind: str, told: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **told})}\n\n".encode()


def _refuse(status: int, message: str, code: str | None, param: str | None = None) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status)
