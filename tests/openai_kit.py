"""Programs made for the OpenAI Images API, as the tests of that door play them."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import openai
from PIL import Image, ImageChops, ImageStat

from tests.http_kit import get
from tests.service_kit import Program

SMALL: dict[str, Any] = {"prompt": "a red fox", "model": "mock", "size": "128x128"}
AT_ONCE = {"options": {"slow": 0}, "seed": 7}
LONG_S = 4.0


class Clients:
    """The library as programs make it; each is closed at the end of the test."""

    def __init__(self) -> None:
        self._made: list[openai.OpenAI] = []

    def __call__(self, server: Program, **more: Any) -> openai.OpenAI:
        settings: dict[str, Any] = {"api_key": "sk-anything", "timeout": 60.0, **more}
        self._made.append(openai.OpenAI(base_url=f"{server.url}/v1", **settings))
        return self._made[-1]

    def close(self) -> None:
        while self._made:
            self._made.pop().close()


@contextmanager
def clients() -> Iterator[Clients]:
    """For a fixture."""
    made = Clients()
    yield made
    made.close()


def slow(seconds: float, **more: Any) -> dict[str, Any]:
    """The fields that no library knows, for a job of so long."""
    return {"options": {"slow": seconds}, **more}


def picture(b64_json: str | None) -> Image.Image:
    """The picture of an answer or of an event, decoded."""
    assert b64_json
    image = Image.open(io.BytesIO(base64.b64decode(b64_json)))
    image.load()
    return image


def distance(shown: Image.Image, done: Image.Image) -> float:
    """How far a partial image is from the finished picture: 0 is the same; steps of 1/255, summed over the colours."""
    difference = ImageChops.difference(shown.convert("RGB").resize(done.size), done.convert("RGB"))
    return sum(ImageStat.Stat(difference).mean)


def jobs(server: Program, prompt: str) -> list[dict[str, Any]]:
    """All jobs with these words."""
    found: list[dict[str, Any]] = get(f"{server.url}/v1/jobs?limit=100&q={quote(prompt)}")["jobs"]
    return found


def extra(told: Any) -> dict[str, Any]:
    """What an answer says beyond what the library knows."""
    return dict(told.model_extra or {})
