"""One prompt and the races around it, against a fake server: nothing is drawn twice, lost, or left behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import imagen.models
from imagen.backends.comfyui import registration
from imagen.backends.comfyui.backend import AWAY_S, ComfyUI
from imagen.backends.comfyui.keeper import Pace
from imagen.backends.to_its_end import to_its_end
from imagen.core.errors import Crashed, MissingExtra, MissingFile, OutOfMemory, Rejected, TimedOut, Unreachable
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.signals import Handle, Notice, Output, Preview, Signal, Step
from imagen.models.catalog import load_catalog
from imagen.testing.comfyui import Fake
from imagen.testing.signals import Nobody, Watching, collect, outputs, pixels

CATALOG = load_catalog(
    folders=[Path(folder) for folder in imagen.models.__path__],
    configured={},
    default_model="flux1-schnell",
    backends={"comfyui": registration},
    backend_settings={},
    host="here",
)
MODEL = CATALOG.get("flux1-schnell")
# Quick where a test would wait, and patient where it must not matter how busy the machine is.
PACE = Pace(ask_s=0.1, ask_without_line_s=0.05, again_s=0.03, silent_s=0.3, away_s=20.0, gone_s=20.0)


def request(**fields: Any) -> Request:
    draft = Draft(model="flux1-schnell", prompt="a fox", width=64, height=64, seed=7, steps=4)
    return CATALOG.resolve(replace(draft, **fields), lambda: 7).request


@asynccontextmanager
async def opened(fake: Fake, pace: Pace = PACE, **settings: Any) -> AsyncIterator[ComfyUI]:
    backend = ComfyUI({"url": fake.url, **settings}, pace)
    try:
        yield backend
    finally:
        await backend.aclose()


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    server = Fake()
    async with server.serving():
        yield server


@pytest.fixture
async def backend(fake: Fake) -> AsyncIterator[ComfyUI]:
    async with opened(fake) as opening:
        yield opening


async def draw(backend: ComfyUI, model: Model = MODEL, **fields: Any) -> list[Signal]:
    return await collect(backend, request(**fields), model)


async def soon(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.002)


def steps(said: list[Signal]) -> list[int]:
    return [signal.step for signal in said if isinstance(signal, Step)]


def token(said: list[Signal]) -> str:
    return next(signal.token for signal in said if isinstance(signal, Handle))


class TestWhatItCosts:
    async def test_a_picture_is_two_requests(self, backend: ComfyUI, fake: Fake) -> None:
        """The prompt and the picture; what the server is and has was asked with the first one."""
        await draw(backend)
        before = len(fake.requests)
        await draw(backend, seed=8)
        asked = [f"{one.method} {one.path}" for one in fake.requests[before:]]
        assert [one for one in asked if one != "GET /system_stats"] == ["POST /prompt", "GET /view"]
        assert len(fake.sockets) == 1

    async def test_nothing_runs_between_two_pictures(self, backend: ComfyUI) -> None:
        """Though the line stays open."""
        before = asyncio.all_tasks()
        await draw(backend)
        assert not [task for task in asyncio.all_tasks() - before if "comfyui-" in task.get_name()]


class TestHandingOver:
    async def test_a_lost_answer_is_no_second_drawing(self, backend: ComfyUI, fake: Fake) -> None:
        """The server is asked whether it has the prompt."""
        fake.lose_reply()
        assert len(outputs(await draw(backend))) == 1
        assert len(fake.prompts) == 1

    async def test_a_lost_request_is_made_again(self, backend: ComfyUI, fake: Fake) -> None:
        """Where the server says twice that it has never heard of it."""
        fake.answer("/prompt", 503, "restarting")
        assert len(outputs(await draw(backend))) == 1
        fake.answer("/prompt", 503, "restarting", times=2)
        with pytest.raises(Unreachable):
            await draw(backend)
        assert len(fake.prompts) == 1

    async def test_cancelled_in_the_middle_it_is_taken_back(self, backend: ComfyUI, fake: Fake) -> None:
        """The request may arrive after the caller has gone."""
        await draw(backend)
        fake.hold("sampling")
        fake.delay("/prompt", 0.2)
        before = len(fake.requests)
        drawing = asyncio.create_task(draw(backend, seed=8))
        await soon(lambda: len(fake.requests) > before)
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        assert len(fake.prompts) == 2
        assert fake.idle
        assert len(fake.sampled) == 1

    async def test_what_is_half_refused_is_taken_back(self, backend: ComfyUI, fake: Fake) -> None:
        """A 200 can carry errors: then a part of the workflow would be drawn."""
        graph = dict(MODEL.graph or {})
        graph["20"] = {"class_type": "VAELoader", "inputs": {"vae_name": "absent.safetensors"}}
        graph["21"] = {"class_type": "VAEDecode", "inputs": {"samples": ["31", 0], "vae": ["20", 0]}}
        graph["22"] = {"class_type": "PreviewImage", "inputs": {"images": ["21", 0]}}
        fake.hold("sampling")
        with pytest.raises(MissingFile, match=r"absent\.safetensors"):
            await draw(backend, replace(MODEL, graph=graph))
        assert len(fake.prompts) == 1
        assert fake.idle
        assert not fake.sampled

    async def test_a_node_that_is_missing_is_named_before_anything_is_sent(self, backend: ComfyUI, fake: Fake) -> None:
        """And found once it is there."""
        node = fake.nodes["VAEDecode"]
        fake.remove_node("VAEDecode")
        with pytest.raises(MissingExtra, match="'VAEDecode'"):
            await draw(backend)
        assert not fake.prompts
        fake.nodes["VAEDecode"] = node
        assert len(outputs(await draw(backend))) == 1


class TestTheEnd:
    async def test_a_history_that_comes_late_is_waited_for(self, backend: ComfyUI, fake: Fake) -> None:
        """The word of success is older than the entry."""
        fake.history_lag_s = 0.05
        said = [outputs(await draw(backend, seed=seed)) for seed in range(5)]
        assert [len(one) for one in said] == [1] * 5

    async def test_the_end_that_was_missed_is_found_by_asking(self, backend: ComfyUI, fake: Fake) -> None:
        """The line broke before it, and told nothing of it when it was up again."""
        fake.hold("decoding")
        drawing = asyncio.create_task(draw(backend))
        await soon(lambda: fake.held)
        fake.go_silent(reconnects=9)
        fake.go_on()
        said = await drawing
        assert len(outputs(said)) == 1
        assert steps(said)[-1] == 4
        assert len(fake.sampled) == 1

    async def test_a_picture_that_is_gone_is_an_error(self, backend: ComfyUI, fake: Fake) -> None:
        """Somebody empties folders."""
        fake.answer("/view", 404, "")
        with pytest.raises(Crashed, match="does not have its file"):
            await draw(backend)

    async def test_what_took_how_long_is_known_where_nothing_was_heard(self, backend: ComfyUI, fake: Fake) -> None:
        """By the server's own clock."""
        fake.step_s = 0.05
        fake.hold("loading")
        drawing = asyncio.create_task(draw(backend))
        await soon(lambda: fake.held)
        fake.go_silent(reconnects=9)
        fake.go_on()
        (output,) = outputs(await drawing)
        assert output.facts["timings"]["sample"] >= 0.2


