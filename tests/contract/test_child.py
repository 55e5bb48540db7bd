"""A backend in a process of its own keeps the contract; what happens to that process happens to nobody else."""

import asyncio
import datetime
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.child_kit import alive, faulty, model, request
from tests.service_kit import status_kib

import imagen.models
from imagen.backends import mock, onnx
from imagen.backends.base import Prepares, Queues, Registration, Releases
from imagen.backends.child import parent
from imagen.backends.child.parent import Child
from imagen.core.errors import (
    BadConfig,
    Check,
    Crashed,
    ImagenError,
    NotConfigured,
    OutOfMemory,
    Rejected,
    TimedOut,
    TooLarge,
)
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice, Output, Phase, Preview, Signal, Step
from imagen.testing.contract import BackendContract
from imagen.testing.signals import Nobody, Watching, collect, outputs

# What becomes of a call: by faults that end the process, and by those that do not.
KILLING: dict[str, tuple[type[ImagenError], str]] = {
    "segfault": (Crashed, "SIGSEGV"),
    "abort": (Crashed, "SIGABRT"),
    "kill": (Crashed, "SIGKILL"),
    "exit": (Crashed, "exit code 7"),
    "bad_alloc": (OutOfMemory, "ran out of memory"),
    "babble": (Crashed, "nobody understands"),
}
RAISING: dict[str, tuple[type[ImagenError], str]] = {
    "raise": (Crashed, "ValueError"),
    "thread": (OutOfMemory, "CUDA out of memory"),
    "leave": (Crashed, "SystemExit"),
    "cancelled": (Crashed, "CancelledError"),
    "reject": (Rejected, "not this"),
    "nonsense": (Crashed, "object is no signal"),
    "unsendable": (Crashed, "not JSON serializable"),
}

BUNDLED = tuple(Path(folder) for folder in imagen.models.__path__)


def _mock(settings: Mapping[str, Any]) -> Child:
    return Child("imagen.backends.mock:Mock", settings, name="mock", ready=("numpy", "no_such_module"))


class TestMockInAChild(BackendContract):
    """Every claim that holds for the mock holds for a mock elsewhere."""

    registration = Registration(create=_mock, keys=mock.MockKeys)
    model_folders = BUNDLED
    model_name = "mock"
    prompt = "a red fox [slow:0.05]"
    size = (128, 96)
    steps = 6
    handles = True

    def failing(self) -> list[Request]:
        return [self.request(prompt=f"a fox [slow:0] [fail:{kind}@3]") for kind in mock.FAILURES]


class TestTinyInAChild(BackendContract):
    """So it is with one that has files and computes."""

    registration = Registration(
        create=lambda settings: Child("imagen.backends.onnx.backend:Onnx", settings, name="onnx"),
        keys=onnx.OnnxKeys,
    )
    model_folders = BUNDLED
    model_name = "tiny-3d"
    size = (64, 64)
    steps = 4


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Child]:
    others = {name: settings.pop(name) for name in ("look", "start_s", "spare_after_s", "queues") if name in settings}
    backend = faulty(settings, **{"spare_after_s": 3600.0, **others})
    try:
        yield backend
    finally:
        await backend.aclose()


async def drawn(backend: Child, asked: Request | None = None, of: Model | None = None) -> tuple[int, int]:
    """The process that drew, and its how many-th picture that was."""
    (output,) = outputs(await collect(backend, asked or request(), of or model()))
    pid, count = str(output.facts["drawn"]).split()
    return int(pid), int(count)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def begun(backend: Child, fault: str) -> "asyncio.Task[list[Signal]]":
    """A call that is in the middle of its fault."""
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "there"
        asked = request(f"{fault}@2", options={"once": str(there)})
        drawing = asyncio.create_task(collect(backend, asked, model()))
        await until(there.exists)
    return drawing


def _children() -> set[int]:
    return {int(pid) for listing in Path("/proc/self/task").glob("*/children") for pid in listing.read_text().split()}


