"""What a worker can draw now: looked at again and again, and taken only once that is known."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from imagen.core.errors import (
    Check,
    Crashed,
    ImagenError,
    MissingExtra,
    MissingFile,
    OutOfMemory,
    RateLimited,
    TimedOut,
    Unreachable,
    Unsupported,
)
from imagen.core.model import Model
from imagen.engine.drawing.able import AGAIN_S, LOOK_S, Able

MODELS = {name: Model(name=name, backend="script", device="card:0") for name in ("one", "two")}
PLACES = {"one": "here", "two": "there"}


class Scene:
    """Models whose checks say what a test wants, a clock, and what was told."""

    def __init__(self) -> None:
        self.wrong: dict[str, ImagenError | Exception] = {}
        self.now = 0.0
        self.looks: list[str] = []
        self.found = 0
        self.lines: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.able = Able(lambda _model: self, log=self.lines.append, monotonic=lambda: self.now)  # type: ignore[arg-type, return-value] # only its check is asked

    async def check(self, model: Model) -> Sequence[Check]:
        self.looks.append(model.name)
        if model.name in self.held:
            await self.held[model.name].wait()
        error = self.wrong.get(model.name)
        if isinstance(error, ImagenError):
            return [Check.failed("there", error)]
        if error is not None:
            raise error
        return [Check.passed("there")]

    async def look(self, models: dict[str, Model] = MODELS, after_s: float = 0.0) -> set[str]:
        """What may be taken after a look."""
        self.now += after_s

        def found() -> None:
            self.found += 1

        await self.able.look(models, found=found)
        return {*self.able.takes(PLACES)}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def wrong(kind: type[ImagenError], said: str = "it is not there") -> ImagenError:
    return kind(said, hint="bring it")


async def test_what_was_never_looked_at_is_not_taken_but_counts_as_served(scene: Scene) -> None:
    """Else a burst right after the start of a worker would fail; and who lists it need not wait for the first look."""
    assert scene.able.takes(PLACES) == {}
    assert scene.able.serves(PLACES) == PLACES
    assert await scene.look() == {"one", "two"}
    assert scene.found == 2


@pytest.mark.parametrize("kind", [MissingExtra, MissingFile, Unreachable, Unsupported])
async def test_a_model_that_lacks_something_is_left_to_others(scene: Scene, kind: type[ImagenError]) -> None:
    """With one line; and one more when it is there, seconds later."""
    scene.wrong["two"] = wrong(kind)
    assert await scene.look() == {"one"}
    assert {*scene.able.serves(PLACES)} == {"one"}
    assert scene.lines == ["not drawn here: two: it is not there; hint: bring it"]
    assert await scene.look(after_s=AGAIN_S) == {"one"}
    assert scene.looks == ["one", "two", "two"]
    del scene.wrong["two"]
    assert await scene.look(after_s=AGAIN_S) == {"one", "two"}
    assert scene.lines[1:] == ["drawn here now: two"]
    assert scene.found == 2


@pytest.mark.parametrize("kind", [TimedOut, RateLimited, OutOfMemory, Crashed])
async def test_what_is_busy_is_not_unable(scene: Scene, kind: type[ImagenError]) -> None:
    """A model that was fine stays so, and one that was not as well."""
    scene.wrong["one"] = wrong(kind)
    scene.wrong["two"] = wrong(Unreachable)
    assert await scene.look() == {"one"}
    scene.wrong["two"] = wrong(kind)
    assert await scene.look(after_s=LOOK_S) == {"one"}
    assert len(scene.lines) == 1


async def test_a_check_that_breaks_is_not_held_against_a_model(scene: Scene) -> None:
    """A plugin's mistake in its check; perhaps it draws well."""
    scene.wrong["one"] = ZeroDivisionError("oops")
    assert await scene.look() == {"one", "two"}


async def test_a_model_that_is_fine_waits_for_no_other(scene: Scene) -> None:
    """The look at one hangs; the other one may be taken at once."""
    scene.held["two"] = asyncio.Event()
    looking = asyncio.create_task(scene.look())
    while not scene.found:
        await asyncio.sleep(0)
    assert {*scene.able.takes(PLACES)} == {"one"}
    scene.held["two"].set()
    assert await looking == {"one", "two"}


async def test_each_is_looked_at_in_its_turn(scene: Scene) -> None:
    """What is fine every 30 s, what was changed in the catalog at once; what left it is forgotten."""
    await scene.look()
    await scene.look(after_s=LOOK_S - 1)
    assert scene.looks == ["one", "two"]
    changed = MODELS | {"one": Model(name="one", backend="script", device="card:1")}
    await scene.look(changed)
    assert scene.looks[2:] == ["one"]
    scene.wrong["two"] = wrong(MissingFile)
    await scene.look(changed, after_s=LOOK_S)
    assert {*scene.able.lacks} == {"two"}
    await scene.look({"one": changed["one"]})
    assert scene.able.lacks == {}


async def test_one_reason_is_one_line(scene: Scene) -> None:
    """Six models of one ComfyUI that is away are not six lines, and none is told twice."""
    scene.wrong = {"one": wrong(Unreachable), "two": wrong(Unreachable)}
    await scene.look()
    await scene.look(after_s=AGAIN_S)
    assert scene.lines == ["not drawn here: one, two: it is not there; hint: bring it"]


async def test_many_reasons_are_one_line(scene: Scene) -> None:
    """A machine without a card that knows every bundled model says it once, and where to read more."""
    models = {name: Model(name=name, backend="script", device="card:0") for name in "abcd"}
    scene.wrong = {name: wrong(MissingFile, f"{name}.onnx is not there") for name in models}
    await scene.look(models)
    assert scene.lines == ["not drawn here: a, b, c, d; `imagen doctor`, run here, says what each of them lacks"]


async def test_a_model_that_just_failed_is_looked_at_now(scene: Scene) -> None:
    """Before its next try: one look too many costs less than a job."""
    told: list[dict[str, Any]] = []

    async def tell() -> None:
        told.append({**scene.able.lacks})

    looking = asyncio.create_task(scene.able.keep_looking(lambda: MODELS, found=lambda: None, changed=tell))
    try:
        async with asyncio.timeout(10):
            while len(scene.able.takes(PLACES)) < 2:
                await asyncio.sleep(0)
            scene.wrong["one"] = wrong(Unreachable)
            scene.able.doubt("one")
            while not told:
                await asyncio.sleep(0)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert {*told[0]} == {"one"}
    assert scene.looks == ["one", "two", "one"]
