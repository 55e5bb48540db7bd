"""The mock backend: deterministic pictures, honest steps and previews, and every failure on order.

An order stands in the prompt (`a fox [steps:4] [fail:timed_out@2]`) or in the model's options, so that one
model of a comparison can fail alone; the prompt wins. Orders never show in the picture.
"""

import asyncio
import hashlib
import json
import os
import re
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from imagen.backends.base import Previews, Registration
from imagen.backends.to_its_end import to_its_end
from imagen.core.errors import (
    BackendError,
    Check,
    Crashed,
    OutOfMemory,
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
    code_of,
)
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Handle, Notice, Output, Phase, Preview, Signal, Step

if TYPE_CHECKING:
    from imagen.backends.mock_forming import Forming


FAILURES: dict[str, type[BackendError]] = {
    code_of(kind): kind for kind in (Unreachable, RateLimited, TimedOut, Rejected, OutOfMemory, Crashed)
}

MAX_STEPS = 1000
MAX_SLOW_S = 3600.0

_ORDER = re.compile(r"\[(steps|slow|fail|crash|notice|preview-fail)(?:([:@])([^\]]*))?\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class MockKeys:
    """The model keys of this backend."""

    palette: Literal["balanced", "warm", "cool"] = "balanced"
    grain: float = 1.0


class Mock:
    """Draws by itself, on the processor."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._loaded: str | None = None
        # Whoever may submit could otherwise end a server with a prompt.
        self._deadly = str(settings.get("crash", "")).lower() in ("true", "1", "yes", "on")

    async def check(self, model: Model) -> Sequence[Check]:
        """Passes at once, except for a model whose own options order a failure: then that very error."""
        try:
            orders = _from_options({}, model)
            if orders.fail:
                raise _failure(orders.fail)
        except BackendError as error:
            return [Check.failed("draws", error)]
        return [Check.passed("draws", note="needs nothing")]

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Draw `request.n` pictures, doing on the way whatever was ordered."""
        text, orders = read_orders(request, model)
        total = orders.steps * request.n
        if resume is None:
            yield Handle(token=_token(request))
        orders.obey(0, deadly=self._deadly)
        if self._loaded != model.name:
            yield Phase(name="loading")
            self._loaded = model.name
        yield Phase(name="encoding")
        if orders.notice:
            yield Notice(code="ordered", message=orders.notice)
        for index in range(request.n):
            yield Phase(name="sampling")
            picture = _Picture(text, request.part(index, 1), model)
            for step in range(1, orders.steps + 1):
                done = index * orders.steps + step
                await asyncio.sleep(orders.slow_s / total)
                orders.obey(done, deadly=self._deadly)
                yield Step(step=done, total=total, image=index)
                if step < orders.steps and previews.wants(done, total):
                    preview = await picture.preview(step / orders.steps, previews.max_size)
                    if orders.preview_fails:
                        preview = replace(preview, data=b"not a picture", mime="image/jpeg")
                    yield replace(preview, step=done, total=total, image=index)
            yield Phase(name="decoding")
            yield replace(await picture.output(), index=index)

    async def aclose(self) -> None:
        """Nothing is held between two calls but the name of the last model."""
        self._loaded = None


registration = Registration(create=Mock, keys=MockKeys, settings=frozenset({"crash"}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a request asks the mock to do besides drawing; a step of 0 means before anything else."""

    steps: int
    slow_s: float = 0.0
    fail: str = ""
    fail_at: int = 0
    crash_at: int | None = None
    notice: str = ""
    preview_fails: bool = False

    def obey(self, step: int, *, deadly: bool) -> None:
        """Fail or die if that is what this step was ordered to do."""
        if self.crash_at == step:
            if not deadly:
                raise Crashed(
                    "the mock breaks while drawing, as ordered",
                    hint="the process that draws is killed only where `backends: {mock: {crash: true}}` allows it",
                )
            # The honest crash: no cleanup, no last words, exactly what a killed worker leaves behind.
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail and self.fail_at == step:
            raise _failure(self.fail)


def read_orders(request: Request, model: Model) -> tuple[str, Orders]:
    """The prompt without its orders, and all orders: the options', then the prompt's over them."""
    orders = replace(_from_options(request.options, model), steps=request.steps)
    for name, mark, value in _ORDER.findall(request.prompt):
        orders = _with(orders, name, value.strip() if mark == ":" or name == "crash" else f"{mark}{value}")
    total = orders.steps * request.n
    # An order for a step that never comes is carried out at the last one.
    orders = replace(orders, fail_at=min(orders.fail_at, total))
    if orders.crash_at is not None:
        orders = replace(orders, crash_at=min(orders.crash_at, total))
    return " ".join(_ORDER.sub(" ", request.prompt).split()), orders


def _from_options(options: Mapping[str, Any], model: Model) -> Orders:
    told = {name: option.default for name, option in model.options.items()} | dict(options)
    orders = Orders(steps=model.defaults.steps)
    for name in ("slow", "fail", "notice"):
        if told.get(name):
            orders = _with(orders, name, str(told[name]))
    crash = told.get("crash")
    if crash is not None and int(crash) >= 0:
        orders = _with(orders, "crash", str(crash))
    return replace(orders, preview_fails=bool(told.get("preview_fail")))


def _with(orders: Orders, name: str, value: str) -> Orders:
    match name:
        case "steps":
            return replace(orders, steps=int(_number(name, value, 1, MAX_STEPS)))
        case "slow":
            return replace(orders, slow_s=_number(name, value, 0, MAX_SLOW_S))
        case "fail":
            kind, _, step = (part.strip() for part in value.partition("@"))
            if kind not in FAILURES:
                raise Rejected(f"the mock cannot fail as {kind!r}", hint=f"it can fail as: {', '.join(FAILURES)}")
            return replace(orders, fail=kind, fail_at=int(_number(name, step or "0", 0, MAX_STEPS * 1000)))
        case "crash":
            return replace(orders, crash_at=int(_number(name, value or "0", 0, MAX_STEPS * 1000)))
        case "notice":
            return replace(orders, notice=value or "a notice was ordered")
        case _:
            return replace(orders, preview_fails=True)


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        number = float(text)
        if low <= number <= high:
            return number
    except ValueError:
        pass
    raise Rejected(
        f"the order [{name}:{text}] needs a number from {low:g} to {high:g}",
        hint=f"write for instance [{name}:{max(low, 1):g}], or leave the order out",
    )


def _failure(kind: str) -> BackendError:
    """The ordered error, worded so that nobody takes it for a real one."""
    said, hint = {
        "unreachable": ("the mock plays a server that does not answer", "take the order [fail:unreachable] out"),
        "rate_limited": ("the mock plays a server that asks for patience", "wait a second and try again"),
        "timed_out": ("the mock plays a server that takes too long", "try again, or take [fail:timed_out] out"),
        "rejected": ("the mock refuses this prompt, as ordered", "take the order [fail:rejected] out"),
        "out_of_memory": ("the mock plays a device that is out of memory", "ask for a smaller size or another model"),
        "crashed": ("the mock breaks while drawing, as ordered", "take the order [fail:crashed] out"),
    }[kind]
    return FAILURES[kind](said, hint=hint, retry_after_s=1.0 if kind == "rate_limited" else None)


def _token(request: Request) -> str:
    """The same request has the same name, before and after a crash."""
    told = json.dumps(request.as_dict(), sort_keys=True, default=str)
    return "mock-" + hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:24]


class _Picture:
    """One picture of a call; what its previews need is drawn only when the first one is wanted."""

    def __init__(self, text: str, request: Request, model: Model) -> None:
        self._text = text
        self._request = request
        self._palette = str(model.keys.get("palette", "balanced"))
        self._grain = float(model.keys.get("grain", 1.0))
        self._forming: Forming | None = None

    async def preview(self, share: float, max_size: int) -> Preview:
        """The estimate after `share` of the steps, at display size; step and image are for the caller to say."""
        started = perf_counter()

        def draw() -> tuple[bytes, int, int]:
            from imagen.backends.mock_art import Drawing
            from imagen.backends.mock_forming import Forming

            if self._forming is None:
                width, height = self._request.width, self._request.height
                scale = min(1.0, max_size / max(width, height))
                shown = (max(1, round(width * scale)), max(1, round(height * scale)))
                self._forming = Forming(Drawing(**self._told(), shown=shown).whole())
            pixels = self._forming.at(share)
            return pixels.tobytes(), pixels.shape[1], pixels.shape[0]

        data, width, height = await to_its_end(asyncio.to_thread(draw))
        took_ms = (perf_counter() - started) * 1000
        return Preview(step=0, total=0, data=data, width=width, height=height, decode_ms=took_ms)

    async def output(self) -> Output:
        """The finished picture."""
        from imagen.backends.mock_art import Drawing

        # Nothing goes on behind the back of whoever cancels.
        drawing = await to_its_end(asyncio.to_thread(lambda: Drawing(**self._told())))
        # A band at a time: cancelling waits for one band at most, never for a whole large picture.
        rows = [(await to_its_end(asyncio.to_thread(paint))).tobytes() for paint in drawing.bands()]
        return Output(data=b"".join(rows), width=drawing.width, height=drawing.height, seed=self._request.seed)

    def _told(self) -> dict[str, Any]:
        return {
            "prompt": self._text,
            "seed": self._request.seed,
            "palette": self._palette,
            "grain": self._grain,
            "width": self._request.width,
            "height": self._request.height,
        }