def _found(said: Sequence[Signal]) -> str:
    (message,) = [signal.message for signal in said if isinstance(signal, Notice) and signal.code == "found"]
    return message


def _loading(said: Sequence[Signal]) -> int:
    return sum(isinstance(signal, Phase) and signal.name == "loading" for signal in said)


async def test_it_draws_elsewhere_and_stays_there():
    """Two pictures of one model come from one process, which is not this one."""
    async with opened() as backend:
        first = await drawn(backend)
        assert first[0] != os.getpid()
        assert await drawn(backend) == (first[0], 2)


async def test_what_it_says_arrives_as_it_was_said():
    """Signals of every kind, facts with files among them; while the process starts it says that it is loading."""
    async with opened() as backend:
        said = await collect(backend, request(n=2), model(), previews=Watching(max_size=4))
        assert _loading(said) == 2  # the process, then what is drawn with
        assert _loading(await collect(backend, request(), model())) == 1
    assert [signal.step for signal in said if isinstance(signal, Step)] == [1, 2, 3, 4, 5, 6]
    assert {(shown.width, len(shown.data)) for shown in said if isinstance(shown, Preview)} == {(4, 48)}
    pictures = [signal for signal in said if isinstance(signal, Output)]
    assert [(picture.index, picture.seed, set(picture.data)) for picture in pictures] == [(0, 7, {7}), (1, 8, {8})]
    assert pictures[0].facts["files"][0].sha256 == "b"


async def test_the_sink_is_asked_live():
    """Each step is asked about in the parent, and what it answers holds."""
    sink = Watching(stride=2)
    async with opened() as backend:
        said = await collect(backend, request(steps=6), model(), previews=sink)
    assert [shown.step for shown in said if isinstance(shown, Preview)] == [2, 4]
    assert sink.asked == [1, 2, 3, 4, 5, 6]


async def test_a_sink_that_takes_too_long_or_breaks_costs_the_preview_only(caplog):
    """The picture does not wait for an answer."""

    class Slow(Watching):
        def wants(self, step: int, total: int) -> bool:
            if step == 1:
                raise RuntimeError("a fault of the sink's")
            time.sleep(0.2)
            return True

    async with opened() as backend:
        said = await collect(backend, request(), model(), previews=Slow())
    assert not [signal for signal in said if isinstance(signal, Preview)]
    assert len(outputs(said)) == 1
    assert "a fault of the sink's" in caplog.text


async def test_a_promised_preview_is_waited_for():
    """Where so and so many were asked for, a parent that is busy for a moment costs none of them."""

    class Busy(Watching):
        method = "auto"
        promised = True

        def wants(self, step: int, total: int) -> bool:
            time.sleep(0.2)
            return super().wants(step, total)

    async with opened() as backend:
        said = await collect(backend, request(steps=4), model(), previews=Busy(stride=1))
    assert [shown.step for shown in said if isinstance(shown, Preview)] == [1, 2, 3]


async def test_it_is_pulled_and_never_ahead():
    """What comes after a signal is not done before the next one is asked for: a handle is stored before work starts."""
    async with opened() as backend:
        mark = await drawn(backend)
        async with aclosing(backend.generate(request("kill@1"), model(), Nobody())) as signals:
            async for signal_ in signals:
                if isinstance(signal_, Notice):
                    break
            await asyncio.sleep(0.2)
            assert alive(mark[0])
            with pytest.raises(Crashed):
                await anext(signals)


@pytest.mark.parametrize(("fault", "kind", "words"), [(fault, *told) for fault, told in KILLING.items()])
async def test_a_process_that_dies_is_one_clean_error_and_the_next_call_has_a_new_one(fault, kind, words):
    """With the reason, and a retry where that may help; in the meantime nobody else notices."""
    async with opened() as backend:
        before, _ = await drawn(backend)
        with pytest.raises(kind, match=words) as caught:
            await collect(backend, request(f"{fault}@2"), model())
        assert caught.value.hint
        assert caught.value.retryable is (kind is Crashed)
        if fault == "segfault":
            assert "child_kit.py" in str(caught.value.detail)  # where it was, without the path to it
            assert str(Path(__file__).parent) not in str(caught.value.detail)
        assert not alive(before)
        after, count = await drawn(backend)
        assert (after != before, count) == (True, 1)


