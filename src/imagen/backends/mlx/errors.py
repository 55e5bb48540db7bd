"""What MLX and mflux raise, as what it means."""

import re
import traceback

from imagen.core.errors import BadConfig, Crashed, ImagenError, MissingExtra, MissingFile, OutOfMemory

MAX_DETAIL = 4000  # characters of a traceback: its end says what broke and where
MAX_WORDS = 300

# MLX has no class of its own for it: a RuntimeError of its allocator, or of Metal's.
_NO_ROOM = re.compile(r"out of memory|insufficient memory|unable to allocate|bad_alloc|malloc", re.IGNORECASE)
_NO_FILE = re.compile(r"not found|no such file|offline mode|cannot find", re.IGNORECASE)


def translated(exc: Exception, doing: str, *, name: str) -> ImagenError:
    """The error to raise instead; `doing` is `load` or `draw`, `name` is the model's."""
    if isinstance(exc, ImagenError):
        return exc
    said = " ".join(str(exc).split())[:MAX_WORDS] or type(exc).__name__
    trace = "".join(traceback.format_exception(exc))[-MAX_DETAIL:]
    if isinstance(exc, MemoryError) or _NO_ROOM.search(str(exc)):
        return OutOfMemory(
            f"there is not enough memory to {doing} {name}",
            hint="ask for a smaller size, close what else is open, or give the model `quantize: 4` and `tiling: true`",
            detail=said,
        )
    if isinstance(exc, ImportError):
        return MissingExtra(
            f"{name} needs a package that is not installed: {said}", hint="pip install 'imagen-platform[mlx]'"
        )
    if doing == "load":
        if isinstance(exc, FileNotFoundError) or _NO_FILE.search(said):
            return MissingFile(
                f"not all files of {name} are there: {said}",
                hint="fetch the whole of what `weights` names again: `hf download ORG/NAME`",
                param="weights",
                detail=trace,
            )
        return BadConfig(
            f"{name} cannot be loaded: {type(exc).__name__}: {said}",
            hint="correct `family`, `variant` and `weights`; what each means: docs/howto/use-mlx.md",
            param="weights",
            detail=trace,
        )
    return Crashed(
        f"{name} broke while drawing: {type(exc).__name__}: {said}",
        hint="try again; if it stays so, try another `quantize`, and report it",
        detail=trace,
    )
