"""The ComfyUI backend keeps the contract, against a fake server that speaks the real protocol."""

import asyncio
import os
import threading
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

    def make(self) -> Fake:
        """The server of these claims."""
        return Fake()

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        self.fake = self.make()
        with self.fake.running() as url:
            self.fake.do(_all_its_threads())
            type(self).settings = {"url": url}
            yield
            assert self.fake.idle, "nothing of ours is left at the server"

    def failing(self) -> list[Request]:
        self.fake.out_of_memory(step=2)
        return [self.request()]


class TestOldComfyUI(TestComfyUI):
    def make(self) -> Fake:
        """Without the jobs API, and with previews only where it was started so."""
        return Fake(version="0.3.75", preview_method="auto")


class TestComfyUIWhileItTakesItsTime(TestComfyUI):
    def make(self) -> Fake:
        """Slow enough to be left or cancelled in the middle."""
        return Fake(step_s=0.05, load_s=0.05, decode_s=0.05)


async def _all_its_threads() -> None:
    """Start all that the fake's own loop may start, so that a claim about threads sees only the backend's."""
    workers = min(32, (os.cpu_count() or 1) + 4)
    together = threading.Barrier(workers)
    await asyncio.gather(*(asyncio.to_thread(together.wait) for _ in range(workers)))
