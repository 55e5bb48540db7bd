"""Two requests of one model: one after the other, or the end of the first beside the beginning of the second."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import inprocess_kit as kit
from tests.diffusers_kit import PATIENCE_S, Gate, asked, drawing, drawn, loaded, pixels

from imagen.backends.diffusers.backend import Diffusers
from imagen.core.errors import Crashed, OutOfMemory
from imagen.core.signals import Output, Phase, Signal
from imagen.testing.signals import Nobody, Watching, collect, outputs

FIRST, SECOND = {"prompt": "a red fox", "seed": 3}, {"prompt": "a blue whale", "seed": 9}
A_MOMENT_S = 0.3  # in which what must not begin would have begun: encoding takes a hundredth of it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


class Decoder:
    """The first decoding stands here until it is let go; the next ones do not."""

    def __init__(self, backend: Diffusers, *, failing: Exception | None = None) -> None:
        self.here, self.go = threading.Event(), threading.Event()
        self.encoded, self.guessed = threading.Event(), threading.Event()
        self._failing = failing
        pipe = loaded(backend).pipe
        self._plain = pipe.vae.decode
        pipe.vae.decode = self.decode
        pipe.text_encoder.register_forward_pre_hook(lambda *_: self._mark(self.encoded))
        self.guesses = 0
        loaded(backend).denoiser.register_forward_hook(lambda *_: self._mark(self.guessed))

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        if not self.here.is_set():
            self.here.set()
            assert self.go.wait(PATIENCE_S)
            if self._failing is not None:
                raise self._failing
        return self._plain(*args, **kwargs)

    def _mark(self, event: threading.Event) -> None:
        if self.here.is_set():
            self.guesses += event is self.guessed
            event.set()

    async def reached(self, event: threading.Event) -> bool:
        return await asyncio.to_thread(event.wait, PATIENCE_S)


@asynccontextmanager
async def decoding(
    folder: Path, name: str, *, failing: Exception | None = None, prepare: Callable[[Any], None] = lambda _: None
) -> AsyncIterator[tuple[Diffusers, Decoder, "asyncio.Task[list[Signal]]"]]:
    """A backend that stands in the decoding of the first request."""
    async with drawing() as backend:
        await collect(backend, *asked(folder, name, prompt="what is loaded for"))
        prepare(loaded(backend))
        decoder = Decoder(backend, failing=failing)
        first = asyncio.create_task(collect(backend, *asked(folder, name, **FIRST), previews=Watching()))
        try:
            assert await decoder.reached(decoder.here)
            yield backend, decoder, first
        finally:
            decoder.go.set()
            await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_the_next_is_encoded_and_drawn_while_the_first_is_decoded(family: str, folder: Path) -> None:
    """Both come out as they are alone, byte for byte; the record says how it was drawn."""
    plain = kit.model(folder, family, "plain")
    alone = [pixels(drawn(folder, plain, **which)) for which in (FIRST, SECOND)]
    name = kit.model(folder, family, overlap="on")

    async def run() -> None:
        async with decoding(folder, name) as (backend, decoder, first):
            second = asyncio.create_task(collect(backend, *asked(folder, name, **SECOND), previews=Watching()))
            assert await decoder.reached(decoder.encoded)
            assert await decoder.reached(decoder.guessed)
            assert not first.done()
            decoder.go.set()
            said = await first
            assert _apart([pixels(said), pixels(await second)], alone) == [(0, 0), (0, 0)]
            # Before it was decoded, and so before its picture.
            assert said.index(Phase(name="decoding", device_free=True)) < said.index(outputs(said)[0])
            assert "decoded beside the next job" in outputs(said)[0].facts["drawn"]

    asyncio.run(run())


def _apart(those: list[list[bytes]], these: list[list[bytes]]) -> list[tuple[int, int]]:
    """Of each drawing, how many bytes differ, and by how much at most: by a last bit, or as another picture."""
    pairs = ((b"".join(one), b"".join(other)) for one, other in zip(those, these, strict=True))
    off = ([abs(a - b) for a, b in zip(one, other, strict=True)] for one, other in pairs)
    return [(sum(by > 0 for by in each), max(each)) for each in off]


def _crowded(loaded: Any) -> None:
    loaded.crowded = True


def _full(loaded: Any) -> None:
    loaded.free_mib = lambda _device: 0


@pytest.mark.parametrize(
    ("keys", "prepare"),
    [
        ({"overlap": "off"}, lambda _: None),
        ({"overlap": "on"}, _full),
        ({"overlap": "on"}, _crowded),
        ({"overlap": "on", "attention": "_native_math"}, lambda _: None),
    ],
    ids=["off", "no room", "crowded", "kernels of the process"],
)
def test_without_it_nothing_is_begun_before_the_first_is_decoded(
    keys: dict[str, Any], prepare: Callable[[Any], None], folder: Path
) -> None:
    """Not asked for, no memory for two, tried in vain before, or a switch that both would share."""
    name = kit.model(folder, "flux", **keys)

    async def run() -> None:
        async with decoding(folder, name, prepare=prepare) as (backend, decoder, first):
            second = asyncio.create_task(collect(backend, *asked(folder, name, **SECOND)))
            await asyncio.sleep(A_MOMENT_S)
            assert not decoder.encoded.is_set()
            decoder.go.set()
            said = await first
            assert Phase(name="decoding", device_free=True) in said
            assert "beside" not in outputs(said)[0].facts["drawn"]
            assert len(outputs(await second)) == 1

    asyncio.run(run())


def test_what_is_reused_from_step_to_step_outlives_the_end_of_the_first(folder: Path) -> None:
    """The first one's end empties such a cache: its own, before the second begins to fill it."""
    keys = {"cache": "taylorseer"}
    plain = pixels(drawn(folder, kit.model(folder, "flux", "plain", **keys), **SECOND, steps=12))
    name = kit.model(folder, "flux", overlap="on", **keys)

    async def run() -> None:
        async with decoding(folder, name) as (backend, decoder, first):
            gate = Gate(8)
            second = asyncio.create_task(collect(backend, *asked(folder, name, **SECOND, steps=12), previews=gate))
            assert await decoder.reached(gate.reached)
            decoder.go.set()
            await first
            gate.open.set()
            assert pixels(await second) == plain

    asyncio.run(run())


