"""What every backend promises, as claims: subclass `BackendContract`, say how to make yours, and run pytest.

    from imagen.testing.contract import BackendContract
    from my_package import registration

    class TestMine(BackendContract):
        registration = registration
        model_folders = (Path("src/my_package/models"),)
        model_name = "mine"

The tests are plain functions that need pytest and nothing else. A promise that a backend does not make is
skipped by saying so (`reproducible = False`), never by leaving a claim out.
"""

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from imagen.backends.base import Backend, Registration
from imagen.core.errors import BackendError, RequestError, Unreachable
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.signals import Handle, Preview, Signal, Step
from imagen.models.catalog import Catalog, load_catalog
from imagen.testing.signals import Nobody, Watching, collect, outputs, picture, pixels

T = TypeVar("T")


class BackendContract:
    """The claims; the attributes are what a subclass says about its backend."""

    registration: ClassVar[Registration]
    model_folders: ClassVar[Sequence[Path]]  # folders whose folders are models
    model_name: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    prompt: ClassVar[str] = "a red fox"
    size: ClassVar[tuple[int, int] | None] = None  # small is quick; None = the model's own
    steps: ClassVar[int | None] = None

    reproducible: ClassVar[bool] = True  # the same request gives the same pixels
    splits: ClassVar[bool] = True  # picture k of several equals the picture drawn alone with seed + k
    previews: ClassVar[bool] = True  # shows the picture forming when asked
    sizes_previews: ClassVar[bool] = True  # makes them as small as asked; False = passes on those of its engine
    handles: ClassVar[bool] = False  # starts outside work and can be re-attached to it
    unreachable: ClassVar[Mapping[str, Any] | None] = None  # settings under which the backend's server is away

    def catalog(self) -> Catalog:
        """The models of this backend, read as the product reads them."""
        name = self._backend_name()
        return load_catalog(
            folders=tuple(self.model_folders),
            configured={},
            default_model=self.model_name,
            backends={name: self.registration},
            backend_settings={name: self.settings},
            host="localhost",
        )

    def model(self) -> Model:
        """The model to draw with."""
        return self.catalog().get(self.model_name)

    def request(self, **fields: Any) -> Request:
        """The request of this contract, with some fields changed."""
        width, height = self.size or (None, None)
        usual = {"prompt": self.prompt, "seed": 7, "steps": self.steps, "width": width, "height": height}
        return self.catalog().resolve(Draft(**{"model": self.model_name, **usual, **fields}), lambda: 7).request

    def failing(self) -> Sequence[Request]:
        """Requests that make the backend fail, if there are any."""
        return ()

    def test_its_model_checks_out(self) -> None:
        """check() says at least one thing about the model, and nothing bad."""

        async def claim(backend: Backend) -> None:
            checks = await backend.check(self.model())
            assert checks
            assert [check.error for check in checks if not check.ok] == []

        self._with_backend(claim)

    def test_every_picture_arrives_and_decodes(self) -> None:
        """A call ends with one Output for each picture asked for, in a size it says, with seed + k."""
        request = self.request(n=2)
        finished = outputs(self._said(request))
        assert [output.index for output in finished] == [0, 1]
        assert [output.seed for output in finished if output.seed is not None] in ([], [request.seed, request.seed + 1])
        for output in finished:
            assert picture(output).size == (request.width, request.height)

    def test_steps_rise_and_never_pass_the_total(self) -> None:
        """A step is never said twice, never goes back and never exceeds the total."""
        steps = self._steps()
        assert [step.step for step in steps] == sorted({step.step for step in steps})
        assert all(1 <= step.step <= step.total for step in steps)

    def test_the_total_is_real_from_the_first_step(self) -> None:
        """Every step of a call names the same total, and the last one reaches it."""
        steps = self._steps()
        assert len({step.total for step in steps}) <= 1
        assert not steps or steps[-1].step == steps[-1].total

    def test_the_same_request_gives_the_same_pixels(self) -> None:
        """Drawn twice, by two fresh backends, a picture is the same."""
        if not self.reproducible:
            pytest.skip("this backend does not promise the same picture for the same seed")
        request = self.request()
        first, second = (outputs(self._said(request)) for _ in range(2))
        assert [pixels(output) for output in first] == [pixels(output) for output in second]

    def test_picture_k_of_several_is_the_picture_drawn_alone(self) -> None:
        """What is drawn together can be drawn apart, so that a crash costs one picture and not all."""
        if not (self.reproducible and self.splits):
            pytest.skip("this backend does not promise that several pictures can be drawn apart")
        request = self.request(n=2)
        together = [pixels(output) for output in outputs(self._said(request))]
        alone = [pixels(output) for k in range(2) for output in outputs(self._said(request.part(k, 1)))]
        assert together == alone

    def test_no_previews_unless_asked(self) -> None:
        """When nobody wants previews, none is made."""
        assert [signal for signal in self._said(self.request()) if isinstance(signal, Preview)] == []

    def test_previews_decode_are_small_and_never_of_the_last_step(self) -> None:
        """Each preview is a picture no larger than asked, where it is made here, of a step before the last."""
        shown = self._previews(Watching(max_size=96))
        assert shown, "previews are promised, but none came when every step was wanted"
        for preview in shown:
            assert picture(preview).size == (preview.width, preview.height)
            assert not self.sizes_previews or max(preview.width, preview.height) <= 96
            assert 1 <= preview.step < preview.total

    def test_previews_come_only_for_steps_that_were_asked_about(self) -> None:
        """The sink decides, step by step."""
        sink = Watching(stride=2)
        assert {preview.step for preview in self._previews(sink)} <= {step for step in sink.asked if step % 2 == 0}

    def test_previews_leave_the_picture_as_it_is(self) -> None:
        """The final bytes are the same with previews and without."""
        if not (self.previews and self.reproducible):
            pytest.skip("this backend does not promise previews, or not the same picture for the same seed")
        request = self.request()
        plain = outputs(self._said(request))
        watched = outputs(self._said(request, previews=Watching()))
        assert [output.data for output in plain] == [output.data for output in watched]

    def test_closing_midway_frees_it_for_the_next(self) -> None:
        """After a call is left at its first step, no task of it goes on and the next call draws to its end."""
        request = self.request()

        async def claim(backend: Backend) -> None:
            before = asyncio.all_tasks()
            await collect(backend, request, self.model(), until=lambda signal: isinstance(signal, Step))
            assert asyncio.all_tasks() == before
            assert len(outputs(await collect(backend, request, self.model()))) == 1

        self._with_backend(claim)

    def test_cancelling_while_it_draws_frees_it_for_the_next(self) -> None:
        """A call cancelled while it is busy between two signals ends, and the next one draws to its end."""
        request = self.request()

        async def claim(backend: Backend) -> None:
            before = asyncio.all_tasks()
            begun = asyncio.Event()

            async def draw() -> None:
                async with aclosing(backend.generate(request, self.model(), Nobody())) as signals:
                    async for _ in signals:
                        begun.set()

            drawing = asyncio.create_task(draw())
            waiting = asyncio.create_task(begun.wait())
            await asyncio.wait([drawing, waiting], return_when=asyncio.FIRST_COMPLETED)
            drawing.cancel()
            waiting.cancel()
            await asyncio.gather(drawing, waiting, return_exceptions=True)
            assert asyncio.all_tasks() == before
            assert len(outputs(await collect(backend, request, self.model()))) == 1

        self._with_backend(claim)

    def test_an_unknown_option_is_refused(self) -> None:
        """An option the model does not have is the caller's error, with a hint, before anything is drawn."""
        with pytest.raises(RequestError) as caught:
            self.request(options={"no_such_option": 1})
        assert caught.value.hint

    def test_a_failure_is_a_backend_error_that_says_what_to_do(self) -> None:
        """Whatever goes wrong inside comes out as an error of ours, with a hint."""
        if not self.failing():
            pytest.skip("this backend names no request that makes it fail")
        for request in self.failing():
            with pytest.raises(BackendError) as caught:
                self._said(request)
            assert caught.value.hint

    def test_a_server_that_is_away_is_unreachable_and_worth_a_retry(self) -> None:
        """No server means Unreachable, not a stack trace of the client library; check() says the same."""
        if self.unreachable is None:
            pytest.skip("this backend has no server that could be away")
        settings = self.unreachable

        async def claim(backend: Backend) -> None:
            with pytest.raises(Unreachable) as caught:
                await collect(backend, self.request(), self.model())
            assert caught.value.retryable
            assert any(isinstance(check.error, Unreachable) for check in await backend.check(self.model()))

        self._with_backend(claim, settings)

    def test_outside_work_has_a_handle_before_it_starts(self) -> None:
        """Handles come before the first step, and resuming with the first ends with the same pictures.

        A service that names its work itself is told of by two: one before anything is sent, one with that name.
        """
        if not self.handles:
            pytest.skip("this backend starts no outside work")
        request = self.request()
        said = self._said(request)
        handles = [signal for signal in said if isinstance(signal, Handle)]
        assert handles
        assert not any(isinstance(signal, Step) for signal in said[: said.index(handles[-1])])

        async def claim(backend: Backend) -> None:
            await collect(backend, request, self.model(), until=lambda signal: isinstance(signal, Handle))
            again = await collect(backend, request, self.model(), resume=handles[0].token)
            assert len(outputs(again)) == 1
            if self.reproducible:
                assert pixels(outputs(again)[0]) == pixels(outputs(said)[0])

        self._with_backend(claim)

    def test_nothing_outlives_aclose(self) -> None:
        """After aclose there is no task, thread or child process that was not there before; twice is fine."""
        threads, children = set(threading.enumerate()), _children()

        async def claim() -> None:
            before = asyncio.all_tasks()
            backend = self.registration.create(self.settings)
            await collect(backend, self.request(), self.model(), previews=Watching())
            await backend.aclose()
            await backend.aclose()
            assert asyncio.all_tasks() == before

        asyncio.run(claim())
        assert set(threading.enumerate()) <= threads
        assert _children() <= children

    def _backend_name(self) -> str:
        import yaml

        for folder in self.model_folders:
            file = Path(folder) / self.model_name / "model.yaml"
            if file.is_file():
                return str(yaml.safe_load(file.read_text(encoding="utf-8"))["backend"])
        pytest.fail(f"no model folder {self.model_name!r} in {', '.join(map(str, self.model_folders))}")

    def _with_backend(
        self, claim: Callable[[Backend], Coroutine[Any, Any, T]], settings: Mapping[str, Any] | None = None
    ) -> T:
        """Run a claim on a fresh backend, in a loop of its own."""

        async def inside() -> T:
            async with _opened(self.registration, self.settings if settings is None else settings) as backend:
                return await claim(backend)

        return asyncio.run(inside())

    def _said(self, request: Request, previews: Watching | None = None) -> list[Signal]:
        """Everything a fresh backend says to this request."""
        return self._with_backend(lambda backend: collect(backend, request, self.model(), previews=previews))

    def _steps(self) -> list[Step]:
        said = self._said(self.request(n=2))
        return [signal for signal in said if isinstance(signal, Step)]

    def _previews(self, sink: Watching) -> list[Preview]:
        if not self.previews:
            pytest.skip("this backend does not promise previews")
        return [signal for signal in self._said(self.request(), previews=sink) if isinstance(signal, Preview)]


@asynccontextmanager
async def _opened(registration: Registration, settings: Mapping[str, Any]) -> AsyncIterator[Backend]:
    backend = registration.create(settings)
    try:
        yield backend
    finally:
        await backend.aclose()


def _children() -> set[int]:
    """Process ids of our children, however they were started; only multiprocessing's where there is no /proc."""
    found = {child.pid for child in multiprocessing.active_children() if child.pid is not None}
    for listing in Path("/proc/self/task").glob("*/children"):
        found.update(int(pid) for pid in listing.read_text().split())
    return found
