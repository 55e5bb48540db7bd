"""Decoding one job's last picture while the next job of the same model begins: when, and what keeps the two apart.

The pipeline goes on decoding by itself, on the thread it was called on; from then on another thread may call the same
parts. So such a call has a pipeline object and a scheduler of its own, decodes while it holds the lock of the decoder,
on a card on a stream of its own, and does nothing more to the parts when it ends.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any

from imagen.backends.diffusers.loading import Loaded
from imagen.backends.diffusers.presets import beside_mib
from imagen.core.request import Request

NOTICE_S = 0.05  # how soon a call that waits for the decoder notices that nobody wants its picture any more
KINDS = ("cpu", "cuda")  # Metal takes commands of one thread at a time


def possible(keys: Mapping[str, Any], loaded: Loaded) -> bool:
    """Is it asked for, and can this pipeline do it?"""
    return (
        keys["overlap"] == "on"
        and not loaded.crowded
        # Parts that come and go are moved by whichever call needs them next.
        and loaded.preset.offload == "none"
        and loaded.device.partition(":")[0] in KINDS
        # These choose the kernel by a switch of the whole process, which the decoder would see.
        and not keys["attention"].startswith("_native_")
    )


def own(pipe: Any) -> Any:
    """A pipeline with the same parts, of which this call alone changes what a call changes."""
    mine = copy.copy(pipe)
    mine.scheduler = copy.deepcopy(pipe.scheduler)
    return mine


def done(pipe: Any) -> None:
    """What diffusers does at the end of a call, now: it empties caches, and later the next job is using them."""
    pipe.maybe_free_model_hooks()
    pipe.maybe_free_model_hooks = _nothing


def room(loaded: Loaded, request: Request, count: int) -> bool:
    """Is there memory now for this decoding and another job's steps?"""
    needed = beside_mib(request.width, request.height, count, loaded.preset.dtype)
    return needed <= loaded.free_mib(loaded.device)


@contextmanager
def decoding(loaded: Loaded, listening: Callable[[], object]) -> Iterator[None]:
    """Have the decoder for oneself, and on a card a stream."""
    with held(loaded.decoder, listening), _streamed(loaded):
        yield


@contextmanager
def held(lock: Lock, listening: Callable[[], object]) -> Iterator[None]:
    """Have a lock; `listening` raises to give it up while waiting."""
    while not lock.acquire(timeout=NOTICE_S):
        listening()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _streamed(loaded: Loaded) -> Iterator[None]:
    if not loaded.device.startswith("cuda"):
        yield
        return
    import torch

    if loaded.stream is None:
        # One and always the same: what is freed on a stream is taken again only there.
        loaded.stream = torch.cuda.Stream(loaded.device)
    loaded.stream.wait_stream(torch.cuda.current_stream(loaded.device))
    with torch.cuda.stream(loaded.stream):
        try:
            yield
        finally:
            loaded.stream.synchronize()


def _nothing() -> None:
    """Has been done."""