@pytest.mark.parametrize(("fault", "kind", "words"), [(fault, *told) for fault, told in RAISING.items()])
async def test_an_exception_comes_across_and_the_process_stays(fault, kind, words):
    """As an error of ours, without secrets or paths, not to be tried again; what is loaded stays loaded."""
    async with opened() as backend:
        before, _ = await drawn(backend)
        with pytest.raises(kind, match=words) as caught:
            await collect(backend, request(f"{fault}@2"), model())
        assert not caught.value.retryable
        assert "abcdefgh" not in f"{caught.value}{caught.value.detail}"
        assert "/home" not in f"{caught.value}{caught.value.detail}"
        assert await drawn(backend) == (before, 2)


async def test_memory_is_limited_where_that_is_asked_for():
    """`memory_limit_mib`: more is refused by the system, and the error says that memory ran out."""
    async with opened(memory_limit_mib=512) as backend:
        with pytest.raises(OutOfMemory):
            await collect(backend, request("memory@2"), model())
        assert (await drawn(backend))[1] == 1


async def test_settings_may_hold_what_yaml_knows():
    """A date is told as text."""
    async with opened(since=datetime.date(2026, 1, 31)) as backend:
        assert (await drawn(backend))[1] == 1


async def test_its_environment_can_be_set():
    """`environment`: what libraries read when they are imported."""
    async with opened(environment={"FAULTY": 4}) as backend:
        assert _found(await collect(backend, request("environment@1"), model())) == "4"


@pytest.mark.parametrize("fault", ["wait", "stubborn", "hold for ever"])
async def test_cancelling_ends_it_whatever_it_takes(fault):
    """Politely where that works, else the process; the next call draws."""
    async with opened(cancel_s=60 if fault == "wait" else 0.3) as backend:
        before, _ = await drawn(backend)
        drawing = await begun(backend, fault)
        drawing.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        assert time.monotonic() - began < 10
        after, _ = await drawn(backend)
        assert (after == before) == (fault == "wait")
        assert alive(before) == (fault == "wait")


@pytest.mark.parametrize("how", ["it waits for ever", "it is stopped"])
async def test_one_that_says_nothing_for_too_long_is_ended(how):
    """Its job may be tried again, and the next call draws."""
    async with opened(stall_s=1.5) as backend:
        before, _ = await drawn(backend)
        if how == "it is stopped":
            os.kill(before, signal.SIGSTOP)
        with pytest.raises(Crashed, match=r"said nothing for 1\.5 s") as caught:
            await collect(backend, request("wait@2" if how == "it waits for ever" else ""), model())
        assert caught.value.retryable
        after, _ = await drawn(backend)
        assert after != before
        assert not alive(before)


async def test_one_call_may_wait_as_long_as_another_speaks():
    """What says nothing is a process: in it one picture is drawn after the other."""
    async with opened(stall_s=1.0) as backend:
        waiting = asyncio.create_task(collect(backend, request("wait@2"), model()))
        said = await collect(backend, request(steps=8, options={"slow": 0.3}), model())
        assert len(outputs(said)) == 1
        with pytest.raises(Crashed, match="said nothing for 1 s"):
            await waiting


async def test_another_model_waits_for_one_that_is_only_decoded(tmp_path):
    """That one has said that its device is free, and holds its memory until it is through; the same model is begun."""
    done = tmp_path / "done"
    decoding = request("decode@2", options={"until": str(done)})
    async with opened() as backend:
        before, _ = await drawn(backend)
        first = asyncio.create_task(collect(backend, decoding, model()))
        (process,) = backend._drawing.values()
        await until(lambda: process.leaving)
        assert await drawn(backend) == (before, 2)
        other = asyncio.create_task(drawn(backend, of=model("another")))
        elsewhere = await drawn(backend, of=model("a third", device="cpu@there"))
        assert not other.done()
        assert alive(before)
        done.touch()
        assert len(outputs(await first)) == 1
        assert (await other)[0] not in (before, elsewhere[0])
        assert not alive(before)


