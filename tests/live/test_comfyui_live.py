"""The product on a real ComfyUI, by hand: `IMAGEN_COMFYUI_URL=http://127.0.0.1:8188 pytest -m live tests/live`.

Whatever models the server has files for are drawn small. Nobody else should use it meanwhile.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from tests.comfy_kit import REAL
from tests.drawing_kit import Told, draw, drawing, job_of, opened

import imagen
from imagen.app import App

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

MODELS = (
    *("flux1-schnell", "flux2-klein", "flux2-klein-base", "hidream-o1"),
    *("sd35-medium", "z-image-turbo", "qwen-image"),
)
SPLIT = ("load", "encode", "sample", "decode", "save")
SMALLEST = {"hidream-o1": (1024, 1024)}
PATIENCE_S = 300.0  # weights may come from a disk, and be drawn with on a CPU


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with opened(tmp_path / "home", REAL, patience_s=PATIENCE_S) as opening:
        yield opening


async def needs(app: App, name: str) -> dict[str, Any]:
    """The smallest request for a model; the test does not apply where the server has no files for it."""
    model = app.catalog.get(name)
    errors = [check.error for check in await app.backend_for(model).check(model) if check.error is not None]
    if errors:
        pytest.skip(f"this backend's server cannot draw {name}: {errors[0].message}")
    width, height = SMALLEST.get(name, (128, 128))
    return {"model": name, "width": width, "height": height, "steps": 3}


async def queue() -> tuple[list[Any], list[Any]]:
    """What runs and what waits at the server."""
    async with httpx2.AsyncClient(base_url=REAL, trust_env=False) as http:
        told = (await http.get("/queue")).json()
    return told["queue_running"], told["queue_pending"]


async def until_sampling(app: App, job: str) -> None:
    """Wait for a step of it."""
    async for event in app.follow(job):
        if isinstance(event, imagen.Progress):
            return


@pytest.mark.parametrize("name", MODELS)
async def test_a_model_is_drawn(app: App, name: str) -> None:
    """Steps, phases, previews, a picture of its size, honest times and a figure for the memory."""
    told = await draw(app, **await needs(app, name), preview={"stride": 1})
    (image,) = told.completed.images
    with Image.open(io.BytesIO(await app.image_bytes(image))) as picture:
        assert picture.size == (image.width, image.height) == SMALLEST.get(name, (128, 128))
    assert told.stepped(3)
    assert told.previewed
    assert {"sampling", "saving"} <= {event.phase for event in told.of(imagen.Phase)}
    timings = told.completed.timings
    assert sum(timings[part] for part in SPLIT) <= timings["total"] + 0.05
    assert timings["sample"] > 0
    assert (told.completed.vram_peak_mib or 0) > 0
    assert told.completed.vram_method
    assert await queue() == ([], [])


async def test_the_same_request_gives_the_same_pixels(app: App) -> None:
    """Drawn twice, watched and not: really drawn, and the same."""
    asked = await needs(app, "flux1-schnell")
    first, second = await draw(app, **asked, preview={"stride": 1}), await draw(app, **asked, preview=False)
    assert first.pixels == second.pixels
    assert not [event for told in (first, second) for event in told.of(imagen.Warning)]
    assert second.completed.timings["sample"] > 0


async def test_a_cancelled_prompt_leaves_the_server(app: App) -> None:
    """In the middle of its steps; its queue is empty when the job has ended."""
    asked = await needs(app, "flux1-schnell") | {"steps": 80}
    async with drawing(app, **asked) as task:
        job = await job_of(app)
        await until_sampling(app, job)
        await app.cancel(job)
    assert isinstance(task.result().end, imagen.Cancelled)
    assert await queue() == ([], [])


async def test_a_cancelled_prompt_that_waits_leaves_the_others_alone(app: App, tmp_path: Path) -> None:
    """Two installations: the second one's prompt waits behind the first one's, and is taken away."""
    asked = await needs(app, "flux1-schnell")
    async with opened(tmp_path / "other", REAL, patience_s=PATIENCE_S) as other:
        async with drawing(app, **asked | {"steps": 40}) as first:
            await until_sampling(app, await job_of(app))
            async with drawing(other, **asked) as second:
                job = await job_of(other)
                async with asyncio.timeout(PATIENCE_S):
                    while not (await queue())[1]:
                        await asyncio.sleep(0.02)
                await other.cancel(job)
            assert isinstance(second.result().end, imagen.Cancelled)
        assert first.result().completed.images
    assert await queue() == ([], [])


async def test_a_broken_socket_costs_nothing(app: App) -> None:
    """The line is cut in the middle, again and again: the same picture as without."""
    asked = await needs(app, "flux1-schnell") | {"steps": 20}
    alone = await draw(app, **asked)
    backend: Any = app.backend_for(app.catalog.get("flux1-schnell"))
    async with drawing(app, **asked) as task:
        while not task.done():
            await asyncio.sleep(0.3)
            for server in backend._servers.values():
                if server.line._socket is not None:
                    server.line._socket.abort()
    told: Told = task.result()
    assert told.stepped(20)
    assert told.pixels == alone.pixels
