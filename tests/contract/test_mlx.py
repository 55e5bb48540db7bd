"""The backend mlx keeps the contract, with the pipelines of the real mflux on the processor."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import tests.mlx_kit as kit

from imagen.backends import mlx
from imagen.backends.mlx.backend import Mlx
from imagen.testing.contract import BackendContract


class TestFlux(BackendContract):
    """Packed latents, no guidance."""

    registration = replace(mlx.registration, create=Mlx)
    family: ClassVar[str] = "flux"

    @pytest.fixture(autouse=True)
    def a_model(self, tmp_path: Path) -> None:
        """A folder of the family's own."""
        type(self).model_folders = (kit.model(tmp_path, self.family),)
        type(self).model_name = self.family


class TestKlein(TestFlux):
    """Latents in patches, and a compiled network."""

    family = "flux2-klein"


class TestZImage(TestFlux):
    """Latents without a dimension for pictures."""

    family = "z-image"


class TestQwenImage(TestFlux):
    """Guidance, with the network asked twice."""

    family = "qwen-image"


class TestInItsProcess(TestFlux):
    """As it is registered: in a child process, through frames."""

    registration = mlx.registration
