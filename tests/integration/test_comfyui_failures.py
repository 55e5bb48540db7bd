"""What a ComfyUI server may do in the middle of a picture: each job ends once, and is drawn no oftener than it must."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.comfy_ends_kit import many
from tests.drawing_kit import Told, draw, drawing, model_folder, nothing_of_ours, opened, until

import imagen
from imagen.app import App
from imagen.testing.comfyui import Fake

BUNDLED = Path(imagen.__file__).parent / "models"


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    server = Fake()
    async with server.serving():
        yield server


@pytest.fixture
async def app(fake: Fake, tmp_path: Path) -> AsyncIterator[App]:
    async with opened(tmp_path / "home", fake.url) as opening:
        yield opening


def ours(told: Told) -> str:
    """Everything that was said to the user, as text."""
    return json.dumps([event.error.as_dict() for event in told.events if isinstance(event, imagen.Failed)])


class TestTheSocket:
    """It only makes things quicker."""

    async def test_it_breaks_and_the_picture_is_the_same(self, app: App, fake: Fake) -> None:
        """Drawn once, steps never go back, one end; and it is listened to again."""
        fake.step_s = 0.05
        alone = await draw(app, preview={"stride": 1})
        fake.hold("sampling", step=2)
        async with drawing(app, preview={"stride": 1}) as task:
            await until(lambda: fake.held)
            fake.drop_sockets()
            await until(lambda: fake.connections >= 2)
            fake.go_on()
        told = task.result()
        assert told.stepped(4)
        assert told.previewed
        assert told.pixels == alone.pixels
        assert len(fake.sampled) == 2

    @pytest.mark.parametrize("after", [1, 3, 7, 12, 20, 31])
    async def test_it_breaks_anywhere(self, app: App, fake: Fake, after: int) -> None:
        """Whatever was the last message: one good end, drawn once."""
        fake.step_s = 0.01
        fake.drop_sockets(after=after)
        told = await draw(app)
        assert told.completed.images
        assert told.stepped(4)
        assert not told.requeued
        assert len(fake.samplings) == 1

    async def test_it_breaks_again_and_again(self, app: App, fake: Fake) -> None:
        """After every few messages."""
        fake.step_s = 0.05
        async with drawing(app, steps=8) as task:
            while not task.done():
                fake.drop_sockets(after=4)
                await asyncio.sleep(0.05)
        assert task.result().completed.images
        assert len(fake.samplings) == 1

    async def test_it_stays_open_and_says_nothing_more(self, app: App, fake: Fake) -> None:
        """The server has forgotten it: the end is found all the same, and not told as a failure."""
        fake.hold("sampling", step=2)
        async with drawing(app) as task:
            await until(lambda: fake.held)
            fake.go_silent()
            fake.go_on()
        told = task.result()
        assert told.completed.images
        assert told.stepped(4)
        assert len(fake.samplings) == 1
        assert (await draw(app, seed=8)).completed.images

    async def test_a_proxy_lets_none_through(self, tmp_path: Path) -> None:
        """Then there is one warning, and a picture."""
        fake = Fake()

        async def without_sockets(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close"})
                return
            await fake(scope, receive, send)

        from imagen.testing.door import Listening

        listening = Listening(without_sockets)
        port = await listening.start(0)
        try:
            async with opened(tmp_path / "home", f"http://127.0.0.1:{port}") as app:
                told = await draw(app)
        finally:
            await listening.stop()
            await fake.aclose()
        assert told.completed.images
        assert [event.code for event in told.of(imagen.Warning)] == ["no_live_progress"]


class TestTheServer:
    """It goes, and comes back with nothing in its memory."""

    async def test_it_is_restarted_in_the_middle(self, app: App, fake: Fake) -> None:
        """The job is done by the new one: once, with one end."""
        fake.hold("sampling", step=2)
        async with drawing(app) as task:
            await until(lambda: fake.held)
            await fake.restart()
            fake.go_on()
        told = task.result()
        assert told.completed.images
        assert told.requeued == ["unreachable"]
        assert [one.state for one in fake.prompts] == ["lost", "completed"]
        assert len(fake.sampled) == 1
        assert len({one.id for one in fake.prompts}) == 1, "the same name, so that it could have been found again"

    async def test_it_is_away_for_a_while(self, app: App, fake: Fake) -> None:
        """As long as a server takes to start."""
        fake.hold("sampling", step=2)
        async with drawing(app) as task:
            await until(lambda: fake.held)
            await fake.restart(down_s=1.0)
            fake.go_on()
        assert task.result().completed.images
        assert len(fake.sampled) == 1

    async def test_it_is_away_for_longer_than_anybody_waits(self, fake: Fake, tmp_path: Path) -> None:
        """`patience_s` of the settings; the job is tried again, and comes to its picture when the server does."""
        config = "backends: {comfyui: {patience_s: 0.2}}\n"
        async with opened(tmp_path / "home", fake.url, config=config) as app:
            fake.hold("sampling", step=2)
            async with drawing(app) as task:
                await until(lambda: fake.held)
                await fake.restart(down_s=1.5)
                fake.go_on()
        assert task.result().completed.images
        assert len(fake.sampled) == 1

    async def test_it_is_not_there_at_all(self, tmp_path: Path) -> None:
        """A command is told at once, with how to start it."""
        async with opened(tmp_path / "home", "http://127.0.0.1:9") as app:
            told = await draw(app)
        assert told.failed.code == "unreachable"
        assert "http://127.0.0.1:9" in told.failed.message
        assert told.failed.hint
        assert not told.requeued

    async def test_its_answer_to_a_prompt_is_lost(self, app: App, fake: Fake) -> None:
        """It has the prompt all the same: it is found there, not sent again."""
        fake.lose_reply()
        told = await draw(app)
        assert told.completed.images
        assert not told.requeued
        assert len(fake.prompts) == 1
        assert len(fake.sampled) == 1

    async def test_it_forgets_the_temporary_picture(self, app: App, fake: Fake) -> None:
        """Restarted between the last step and the fetch: drawn again, one end."""
        fake.delay("/view", 0.5)
        async with drawing(app) as task:
            await until(lambda: any(one.path == "/view" for one in fake.requests))
            await fake.restart()
        assert task.result().completed.images
        assert fake.idle

    @pytest.mark.parametrize("path", ["/prompt", "/view", "/system_stats"])
    @pytest.mark.parametrize(("status", "body"), [(502, "<html>Bad Gateway</html>"), (200, "<html>Log in</html>")])
    async def test_something_else_answers(self, app: App, fake: Fake, path: str, status: int, body: str) -> None:
        """A page where JSON is expected: a clear error, or a picture after another try; never a loop, never a leak."""
        fake.answer(path, status, body, times=3)
        told = await draw(app)
        if isinstance(told.end, imagen.Failed):
            assert fake.url in told.failed.message
            assert told.failed.hint
        await until(lambda: fake.idle)

    async def test_it_wants_a_password(self, tmp_path: Path) -> None:
        """Given in the address, it is used and never shown; without one, the error says what is wanted."""
        fake = Fake(login="ann:secret")
        async with fake.serving() as url:
            async with opened(tmp_path / "a", url.replace("://", "://ann:secret@")) as app:
                told = await draw(app)
                assert told.completed.images
                assert "secret" not in json.dumps([imagen.Started.__name__, str(told.events)])
            async with opened(tmp_path / "b", url) as app:
                assert "password" in (await draw(app)).failed.message


class TestThePrompt:
    """It is refused, it breaks, or somebody takes it away."""

    async def test_a_node_runs_out_of_memory(self, app: App, fake: Fake) -> None:
        """Named as what it is, with what to do, and without the paths of the server."""
        fake.out_of_memory(step=2, times=9)
        told = await draw(app)
        assert told.failed.code == "out_of_memory"
        assert told.failed.hint
        assert "/home/comfy" not in ours(told)
        nothing_of_ours(fake)

    async def test_a_node_breaks(self, app: App, fake: Fake) -> None:
        """The error names the node and its words; no tensor, no path of the server."""
        fake.fail("cannot open /home/comfy/ComfyUI/models/vae/ae.safetensors", node="VAEDecode", times=9)
        told = await draw(app)
        assert "VAEDecode" in told.failed.message
        assert "ae.safetensors" in ours(told)
        assert "/home/comfy" not in ours(told)
        assert "tensor(" not in ours(told)

    async def test_one_picture_of_three_breaks(self, app: App, fake: Fake) -> None:
        """What was drawn before stays."""
        fake.fail("it broke", node="VAEDecode", times=0)
        async with drawing(app, n=3) as task:
            await until(lambda: len(fake.sampled) == 1)
            fake.fail("it broke", step=3, times=9)
        end = task.result().end
        assert isinstance(end, imagen.Failed)
        assert len(end.images) >= 1

    async def test_a_file_is_missing(self, app: App, fake: Fake) -> None:
        """The error names it, and the command that fetches it."""
        fake.remove_file("vae", "ae.safetensors")
        error = (await draw(app)).failed
        assert error.code == "missing_file"
        assert "ae.safetensors" in error.message
        assert "imagen models pull flux1-schnell" in error.hint
        assert not fake.prompts

    async def test_a_node_is_missing(self, app: App, fake: Fake) -> None:
        """The error names it."""
        fake.remove_node("ModelSamplingAuraFlow")
        error = (await draw(app)).failed
        assert "ModelSamplingAuraFlow" in error.message
        assert error.hint

    async def test_a_part_of_the_workflow_is_refused(self, fake: Fake, tmp_path: Path) -> None:
        """The server would draw the rest: it is told not to, and the error names the part."""
        graph = json.loads((BUNDLED / "flux1-schnell" / "workflow.json").read_text())
        graph = copy.deepcopy(graph) | {
            "50": {"class_type": "PreviewImage", "inputs": {"images": ["51", 0]}},
            "51": {"class_type": "VAEDecode", "inputs": {"samples": ["31", 0], "vae": ["52", 0]}},
            "52": {"class_type": "VAELoader", "inputs": {"vae_name": "nowhere.safetensors"}},
        }
        keys = {"model": "flux1-schnell.safetensors", "clip_l": "clip_l.safetensors", "vae": "ae.safetensors"}
        keys |= {"clip": "t5xxl_fp8_e4m3fn_scaled.safetensors", "dtype": "default", "sampler": "euler"}
        model_folder(tmp_path / "home", "mine", graph, scheduler="simple", shift=1.0, **keys)
        async with opened(tmp_path / "home", fake.url) as app:
            fake.hold("sampling", step=2)
            error = (await draw(app, model="mine")).failed
        assert "nowhere.safetensors" in error.message
        await until(lambda: fake.idle)
        assert not fake.sampled

    async def test_somebody_interrupts_it(self, app: App, fake: Fake) -> None:
        """An end that says so; it is not begun again behind their back."""
        fake.hold("sampling", step=2)
        async with drawing(app) as task:
            await until(lambda: fake.held)
            fake.somebody_interrupts()
        error = task.result().failed
        assert "somebody" in error.message
        assert error.hint
        assert len(fake.prompts) == 1

    async def test_somebody_deletes_it(self, app: App, fake: Fake) -> None:
        """While it waits, without a word from the server."""
        fake.hold("queued")
        async with drawing(app) as task:
            await until(lambda: fake.mine)
            fake.somebody_deletes()
            fake.go_on()
        assert "somebody" in task.result().failed.message
        assert not fake.samplings


async def test_whatever_happens_each_job_has_its_one_right_end(tmp_path: Path) -> None:
    """Sixty jobs, to every third of which something happens, in an order that is drawn from a seed."""
    account = await many(60, tmp_path / "home", seed=4)
    assert not account.wrong
    assert account.happened["nothing"] < account.jobs == 60


class TestBetweenJobs:
    """A server that goes while nobody draws."""

    async def test_one_that_was_there_is_given_time_to_come_back(self, app: App, fake: Fake) -> None:
        """The next job waits for it, and loses none of its tries."""
        assert (await draw(app)).completed.images
        restarting = asyncio.create_task(fake.restart(down_s=1.5))
        await asyncio.sleep(0.3)
        told = await draw(app)
        await restarting
        assert told.completed.images
        assert told.requeued == []
