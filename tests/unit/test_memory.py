"""Weights are given back when nobody draws, and before one model is measured after another."""

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime

import pytest

from imagen.backends.base import Backend, Previews
from imagen.core.device import Sharing
from imagen.core.errors import Check, Unreachable
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Signal
from imagen.engine.drawing.memory import Memory
from imagen.store.order import Turn
from imagen.store.queue import Claim


class Engine:
    """A backend that remembers what it was told to give back."""

    def __init__(self, unload_after_s: float | None = 60, error: Exception | None = None) -> None:
        self.unload_after_s = unload_after_s
        self.released: list[str] = []
        self.error = error

    async def release(self, model: Model) -> None:
        self.released.append(model.name)
        if self.error:
            raise self.error

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        return
        yield

    async def aclose(self) -> None: ...


def claim(name: str, *, series: str | None = None, device: str = "card") -> Claim:
    """A job of this model in a worker's hands."""
    return Claim(
        job="j",
        attempt=1,
        worker="w",
        request=Request(prompt="x", model=name, width=64, height=64, steps=1, seed=1),
        model=Model(name=name, backend="engine", device=device),
        preview=None,
        images=(),
        handle=None,
        seq=1,
        waited_s=0,
        failures=0,
        turn=Turn(came=datetime.now(UTC), job="j", model=name),
        series=series,
    )


def memory(engine: Engine) -> tuple[Memory, list[float]]:
    """One worker's memory with a clock that only the test moves."""
    now = [0.0]
    return Memory(lambda _model: engine, lambda: now[0]), now


async def test_a_comparison_starts_each_model_on_an_empty_device() -> None:
    """Two cells of one model, then another model: given back twice, never between cells of one model."""
    engine = Engine()
    kept, _ = memory(engine)
    for name in ("a", "a", "b"):
        job = claim(name, series="s")
        await kept.begin(job)
        kept.end(job)
    assert engine.released == ["a", "b"]


async def test_other_jobs_change_models_without_emptying_the_device() -> None:
    """What is not measured may profit from weights that two models share."""
    engine = Engine()
    kept, _ = memory(engine)
    for name in ("a", "b", "a"):
        await kept.begin(claim(name))
        kept.end(claim(name))
    assert engine.released == []


async def test_a_device_that_has_nothing_to_do_is_emptied_once() -> None:
    """After as long as the backend says, not before, and not again."""
    engine = Engine(unload_after_s=60)
    kept, now = memory(engine)
    await kept.begin(claim("a"))
    now[0] = 100
    await kept.tidy()
    assert engine.released == [], "it is drawing"
    kept.end(claim("a"))
    now[0] = 159
    await kept.tidy()
    assert engine.released == []
    now[0] = 160
    await kept.tidy()
    await kept.tidy()
    assert engine.released == ["a"]


async def test_never_means_never() -> None:
    """A backend that says None keeps what it has."""
    engine = Engine(unload_after_s=None)
    kept, now = memory(engine)
    await kept.begin(claim("a"))
    kept.end(claim("a"))
    now[0] = 10**6
    await kept.tidy()
    assert engine.released == []


@pytest.mark.parametrize("error", [Unreachable("away", hint="start it"), RuntimeError("a fault of the backend")])
async def test_a_device_that_cannot_be_emptied_harms_nobody(error: Exception) -> None:
    """The job goes on, and so does the worker."""
    engine = Engine(error=error)
    kept, now = memory(engine)
    await kept.begin(claim("a", series="s"))
    kept.end(claim("a", series="s"))
    now[0] = 1000
    await kept.tidy()
    assert engine.released == ["a", "a"]


@pytest.mark.parametrize("at", ["tidy", "close"])
async def test_a_job_may_begin_on_a_new_device_while_another_is_given_back(at: str) -> None:
    """Giving back takes a moment, and who is asked for it is not all there is."""

    class Slow(Engine):
        async def release(self, model: Model) -> None:
            await kept.begin(claim("b", device="new"))
            await super().release(model)

    engine = Slow()
    hooked = {"card": Sharing(after=("true",))}
    now = [0.0]
    kept = Memory(lambda _model: engine, lambda: now[0], sharing=lambda: hooked)
    await kept.begin(claim("a"))
    kept.end(claim("a"))
    now[0] = 1000
    await getattr(kept, at)()
    assert engine.released == ["a"]
    await kept.close()


async def test_a_backend_that_cannot_be_made_is_no_reason_to_stop_looking() -> None:
    """Whatever it raises: the heartbeat waits for this, and goes on."""

    def broken(_model: Model) -> Backend:
        raise ZeroDivisionError("a fault of a plugin")

    kept = Memory(broken)
    await kept.begin(claim("a"))
    kept.end(claim("a"))
    await kept.tidy()
