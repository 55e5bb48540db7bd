"""The ComfyUI backend keeps the contract, against a fake server that speaks the real protocol."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import imagen.models
from imagen.backends import comfyui
from imagen.core.request import Request
from imagen.testing.comfyui import Fake
from imagen.testing.contract import BackendContract

AWAY = "http://127.0.0.1:9"  # where nothing listens


class TestComfyUI(BackendContract):
    registration = comfyui.registration
    model_folders = tuple(Path(folder) for folder in imagen.models.__path__)
    model_name = "flux1-schnell"
    size = (64, 64)
    steps = 4
    sizes_previews = False
    handles = True
    unreachable = {"url": AWAY}  # noqa: RUF012  # the contract declares it as a class variable

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        fake = Fake()
        with fake.running() as url:
            self.settings = {"url": url}
            self.fake = fake
            yield
            assert fake.idle, "nothing of ours is left at the server"

    def failing(self) -> list[Request]:
        self.fake.out_of_memory(step=2)
        return [self.request()]


class TestOldComfyUI(TestComfyUI):
    """The oldest version there is a server of to try by hand."""

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        fake = Fake(version="0.3.75", preview_method="auto")
        with fake.running() as url:
            self.settings = {"url": url}
            self.fake = fake
            yield
            assert fake.idle


class TestComfyUIWhileItTakesItsTime(TestComfyUI):
    """Slow enough to be left or cancelled in the middle."""

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        fake = Fake(step_s=0.05, load_s=0.05, decode_s=0.05)
        with fake.running() as url:
            self.settings = {"url": url}
            self.fake = fake
            yield
            assert fake.idle
