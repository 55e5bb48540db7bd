"""The whole product in the test's own process, drawing on a ComfyUI server, and what its events came to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import imagen
from imagen.app import App
from imagen.config import load_settings
from imagen.core.request import drafted
from imagen.testing.comfyui import Fake

PATIENCE_S = 60.0  # for a machine that is busy with other tests
SMALL = {"model": "flux1-schnell", "width": 64, "height": 64, "steps": 4, "seed": 7}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """The events of a job, from its beginning to its end."""

    events: Sequence[imagen.Event]

    def of(self, kind: type[T]) -> list[T]:
        """Those of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def end(self) -> Any:
        """How it ended: once, and with the last event."""
        ends = [event for event in self.events if event.terminal]
        assert len(ends) == 1, ends
        assert ends[0] is self.events[-1]
        return ends[0]

    @property
    def completed(self) -> imagen.Completed:
        """Its good end."""
        assert isinstance(self.end, imagen.Completed), self.end
        return self.end

    @property
    def failed(self) -> imagen.ImagenError:
        """The error it ended with."""
        assert isinstance(self.end, imagen.Failed), self.end
        return self.end.error

    def stepped(self, total: int) -> bool:
        """Its steps rose, to the last one, and were counted against one total. A quick one may have been left out."""
        steps = [event.step for event in self.of(imagen.Progress)]
        rose = steps == sorted(set(steps)) and steps[-1:] == [total]
        return rose and {event.total for event in self.of(imagen.Progress)} == {total}

    @property
    def previewed(self) -> list[int]:
        """The steps whose previews were seen."""
        return [event.step for event in self.of(imagen.Preview)]

    @property
    def requeued(self) -> list[str]:
        """Why it was begun anew, each time."""
        return [event.error.code if event.error else event.reason for event in self.of(imagen.Requeued)]

    @property
    def pixels(self) -> list[str | None]:
        """What the pictures' pixels come to."""
        return [image.pixels_sha256 for image in self.completed.images]


@asynccontextmanager
async def opened(
    home: Path, url: str, *, config: str = "", patience_s: float | None = PATIENCE_S
) -> AsyncIterator[App]:
    """The product with a home of its own; `config` is its config.yaml."""
    home.mkdir(parents=True, exist_ok=True)
    if config:
        (home / "config.yaml").write_text(config)
    settings = load_settings(home=home, environ={"IMAGEN_COMFYUI_URL": url})
    async with asyncio.timeout(patience_s), imagen.open(settings=settings) as app:
        yield app


async def draw(app: App, prompt: str = "a red fox", **fields: Any) -> Told:
    """A small job, to its end."""
    return Told([event async for event in app.generate(prompt, **{**SMALL, **fields})])


@asynccontextmanager
async def drawing(app: App, **fields: Any) -> AsyncIterator["asyncio.Task[Told]"]:
    """A small job that is being drawn while the block runs; awaited at its end."""
    task = asyncio.create_task(draw(app, **fields))
    try:
        yield task
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def submitted(app: App, **fields: Any) -> str:
    """A small job that nobody follows; its id."""
    return (await app.submit(drafted("a red fox", {**SMALL, **fields}))).id


async def followed(app: App, job_id: str) -> Told:
    """All of a job, to its end."""
    return Told([event async for event in app.follow(job_id)])


async def until(condition: Callable[[], T]) -> T:
    """Wait for something that can only be looked at."""
    async with asyncio.timeout(PATIENCE_S):
        while not (value := condition()):
            await asyncio.sleep(0.005)
        return value


async def job_of(app: App) -> str:
    """The id of the newest job."""
    async with asyncio.timeout(PATIENCE_S):
        while not (page := await app.jobs()):
            await asyncio.sleep(0.005)
        return page[0].id


def model_folder(home: Path, name: str, graph: dict[str, Any], **keys: Any) -> None:
    """A model of the user's own."""
    folder = home / "models" / name
    folder.mkdir(parents=True)
    (folder / "workflow.json").write_text(json.dumps(graph))
    (folder / "model.yaml").write_text(json.dumps({"title": name, "backend": "comfyui", **keys}))  # JSON is YAML


def nothing_of_ours(fake: Fake) -> None:
    """Whatever happened, the server neither runs nor keeps a prompt of ours."""
    left = [one for one in fake.mine if one.state in ("pending", "running")]
    assert not left
