"""Echo keeps what every backend promises."""

from pathlib import Path

import imagen_echo
import imagen_echo.models
from imagen.testing.contract import BackendContract


class TestEcho(BackendContract):
    registration = imagen_echo.registration
    model_folders = tuple(Path(folder) for folder in imagen_echo.models.__path__)
    model_name = "echo"
    prompt = "hello"
    size = (128, 96)