class TestTheLine:
    async def test_that_is_silent_is_opened_again(self, backend: ComfyUI, fake: Fake) -> None:
        """Open, and nothing comes: the server took the new socket for the old one."""
        fake.step_s = 0.1
        fake.hold("sampling", step=3)
        drawing = asyncio.create_task(draw(backend, steps=20))
        await soon(lambda: fake.held)
        fake.go_silent(reconnects=1)
        fake.go_on()
        said = await drawing
        assert len(outputs(said)) == 1
        assert set(steps(said)) & set(range(6, 20)), "steps are told again"

    async def test_of_a_prompt_that_waits_is_left_alone(self, backend: ComfyUI, fake: Fake) -> None:
        """Nothing is told of what waits, however long."""
        stranger = fake.stranger(steps=3)
        fake.hold("sampling", prompt_id=stranger)
        drawing = asyncio.create_task(draw(backend))
        await soon(lambda: len(fake.mine) == 1)
        (name,) = fake.sockets
        await asyncio.sleep(PACE.silent_s * 3)
        assert fake.sockets == [name]
        fake.go_on()
        assert len(outputs(await drawing)) == 1

    async def test_tells_two_calls_at_once_apart(self, backend: ComfyUI, fake: Fake) -> None:
        """A device may have two slots."""
        both = await asyncio.gather(
            *(collect(backend, request(seed=seed), MODEL, previews=Watching()) for seed in (7, 9))
        )
        assert [output.seed for said in both for output in outputs(said)] == [7, 9]
        assert [steps(said) for said in both] == [[1, 2, 3, 4]] * 2
        assert len(fake.sockets) == 1

    async def test_does_not_pass_on_what_is_a_strangers(self, backend: ComfyUI, fake: Fake) -> None:
        """People without a name have their progress told to everybody."""
        fake.stranger(steps=9)
        said = await collect(backend, request(), MODEL, previews=Watching())
        assert steps(said) == [1, 2, 3, 4]
        assert {signal.step for signal in said if isinstance(signal, Preview)} <= {1, 2, 3}


