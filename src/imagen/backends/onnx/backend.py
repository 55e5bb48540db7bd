"""The methods: check, generate, close; and giving memory back between two jobs."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from imagen.backends.base import Previews
from imagen.backends.onnx.network import Network, digested, find
from imagen.backends.onnx.painting import Painting
from imagen.backends.onnx.paper import laid, shown
from imagen.backends.onnx.words import Words, read_words
from imagen.backends.to_its_end import to_its_end
from imagen.core.errors import BadConfig, Check, ImagenError, MissingExtra, MissingFile
from imagen.core.model import Model, ModelFile
from imagen.core.request import Request
from imagen.core.signals import Notice, Output, Phase, Preview, Signal, Step

# One, because a second is worth little to a small network and much to whoever else works on this machine, and
# because another number may round differently: one machine would then draw other bytes than the next.
THREADS = 1
MAX_THREADS = 64


class Onnx:
    """Keeps the network it drew with last; a model with other files puts its own in that place."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._threads = _threads(settings.get("threads", THREADS))
        self._open: tuple[Any, Network, Words, Sequence[ModelFile]] | None = None

    async def check(self, model: Model) -> Sequence[Check]:
        """Are the files there, and what reads them?"""
        try:
            if find_spec("onnxruntime") is None:
                raise MissingExtra("onnxruntime is not installed", hint="pip install onnxruntime")
            sizes = {name: find(name, model).stat().st_size for name in _files(model) if name}
            for file in model.files:
                if file.size is not None and sizes.get(file.path, file.size) != file.size:
                    raise MissingFile(
                        f"{find(file.path, model)} has {sizes[file.path]:,} bytes of {file.size:,}",
                        hint=f"fetch it again, or correct `files` of {model.origin}",
                        param="files",
                    )
        except ImagenError as error:
            return [Check.failed("files", error)]
        return [Check.passed("files", note=f"{sum(sizes.values()) / 1e6:.1f} MB, for the processor")]

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Draw one picture after the other: on a processor that takes no longer than all at once.

        Whoever cancels waits for the step under way: nothing goes on behind his back.
        """
        key = _key(model)
        if self._open is None or self._open[0] != key:
            yield Phase(name="loading")
            self._open = None  # the old one first: there may not be room for two
            self._open = key, *await to_its_end(asyncio.to_thread(_load, model, self._threads))
        _, network, words, files = self._open
        yield Phase(name="encoding")
        rows = [words.encode(text, network.length) for text in (request.prompt, request.negative)]
        for notice in _notices(request, model, network, words):
            yield notice
        total = request.steps * request.n
        for index in range(request.n):
            yield Phase(name="sampling")
            part = request.part(index, 1)
            painting = Painting(network, model, part, rows)
            for number in range(1, request.steps + 1):
                done = index * request.steps + number
                most = previews.max_size if number < request.steps and previews.wants(done, total) else None
                preview = await to_its_end(asyncio.to_thread(_step, painting, part, most, done, total, index))
                yield Step(step=done, total=total, image=index)
                if preview is not None:
                    yield preview
            yield Phase(name="decoding")
            yield await to_its_end(asyncio.to_thread(_output, painting, part, index, files))

    async def aclose(self) -> None:
        """Let go of the network."""
        self._open = None


def _load(model: Model, threads: int) -> tuple[Network, Words, Sequence[ModelFile]]:
    files = [digested(name, model) for name in _files(model) if name]
    return Network(model, threads), read_words(find(model.keys["words"], model)), files


def _key(model: Model) -> Any:
    """What tells open networks apart: the files as they lie there now, what is promised of them, how they are asked.

    Two folders may each have a `net.onnx`, and one may be exported again while this process runs.
    """
    names = [name for name in _files(model) if name]
    found = [find(name, model) for name in names]
    promised = [(file.path, file.sha256) for file in model.files if file.path in names]
    return [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in found], promised, model.keys["inputs"]


def _files(model: Model) -> tuple[str, str, str]:
    return model.keys["network"], model.keys["words"], model.keys["decoder"]


def _notices(request: Request, model: Model, network: Network, words: Words) -> Iterator[Notice]:
    """What of the request the network cannot honour."""
    if rest := words.left_out(request.prompt, network.length):
        told = f"{model.name} reads {network.length} word pieces; not read: {rest[:100]!r}"
        yield Notice(code="prompt_cut", message=told)
    if request.negative and words.left_out(request.negative, network.length):
        yield Notice(code="prompt_cut", message=f"{model.name} reads no more of the negative prompt either")
    if strange := words.strange(f"{request.prompt} {request.negative}"):
        told = ", ".join(word[:30] for word in strange[:8])
        yield Notice(code="words_unknown", message=f"{model.name} never learned: {told}")
    if request.width != request.height:
        side = min(request.width, request.height)
        told = f"{model.name} draws squares: {side}x{side} in the middle, the rest is its paper"
        yield Notice(code="size_adjusted", message=told)


def _step(
    painting: Painting, request: Request, max_size: int | None, step: int, total: int, index: int
) -> Preview | None:
    """The next step, and in the same visit of a thread what it looks like, of at most `max_size`."""
    painting.step()
    if max_size is None:
        return None
    started = perf_counter()
    pixels = shown(painting.glimpse(), request.width, request.height, max_size)
    height, width, _ = pixels.shape
    took_ms = (perf_counter() - started) * 1000
    return Preview(
        step=step, total=total, image=index, data=pixels.tobytes(), width=width, height=height, decode_ms=took_ms
    )


def _output(painting: Painting, request: Request, index: int, files: Sequence[ModelFile]) -> Output:
    drawn = painting.pixels()
    pixels = laid(drawn, request.width, request.height)
    side, larger = painting.clean.shape[-1], drawn.shape[1]
    how = f"drawn {side}x{side}" + (f", {larger}x{larger} by its decoder" if larger != side else "")
    if larger not in (request.width, request.height):
        how += ", then resampled"
    return Output(
        data=pixels.tobytes(),
        width=request.width,
        height=request.height,
        index=index,
        seed=request.seed,
        facts={"drawn": how, "files": files},
    )


def _threads(said: Any) -> int:
    try:
        count = int(said)
    except (TypeError, ValueError):
        count = 0
    if not 1 <= count <= MAX_THREADS:
        raise BadConfig(
            f"`threads` of the backend onnx is 1 to {MAX_THREADS}, not {said!r}",
            hint="correct `backends: {onnx: {threads: …}}` in config.yaml, or IMAGEN_ONNX_THREADS",
        )
    return count
