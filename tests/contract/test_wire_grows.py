"""The wire may only grow: what a program sends and reads today works with every later version.

`golden/native.txt` is the native API, `golden/a1111.txt` the door for Automatic1111, `golden/openai.json` the one for
OpenAI (test_openai_stream.py). Lines are added to them by hand, together with what is new. Taking one away breaks
somebody's program.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests import NOWHERE
from tests.wire_kit import lost, promises, shape

from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.surfaces.http.server import make_server

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = {"prompt": "a fox", "width": 64, "height": 64, "steps": 2, "override_settings": {"sd_model_checkpoint": "mock"}}

# Every route of that door that can be asked without anything before it.
A1111: dict[str, Any] = {
    "GET /sdapi/v1/options": None,
    "POST /sdapi/v1/txt2img": SMALL,
    "GET /sdapi/v1/progress": None,
    "POST /internal/progress": {"id_task": "none"},
    "GET /sdapi/v1/sd-models": None,
    "GET /sdapi/v1/samplers": None,
    "GET /sdapi/v1/schedulers": None,
    "GET /sdapi/v1/upscalers": None,
    "GET /sdapi/v1/latent-upscale-modes": None,
    "GET /sdapi/v1/sd-vae": None,
    "GET /sdapi/v1/loras": None,
    "GET /sdapi/v1/embeddings": None,
    "GET /sdapi/v1/prompt-styles": None,
    "GET /sdapi/v1/memory": None,
    "GET /sdapi/v1/cmd-flags": None,
    "POST /sdapi/v1/interrupt": {},
    "POST /sdapi/v1/skip": {},
}


def golden(name: str) -> set[str]:
    return set((GOLDEN / name).read_text(encoding="utf-8").splitlines())


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[dict[str, Any], httpx2.AsyncClient]]:
    """The document of the server, and somebody who asks it."""
    settings = load_settings(home=tmp_path, environ={"IMAGEN_COMFYUI_URL": NOWHERE, "IMAGEN_DEFAULT_MODEL": "mock"})
    async with open_app(settings=settings) as app, app.drawing():
        made = make_server(app, settings=settings, drawing=False)
        transport = httpx2.ASGITransport(app=made)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
            yield made.openapi(), client


async def a1111(client: httpx2.AsyncClient) -> set[str]:
    """What that door answers, name by name."""
    found = set()
    for route, body in A1111.items():
        method, path = route.split()
        answer = await client.request(method, path, json=body)
        assert answer.status_code == 200, f"{route}: {answer.status_code}: {answer.text[:200]}"
        told = answer.json()
        lines = {line for line in shape(told) if not line.startswith("cuda")}  # that is the machine's
        if path.endswith("txt2img"):
            lines |= {f"info{{}}.{line}" for line in shape(json.loads(told["info"]))}
        found |= {route} | {f"{route} > {line}" for line in lines if line}
    return found


async def test_the_native_api_only_grows(served: tuple[dict[str, Any], httpx2.AsyncClient]) -> None:
    """No route, field or type of an answer is lost, and no field has to be sent that was free before."""
    today = promises(served[0])
    assert not lost(golden("native.txt"), today)
    assert today <= golden("native.txt"), "what is sent is promised: add these lines to golden/native.txt"


async def test_the_door_for_automatic1111_only_grows(served: tuple[dict[str, Any], httpx2.AsyncClient]) -> None:
    """Every name and type that a client of that API reads stays."""
    today = await a1111(served[1])
    assert not lost(golden("a1111.txt"), today)
    assert today <= golden("a1111.txt"), "what is sent is promised: add these lines to golden/a1111.txt"


def test_what_is_taken_away_is_found() -> None:
    """A field that is gone, one of another type, a status, a route, and one that has to be sent now."""
    fields = {"width": {"type": "integer"}, "prompt": {"type": "string"}}
    new: dict[str, Any] = {"properties": fields, "required": ["prompt"]}
    kind = "application/json"
    document: dict[str, Any] = {
        "paths": {
            "/jobs": {
                "post": {
                    "requestBody": {"content": {kind: {"schema": {"$ref": "#/components/schemas/NewJob"}}}},
                    "responses": {"202": {"content": {kind: {"schema": {"$ref": "#/components/schemas/Job"}}}}},
                }
            }
        },
        "components": {
            "schemas": {
                "NewJob": new,
                "Job": {
                    "properties": {
                        "id": {"type": "string"},
                        "parts": {"items": {"$ref": "#/components/schemas/Job"}},
                    }
                },
            }
        },
    }
    before = promises(document)
    assert {"POST /jobs < NewJob", "POST /jobs 202 > Job", "Job.parts: [Job]", "NewJob ! prompt"} <= before
    assert not lost(before, before)
    document["paths"]["/more"] = {"get": {"responses": {"200": {}}}}
    fields["seed"] = {"type": "integer"}
    assert not lost(before, promises(document)), "growing is free"
    document["components"]["schemas"]["Job"]["properties"]["id"] = {"type": "integer"}
    new["required"] = ["prompt", "width"]
    del fields["width"]
    assert lost(before, promises(document)) == [
        "gone: Job.id: string",
        "gone: NewJob.width: integer",
        "needed now: NewJob ! width",
    ]
    assert shape({"a": [{"b": 1}, {"b": None, "c": "x"}]}) == {
        "a",
        "a: list",
        "a[].b",
        "a[].b: number",
        "a[].c",
        "a[].c: text",
    }
