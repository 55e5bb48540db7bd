"""The product on a fake ComfyUI: every model end to end, cancelled wherever it is, beside strangers, on old servers."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.drawing_kit import SMALL, draw, drawing, followed, job_of, nothing_of_ours, opened, submitted, until

import imagen
from imagen.app import App
from imagen.core.request import Draft
from imagen.testing.comfyui import Fake

MODELS = (
    "flux1-schnell",
    "flux2-klein",
    "flux2-klein-base",
    "hidream-o1",
    "sd35-medium",
    "z-image-turbo",
    "qwen-image",
)
SMALLEST = {"hidream-o1": (1024, 1024), "sd35-medium": (128, 128), "flux2-klein": (128, 128)}
SPLIT = ("load", "encode", "sample", "decode", "save")
PHASES = ["loading", "encoding", "sampling", "decoding", "saving"]


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    server = Fake()
    async with server.serving():
        yield server


@pytest.fixture
async def app(fake: Fake, tmp_path: Path) -> AsyncIterator[App]:
    async with opened(tmp_path / "home", fake.url) as opening:
        yield opening


@pytest.mark.parametrize("model", MODELS)
async def test_a_bundled_model_is_drawn_with_steps_phases_and_previews(app: App, fake: Fake, model: str) -> None:
    """Everything that is promised of a picture: while it is drawn, at its end, and at the server."""
    fake.step_s = fake.load_s = fake.encode_s = fake.decode_s = 0.05
    width, height = SMALLEST.get(model, (64, 64))
    told = await draw(app, model=model, width=width, height=height, steps=5, preview={"stride": 1})
    (image,) = told.completed.images
    with Image.open(io.BytesIO(await app.image_bytes(image))) as picture:
        assert (picture.size, picture.format) == ((width, height), "PNG")
        assert "flux" not in picture.info.get("prompt", ""), "the graph of the server is not for strangers"
    assert told.stepped(5)
    assert told.previewed
    assert set(told.previewed) <= {1, 2, 3, 4}
    assert all(max(event.width, event.height) <= 512 for event in told.of(imagen.Preview))
    assert sorted({event.phase for event in told.of(imagen.Phase)}, key=PHASES.index) == PHASES
    timings = told.completed.timings
    assert all(timings[name] > 0 for name in SPLIT)
    assert sum(timings[name] for name in SPLIT) <= timings["total"] + 0.05
    assert (told.completed.vram_peak_mib or 0) > 600
    assert "whole device" in (told.completed.vram_method or "")
    assert not told.of(imagen.Warning)
    assert fake.idle
    assert len(fake.sampled) == 1


async def test_previews_are_asked_of_the_server_only_when_somebody_watches(app: App, fake: Fake) -> None:
    """Without a watcher the server makes none, and the picture is the same."""
    watched, alone = await draw(app, preview={"stride": 1}), await draw(app, preview=False)
    assert [one.extra["preview_method"] for one in fake.prompts] == ["auto", "none"]
    assert watched.pixels == alone.pixels
    assert not alone.of(imagen.Preview)


async def test_several_pictures_are_several_prompts(app: App, fake: Fake) -> None:
    """Picture k has seed + k; the steps are counted over all of them."""
    told = await draw(app, n=3)
    assert [image.seed for image in told.completed.images] == [7, 8, 9]
    assert told.stepped(12)
    alone = await draw(app, seed=9)
    assert told.pixels[2] == alone.pixels[0]
    assert len(fake.sampled) == 4


async def test_the_same_request_is_really_drawn_again(app: App, fake: Fake) -> None:
    """The server's memory of the last picture is not passed on as a new one."""
    first, second = await draw(app), await draw(app)
    assert first.pixels == second.pixels
    assert len(fake.sampled) == 2


async def test_the_server_is_left_as_it_was(app: App, fake: Fake) -> None:
    """No picture is left in its output folder."""
    await draw(app)
    assert not fake.saved


