"""The Replicate backend keeps the contract, against a fake of the service and a fake of Cog's own server."""

from collections.abc import Iterator

import pytest
from tests.cloud_kit import MODELS, all_its_threads, until_idle

from imagen.backends import replicate
from imagen.core.request import Request
from imagen.testing.cog import FakeCog
from imagen.testing.contract import BackendContract
from imagen.testing.replicate import FakeReplicate

AWAY = "http://127.0.0.1:9"  # where nothing listens
QUICK = {"poll_s": "0.02", "patience_s": "0"}


class TestReplicate(BackendContract):
    registration = replicate.registration
    model_folders = (MODELS,)
    model_name = "flux"
    size = (64, 48)
    steps = 4
    sizes_previews = False
    handles = True
    unreachable = {"api": f"{AWAY}/v1", **QUICK}  # noqa: RUF012  # the contract declares it as a class variable

    def make(self) -> FakeReplicate:
        """The service of these claims."""
        return FakeReplicate(intermediate=True, step_s=0.02)

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        self.fake = self.make()
        with self.fake.running() as url:
            self.fake.do(all_its_threads())
            type(self).settings = {"api": f"{url}/v1", **QUICK}
            yield
            self.fake.do(until_idle(self.fake))

    def failing(self) -> list[Request]:
        self.fake.fail("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [self.request()]


class TestReplicateWhileItTakesItsTime(TestReplicate):
    def make(self) -> FakeReplicate:
        """Slow enough to be left or cancelled in the middle; each prediction has a stream of its own."""
        return FakeReplicate(intermediate=True, streams=True, step_s=0.05, boot_s=0.1)


class TestReplicateWithoutPreviews(TestReplicate):
    previews = False

    def make(self) -> FakeReplicate:
        """A model like most: its output is the picture, and its log is silent."""
        return FakeReplicate(bars=False)


class TestCog(BackendContract):
    registration = replicate.registration
    model_folders = (MODELS,)
    model_name = "flux"
    size = (64, 48)
    steps = 4
    sizes_previews = False
    handles = True
    unreachable = {"url": AWAY, **QUICK}  # noqa: RUF012  # as above

    def make(self) -> FakeCog:
        """The container of these claims."""
        return FakeCog(intermediate=True, step_s=0.02)

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        self.fake = self.make()
        with self.fake.running() as url:
            self.fake.do(all_its_threads())
            type(self).settings = {"url": url, **QUICK, "patience_s": "5"}
            yield
            self.fake.do(until_idle(self.fake))

    def failing(self) -> list[Request]:
        self.fake.fail("Generator iteration error: ValueError: it broke")
        return [self.request()]


class TestCogThatDoesNotStream(TestCog):
    previews = False

    def make(self) -> FakeCog:
        """A model without the decorator for it."""
        return FakeCog(streams=False, step_s=0.02)
