"""An honest fake of Replicate's HTTP API, for tests that want neither an account nor a bill.

It keeps predictions, runs them whether anybody looks or not, streams what they tell, lets their files expire and
counts what they cost. Its answers have the shapes of the published API.

    from imagen.testing.replicate import FakeReplicate

    async def test_mine():
        fake = FakeReplicate()
        async with fake.serving() as url:              # the API is below /v1
            ...                                        # point your client at f"{url}/v1"
        assert len(fake.predictions) == 1              # that is what would have been paid

What it is: `token="r8_…"` is asked for where it is given; `inputs={"prompt": {"type": "string"}, …}` is what its one
model takes; `streams=True` gives each prediction a stream; `intermediate=True` gives the picture as it forms;
`step_s` and `boot_s` make it slow.

What happens to it: `rate_limit(times, retry_after_s, in_body=…)`, `refuse(status, title, detail)`, `fail(error, logs)`
(the next prediction), `abort()`, `expire_files()`, `remove_data()`, `somebody_cancels()`, `hide(times)` (a new
prediction is not listed at once), `hold()` and `go_on()`, and all that `Served` has: `lose_reply("/v1/…")` carries a
request out and breaks the connection instead of answering.

What it saw: `requests`, `predictions` (each that was ever made), `cancelled`, `idle`.

As a program, for tests that kill whoever asks it: `python -m imagen.testing.replicate --port 0 --step-s 0.2`.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from imagen.testing.comfyui_paint import paint
from imagen.testing.replicate_model import INPUTS, MODEL, VERSION, Prediction, schema, wrong
from imagen.testing.served import Served

ENDED = ("succeeded", "failed", "canceled", "aborted")
PAGE = 100


class FakeReplicate(Served):
    """The service, with one account and one model; see the module's own description."""

    def __init__(
        self,
        *,
        token: str = "",
        inputs: Mapping[str, Mapping[str, Any]] | None = None,
        streams: bool = False,
        intermediate: bool = False,
        bars: bool = True,
        step_s: float = 0.0,
        boot_s: float = 0.0,
    ) -> None:
        super().__init__()
        self.token, self.streams, self.intermediate, self.bars = token, streams, intermediate, bars
        self.inputs = dict(INPUTS if inputs is None else inputs)
        self.step_s, self.boot_s = step_s, boot_s
        self.predictions: list[Prediction] = []
        self.cancelled: list[str] = []
        self.files: dict[str, bytes] = {}
        self._refusals: list[tuple[int, dict[str, Any], dict[str, str]]] = []
        self._failure: tuple[str, str] | None = None
        self._abort = False
        self._hidden = 0
        self._open = asyncio.Event()
        self._open.set()

    @property
    def idle(self) -> bool:
        """Nothing runs."""
        return all(one.status in ENDED for one in self.predictions)

    # What happens to it.

    def rate_limit(self, *, times: int = 1, retry_after_s: float = 5, in_body: bool = False) -> None:
        """The next predictions are asked for too soon; an account with little credit is told only in the body."""
        seconds = f"{retry_after_s:g}"
        detail = f"Request was throttled. Your rate limit resets in ~{seconds}s."
        body: dict[str, Any] = {"detail": detail, "status": 429}
        if in_body:
            body["retry_after"] = retry_after_s
        self._refusals += [(429, body, {} if in_body else {"retry-after": seconds})] * times

    def refuse(self, status: int, title: str, detail: str, *, times: int = 1) -> None:
        """The next predictions are not made."""
        self._refusals += [(status, {"title": title, "detail": detail, "status": status}, {})] * times

    def fail(self, error: str, logs: str = "") -> None:
        """The next prediction ends badly."""
        self._failure = (error, logs)

    def abort(self) -> None:
        """The next prediction passes its deadline before it begins."""
        self._abort = True

    def expire_files(self) -> None:
        """An hour later."""
        self.files.clear()

    def remove_data(self) -> None:
        """An hour later, too: what was given and what was made is forgotten, that it was made is not."""
        self.files.clear()
        for one in self.predictions:
            one.input, one.output, one.logs, one.data_removed = {}, [], "", True

    def somebody_cancels(self) -> None:
        """Whoever has the account stops everything on its page."""

        def stop() -> None:
            for one in self.predictions:
                self._cancel(one)

        self.soon(stop)

    def hide(self, times: int) -> None:
        """The next prediction is in the list only when it is asked for so many times more."""
        self._hidden = times

    def hold(self) -> None:
        """Predictions wait where they are, until `go_on`."""
        self._open.clear()

    def go_on(self) -> None:
        """Nothing waits any more."""
        self.soon(self._open.set)

    async def settle(self) -> None:
        """End what runs inside."""
        tasks = [one.running for one in self.predictions if one.running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The routes.

    def make_app(self) -> Starlette:
        """The routes of the API, and where files lie."""
        get, post = ["GET"], ["POST"]
        return Starlette(
            routes=[
                Route("/v1/account", self._account, methods=get),
                Route("/v1/models/{owner}/{name}", self._model, methods=get),
                Route("/v1/models/{owner}/{name}/versions/{version}", self._version, methods=get),
                Route("/v1/models/{owner}/{name}/predictions", self._create, methods=post),
                Route("/v1/deployments/{owner}/{name}/predictions", self._create, methods=post),
                Route("/v1/predictions", self._create, methods=post),
                Route("/v1/predictions", self._list, methods=get),
                Route("/v1/predictions/{id}", self._get, methods=get),
                Route("/v1/predictions/{id}/cancel", self._cancel_one, methods=post),
                Route("/stream/{id}", self._stream, methods=get),
                Route("/files/{name}", self._file, methods=get),
            ]
        )

    async def _account(self, request: Request) -> Response:
        return self._stranger(request) or JSONResponse({"type": "user", "username": "fake", "name": "Fake"})

    async def _model(self, request: Request) -> Response:
        if refused := self._stranger(request):
            return refused
        owner, name = request.path_params["owner"], request.path_params["name"]
        if f"{owner}/{name}" != MODEL:
            return _problem(404, "Not found", "The requested resource could not be found.")
        latest = {"id": VERSION, "cog_version": "0.23.1", "openapi_schema": schema(self.inputs)}
        return JSONResponse({"owner": owner, "name": name, "visibility": "public", "latest_version": latest})

    async def _version(self, request: Request) -> Response:
        if refused := self._stranger(request):
            return refused
        if request.path_params["version"] != VERSION:
            return _problem(404, "Not found", "The requested resource could not be found.")
        return JSONResponse({"id": VERSION, "cog_version": "0.23.1", "openapi_schema": schema(self.inputs)})

    async def _create(self, request: Request) -> Response:
        if refused := self._stranger(request):
            return refused
        if self._refusals:
            status, body, headers = self._refusals.pop(0)
            return JSONResponse(body, status, headers=headers)
        asked = json.loads(await request.body())
        named = "/".join(request.path_params.values())
        deployment = named if "/deployments/" in request.url.path else ""
        wrong_model = "/models/" in request.url.path and named != MODEL
        if wrong_model:
            return _problem(404, "Not found", "The requested resource could not be found.")
        if not named and str(asked.get("version", "")).rpartition(":")[2] != VERSION:
            said = "The specified version does not exist (or perhaps you don't have permission to use it?)"
            return _problem(422, "Invalid version or not permitted", said)
        if fault := wrong(self.inputs, asked.get("input") or {}):
            return _problem(422, "Input validation failed", fault)
        made = Prediction(id=_id(len(self.predictions)), input=dict(asked["input"]), deployment=deployment)
        made.listed_after, self._hidden = self._hidden, 0
        self.predictions.append(made)
        made.running = asyncio.create_task(self._run(made))
        await asyncio.sleep(0)
        return JSONResponse(self._told(made), 201)

    async def _list(self, request: Request) -> Response:
        if refused := self._stranger(request):
            return refused
        after = request.query_params.get("created_after")
        since = datetime.fromisoformat(after.replace(" ", "+")) if after else datetime.min.replace(tzinfo=UTC)
        cursor = int(request.query_params.get("cursor", 0))
        found = [one for one in reversed(self.predictions) if one.created_at >= since]
        for one in found:
            one.listed_after -= 1
        shown = [one for one in found if one.listed_after < 0][cursor : cursor + PAGE]
        more = cursor + PAGE < len(found)
        query = urllib.parse.urlencode({"cursor": cursor + PAGE} | ({"created_after": after} if after else {}))
        following = f"{self.url}/v1/predictions?{query}" if more else None
        return JSONResponse({"previous": None, "next": following, "results": [self._told(one) for one in shown]})

    async def _get(self, request: Request) -> Response:
        if refused := self._stranger(request):
            return refused
        found = self._find(request)
        return JSONResponse(self._told(found)) if found else _problem(404, "Not found", "Prediction not found")

    async def _cancel_one(self, request: Request) -> Response:
        if refused := self._stranger(request):
            return refused
        found = self._find(request)
        if found is None:
            return _problem(404, "Not found", "Prediction not found")
        self.cancelled.append(found.id)
        self._cancel(found)
        return JSONResponse(self._told(found))

    async def _stream(self, request: Request) -> Response:
        found = self._find(request)
        if found is None:
            return Response(status_code=404)
        return StreamingResponse(_news(found), media_type="text/event-stream")

    async def _file(self, request: Request) -> Response:
        data = self.files.get(request.path_params["name"])
        return Response(data, media_type="image/png") if data else Response(status_code=404)

    # What it does.

    async def _run(self, made: Prediction) -> None:
        failure, self._failure = self._failure, None
        if self._abort:
            self._abort = False
            self._end(made, "aborted")
            return
        await asyncio.sleep(self.boot_s)
        await self._open.wait()
        made.status, made.started_at = "processing", datetime.now(UTC)
        made.say("logs", "Using seed\n")
        steps = int(made.input.get("num_inference_steps", 4))
        for step in range(1, steps + 1):
            await asyncio.sleep(self.step_s)
            await self._open.wait()
            if failure and step == max(1, steps // 2):
                made.error, made.logs = failure[0], made.logs + failure[1]
                self._end(made, "failed")
                return
            if self.bars:
                bar = f"\r{step * 100 // steps:3}%|{'█' * step}{' ' * (steps - step)}| {step}/{steps} [00:00<00:00]"
                made.logs += bar
                made.say("logs", bar)
            if self.intermediate or step == steps:
                made.output.append(self._keep(made, step, steps))
                made.say("output", made.output[-1])
        self._end(made, "succeeded")

    def _keep(self, made: Prediction, step: int, steps: int) -> str:
        given = made.input
        what = json.dumps({key: given.get(key) for key in ("prompt", "seed", "negative_prompt")})
        if given.get("seed") is None:
            what += made.id
        picture = paint(what, int(given.get("width", 64)), int(given.get("height", 64)))
        if step < steps:
            picture = picture.point(lambda value: round(128 + (value - 128) * step / steps))
        into = io.BytesIO()
        picture.save(into, "PNG", compress_level=1)
        name = f"{made.id}-{len(made.output)}.png"
        self.files[name] = into.getvalue()
        return f"{self.url}/files/{name}"

    def _cancel(self, made: Prediction) -> None:
        if made.status in ENDED:
            return
        if made.running:
            made.running.cancel()
        self._end(made, "canceled")

    def _end(self, made: Prediction, status: str) -> None:
        made.status, made.completed_at = status, datetime.now(UTC)
        made.say("done", json.dumps({} if status == "succeeded" else {"reason": status}))

    def _told(self, one: Prediction) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": one.id,
            "model": MODEL,
            "version": VERSION,
            "input": one.input,
            "output": one.output or None,
            "logs": one.logs,
            "error": one.error,
            "status": one.status,
            "source": "api",
            "data_removed": one.data_removed,
            "created_at": _iso(one.created_at),
            "urls": {
                "get": f"{self.url}/v1/predictions/{one.id}",
                "cancel": f"{self.url}/v1/predictions/{one.id}/cancel",
            },
        }
        if one.deployment:
            told["deployment"] = one.deployment
        if self.streams:
            told["urls"]["stream"] = f"{self.url}/stream/{one.id}"
        if one.started_at:
            told["started_at"] = _iso(one.started_at)
        if one.completed_at:
            told["completed_at"] = _iso(one.completed_at)
            ran = one.completed_at - (one.started_at or one.completed_at)
            told["metrics"] = {"predict_time": max(ran, timedelta(microseconds=1)).total_seconds()}
        return told

    def _find(self, request: Request) -> Prediction | None:
        return next((one for one in self.predictions if one.id == request.path_params["id"]), None)

    def _stranger(self, request: Request) -> Response | None:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return _problem(401, "Unauthenticated", "You did not pass a valid authentication token")
        return None


async def _news(one: Prediction) -> AsyncIterator[bytes]:
    told = 0
    while True:
        changed = one.changed
        while told < len(one.news):
            name, data = one.news[told]
            told += 1
            lines = "".join(f"data: {line}\n" for line in data.split("\n"))
            yield f"event: {name}\nid: {told}:0\n{lines}\n".encode()
            if name == "done":
                return
        await changed.wait()


def _problem(status: int, title: str, detail: str) -> Response:
    return JSONResponse({"title": title, "detail": detail, "status": status}, status)


def _id(number: int) -> str:
    return base64.b32encode(f"prediction{number:06}".encode()).decode().rstrip("=").lower()


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def main() -> None:
    """Serve until somebody ends it; the first line printed is the address."""
    parser = argparse.ArgumentParser(prog="python -m imagen.testing.replicate", description="A fake Replicate.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--step-s", type=float, default=0.0)
    options = parser.parse_args()

    async def serve() -> None:
        async with FakeReplicate(step_s=options.step_s).serving(options.port) as url:
            print(url, flush=True)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