def test_a_failure_while_decoding_is_that_jobs(folder: Path) -> None:
    """The one beside it is drawn as if nothing had been."""
    name = kit.model(folder, "flux", overlap="on")
    plain = pixels(drawn(folder, name, **SECOND))

    async def run() -> None:
        async with decoding(folder, name, failing=RuntimeError("the decoder broke")) as (backend, decoder, first):
            second = asyncio.create_task(collect(backend, *asked(folder, name, **SECOND)))
            assert await decoder.reached(decoder.guessed)
            decoder.go.set()
            with pytest.raises(Crashed, match="the decoder broke"):
                await first
            assert pixels(await second) == plain

    asyncio.run(run())


@pytest.mark.parametrize("whose", ["first", "second"])
def test_too_little_memory_for_two_is_tried_again_alone(whose: str, folder: Path) -> None:
    """Of whichever asked for it: that job is worth another try, and from now on nothing is done at once."""
    name = kit.model(folder, "flux", overlap="on")
    plain = [pixels(drawn(folder, name, **which)) for which in (FIRST, SECOND)]
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    async def run() -> None:
        async with decoding(folder, name, failing=full if whose == "first" else None) as (backend, decoder, first):

            def refuse(*_: Any) -> None:
                raise full

            if whose == "second":
                refusing = loaded(backend).denoiser.register_forward_pre_hook(refuse)
            second = asyncio.create_task(collect(backend, *asked(folder, name, **SECOND)))
            if whose == "second":
                with pytest.raises(OutOfMemory) as caught:
                    await second
                refusing.remove()
                decoder.go.set()
                assert pixels(await first) == plain[0]
            else:
                assert await decoder.reached(decoder.guessed)
                decoder.go.set()
                with pytest.raises(OutOfMemory) as caught:
                    await first
                assert pixels(await second) == plain[1]
            assert caught.value.retryable
            again = await collect(backend, *asked(folder, name, **FIRST))
            assert pixels(again) == plain[0]
            assert "beside" not in outputs(again)[0].facts["drawn"]

    asyncio.run(run())