async def test_pictures_stay_at_the_server_where_its_owner_wants_them(fake: Fake, tmp_path: Path) -> None:
    """With `outputs: output` each lies in the server's output folder, under a name of its own."""
    config = "backends: {comfyui: {outputs: output}}\n"
    async with opened(tmp_path / "home", fake.url, config=config) as app:
        await draw(app)
        await draw(app)
    assert [folder for _, folder, _ in fake.saved] == ["imagen", "imagen"]
    assert len({name for _, _, name in fake.saved}) == 2


@pytest.mark.parametrize("version", ["0.3.45", "0.3.75", "0.5.0", "0.25.0", "0.26.0", "0.33.0"])
async def test_every_version_since_a_year_and_a_half_draws_and_can_be_stopped(version: str, tmp_path: Path) -> None:
    """Whatever routes it has: a picture with previews, and a cancelled one that leaves the server."""
    fake = Fake(version=version, preview_method="auto", step_s=0.05)
    async with fake.serving() as url, opened(tmp_path / "home", url) as app:
        told = await draw(app, preview={"stride": 1})
        assert told.stepped(4)
        assert told.previewed
        fake.hold("sampling", step=2)
        async with drawing(app, seed=8) as task:
            await until(lambda: fake.held)
            await app.cancel(await job_of(app))
        assert isinstance(task.result().end, imagen.Cancelled)
        assert fake.idle


async def test_an_old_server_without_previews_says_how_to_get_them(tmp_path: Path) -> None:
    """Before 0.5 only whoever starts the server can turn them on."""
    fake = Fake(version="0.3.75")
    async with fake.serving() as url, opened(tmp_path / "home", url) as app:
        told = await draw(app, preview={"stride": 1})
    assert told.completed.images
    assert any("--preview-method auto" in event.message for event in told.of(imagen.Warning))


@pytest.mark.parametrize(("version", "model"), [("0.3.40", "flux1-schnell"), ("0.9.0", "hidream-o1")])
async def test_a_server_that_is_too_old_is_named_with_what_is_needed(version: str, model: str, tmp_path: Path) -> None:
    """Before anything is drawn."""
    fake = Fake(version=version)
    width, height = SMALLEST.get(model, (64, 64))
    async with fake.serving() as url, opened(tmp_path / "home", url) as app:
        error = (await draw(app, model=model, width=width, height=height)).failed
    assert version in error.message
    assert error.hint
    assert not fake.samplings


class TestCancel:
    """Wherever the prompt is: afterwards nothing of ours waits or runs there."""

    @pytest.mark.parametrize("phase", ["loading", "encoding", "sampling", "decoding"])
    async def test_while_it_is_drawn(self, app: App, fake: Fake, phase: Any) -> None:
        """The job ends cancelled, once, when the server has let go of it."""
        fake.hold(phase)
        async with drawing(app) as task:
            await until(lambda: fake.held)
            await app.cancel(await job_of(app))
            if phase != "sampling":  # anything else goes on to its own end first
                await until(lambda: fake.cancelled)
                fake.go_on()
        assert isinstance(task.result().end, imagen.Cancelled)
        assert fake.idle
        assert [one.state for one in fake.prompts] == ["interrupted"]

    async def test_while_it_waits_behind_a_stranger(self, app: App, fake: Fake) -> None:
        """Only ours is taken out of the queue; theirs is drawn to its end."""
        fake.hold("sampling", step=2)
        theirs = fake.stranger()
        async with drawing(app) as task:
            await until(lambda: fake.mine)
            await app.cancel(await job_of(app))
        assert isinstance(task.result().end, imagen.Cancelled)
        assert [one.state for one in fake.mine] == ["deleted"]
        assert fake.prompt(theirs).state == "running"
        fake.go_on()
        await until(lambda: fake.idle)
        assert fake.prompt(theirs).state == "completed"
        assert not [one for one in fake.interrupted if one is None], "that would stop anybody's"

    async def test_between_two_pictures_what_is_there_stays(self, app: App, fake: Fake) -> None:
        """The first picture is kept, and no other prompt is sent."""
        async with drawing(app, n=5) as task:
            await until(lambda: fake.sampled)
            fake.hold("sampling")
            await until(lambda: fake.held)
            await app.cancel(await job_of(app))
        end = task.result().end
        assert isinstance(end, imagen.Cancelled)
        assert len(end.images) == len(fake.sampled) < 5
        assert fake.idle

    async def test_by_leaving_the_loop(self, app: App, fake: Fake) -> None:
        """As everywhere: who stops listening to `generate` stops the work."""
        fake.hold("sampling", step=3)
        async with aclosing(app.generate("a red fox", **SMALL)) as events:
            async for event in events:
                if isinstance(event, imagen.Progress):
                    break
        nothing_of_ours(fake)
        assert fake.idle


