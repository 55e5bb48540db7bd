"""An honest fake of a container that Cog built: its HTTP server, as Cog 0.23.1 was seen to behave.

`PUT /predictions/ID` joins the prediction of that id while it runs, and draws it again afterwards. A prediction that
was started by an answer which stays open is cancelled when its client goes away; one that was started with
`Prefer: respond-async` runs on. There is one place, and 409 when it is taken. There is no way to ask for a prediction
that ended.

    from imagen.testing.cog import FakeCog

    fake = FakeCog(step_s=0.1)
    with fake.running() as url: ...

`streams=False` answers 406 to a stream; `intermediate=True` gives the picture as it forms; `setup_s` makes its start
slow; `fail(error)`, `busy(seconds)` (somebody else's prediction), and all that `Served` has. What it saw: `requests`,
`runs` (the id of each prediction that was begun), `cancelled`, `idle`.
"""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from imagen.testing.comfyui_paint import paint
from imagen.testing.replicate_model import INPUTS
from imagen.testing.served import Served


@dataclass(slots=True, kw_only=True)
class Run:
    """A prediction that runs."""

    id: str
    input: dict[str, Any]
    tied: bool  # ends when the client that began it goes away
    status: str = "starting"
    logs: str = ""
    output: list[str] = field(default_factory=list)
    error: str | None = None
    news: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    began: float = field(default_factory=time.monotonic)

    def say(self, name: str, said: dict[str, Any]) -> None:
        """Something for whoever has joined."""
        self.news.append((name, said))
        self.changed.set()
        self.changed = asyncio.Event()