async def test_one_whose_device_is_refused_does_not_stay():
    """It has drawn nothing, so it holds nothing that is worth its memory; one that has drawn is kept."""
    async with opened() as backend:
        children = _children()
        with pytest.raises(NotConfigured):
            await collect(backend, request("unfit@1"), model())
        assert _children() <= children
        before, _ = await drawn(backend)
        with pytest.raises(NotConfigured):
            await collect(backend, request("unfit@1"), model())
        assert (await drawn(backend))[0] == before


async def test_cancelling_while_it_starts_waits_for_nothing():
    """What is being started is there for the next call."""
    async with opened(start="slow") as backend:
        drawing = asyncio.create_task(collect(backend, request(), model()))
        await asyncio.sleep(0.1)
        (process,) = backend._drawing.values()
        began = time.monotonic()
        drawing.cancel()
        await asyncio.wait([drawing])
        assert time.monotonic() - began < 1
        assert not process.busy
        assert await drawn(backend) == (process.pid, 1)


async def test_cancelling_twice_does_not_wait():
    """Who cancels the cancelling gets a dead process at once."""
    async with opened(cancel_s=60) as backend:
        before, _ = await drawn(backend)
        drawing = await begun(backend, "stubborn")
        for _ in range(2):
            drawing.cancel()
            await asyncio.sleep(0.2)
        await asyncio.wait([drawing], timeout=10)
        assert drawing.cancelled()
        await until(lambda: not alive(before))


async def test_two_calls_share_the_process_that_has_the_model():
    """As two calls of a backend here would; what kills one, kills both, and says so."""
    async with opened(cancel_s=0.2) as backend:
        both = [asyncio.create_task(drawn(backend, request(options={"slow": 0.1}))) for _ in range(2)]
        (first, _), (second, _) = await asyncio.gather(*both)
        assert first == second
        waiting, stubborn = await begun(backend, "wait"), await begun(backend, "stubborn")
        stubborn.cancel()
        with pytest.raises(Crashed, match="did not stop within"):
            await waiting
        await asyncio.gather(stubborn, return_exceptions=True)


async def test_another_model_on_the_device_has_the_old_process_gone_first():
    """Its memory is back before anything of the new one is loaded; on another device nobody has to go."""
    async with opened() as backend:
        one, _ = await drawn(backend)
        elsewhere, _ = await drawn(backend, of=model("other", "gpu@here"))
        assert alive(one)
        two, _ = await drawn(backend, of=model("second"))
        assert len({one, two, elsewhere}) == 3
        assert not alive(one)
        assert await drawn(backend, of=model("other", "gpu@here")) == (elsewhere, 2)


async def test_a_spare_stands_ready_after_the_first_picture():
    """It takes over when another model comes, so that this one waits for no imports; then there is another."""
    async with opened(spare_after_s=0.0) as backend:
        one, _ = await drawn(backend)
        await until(lambda: backend._spare is not None and backend._spare.ready)
        assert backend._spare is not None
        spare = backend._spare.pid
        said = await collect(backend, request(), model("second"))
        assert _loading(said) == 1
        assert str(outputs(said)[0].facts["drawn"]).startswith(f"{spare} ")
        await until(lambda: backend._spare is not None and backend._spare.pid not in (one, spare))


