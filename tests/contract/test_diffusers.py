"""The pipelines of diffusers keep the contract: all five families, random weights, on the processor."""

from pathlib import Path
from typing import ClassVar

import pytest
from tests import inprocess_kit as kit

from imagen.backends import diffusers
from imagen.backends.base import Registration
from imagen.backends.diffusers.backend import Diffusers
from imagen.testing.contract import BackendContract

HERE = Registration(create=Diffusers, keys=diffusers.DiffusersKeys, device=diffusers.device)


class Drawn(BackendContract):
    """In this process, where a claim takes no time to start; through the child below."""

    registration = HERE
    family: ClassVar[str]
    size = (64, 96)
    steps = 4

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path: Path) -> None:
        type(self).model_name = kit.model(tmp_path, self.family)
        type(self).model_folders = (tmp_path,)


class TestFlux(Drawn):
    family = "flux"


class TestKlein(Drawn):
    family = "klein"


class TestSD3(Drawn):
    family = "sd3"


class TestZImage(Drawn):
    family = "z-image"


class TestQwen(Drawn):
    family = "qwen"


class TestChild(Drawn):
    """As the product runs it."""

    registration = diffusers.registration
    family = "flux"