def test_closing_the_first_while_it_is_decoded_leaves_the_second_alone(folder: Path) -> None:
    """It ends with its decoding, and says no picture."""
    name = kit.model(folder, "flux", overlap="on")
    plain = pixels(drawn(folder, name, **SECOND))

    async def run() -> None:
        async with decoding(folder, name) as (backend, decoder, first):
            second = asyncio.create_task(collect(backend, *asked(folder, name, **SECOND)))
            assert await decoder.reached(decoder.guessed)
            first.cancel()
            decoder.go.set()
            assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError)
            assert pixels(await second) == plain

    asyncio.run(run())


def test_another_model_is_loaded_when_the_first_is_decoded(folder: Path) -> None:
    """There may not be room for both of them."""
    name, other = kit.model(folder, "flux", overlap="on"), kit.model(folder, "sd3", overlap="on")

    async def run() -> None:
        async with decoding(folder, name) as (backend, decoder, first):
            before = loaded(backend)
            second = asyncio.create_task(collect(backend, *asked(folder, other, **SECOND)))
            await asyncio.sleep(A_MOMENT_S)
            assert loaded(backend) is before
            decoder.go.set()
            assert len(outputs(await first)) == len(outputs(await second)) == 1
            assert loaded(backend) is not before

    asyncio.run(run())


def test_one_that_waits_for_its_turn_leaves_at_once(folder: Path) -> None:
    """While the first is being drawn, and that one goes on."""
    name = kit.model(folder, "flux")
    plain = pixels(drawn(folder, name, **FIRST))

    async def run() -> None:
        async with drawing() as backend:
            gate = Gate(2)
            first = asyncio.create_task(collect(backend, *asked(folder, name, **FIRST), previews=gate))
            assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
            for _ in range(3):
                second = asyncio.create_task(collect(backend, *asked(folder, name, **SECOND)))
                await asyncio.sleep(0.01)
                second.cancel()
                await asyncio.wait([second], timeout=PATIENCE_S / 2)
                assert second.cancelled()
            gate.open.set()
            assert pixels(await first) == plain
            assert len(outputs(await collect(backend, *asked(folder, name, **SECOND)))) == 1

    asyncio.run(run())


def test_many_at_once_come_one_after_the_other(folder: Path) -> None:
    """However they meet, each is drawn as it is alone."""
    plain = kit.model(folder, "flux", "plain")
    alone = [pixels(drawn(folder, plain, n=2, seed=seed)) for seed in range(4)]
    name = kit.model(folder, "flux", overlap="on")

    async def run() -> None:
        async with drawing() as backend:
            told = [collect(backend, *asked(folder, name, n=2, seed=seed), previews=Watching()) for seed in range(4)]
            assert _apart([pixels(said) for said in await asyncio.gather(*told)], alone) == [(0, 0)] * 4

    asyncio.run(run())


def test_a_third_waits_until_the_first_is_through(folder: Path) -> None:
    """Also with what comes after its decoding: two are under way at most."""
    name = kit.model(folder, "flux", overlap="on")
    alone = [pixels(drawn(folder, name, seed=seed)) for seed in range(3)]

    class Files(list[Any]):
        """Listed for the record of each picture; for the first one that takes a while."""

        def __init__(self) -> None:
            self.here, self.go = threading.Event(), threading.Event()

        def __iter__(self) -> Any:
            if not self.here.is_set():
                self.here.set()
                assert self.go.wait(PATIENCE_S)
            return super().__iter__()

    async def run() -> None:
        async with drawing() as backend:
            await collect(backend, *asked(folder, name))
            files = loaded(backend).files = Files()
            calls = [asyncio.create_task(collect(backend, *asked(folder, name, seed=seed))) for seed in range(3)]
            assert await asyncio.to_thread(files.here.wait, PATIENCE_S)
            await asyncio.sleep(A_MOMENT_S)
            files.go.set()
            assert [pixels(said) for said in await asyncio.gather(*calls)] == alone

    asyncio.run(run())


def test_who_saves_a_picture_does_not_hold_up_the_next(folder: Path) -> None:
    """The turn is over with the drawing, also where nobody has asked yet what comes after the picture."""
    name = kit.model(folder, "flux")

    async def run() -> None:
        async with drawing() as backend, aclosing(backend.generate(*asked(folder, name, **FIRST), Nobody())) as first:
            while not isinstance(await anext(first), Output):
                pass
            async with asyncio.timeout(PATIENCE_S):
                assert len(outputs(await collect(backend, *asked(folder, name, **SECOND)))) == 1

    asyncio.run(run())
