"""The recorded clients, replayed against `imagen serve` in front of each backend that can be had without a card."""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagen.testing.clients import Verdict, load, replay
from imagen.testing.comfyui import Fake
from imagen.testing.openai_images import FakeImages
from imagen.testing.replicate import FakeReplicate
from tests.cloud_kit import TOKEN
from tests.service_kit import House

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
