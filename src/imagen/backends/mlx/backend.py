"""The methods: check, generate, close. This runs inside the child process."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from imagen.backends.aside import Say, aside
from imagen.backends.base import Previews
from imagen.backends.mlx.errors import translated
from imagen.backends.mlx.finding import files, look, loras, weights
from imagen.core.errors import Check
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Phase, Signal

if TYPE_CHECKING:
    from imagen.backends.mlx.loading import Loaded

# What of a model decides what is loaded; the rest is said with each call.
_LOADED_BY = ("family", "weights", "variant", "quantize", "loras", "tiling", "draws")


class Mlx:
    """Keeps the pipeline it drew with last."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        # One thread for everything: MLX keeps its streams by thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlx")
        self._open: tuple[Any, Loaded] | None = None

    async def check(self, model: Model) -> Sequence[Check]:
        """Are the packages and files there?"""
        return look(model)

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Load what is not loaded yet, then draw."""

        def work(say: Say) -> None:
            loaded = self._loaded(model, say)
            say.listening()
            from imagen.backends.mlx.drawing import draw

            try:
                draw(loaded, request, model, previews, say)
            except Exception as exc:
                raise translated(exc, "draw", name=model.name) from exc

        async with aclosing(aside(work, self._thread)) as signals:
            async for signal in signals:
                yield signal

    async def aclose(self) -> None:
        """Let go of the pipeline and of the thread."""
        self._open = None
        self._thread.shutdown()

    def _loaded(self, model: Model, say: Say) -> "Loaded":
        key = [*(model.keys[name] for name in _LOADED_BY), _states(model)]
        if self._open is None or self._open[0] != key:
            say(Phase(name="loading"))
            self._open = None  # the old one first: there may not be room for two
            try:
                from imagen.backends.mlx.loading import load

                self._open = key, load(model)
            except Exception as exc:
                raise translated(exc, "load", name=model.name) from exc
        return self._open[1]


def _states(model: Model) -> list[tuple[str, int, int]]:
    """The files as they lie there now: one may be written again while this process runs."""
    found = [(str(file), file.stat()) for file in (*files(weights(model)), *loras(model))]
    return [(name, state.st_mtime_ns, state.st_size) for name, state in found]
