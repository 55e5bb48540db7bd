"""The Replicate backend keeps the contract against Cog's own server, and joins what it finds running there."""

from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
from tests.cloud_kit import MODELS, cloud_model, request, to_its_error
from tests.cog_kit import Cog, cog

from imagen.backends import replicate
from imagen.backends.replicate.backend import Replicate
from imagen.core.errors import Rejected, Unreachable
from imagen.core.request import Request
from imagen.core.signals import Handle, Step
from imagen.testing.contract import BackendContract
from imagen.testing.signals import Nobody, collect, outputs, pixels

QUICK = {"poll_s": "0.02", "patience_s": "20"}
MINE = cloud_model("replicate", intermediate=True)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cog]:
    with cog(tmp_path_factory.mktemp("cog")) as made:
        yield made


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cog]:
    with cog(tmp_path_factory.mktemp("silent"), streams=False) as made:
        yield made


class TestCogItself(BackendContract):
    registration = replicate.registration
    model_folders = (MODELS,)
    model_name = "flux"
    size = (64, 48)
    steps = 4
    sizes_previews = False
    handles = True
    unreachable = {"url": "http://127.0.0.1:9", "patience_s": "0"}  # noqa: RUF012  # the contract declares it so

    @pytest.fixture(autouse=True)
    def _served(self, container: Cog) -> Iterator[None]:
        type(self).settings = {"url": container.url, **QUICK}
        yield
        container.until(lambda: container.status == "READY")

    def failing(self) -> list[Request]:
        return [self.request(prompt="an [unsafe] fox")]


class TestCogThatDoesNotStream(TestCogItself):
    previews = False

    @pytest.fixture(autouse=True)
    def _served(self, silent: Cog) -> Iterator[None]:
        type(self).settings = {"url": silent.url, **QUICK}
        yield
        silent.until(lambda: silent.status == "READY")


async def test_leaving_stops_what_it_draws(container: Cog) -> None:
    """The place is free when the call has ended."""
    slow = cloud_model("replicate", intermediate=True, extra={"step_s": 1.0})
    made = Replicate({"url": container.url, **QUICK})
    await collect(made, request(), slow, until=lambda one: isinstance(one, Handle))
    await collect(made, request(), slow, until=lambda one: isinstance(one, Step))
    await made.aclose()
    container.until(lambda: container.status == "READY")


async def test_what_it_refuses_is_said_in_its_words(container: Cog) -> None:
    """A value that the model does not take, and a model that breaks."""
    made = Replicate({"url": container.url, **QUICK})
    _, error = await to_its_error(made, request(steps=51), MINE)
    assert type(error) is Rejected
    assert "51 is greater than the maximum of 50" in error.message
    _, error = await to_its_error(made, request("an [unsafe] fox"), MINE)
    assert type(error) is Rejected
    assert "NSFW" in error.message
    await made.aclose()


async def test_the_time_it_ran_and_what_that_costs_are_told(container: Cog) -> None:
    """By the container's own clock, and the price of its owner."""
    made = Replicate({"url": container.url, **QUICK})
    priced = cloud_model("replicate", intermediate=True, price_per_s=0.5, extra={"step_s": 0.1})
    facts = outputs(await collect(made, request(), priced))[0].facts
    await made.aclose()
    assert 0.4 <= facts["predict_time_s"] < 10
    assert facts["cost"] == pytest.approx(0.5 * facts["predict_time_s"], abs=1e-3)


async def test_killed_and_started_again_it_draws_what_it_lost(tmp_path: Any) -> None:
    """Nobody has it any more, so the next attempt has it drawn, and it is the same picture."""
    with cog(tmp_path / "cog") as container:
        made = Replicate({"url": container.url, **QUICK})
        whole = outputs(await collect(made, request("once more"), MINE))[0]
        slow = cloud_model("replicate", intermediate=True, extra={"step_s": 0.5})
        token = ""
        async with aclosing(made.generate(request("once more"), slow, Nobody())) as call:
            async for signal in call:
                token = signal.token if isinstance(signal, Handle) else token
                if isinstance(signal, Step):
                    break
            container.kill()
            with pytest.raises(Unreachable, match="does not answer"):
                _ = [one async for one in call]
        container.start()
        again = outputs(await collect(made, request("once more"), MINE, resume=token))[0]
        await made.aclose()
    assert pixels(again) == pixels(whole)