class TestFoundAgain:
    async def test_what_is_done_is_taken_as_it_is(self, backend: ComfyUI, fake: Fake) -> None:
        """The same picture, not drawn anew."""
        first = await draw(backend)
        async with opened(fake) as another:
            again = await collect(another, request(), MODEL, resume=token(first))
        assert pixels(outputs(again)[0]) == pixels(outputs(first)[0])
        assert steps(again) == [4]
        assert len(fake.sampled) == 1

    async def test_what_still_runs_is_listened_to(self, fake: Fake) -> None:
        """Under the name of the client that handed it over, for nobody else is told."""
        fake.step_s = 0.2
        fake.hold("sampling", step=3)
        before = ComfyUI({"url": fake.url}, PACE)
        said = before.generate(request(), MODEL, Nobody())
        handle = await anext(said)
        assert isinstance(handle, Handle)
        leaving = asyncio.create_task(_left(said))
        await soon(lambda: fake.held)
        async with opened(fake) as another:
            going_on = asyncio.create_task(collect(another, request(), MODEL, resume=handle.token))
            await soon(lambda: len(fake.sockets) == 2)
            fake.go_on()
            again = await going_on
        assert steps(again)[-2:] == [3, 4]
        assert len(fake.prompts) == len(fake.sampled) == 1
        await leaving
        await before.aclose()

    async def test_what_the_server_lost_is_handed_over_under_its_name(self, backend: ComfyUI, fake: Fake) -> None:
        """It was restarted: the error is worth a retry, and the retry is the same prompt."""
        fake.hold("sampling", step=2)
        said: list[Signal] = []

        async def listen() -> None:
            async with aclosing(backend.generate(request(), MODEL, Nobody())) as signals:
                async for signal in signals:
                    said.append(signal)

        drawing = asyncio.create_task(listen())
        await soon(lambda: fake.held)
        await fake.restart(down_s=0.1)
        fake.go_on()
        with pytest.raises(Unreachable, match="lost"):
            await drawing
        again = await collect(backend, request(), MODEL, resume=token(said))
        assert len(outputs(again)) == 1
        assert {one.id for one in fake.prompts} == {token(said)}
        assert len(fake.sampled) == 1

    async def test_what_ended_badly_gets_a_new_name(self, backend: ComfyUI, fake: Fake) -> None:
        """A name is used for one prompt only, and the old one has its end."""
        fake.out_of_memory(times=2)
        told: list[Signal] = []

        async def listen(resume: str | None) -> None:
            async with aclosing(backend.generate(request(), MODEL, Nobody(), resume)) as signals:
                async for signal in signals:
                    told.append(signal)

        with pytest.raises(OutOfMemory):
            await listen(None)
        with pytest.raises(OutOfMemory):
            await listen(token(told))
        assert not outputs(told)
        await listen(token(told))
        assert len(outputs(told)) == 1
        assert len({one.id for one in fake.prompts}) == 3

    async def test_of_several_pictures_those_that_are_there_are_taken(self, backend: ComfyUI, fake: Fake) -> None:
        """Each has a name that every attempt finds."""
        said = await collect(
            backend, request(n=3), MODEL, until=lambda signal: isinstance(signal, Output) and signal.index == 1
        )
        again = await collect(backend, request(n=3), MODEL, resume=token(said))
        assert [output.index for output in outputs(again)] == [0, 1, 2]
        assert len(fake.sampled) == 3

    async def test_a_token_of_another_kind_is_no_error(self, backend: ComfyUI) -> None:
        """An older version may have said it."""
        said = await collect(backend, request(), MODEL, resume="not one of ours")
        assert len(outputs(said)) == 1


