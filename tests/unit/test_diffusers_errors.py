"""What torch, diffusers and the libraries below them raise: each has a meaning, and none comes through as it is."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub.errors
import peft.utils
import pytest
import safetensors
import torch
from diffusers.loaders import single_file_utils
from diffusers.utils import import_utils

from imagen.backends.diffusers.errors import translated
from imagen.core.errors import (
    BackendError,
    BadConfig,
    Crashed,
    ImagenError,
    MissingExtra,
    MissingFile,
    OutOfMemory,
    Rejected,
    SetupError,
)

OURS = (torch, huggingface_hub.errors, peft.utils, safetensors, single_file_utils, import_utils, diffusers.utils)


def kinds() -> Iterator[type[BaseException]]:
    """Every exception these modules define, and those that Python itself has for such things."""
    yield from (MemoryError, OSError, FileNotFoundError, PermissionError, EOFError, KeyError, TypeError, ValueError)
    yield from (RuntimeError, AttributeError, IndexError, AssertionError, ImportError, NotImplementedError)
    seen = set()
    for module in OURS:
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, BaseException) and kind not in seen:
                seen.add(kind)
                if not issubclass(kind, Warning):
                    yield kind


def made(kind: type[BaseException]) -> BaseException:
    """One of this kind, however its constructor wants to be called."""
    exc = kind.__new__(kind)
    exc.args = ("it did not work",)
    return exc


@pytest.mark.parametrize("doing", ["load", "draw"])
@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_exception_is_one_of_ours_with_what_to_do(kind: type[BaseException], doing: str) -> None:
    """While loading it is the owner's turn, while drawing the backend's; memory and packages are what they are."""
    error = translated(made(kind), doing, name="mine")
    turn = (SetupError, OutOfMemory) if doing == "load" else (BackendError, MissingExtra)
    assert isinstance(error, turn)
    assert error.hint
    assert "mine" in error.message


def test_every_exception_that_diffusers_defines_is_looked_at() -> None:
    """A later version that has another one fails here, so that somebody thinks about it."""
    found = set()
    for module in pkgutil.walk_packages(diffusers.__path__, "diffusers."):
        if module.name.count(".") > 2 or ".pipelines" in module.name:
            continue
        try:
            told = importlib.import_module(module.name)
        except Exception:  # one that needs a package that is not here
            continue
        found |= {
            kind.__name__
            for kind in vars(told).values()
            if inspect.isclass(kind) and issubclass(kind, BaseException) and kind.__module__.startswith("diffusers")
        }
    assert found <= {"SingleFileComponentError", "OptionalDependencyNotAvailable"}


@pytest.mark.parametrize(
    ("exc", "doing", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "draw", OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "load", OutOfMemory),
        (
            RuntimeError("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config"),
            "draw",
            MissingExtra,
        ),
        (RuntimeError("Cannot find a working triton installation."), "draw", MissingExtra),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory"),
            "draw",
            OutOfMemory,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), "draw", OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "draw", OutOfMemory),
        (MemoryError(), "load", OutOfMemory),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "load", OutOfMemory),
        (NotImplementedError("Cannot copy out of meta tensor; no data!"), "load", BadConfig),
        (ValueError("expected shape (8, 8). If you want to, pass `low_cpu_mem_usage=False`"), "load", BadConfig),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "draw", Crashed),
        (ValueError("`height` and `width` have to be divisible by 16"), "draw", Rejected),
        (ImportError("Please install accelerate via `pip install accelerate`"), "load", MissingExtra),
        (import_utils.OptionalDependencyNotAvailable("sentencepiece"), "draw", MissingExtra),
        (safetensors.SafetensorError("Error while deserializing header: HeaderTooLarge"), "load", BadConfig),
        (
            OSError("Error no file named diffusion_pytorch_model.safetensors found in directory /x."),
            "load",
            MissingFile,
        ),
        (huggingface_hub.errors.LocalEntryNotFoundError("Cannot find the requested files"), "load", MissingFile),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_often_raised_means(exc: BaseException, doing: str, kind: type[ImagenError]) -> None:
    """The words these libraries really use."""
    error = translated(exc, doing, name="mine")
    assert type(error) is kind


def test_a_missing_package_is_named() -> None:
    """As what is to be installed."""
    error = translated(ImportError("sage needs `pip install sageattention>=2.1.1` to work"), "load", name="mine")
    assert error.hint == "pip install sageattention"
    error = translated(ImportError("no such file: _C.so", name="torch._C"), "load", name="mine")
    assert "_C" not in error.hint  # nobody is told to install a package that only has the name of a file


def test_an_error_of_ours_stays_as_it_is() -> None:
    """It has its words already."""
    error = MissingFile("gone", hint="bring it")
    assert translated(error, "load", name="mine") is error


def test_a_fault_of_ours_is_no_refusal(tmp_path: Path) -> None:
    """A ValueError out of this package says that it is broken, not that the request is."""
    from imagen.backends.diffusers.finding import _numbers

    with pytest.raises(FileNotFoundError) as caught:
        _numbers(tmp_path / "gone.safetensors")
    assert isinstance(translated(caught.value, "draw", name="mine"), Crashed)


def test_memory_that_was_held_is_let_go() -> None:
    """The next job needs what the frames of the failed one hold."""
    import weakref

    class Held:
        pass

    seen: list[Any] = []

    def draw() -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise torch.OutOfMemoryError("CUDA out of memory")

    try:
        draw()
    except torch.OutOfMemoryError as exc:
        error = translated(exc, "draw", name="mine")
        assert seen[0]() is None
        assert isinstance(error, OutOfMemory)


def test_memory_that_was_short_beside_another_is_worth_another_try() -> None:
    """Alone it may be enough; where it was alone it was not."""
    full = torch.OutOfMemoryError("CUDA out of memory")
    assert translated(full, "draw", name="mine", beside=True).retryable
    assert not translated(full, "draw", name="mine").retryable
    assert not translated(RuntimeError("it broke"), "draw", name="mine", beside=True).retryable