class FakeCog(Served):
    """A container with one place; see the module's own description."""

    def __init__(
        self, *, streams: bool = True, intermediate: bool = False, step_s: float = 0.0, setup_s: float = 0.0
    ) -> None:
        super().__init__()
        self.streams, self.intermediate, self.step_s, self.setup_s = streams, intermediate, step_s, setup_s
        self.runs: list[str] = []
        self.cancelled: list[str] = []
        self._run: Run | None = None
        self._born = time.monotonic()
        self._failure: str | None = None
        self._busy_until = 0.0

    @property
    def idle(self) -> bool:
        """Nothing runs."""
        return self._run is None

    def fail(self, error: str) -> None:
        """The next prediction ends badly."""
        self._failure = error

    def busy(self, seconds: float) -> None:
        """Somebody else has the place for so long."""
        self._busy_until = time.monotonic() + seconds

    def forget(self) -> None:
        """A restart loses whatever ran, and loads the model again."""
        if self._run and self._run.task:
            self._run.task.cancel()
        self._run, self._born = None, time.monotonic()

    async def settle(self) -> None:
        """End what runs inside."""
        if self._run and self._run.task:
            self._run.task.cancel()
            await asyncio.gather(self._run.task, return_exceptions=True)

    def make_app(self) -> Starlette:
        """The routes of Cog's server."""
        return Starlette(
            routes=[
                Route("/", self._index, methods=["GET"]),
                Route("/health-check", self._health, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
                Route("/predictions/{id}", self._put, methods=["PUT"]),
                Route("/predictions/{id}/cancel", self._cancel, methods=["POST"]),
            ]
        )

    @property
    def _setting_up(self) -> bool:
        return time.monotonic() - self._born < self.setup_s

    @property
    def _taken(self) -> bool:
        return self._run is not None or time.monotonic() < self._busy_until

    async def _index(self, _request: Request) -> Response:
        return JSONResponse({"cog_version": "0.23.1", "predictions_idempotent_url": "/predictions/{prediction_id}"})

    async def _health(self, _request: Request) -> Response:
        status = "STARTING" if self._setting_up else "BUSY" if self._taken else "READY"
        return JSONResponse({"status": status, "setup": {"status": "succeeded", "logs": ""}})

    async def _openapi(self, _request: Request) -> Response:
        schemas = {"Input": {"type": "object", "required": ["prompt"], "properties": dict(INPUTS)}}
        post: dict[str, Any] = {"x-cog-streaming": True} if self.streams else {}
        return JSONResponse({"paths": {"/predictions": {"post": post}}, "components": {"schemas": schemas}})

    async def _put(self, request: Request) -> Response:
        prediction_id, asked = request.path_params["id"], json.loads(await request.body())
        stream = "text/event-stream" in request.headers.get("accept", "")
        if stream and not self.streams:
            said = "This model does not support streaming responses. Add @cog.streaming to predict() to enable SSE."
            return JSONResponse({"error": said}, 406)
        if self._setting_up:
            return JSONResponse({"error": "Setup has not finished yet", "status": "failed"}, 503)
        run, joined = self._run, True
        if run is None or run.id != prediction_id:
            if self._taken:
                return JSONResponse({"error": "At capacity - all prediction slots busy", "status": "failed"}, 409)
            if wrong := _wrong(asked.get("input") or {}):
                return JSONResponse({"detail": [wrong]}, 422)
            run, joined = self._begin(prediction_id, asked["input"], tied="respond-async" not in
                                      request.headers.get("prefer", "")), False  # fmt: skip
        if stream:
            return StreamingResponse(self._told(run, owns=not joined), media_type="text/event-stream")
        if joined:
            return JSONResponse(_state(run), 202)
        if not run.tied:
            return JSONResponse({"id": run.id, "status": "starting"}, 202)
        while run.status not in ("succeeded", "failed", "canceled"):
            if await request.is_disconnected():
                self._stop(run)
            await asyncio.sleep(0.005)
        return JSONResponse(_state(run))

    async def _cancel(self, request: Request) -> Response:
        run = self._run
        if run is None or run.id != request.path_params["id"]:
            return JSONResponse({}, 404)
        self._stop(run)
        return JSONResponse({})

    async def _told(self, run: Run, *, owns: bool) -> AsyncIterator[bytes]:
        told, ended = 0, False
        try:
            while not ended:
                changed = run.changed
                while told < len(run.news):
                    name, said = run.news[told]
                    told += 1
                    yield f"event: {name}\ndata: {json.dumps(said)}\n\n".encode()
                    ended = name == "completed"
                if not ended:
                    await changed.wait()
        finally:
            if owns and run.tied and not ended:
                self._stop(run)

    def _begin(self, prediction_id: str, given: dict[str, Any], *, tied: bool) -> Run:
        run = self._run = Run(id=prediction_id, input=given, tied=tied)
        self.runs.append(prediction_id)
        run.task = asyncio.create_task(self._work(run))
        return run

    async def _work(self, run: Run) -> None:
        failure, self._failure = self._failure, None
        run.status = "processing"
        run.say("start", {"id": run.id, "status": "processing"})
        steps = int(run.input.get("num_inference_steps", 4))
        for step in range(1, steps + 1):
            await asyncio.sleep(self.step_s)
            if failure:
                run.error = f"Prediction failed: {failure}"
                self._end(run, "failed")
                return
            bar = f"{step * 100 // steps:3}%|{'█' * step}| {step}/{steps} [00:00<00:00]\n"
            run.logs += bar
            run.say("log", {"source": "stderr", "data": bar})
            if self.intermediate or step == steps:
                run.output.append(_draw(run.input, step / steps))
                run.say("output", {"chunk": run.output[-1], "index": len(run.output) - 1})
        self._end(run, "succeeded")

    def _stop(self, run: Run) -> None:
        if self._run is run:
            self.cancelled.append(run.id)
            if run.task:
                run.task.cancel()
            self._end(run, "canceled")

    def _end(self, run: Run, status: str) -> None:
        run.status, self._run = status, None
        run.say("completed", _state(run))


def _state(run: Run) -> dict[str, Any]:
    ended = run.status in ("succeeded", "failed", "canceled")
    told = {"id": run.id, "status": run.status, "logs": run.logs, "output": list(run.output), "input": run.input}
    told["metrics"] = {"predict_time": time.monotonic() - run.began} if ended else {}
    return told | ({"error": run.error} if run.error else {})


def _draw(given: Mapping[str, Any], share: float) -> str:
    what = json.dumps({key: given.get(key) for key in ("prompt", "seed", "negative_prompt")})
    picture = paint(what, int(given.get("width", 64)), int(given.get("height", 64)))
    if share < 1:
        picture = picture.point(lambda value: round(128 + (value - 128) * share))
    into = io.BytesIO()
    picture.save(into, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(into.getvalue()).decode()}"


def _wrong(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """A value that the model does not take, as Cog says it."""
    if "prompt" not in given:
        return {"loc": ["body", "input", "prompt"], "msg": "Field required", "type": "value_error.missing"}
    for name, value in given.items():
        highest = INPUTS.get(name, {}).get("maximum")
        if highest is not None and value > highest:
            said = f"{value} is greater than the maximum of {highest}"
            return {"loc": ["body", "input", name], "msg": said, "type": "value_error"}
    return None