class TestSomebodyElse:
    async def test_deletes_it(self, backend: ComfyUI, fake: Fake) -> None:
        """While the server was there all the time: it is not handed over again behind their back."""
        fake.hold("queued")
        drawing = asyncio.create_task(draw(backend))
        await soon(lambda: len(fake.prompts) == 1)
        await asyncio.sleep(PACE.ask_s)
        fake.somebody_deletes()
        with pytest.raises(Rejected, match="somebody"):
            await drawing

    async def test_interrupts_it(self, backend: ComfyUI, fake: Fake) -> None:
        """That is no fault of the model."""
        fake.hold("sampling", step=2)
        drawing = asyncio.create_task(draw(backend))
        await soon(lambda: fake.held)
        fake.somebody_interrupts()
        fake.go_on()
        with pytest.raises(Rejected, match="somebody"):
            await drawing

    async def test_keeps_what_is_theirs_when_ours_is_cancelled(self, backend: ComfyUI, fake: Fake) -> None:
        """Running or waiting."""
        theirs = [fake.stranger(), fake.stranger()]
        fake.hold("sampling", prompt_id=theirs[0])
        drawing = asyncio.create_task(draw(backend))
        await soon(lambda: len(fake.mine) == 1)
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        assert fake.engine.remaining == 2
        fake.go_on()
        await soon(lambda: fake.idle)
        assert {fake.prompt(one).state for one in theirs} == {"completed"}


class TestPreviews:
    async def test_are_asked_for_when_any_step_is_wanted(self, backend: ComfyUI, fake: Fake) -> None:
        """The server decides once for the whole prompt."""
        await collect(backend, request(), MODEL, previews=Watching(stride=3))
        await collect(backend, request(), MODEL, previews=Watching(stride=9))
        assert [one.extra["preview_method"] for one in fake.prompts] == ["auto", "none"]

    async def test_are_made_as_the_model_says(self, fake: Fake) -> None:
        """Or the settings of the backend."""
        model = replace(MODEL, keys={**MODEL.keys, "preview_method": "taesd"})
        async with opened(fake, preview_method="latent2rgb") as backend:
            await collect(backend, request(), model, previews=Watching())
            await collect(backend, request(), MODEL, previews=Watching())
        assert [one.extra["preview_method"] for one in fake.prompts] == ["taesd", "latent2rgb"]

    async def test_that_an_old_server_does_not_make_are_told_once(self) -> None:
        """With what to do about it."""
        async with (fake := Fake(version="0.3.75")).serving(), opened(fake) as backend:
            said = await collect(backend, request(n=2), MODEL, previews=Watching())
        (notice,) = [signal for signal in said if isinstance(signal, Notice)]
        assert notice.code == "preview_not_possible"
        assert "--preview-method auto" in notice.message


