"""What can go wrong in the fake ComfyUI while it draws, and how it says so."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from imagen.testing.comfyui_nodes import Node

Phase = Literal["queued", "loading", "encoding", "sampling", "decoding", "saving"]

TICK_S = 0.003  # how often a held worker looks whether it may go on
ROOT = "/home/comfy/ComfyUI"  # a path of the server, which no client should show

_PHASES: Mapping[str, Phase] = {
    "load": "loading",
    "encode": "encoding",
    "sample": "sampling",
    "decode": "decoding",
    "save": "saving",
    "show": "saving",
}

OUT_OF_MEMORY = """Allocation on device 0 would exceed allowed memory. (out of memory)
Currently allocated     : 21.53 GiB
Requested               : 72.00 MiB
Device limit            : 23.64 GiB
Free (according to CUDA): 14.12 MiB
PyTorch limit (set by user-supplied memory fraction)
                        : 17179869184.00 GiB"""
_TIPS = """This error means you ran out of memory on your GPU.

TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number."""


class Interrupted(Exception):
    """Somebody stopped the prompt that runs."""


class Trouble(Exception):
    """A node failed."""

    def __init__(self, kind: str, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.out_of_memory = out_of_memory

    def told(self) -> dict[str, Any]:
        """The error as `execution_error` tells it."""
        return {
            "exception_message": f"{self}\n{_TIPS if self.out_of_memory else ''}",
            "exception_type": self.kind,
            "traceback": [
                f'  File "{ROOT}/execution.py", line 524, in execute\n    output_data = await get_output_data(obj)\n',
                f'  File "{ROOT}/comfy/samplers.py", line 1053, in sample\n    output = executor.execute(self)\n',
            ],
        }

    def inputs(self, given: Mapping[str, Any]) -> dict[str, list[Any]]:
        """What the node was given, as the server prints it: tensors and objects and all."""
        told = {}
        for name, value in given.items():
            text = (
                f"tensor([[[[0., 0., 0.,  ..., 0., 0., 0.]]]])  # {ROOT}/models" if isinstance(value, list) else value
            )
            told[name] = [text]
        return told


@dataclass(slots=True, kw_only=True)
class Failure:
    """A failure that waits for its moment."""

    trouble: Trouble
    node: str | None  # a class or an id; None is any sampler
    step: int | None
    times: int

    def strikes(self, node_id: str, name: str, phase: Phase | None, step: int | None) -> bool:
        """Whether this is the moment."""
        if self.times <= 0:
            return False
        there = phase == "sampling" if self.node is None else self.node in (node_id, name)
        return there and self.step in (None, step)


@dataclass(slots=True, kw_only=True)
class Hold:
    """A place where the worker waits until the test lets it go on."""

    phase: Phase
    step: int | None = None
    prompt_id: str | None = None

    def stops(self, phase: Phase, step: int | None, prompt_id: str) -> bool:
        """Whether the worker waits here."""
        return self.phase == phase and self.step in (None, step) and self.prompt_id in (None, prompt_id)


@dataclass(slots=True, kw_only=True)
class Course:
    """What lies in a worker's way."""

    holds: list[Hold] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    held: bool = False

    async def wait(self, phase: Phase, step: int | None, prompt_id: str, leave: Callable[[], bool]) -> None:
        """Stand where somebody told the worker to, until it may go on."""
        while any(hold.stops(phase, step, prompt_id) for hold in self.holds) and not leave():
            self.held = True
            await asyncio.sleep(TICK_S)
        self.held = False

    def strike(self, node_id: str, name: str, phase: Phase | None, step: int | None) -> None:
        """Raise what was to happen here."""
        for failure in self.failures:
            if failure.strikes(node_id, name, phase, step):
                failure.times -= 1
                raise failure.trouble


def phase_of(node: Node) -> Phase | None:
    """The phase a node stands for; None for those that take no time."""
    return _PHASES.get(node.does)
