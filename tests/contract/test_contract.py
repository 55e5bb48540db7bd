"""The contract kit itself: each claim catches the backend that breaks it."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from imagen.backends.base import Previews, Registration
from imagen.core.errors import Check, Crashed
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Handle, Output, Preview, Signal, Step
from imagen.testing.contract import BackendContract


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """No keys of its own."""


class Sloppy:
    """A backend that keeps every promise but the one it was told to break."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.busy = False
        self.left: list[asyncio.Task[None]] = []

    async def check(self, model: Model) -> Sequence[Check]:
        if self.fault == "check":
            return [Check.failed("ready", Crashed("not ready", hint="never"))]
        return [Check.passed("ready")]

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        if self.fault == "stuck" and self.busy:
            raise Crashed("still busy", hint="wait")
        self.busy = True
        if self.fault == "task":
            self.left.append(asyncio.create_task(asyncio.sleep(3600)))
        if self.fault != "late handle" and resume is None:
            yield Handle(token="x")
        total = request.n * request.steps
        for index in range(request.n):
            shown = False
            for step in range(1, request.steps + 1):
                await asyncio.sleep(0)
                done = index * request.steps + step
                told = total - 1 if self.fault == "passes total" else total + (self.fault == "total" and done == 1)
                yield Step(step=1 if self.fault == "steps" else done, total=told, image=index)
                if self.fault == "late handle" and done == 1:
                    yield Handle(token="x")
                if self.fault == "unasked" or (step < request.steps and previews.wants(done, total)):
                    shown = self.fault == "touches"
                    size = 200 if self.fault == "large" else 8
                    data = b"?" if self.fault == "undecodable" else bytes(size * size * 3)
                    at = total if self.fault == "last" else done
                    yield Preview(step=at, total=total, image=index, data=data, width=size, height=size)
            if self.fault == "missing" and index == 1:
                return
            grey = (request.seed + (0 if self.fault == "seeds" else index) + shown) % 256
            data = bytes([grey]) * (request.width * request.height * 3)
            if self.fault == "random":  # never twice the same, as one random byte would be now and then
                data = os.urandom(len(data))
            yield Output(data=data, width=request.width, height=request.height, index=index, seed=request.seed + index)
        if self.fault == "error":
            raise RuntimeError("an error of nobody's")
        if self.fault == "thread":
            threading.Thread(target=FOREVER.wait, daemon=True).start()
        if self.fault == "child":
            _leave_a_child()
        self.busy = False

    async def aclose(self) -> None:
        if self.fault != "task":
            for task in self.left:
                task.cancel()


FOREVER = threading.Event()
CHILDREN: list[subprocess.Popen[bytes]] = []


def _leave_a_child() -> None:
    CHILDREN.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))


@pytest.fixture(autouse=True)
def _put_an_end_to_what_was_left():
    FOREVER.clear()
    yield
    FOREVER.set()
    while CHILDREN:
        CHILDREN.pop().communicate()


@pytest.fixture
def contract(tmp_path: Path):
    """The contract of a sloppy backend with this fault."""
    (tmp_path / "sloppy").mkdir()
    (tmp_path / "sloppy" / "model.yaml").write_text(
        "backend: sloppy\ntitle: Sloppy\ndefaults: {width: 32, height: 16, steps: 3}\n"
    )

    def make(fault: str) -> BackendContract:
        class Contract(BackendContract):
            registration = Registration(create=lambda settings: Sloppy(fault), keys=Keys)
            model_folders = (tmp_path,)
            model_name = "sloppy"
            handles = True

            def failing(self) -> Sequence[Request]:
                return [replace(self.request(), n=1)] if fault == "error" else []

        return Contract()

    return make


CLAIMS = [name for name in vars(BackendContract) if name.startswith("test_")]
BROKEN_BY = {
    "check": "test_its_model_checks_out",
    "missing": "test_every_picture_arrives_and_decodes",
    "steps": "test_steps_rise_and_never_pass_the_total",
    "passes total": "test_steps_rise_and_never_pass_the_total",
    "total": "test_the_total_is_real_from_the_first_step",
    "random": "test_the_same_request_gives_the_same_pixels",
    "seeds": "test_picture_k_of_several_is_the_picture_drawn_alone",
    "unasked": "test_no_previews_unless_asked",
    "undecodable": "test_previews_decode_are_small_and_never_of_the_last_step",
    "large": "test_previews_decode_are_small_and_never_of_the_last_step",
    "last": "test_previews_decode_are_small_and_never_of_the_last_step",
    "touches": "test_previews_leave_the_picture_as_it_is",
    "stuck": "test_closing_midway_frees_it_for_the_next",
    "task": "test_closing_midway_frees_it_for_the_next",
    "error": "test_a_failure_is_a_backend_error_that_says_what_to_do",
    "late handle": "test_outside_work_has_a_handle_before_it_starts",
    "thread": "test_nothing_outlives_aclose",
    "child": "test_nothing_outlives_aclose",
}


@pytest.mark.parametrize(("fault", "claim"), BROKEN_BY.items())
def test_each_fault_is_caught_by_its_claim(contract, fault, claim):
    """The claim that names the promise fails, and it is not a skip."""
    with pytest.raises((AssertionError, ValueError, RuntimeError, Crashed)):
        getattr(contract(fault), claim)()


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_backend_without_a_fault_passes_every_claim(contract, claim):
    """No claim asks for more than the protocol does."""
    getattr(contract("none"), claim)()