class TestCheck:
    async def test_of_all_models_asks_about_each_thing_once(self, backend: ComfyUI, fake: Fake) -> None:
        """One probe is shared."""
        models = [model for model in CATALOG.models.values() if model.backend == "comfyui"]
        checks = await asyncio.gather(*(backend.check(model) for model in models))
        assert all(check.ok for one in checks for check in one)
        asked = [one.path for one in fake.requests]
        assert len(asked) == len(set(asked)) > len(models)

    async def test_says_what_is_missing_with_its_name(self, backend: ComfyUI, fake: Fake) -> None:
        """The very errors that drawing would end with."""
        fake.remove_file("vae", "ae.safetensors")
        fake.remove_node("DualCLIPLoader")
        bad = [check.error for check in await backend.check(MODEL) if not check.ok]
        assert [type(error) for error in bad] == [MissingExtra, MissingFile]

    async def test_sees_a_file_that_came_meanwhile(self, backend: ComfyUI, fake: Fake) -> None:
        """What is known is known for seconds only."""
        fake.remove_file("vae", "ae.safetensors")
        assert not all(check.ok for check in await backend.check(MODEL))
        fake.files["vae"] = ["ae.safetensors"]
        backend._server(None).forget()  # or some seconds later
        assert all(check.ok for check in await backend.check(MODEL))

    async def test_of_a_server_that_hangs_is_given_up(self, backend: ComfyUI, fake: Fake) -> None:
        """Soon, and for the next model at once."""
        fake.delay("/system_stats", 60, times=9)
        for _ in range(2):
            (check,) = await backend.check(MODEL)
            assert isinstance(check.error, TimedOut)
        assert len(fake.requests) == 1

    async def test_of_a_server_that_is_back_finds_it_however_often_somebody_looks(self, fake: Fake) -> None:
        """What was remembered of it is as old as the last answer, not as the last look."""
        now = 0.0
        backend = ComfyUI({"url": fake.url}, PACE, clock=lambda: now)
        fake.shut()
        (check,) = await backend.check(MODEL)
        assert not check.ok
        fake.open()
        while now < AWAY_S:
            assert [one.error for one in await backend.check(MODEL)] == [check.error]
            now += AWAY_S / 4
        assert all(one.ok for one in await backend.check(MODEL))
        await backend.aclose()


class TestMemory:
    async def test_is_given_back_when_nothing_runs(self, backend: ComfyUI, fake: Fake) -> None:
        """With a body, without which the server breaks."""
        await backend.release(MODEL)
        assert fake.freed == [{"unload_models": True, "free_memory": True}]

    async def test_is_left_alone_while_somebody_draws(self, backend: ComfyUI, fake: Fake) -> None:
        """Theirs would have to be loaded again."""
        fake.hold("sampling")
        fake.stranger()
        await soon(lambda: fake.held)
        await backend.release(MODEL)
        assert not fake.freed

    async def test_at_its_highest_is_told_with_how_it_was_seen(self, backend: ComfyUI, fake: Fake) -> None:
        """A figure without its method means nothing."""
        fake.step_s = 0.05
        (output,) = outputs(await draw(backend))
        assert output.facts["vram_peak_mib"] > 0
        assert output.facts["vram_method"] == "system_stats every 250 ms, whole device"


class TestToItsEnd:
    async def test_gives_the_result(self) -> None:
        """And the error, when that is what came of it."""
        assert await to_its_end(_after(1)) == 1
        with pytest.raises(ValueError, match="broken"):
            await to_its_end(_breaks())

    async def test_is_cancelled_only_when_it_is_done(self) -> None:
        """However often that is asked."""
        gate, done = asyncio.Event(), list[int]()

        async def work() -> None:
            await gate.wait()
            done.append(1)

        task = asyncio.create_task(to_its_end(work()))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [1]


async def _left(said: Any) -> None:
    """Listen to the end, however it comes."""
    async with aclosing(said) as signals:
        async for _ in signals:
            pass


async def _after(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def _breaks() -> None:
    raise ValueError("broken")