async def test_a_spare_can_be_there_from_the_beginning_or_never():
    """`ready: true` and `ready: false`; in between nothing is started by who only looks."""
    async with opened() as backend:
        assert isinstance(backend, Prepares)
        backend.prepare()
        assert backend._spare is None
    async with opened(ready="true") as backend:
        backend.prepare()
        spare = backend._spare
        backend.prepare()
        assert spare is not None
        assert backend._spare is spare
        assert (await drawn(backend))[0] == spare.pid
    async with opened(ready=False, spare_after_s=0.0) as backend:
        await drawn(backend)
        await asyncio.sleep(0.1)
        assert backend._spare is None
    async with opened(ready=True) as backend:
        backend.prepare()
        dead = backend._spare
        assert dead is not None
        os.kill(dead.pid, signal.SIGKILL)
        await until(lambda: dead.dead)
        assert (await drawn(backend))[0] != dead.pid


async def test_memory_is_really_back_when_it_is_released():
    """What was loaded is gone with its process; a job that runs is left alone."""
    async with opened(weights_mib=256) as backend:
        assert isinstance(backend, Releases)
        assert backend.unload_after_s == parent.UNLOAD_AFTER_S
        pid, _ = await drawn(backend)
        assert status_kib(pid, "VmRSS") > 256 * 1024
        drawing = await begun(backend, "wait")
        await backend.release(model())
        assert alive(pid)
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        await backend.release(model("second", "elsewhere@here"))
        assert alive(pid)
        await backend.release(model("second"))
        assert not alive(pid)
        assert (await drawn(backend))[1] == 1


async def test_the_parent_goes_on_while_the_child_holds_its_lock():
    """A heartbeat of this loop is never late by what a load there takes."""
    async with opened() as backend:
        await drawn(backend)
        drawing = asyncio.create_task(drawn(backend, request("hold@2")))
        gaps = []
        while not drawing.done():
            began = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - began)
        await drawing
        assert sum(gaps) > 1.9
        assert max(gaps) < 1


async def test_a_flood_of_words_holds_nobody_up_and_is_not_kept():
    """16 MiB of them; the picture is drawn, and the last lines are known when it dies."""
    async with opened() as backend:
        before, _ = await drawn(backend)
        drawing = asyncio.create_task(drawn(backend, request("flood@1")))
        gaps = []
        while not drawing.done():
            began = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - began)
        assert await drawing == (before, 2)
        assert max(gaps) < 1
        with pytest.raises(Crashed) as caught:
            await collect(backend, request("kill@1"), model())
        assert str(caught.value.detail).endswith("the flood is over")
        assert len(str(caught.value.detail)) <= 4000


@pytest.mark.parametrize("fault", ["start", "fork"])
async def test_what_it_started_goes_with_it(fault):
    """Also where it is killed, and also what holds the same sockets."""
    async with opened() as backend:
        grandchild = int(_found(await collect(backend, request(f"{fault}@1"), model())))
        assert alive(grandchild)
        with pytest.raises(Crashed):
            await collect(backend, request("kill@1"), model())
        await until(lambda: not alive(grandchild))


async def test_a_signal_to_all_of_a_service_does_not_end_the_picture():
    """SIGTERM is for the parent, which lets what runs be finished."""
    async with opened() as backend:
        pid, _ = await drawn(backend)
        drawing = asyncio.create_task(drawn(backend, request(options={"slow": 0.1})))
        await asyncio.sleep(0.1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        assert await drawing == (pid, 2)


@pytest.mark.parametrize(
    ("start", "kind", "words"),
    [
        ("refuse", BadConfig, "the settings are wrong"),
        ("break", Crashed, "ValueError: no such thing"),
        ("die", Crashed, "exit code 3"),
        ("hang", TimedOut, "not ready within"),
    ],
)
async def test_a_backend_that_cannot_be_made_says_why(start, kind, words):
    """To who draws as to who checks, each time anew."""
    async with opened(start=start, start_s=1.0 if start == "hang" else 30.0) as backend:
        for _ in range(2):
            with pytest.raises(kind, match=words) as caught:
                await collect(backend, request(), model())
        if start == "die":
            assert caught.value.detail == "the last thing it said"
        (check,) = await backend.check(model())
        assert isinstance(check.error, kind)


async def test_a_check_is_answered_by_the_child():
    """By the one that draws the model, or by one that is ready to."""
    async with opened() as backend:
        good, bad = await backend.check(model())
        assert good.ok
        assert bad.error is not None
        assert bad.error.code == "missing_file"
        pid, _ = await drawn(backend)
        assert good.note == f"pid {pid}"
        drawing = await begun(backend, "wait")
        assert (await backend.check(model()))[0].note == f"pid {pid}"
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)


