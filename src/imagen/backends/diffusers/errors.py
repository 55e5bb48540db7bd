"""What torch, diffusers and their friends raise, as what it means; one translation for all of it."""

import re
import traceback

from imagen.backends.diffusers.finding import EXTRA
from imagen.core.errors import (
    BadConfig,
    Crashed,
    ImagenError,
    MissingExtra,
    MissingFile,
    OutOfMemory,
    Rejected,
)

MAX_DETAIL = 4000  # characters of a traceback: its end says what broke and where
MAX_WORDS = 300

_NO_ROOM = re.compile(
    r"out of memory|(can't|cannot) allocate memory|not enough memory|bad_alloc|STATUS_ALLOC_FAILED"
    r"|failed to map segment",  # of a library, where `memory_limit_mib` is less than PyTorch itself takes
    re.IGNORECASE,
)
_NO_COMPILER = re.compile(r"working C\+\+ compiler|working triton|Python\.h", re.IGNORECASE)
_DAMAGED = re.compile(r"safetensor|header|deserializ|size mismatch|gguf|magic", re.IGNORECASE)
_LACKING = re.compile(r"meta tensor|ignore_mismatched_sizes|low_cpu_mem_usage")
_MODULE = re.compile(r"`?pip install (?:-U |--upgrade )?['\"]?([\w.-]+)")


def translated(exc: BaseException, doing: str, *, name: str, beside: bool = False) -> ImagenError:
    """The error to raise instead; `doing` is `load` or `draw`, `name` is the model's.

    `beside`: another call was computing at the same time, so that alone there may be memory enough.
    """
    if isinstance(exc, ImagenError):
        return exc
    said = " ".join(str(exc).split())[:MAX_WORDS] or type(exc).__name__
    if isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError" or _NO_ROOM.search(str(exc)):
        # The frames hold whatever they were computing with, and with that the memory that the next job needs.
        traceback.clear_frames(exc.__traceback__)
        return OutOfMemory(
            f"there is not enough memory to {doing} {name}{' while another picture is decoded' if beside else ''}",
            retryable=True if beside else None,
            hint="ask for a smaller size, close what else uses the device, give the model `offload: group`, "
            "`float8: on` or a .gguf file under `parts`, or raise `memory_limit_mib` where one is set",
            detail=said,
        )
    if isinstance(exc, ImportError) or type(exc).__name__ == "OptionalDependencyNotAvailable":
        found = _MODULE.search(str(exc))
        hint = f"pip install {found[1]}" if found else f"install what it names, or all of it anew: {EXTRA}"
        return MissingExtra(f"{name} needs a package that is not installed: {said}", hint=hint)
    if _NO_COMPILER.search(str(exc)):
        return MissingExtra(
            f"{name} cannot be compiled: {said}",
            hint="install what it names (for a processor `sudo apt install g++ python3-dev`), or take `compile` out",
            param="compile",
        )
    if doing == "load":
        return _of_loading(exc, said, name)
    if isinstance(exc, ValueError | TypeError | KeyError) and not _ours(exc):
        return Rejected(
            f"{name} cannot draw this: {said}",
            hint="change what the words name; `arguments` and `options` of the model's file are passed on as they are",
            detail=_trace(exc),
        )
    return Crashed(
        f"{name} broke while drawing: {type(exc).__name__}: {said}",
        hint="try again; if it stays so, try `dtype: float32`, no `attention`, `compile` and `cache`, and report it",
        detail=_trace(exc),
    )


def _of_loading(exc: BaseException, said: str, name: str) -> ImagenError:
    if type(exc).__module__.startswith("huggingface_hub") or isinstance(exc, FileNotFoundError):
        return MissingFile(
            f"not all files of {name} are there: {said}",
            hint=f"`imagen models check {name}` names what is missing and how to get it",
            param="weights",
        )
    if isinstance(exc, OSError) and "no file named" in said:
        return MissingFile(
            f"not all files of {name} are there: {said}",
            hint="only .safetensors files are read; fetch those, or set `variant`",
            param="weights",
        )
    if _LACKING.search(said):
        return BadConfig(
            f"a file of {name} lacks some of its weights, or has them in another shape",
            hint="fetch it again, or correct `weights` and `parts`: it is of another model",
            param="weights",
            detail=_trace(exc),
        )
    if type(exc).__name__ == "SafetensorError" or _DAMAGED.search(said) or isinstance(exc, EOFError):
        return BadConfig(
            f"a file of {name} is damaged or is of another model: {said}",
            hint="fetch it again, or correct `weights` and `parts`",
            param="weights",
            detail=_trace(exc),
        )
    return BadConfig(
        f"{name} cannot be loaded: {type(exc).__name__}: {said}",
        hint="correct the keys of the model; what each means: docs/howto/use-diffusers.md",
        param="weights",
        detail=_trace(exc),
    )


def _ours(exc: BaseException) -> bool:
    """Was it raised in this package? Then it is a fault of ours, and no refusal."""
    last = exc.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__", "").startswith("imagen.")


def _trace(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))[-MAX_DETAIL:]
