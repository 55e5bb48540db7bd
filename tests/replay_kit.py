"""What recorded clients are replayed against: `imagen serve` in front of each backend, and the least of servers."""

import asyncio
import base64
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from imagen.testing.clients import Verdict, load, replay
from imagen.testing.comfyui import Fake
from imagen.testing.openai_images import FakeImages
from imagen.testing.replicate import FakeReplicate
from imagen.testing.served import Served
from tests.cloud_kit import TOKEN
from tests.service_kit import House

Body = Mapping[str, Any]

LIMITS = {"min": 16, "max": 2048, "n": 4}
SMALL = {"width": 64, "height": 64, "steps": 8}
LONGEST_S = 120.0  # of one picture, on a machine that is busy with other tests


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A backend as somebody has set it up: which model is asked for, and what stands in config.yaml."""

    model: str
    settings: Mapping[str, Any]


@contextmanager
def _mock() -> Iterator[Setup]:
    keys = {"backend": "mock", "title": "Quick", "defaults": SMALL, "limits": LIMITS, "palette": "balanced"}
    options = {"slow": {"type": "float", "default": 0.1}}
    yield Setup(model="quick", settings={"models": {"quick": {**keys, "options": options}}})


@contextmanager
def _onnx() -> Iterator[Setup]:
    yield Setup(model="tiny-3d", settings={})


@contextmanager
def _comfyui() -> Iterator[Setup]:
    with Fake(step_s=0.01).running() as url:
        keys = {"backend": "comfyui", "workflow": "flux1-schnell", "url": url}
        yield Setup(model="flux", settings={"models": {"flux": keys}})


@contextmanager
def _openai() -> Iterator[Setup]:
    with FakeImages(step_s=0.01).running() as url:
        keys = {"backend": "openai", "model": "gpt-image-2", "url": f"{url}/v1", "dialect": "imagen", "stream": True}
        yield Setup(
            model="served",
            settings={"models": {"served": {**keys, "title": "Served", "defaults": SMALL, "limits": LIMITS}}},
        )


@contextmanager
def _replicate() -> Iterator[Setup]:
    with FakeReplicate(intermediate=True, step_s=0.01).running() as url:
        keys = {"backend": "replicate", "model": "some/flux", "intermediate": True}
        yield Setup(
            model="hosted",
            settings={
                "backends": {"replicate": {"api": f"{url}/v1", "token": TOKEN, "poll_s": 0.02}},
                "models": {"hosted": {**keys, "title": "Hosted", "defaults": SMALL, "limits": LIMITS}},
            },
        )


# What each stands for in the table of docs/reference/clients.md.
BACKENDS: Mapping[str, Callable[[], AbstractContextManager[Setup]]] = {
    "mock": _mock,
    "onnx": _onnx,
    "comfyui": _comfyui,
    "openai": _openai,
    "replicate": _replicate,
}


def replayed(backend: str, folder: Path | None = None) -> list[Verdict]:
    """What becomes of every client with `imagen serve` in front of this backend."""
    with BACKENDS[backend]() as setup:
        folder = folder or Path(tempfile.mkdtemp(prefix="imagen-clients-"))
        with House(folder=folder / backend) as house:
            told = {"default_model": setup.model, **setup.settings}
            (house.home / "config.yaml").write_text(json.dumps(told))
            server = house.start("serve", "--port", "0", environment={"IMAGEN_DEFAULT_MODEL": setup.model})
            server.ready()
            return asyncio.run(_all(server.url, setup.model))


async def _all(url: str, model: str) -> list[Verdict]:
    return [verdict async for verdict in replay(load(), url, model=model, timeout_s=LONGEST_S)]


def _png() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = _png()
INFO = json.dumps({"infotexts": ["a fox"], "seed": 7, "width": 8, "height": 8})
USAGE = {"input_tokens": 0, "output_tokens": 0, "input_tokens_details": {"text_tokens": 0, "image_tokens": 0}}
EVENT = {"b64_json": PICTURE, "created_at": 1, "output_format": "png"}


class Door(Served):
    """The smallest server that every recorded client can work with, and that can be told to do something wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: dict[str, Any] = {}
        self.checkpoint = "one"
        self.gone: tuple[str, ...] = ()  # checkpoints that can no longer be chosen
        self.last: Body = {}

    def make_app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._any, methods=["GET", "HEAD", "OPTIONS", "POST"])])

    async def _any(self, request: Request) -> Response:
        path = request.scope["path"]
        body = {}
        if request.headers.get("content-type", "").startswith("application/json"):
            body = self.last = await request.json()
        if (wrong := self.wrong.get(path)) is not None:
            return wrong if isinstance(wrong, Response) else JSONResponse(wrong)
        if request.method == "OPTIONS":
            return Response(status_code=204)
        if path == "/sdapi/v1/options" and body:
            if body["sd_model_checkpoint"] in self.gone:
                return JSONResponse({"errors": "there is no such checkpoint"}, status_code=404)
            self.checkpoint = body["sd_model_checkpoint"]
        if body.get("stream"):
            kinds = ("partial_image", "partial_image", "completed")
            return stream(*({"type": f"image_generation.{kind}", **EVENT} for kind in kinds))
        return _edited() if path.endswith("edits") else JSONResponse(self._answer(path, body))

    def _answer(self, path: str, body: Body) -> Any:
        match path.rsplit("/", 1)[-1]:
            case "":
                return {"model": "one", "upscaler": None}
            case "models":
                names = ("one", "dall-e-3", "gpt-image-1")
                return {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
            case "generations":
                return {"created": 1, "data": [{"b64_json": PICTURE}] * body.get("n", 1), "usage": USAGE}
            case "txt2img":
                return {"images": [PICTURE] * body.get("batch_size", 1), "parameters": {}, "info": INFO}
            case "options":
                return {"sd_model_checkpoint": self.checkpoint, "samples_format": "png"}
            case "sd-models":
                return [{"title": "one", "model_name": "one"}]
            case "progress":
                return {"progress": 0.0, "state": {"job_count": 0}}
            case _:
                return [{"name": "Euler a", "model_name": "x"}]


def _edited() -> Response:
    return JSONResponse({"error": {"message": "nothing edits here", "hint": "draw instead"}}, status_code=400)


def stream(*shapes: Body) -> Response:
    text = ": still there\n\n" + "".join(f"event: {one.get('type')}\ndata: {json.dumps(one)}\n\n" for one in shapes)
    return PlainTextResponse(text + "data: [DONE]\n\n", media_type="text/event-stream")
