"""The backends in the box keep the contract that outside ones are held to."""

from pathlib import Path

import imagen.models
from imagen.backends import mock, onnx
from imagen.core.request import Request
from imagen.testing.contract import BackendContract

BUNDLED = tuple(Path(folder) for folder in imagen.models.__path__)


class TestMock(BackendContract):
    registration = mock.registration
    model_folders = BUNDLED
    model_name = "mock"
    prompt = "a red fox [slow:0]"
    size = (128, 96)
    steps = 6
    handles = True

    def failing(self) -> list[Request]:
        return [self.request(prompt=f"a fox [slow:0] [fail:{kind}@3]") for kind in mock.FAILURES]


class TestMockWhileItTakesItsTime(TestMock):
    prompt = "a red fox [slow:0.2]"


class TestMockWarm(TestMock):
    model_name = "mock-warm"


class TestMockCool(TestMock):
    model_name = "mock-cool"


class TestTiny(BackendContract):
    """Real denoising: the model in the box."""

    registration = onnx.registration
    model_folders = BUNDLED
    model_name = "tiny-3d"
    size = (128, 96)
    steps = 6


class TestTinyFlat(TestTiny):
    model_name = "tiny-flat"


class TestTinyNoto(TestTiny):
    model_name = "tiny-noto"