async def test_a_look_needs_no_process():
    """Where the check is cheap it is made here."""
    async with opened(look=lambda one: [Check.passed("looked", note=one.name)], queues=True) as backend:
        assert [check.note for check in await backend.check(model())] == ["faulty"]
        assert backend._spare is None
        assert isinstance(backend, Queues)
        assert backend.queues


async def test_a_request_that_does_not_fit_is_refused():
    """The bound of a frame is an error of the caller's, and the process stays."""
    async with opened() as backend:
        pid, _ = await drawn(backend)
        with pytest.raises(TooLarge):
            await collect(backend, request(options={"much": "x" * 2**20}), model())
        assert await drawn(backend) == (pid, 2)


async def test_closing_lets_the_backend_close_and_waits_for_nobody(tmp_path):
    """It is closed when that takes a moment; whoever never comes to an end is ended."""
    async with opened(closes=str(tmp_path / "closed")) as backend:
        await drawn(backend)
    assert (tmp_path / "closed").exists()
    async with opened(closes="never") as backend:
        pid, _ = await drawn(backend)
        began = time.monotonic()
    assert time.monotonic() - began < parent.QUIT_S + 2
    assert not alive(pid)


async def test_a_spare_that_still_starts_is_not_waited_for():
    """A command that is done goes."""
    async with opened(start="hang", ready=True) as backend:
        backend.prepare()
        await asyncio.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 1


async def test_after_whatever_order_of_faults_nothing_is_left(caplog):
    """Several calls at once, of several models, broken and cancelled at any moment: each ends, and nothing stays."""
    seed = random.randrange(2**32)
    dice, faults = random.Random(seed), [*KILLING, *RAISING, "wait", "stubborn", "hold", "start", "fork"]
    open_before, children_before = len(os.listdir("/proc/self/fd")), _children()

    async def some(backend: Child) -> None:
        for _ in range(6):
            of = model(dice.choice("abc"), dice.choice(["cpu@here", "gpu@here"]))
            asked = request(f"{dice.choice([*faults, 'none'])}@{dice.randint(1, 4)}", n=dice.randint(1, 2))
            call = asyncio.create_task(collect(backend, asked, of, previews=Watching()))
            for _ in range(dice.choice([0, 1, 2]) if not asked.prompt.startswith(("wait", "stubborn")) else 1):
                await asyncio.sleep(dice.uniform(0, 0.3))
                call.cancel()
            (end,) = await asyncio.gather(call, return_exceptions=True)
            assert isinstance(end, list | ImagenError | asyncio.CancelledError), f"seed {seed}"
            if dice.random() < 0.2:
                await backend.release(of)

    async with asyncio.timeout(50), opened(cancel_s=0.2, spare_after_s=0.05) as backend:
        await asyncio.gather(*(some(backend) for _ in range(3)))
    assert (len(os.listdir("/proc/self/fd")), _children()) == (open_before, children_before), f"seed {seed}"
    assert not caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"ready": "perhaps"},
        {"cancel_s": "soon"},
        {"unload_after_s": -1},
        {"memory_limit_mib": "nan"},
        {"environment": "OMP_NUM_THREADS=4"},
    ],
)
def test_settings_that_are_wrong_are_refused_at_once(settings):
    """With the name of the setting."""
    with pytest.raises(BadConfig) as caught:
        faulty(settings)
    assert next(iter(settings)) in str(caught.value)


def test_settings_may_be_text():
    """As they come out of the environment."""
    assert faulty({"unload_after_s": "0", "ready": "off", "environment": ""}).unload_after_s is None
    assert faulty({"unload_after_s": "5"}).unload_after_s == 5
