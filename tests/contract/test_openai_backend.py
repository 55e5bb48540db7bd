"""The OpenAI backend keeps the contract, against a fake server that speaks the published API."""

from collections.abc import Iterator

import pytest
from tests.cloud_kit import MODELS, all_its_threads, until_idle

from imagen.backends import openai
from imagen.core.request import Request
from imagen.testing.contract import BackendContract
from imagen.testing.openai_images import FakeImages

AWAY = "http://127.0.0.1:9/v1"  # where nothing listens


class TestOpenAI(BackendContract):
    registration = openai.registration
    model_folders = (MODELS,)
    model_name = "images"
    size = (64, 48)
    sizes_previews = False
    handles = True
    unreachable = {"url": AWAY}  # noqa: RUF012  # the contract declares it as a class variable

    def make(self) -> FakeImages:
        """The server of these claims."""
        return FakeImages()

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        self.fake = self.make()
        with self.fake.running() as url:
            self.fake.do(all_its_threads())
            type(self).settings = {"url": f"{url}/v1", "patience_s": "0"}
            yield
            self.fake.do(until_idle(self.fake))

    def failing(self) -> list[Request]:
        return [self.request(prompt="an [unsafe] fox")]


class TestOpenAIWhileItTakesItsTime(TestOpenAI):
    def make(self) -> FakeImages:
        """Slow enough to be left or cancelled in the middle."""
        return FakeImages(step_s=0.05)


class TestOpenAIThatStreamsNothing(TestOpenAI):
    previews = False

    def make(self) -> FakeImages:
        """As most servers of that API: `stream` is accepted and ignored."""
        return FakeImages(streams=False)


class TestOpenAIThatRefusesStreams(TestOpenAI):
    previews = False

    def make(self) -> FakeImages:
        """Some answer 400 to `stream`."""
        return FakeImages(streams=None)


class TestOpenAIWithAddresses(TestOpenAI):
    previews = False

    def make(self) -> FakeImages:
        """Pictures behind addresses of the same host."""
        return FakeImages(streams=False, urls=True)