class TestStrangers:
    """A server that others use too."""

    async def test_their_progress_is_not_taken_for_ours(self, app: App, fake: Fake) -> None:
        """A prompt without a client id is told to everybody, while ours waits behind it."""
        fake.step_s = 0.05
        fake.hold("sampling", step=2)
        theirs = fake.stranger(steps=9)
        async with drawing(app, preview={"stride": 1}) as task:
            await until(lambda: fake.mine)
            fake.go_on()
        told = task.result()
        assert told.stepped(4)
        assert set(told.previewed) <= {1, 2, 3}
        assert fake.prompt(theirs).state == "completed"

    async def test_memory_is_not_taken_away_from_under_them(self, app: App, fake: Fake) -> None:
        """Two models are compared while a stranger's prompt runs or waits: nothing is freed."""
        await draw(app)
        fake.hold("sampling")
        fake.stranger()
        await until(lambda: fake.held)
        model = app.catalog.get("flux1-schnell")
        backend: Any = app.backend_for(model)
        await backend.release(model)
        assert not fake.freed
        fake.go_on()
        await until(lambda: fake.idle)
        await backend.release(model)
        assert fake.freed == [{"unload_models": True, "free_memory": True}]

    async def test_two_installations_share_a_server(self, fake: Fake, tmp_path: Path) -> None:
        """Each with a database of its own: every job is drawn once, and each hears only of its own."""
        async with opened(tmp_path / "one", fake.url) as one, opened(tmp_path / "two", fake.url) as two:
            jobs = [draw(app, seed=seed, preview={"stride": 1}) for seed in range(4) for app in (one, two)]
            told = await asyncio.gather(*jobs)
        assert all(one.completed.images and one.stepped(4) for one in told)
        assert [told[k].pixels for k in range(0, 8, 2)] == [told[k].pixels for k in range(1, 8, 2)]
        assert len(fake.sampled) == 8
        assert fake.idle


async def test_sixty_quick_jobs_end_right(app: App, fake: Fake) -> None:
    """Each ends once, with its picture, and was drawn once."""
    async with app.drawing():
        jobs = [await submitted(app, seed=seed, steps=2) for seed in range(60)]
        told = [await followed(app, job) for job in jobs]
    assert [len(one.completed.images) for one in told] == [1] * 60
    assert len({one.pixels[0] for one in told}) == 60
    assert len(fake.sampled) == len(set(fake.sampled)) == 60
    assert fake.idle


async def test_who_watches_before_a_job_is_drawn_sees_it_forming(tmp_path: Path, fake: Fake) -> None:
    """The server decides about previews when it is handed the prompt: by then it is known that somebody looks."""
    async with opened(tmp_path / "watched", fake.url) as app:
        job = await app.submit(Draft(prompt="a fox", model="sd35-medium", width=128, height=128, steps=6))
        async with app.watching(job.id, previews=True) as watch:
            seen = list(await watch.next(0.2))  # now it is written down that somebody watches
            async with app.working([job.id]):
                while not watch.ended:
                    seen += await watch.next(5.0)
    assert [event for event in seen if isinstance(event, imagen.Preview)]
