"""The runner: whatever a backend says, the record is grammatical and has exactly one end."""

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from tests.store_kit import database, grammar, new, record, take

from imagen.backends.base import Previews
from imagen.core import errors
from imagen.core.errors import Check, ImagenError
from imagen.core.events import Cancelled, Completed, Event, Failed, Preview, Progress, Requeued, Warning
from imagen.core.job import State
from imagen.core.model import Model
from imagen.core.request import PreviewPolicy, Request
from imagen.core.signals import RAW_RGB, Handle, Notice, Output, Phase, Signal, Step
from imagen.core.signals import Preview as Shown
from imagen.engine.drawing import runner
from imagen.previews import encode
from imagen.previews.policy import merge
from imagen.store import history, intake, journal, queue
from imagen.store.db import Database
from imagen.store.images import ImageStore

Said = Signal | BaseException | float  # a float is a pause


class Script:
    """A backend that says what it is told to, and remembers how it was called."""

    def __init__(self, *said: Said) -> None:
        self.said = said
        self.calls: list[tuple[Request, str | None]] = []
        self.closed = 0

    async def check(self, model: Model) -> Sequence[Check]:
        return []

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        self.calls.append((request, resume))
        try:
            for item in self.said:
                match item:
                    case BaseException():
                        raise item
                    case float():
                        await asyncio.sleep(item)
                    case Shown() if not previews.wants(item.step, item.total):
                        continue
                    case _:
                        yield item
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        pass


def picture(index: int = 0, **facts: Any) -> Output:
    return Output(data=bytes([index * 10] * 192), width=8, height=8, index=index, facts=facts)


def shown(step: int, total: int = 4) -> Shown:
    return Shown(step=step, total=total, data=bytes(192), width=8, height=8)


async def draw(
    db: Database, folder: Path, backend: Script, *, preview: PreviewPolicy | None = None, **changes: Any
) -> tuple[str, State | None]:
    (job,) = await db.write(intake.submit, [new(preview=preview, **changes)])
    claim = await take(db)
    assert claim is not None
    state = await runner.Attempt(
        claim, backend, db=db, images=ImageStore("local", folder / "images"), policy=merge(preview)
    ).run()
    return job, state


async def ephemeral(db: Database, job: str, kind: type[Event]) -> list[Event]:
    news = await db.read(journal.news, job, 0, 0, preview_tick=0)
    return [event for event in news.events if isinstance(event, kind)]


async def test_a_plain_run_is_queued_started_image_completed(tmp_path: Path) -> None:
    """The shortest good story, with the timings split and the facts of the backend."""
    async with database(tmp_path) as db:
        script = Script(Phase(name="loading"), Step(step=1, total=2), Step(step=2, total=2), picture(vram_peak_mib=7))
        job, state = await draw(db, tmp_path, script)
        assert state is State.COMPLETED
        events = await record(db, job)
        grammar(events)
        assert [event.type for event in events] == ["queued", "started", "image", "completed"]
        end = events[-1]
        assert isinstance(end, Completed)
        assert end.vram_peak_mib == 7
        assert set(end.timings) == {"queue", "load", "encode", "sample", "decode", "save", "total"}
        assert end.images[0].sha256
        assert list((tmp_path / "images").rglob("*.png"))


async def test_the_same_request_gives_the_same_file(tmp_path: Path) -> None:
    """Nothing of the run, neither time nor id, is inside the picture."""
    async with database(tmp_path) as db:
        one, _ = await draw(db, tmp_path, Script(picture()))
        two, _ = await draw(db, tmp_path, Script(picture()), preview=PreviewPolicy(count=2))
        first, second = await db.read(history.job, one), await db.read(history.job, two)
        assert first.images[0].sha256 == second.images[0].sha256


async def test_no_preview_is_drawn_unless_asked(tmp_path: Path) -> None:
    """Nobody watching and nothing asked for: not even the question is answered with yes."""
    async with database(tmp_path) as db:
        job, _ = await draw(db, tmp_path, Script(shown(1), shown(2), picture()))
        assert await ephemeral(db, job, Preview) == []
        end = (await record(db, job))[-1]
        assert isinstance(end, Completed)
        assert end.preview_cost == {"frames": 0, "ms": 0.0}


async def test_a_promised_count_arrives_whole(tmp_path: Path) -> None:
    """An explicit count is neither thinned nor conflated, and the last step is never shown."""
    async with database(tmp_path) as db:
        script = Script(*(shown(step, 8) for step in range(1, 9)), picture())
        job, _ = await draw(db, tmp_path, script, preview=PreviewPolicy(count=3))
        frames = await ephemeral(db, job, Preview)
        assert [frame.step for frame in frames if isinstance(frame, Preview)] == [2, 4, 6]
        assert [frame.index for frame in frames if isinstance(frame, Preview)] == [0, 1, 2]
        for frame in frames:
            assert isinstance(frame, Preview)
            assert Picture.open(io.BytesIO(frame.data)).size == (frame.width, frame.height)
            assert (frame.target_width, frame.target_height) == (8, 8)


async def test_a_backend_draws_on_while_its_preview_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packing of the first waits here for the second step: a backend that waited for it would wait for ever."""
    stepped = threading.Event()
    pack = encode.encode_preview

    def patient(*packed: Any, **how: Any) -> encode.Encoded:
        assert stepped.wait(20)
        return pack(*packed, **how)

    class Steps(Script):
        async def generate(
            self, request: Request, model: Model, previews: Previews, resume: str | None = None
        ) -> AsyncGenerator[Signal]:
            yield shown(1)
            stepped.set()
            yield Step(step=2, total=4)
            yield picture()

    monkeypatch.setattr(encode, "encode_preview", patient)
    async with database(tmp_path) as db:
        job, state = await draw(db, tmp_path, Steps(), preview=PreviewPolicy(count=3))
        assert state is State.COMPLETED
        end = (await record(db, job))[-1]
        assert isinstance(end, Completed)
        assert end.preview_cost is not None
        assert end.preview_cost["frames"] == 1


async def test_a_preview_that_fails_costs_one_warning(tmp_path: Path) -> None:
    """However many previews are broken, the picture arrives, and one warning tells of it."""
    async with database(tmp_path) as db:
        broken = [
            Shown(step=step, total=6, data=b"no picture", mime="image/png", width=8, height=8) for step in (1, 2, 3)
        ]
        job, state = await draw(db, tmp_path, Script(*broken, picture()), preview=PreviewPolicy(count=5))
        assert state is State.COMPLETED
        warnings = [event for event in await record(db, job) if isinstance(event, Warning)]
        assert [warning.code for warning in warnings] == ["preview_failed"]


async def test_a_stride_that_gives_nothing_is_said(tmp_path: Path) -> None:
    """Silence would look like a fault."""
    async with database(tmp_path) as db:
        script = Script(Step(step=1, total=4), picture())
        job, _ = await draw(db, tmp_path, script, preview=PreviewPolicy(stride=9))
        (warning,) = [event for event in await record(db, job) if isinstance(event, Warning)]
        assert "stride" in warning.message


async def test_the_handle_is_stored_before_the_next_signal(tmp_path: Path) -> None:
    """When the backend goes on after a Handle, a crash would already find it; the next attempt gets it."""
    seen: list[Any] = []

    class Outside(Script):
        async def generate(
            self, request: Request, model: Model, previews: Previews, resume: str | None = None
        ) -> AsyncGenerator[Signal]:
            self.calls.append((request, resume))
            yield Handle(token="prompt-1")
            seen.append(await db.read(lambda c: c.exec_driver_sql("select handle from jobs").scalar_one()))
            if resume is None:
                raise errors.Unreachable("gone", hint="come back")
            yield picture()

    async with database(tmp_path) as db:
        backend = Outside()
        (job,) = await db.write(intake.submit, [new()])
        images = ImageStore("local", tmp_path / "images")
        for _ in range(2):
            await db.write(lambda c: c.exec_driver_sql("update jobs set run_after = null"))
            claim = await take(db)
            assert claim is not None
            attempt = runner.Attempt(claim, backend, db=db, images=images, policy=PreviewPolicy(), patient=True)
            await attempt.run()
        assert "prompt-1" in seen[0]
        assert [resume for _, resume in backend.calls] == [None, "prompt-1"]
        grammar(await record(db, job))


@pytest.mark.parametrize(
    ("patient", "said", "ends"),
    [
        (False, (), State.FAILED),
        (True, (), State.QUEUED),
        (False, (Handle(token="prompt-1"),), State.FAILED),
        (False, (Handle(token="prompt-1"), Phase(name="loading")), State.QUEUED),
    ],
)
async def test_where_nobody_was_from_the_beginning_a_command_is_told_at_once(
    tmp_path: Path, patient: bool, said: tuple[Signal, ...], ends: State
) -> None:
    """Whoever was there is tried again, and by a worker so is everybody."""
    async with database(tmp_path) as db:
        await db.write(intake.submit, [new()])
        claim = await take(db)
        assert claim is not None
        script = Script(*said, errors.Unreachable("gone", hint="come back"))
        images = ImageStore("local", tmp_path / "images")
        attempt = runner.Attempt(claim, script, db=db, images=images, policy=PreviewPolicy(), patient=patient)
        assert await attempt.run() is ends


async def test_a_second_attempt_draws_only_what_is_missing(tmp_path: Path) -> None:
    """Pictures of an earlier attempt are kept; steps go on behind them."""
    async with database(tmp_path) as db:
        gone = errors.Unreachable("gone", hint="come back")
        job, state = await draw(db, tmp_path, Script(picture(0), gone), n=3)
        assert state is State.QUEUED
        await db.write(lambda c: c.exec_driver_sql("update jobs set run_after = null"))
        claim = await take(db)
        assert claim is not None
        again = Script(Step(step=1, total=8), picture(0), picture(1))
        images = ImageStore("local", tmp_path / "images")
        assert await runner.Attempt(claim, again, db=db, images=images, policy=PreviewPolicy()).run() is State.COMPLETED
        ((request, _),) = again.calls
        assert (request.seed, request.n) == (8, 2)
        events = await record(db, job)
        grammar(events)
        end = events[-1]
        assert isinstance(end, Completed)
        assert [(image.index, image.seed) for image in end.images] == [(0, 7), (1, 8), (2, 9)]
        (progress,) = await ephemeral(db, job, Progress)
        assert isinstance(progress, Progress)
        assert (progress.step, progress.total) == (5, 12)


async def test_outside_work_is_attached_to_once(tmp_path: Path) -> None:
    """It covers two gaps around a picture that is here already; one visit brings both."""
    async with database(tmp_path) as db:
        gone = errors.Unreachable("gone", hint="come back")
        job, _ = await draw(db, tmp_path, Script(Handle(token="all three"), picture(1), gone), n=3)
        await db.write(lambda c: c.exec_driver_sql("update jobs set run_after = null"))
        claim = await take(db)
        assert claim is not None
        again = Script(picture(0), picture(1), picture(2))
        images = ImageStore("local", tmp_path / "images")
        assert await runner.Attempt(claim, again, db=db, images=images, policy=PreviewPolicy()).run() is State.COMPLETED
        assert [(request.n, resume) for request, resume in again.calls] == [(3, "all three")]
        grammar(await record(db, job))


async def test_cancelling_closes_the_backend_and_keeps_the_pictures(tmp_path: Path) -> None:
    """The end is told by whom and at which step, with what was drawn until then."""
    async with database(tmp_path) as db:
        script = Script(Step(step=3, total=40), picture(0), 60.0, picture(1))
        drawing = asyncio.create_task(draw(db, tmp_path, script, n=2))
        while not await db.read(lambda c: c.exec_driver_sql("select count(*) from images").scalar_one()):
            await asyncio.sleep(0.01)
        (job,) = await db.read(history.jobs_list)
        await db.write(queue.cancel, job.id, by="somebody")
        _, state = await drawing
        assert state is State.CANCELLED
        assert script.closed == 1
        events = await record(db, job.id)
        grammar(events)
        end = events[-1]
        assert isinstance(end, Cancelled)
        assert (end.by, end.step, len(end.images)) == ("somebody", 3, 1)


async def test_a_stopped_worker_gives_its_job_back(tmp_path: Path) -> None:
    """Cancelling the task is a polite hand-back, not a failure."""
    async with database(tmp_path) as db:
        script = Script(Step(step=1, total=4), 60.0)
        drawing = asyncio.create_task(draw(db, tmp_path, script))
        while not script.calls:
            await asyncio.sleep(0.01)
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        (job,) = await db.read(history.jobs_list)
        assert (job.state, job.failures) == (State.QUEUED, 0)
        assert script.closed == 1
        assert isinstance((await record(db, job.id))[-1], Requeued)


async def test_a_lost_lease_stops_the_backend_and_records_nothing(tmp_path: Path) -> None:
    """Another attempt has the job: this one closes its backend and keeps quiet."""
    async with database(tmp_path) as db:
        script = Script(Step(step=1, total=4), 60.0)
        drawing = asyncio.create_task(draw(db, tmp_path, script))
        while not script.calls:
            await asyncio.sleep(0.01)
        await db.write(lambda c: c.exec_driver_sql("update jobs set attempt = attempt + 1"))
        job, state = await drawing
        assert state is None
        assert script.closed == 1
        assert [event.type for event in await record(db, job)] == ["queued", "started"]


async def test_an_error_that_is_no_errors_of_ours_ends_the_job_with_a_hint(tmp_path: Path) -> None:
    """A fault in a backend is a Crashed error of the job, never a traceback of the worker."""
    async with database(tmp_path) as db:
        job, state = await draw(db, tmp_path, Script(ZeroDivisionError("oops")))
        assert state is State.FAILED
        end = (await record(db, job))[-1]
        assert isinstance(end, Failed)
        assert end.error.code == "crashed"
        assert "oops" in end.error.message
        assert end.error.hint


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (asyncio.CancelledError(), "CancelledError"),
        (SystemExit(7), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Phase(name="dancing"), "dancing"),  # type: ignore[arg-type]
        ("hello", "str"),
    ],
)
async def test_a_backend_that_misbehaves_fails_its_job_once(tmp_path: Path, said: Any, word: str) -> None:
    """Whatever it does, the program goes on, and the job says what the backend did."""
    async with database(tmp_path) as db:
        job, state = await draw(db, tmp_path, Script(said))
        assert state is State.FAILED
        events = await record(db, job)
        grammar(events)
        end = events[-1]
        assert isinstance(end, Failed)
        assert end.error.code == "crashed"
        assert word in end.error.message


async def test_the_record_says_where_a_backend_broke(tmp_path: Path) -> None:
    """The traceback is kept with the job, for whoever wrote the backend."""
    async with database(tmp_path) as db:
        job, _ = await draw(db, tmp_path, Script(ZeroDivisionError("oops")))
        ended = await db.read(history.job, job)
        assert ended.error is not None
        assert "test_runner.py" in (ended.error.detail or "")


async def test_another_size_than_asked_is_said(tmp_path: Path) -> None:
    """The picture is kept as it is, with a warning."""
    async with database(tmp_path) as db:
        job, state = await draw(db, tmp_path, Script(picture()), width=16)
        assert state is State.COMPLETED
        (warning,) = [event for event in await record(db, job) if isinstance(event, Warning)]
        assert "8x8" in warning.message


async def test_progress_never_goes_back_and_knows_its_total_at_once(tmp_path: Path) -> None:
    """Steps out of order, beyond the total or of no total are not told."""
    told: list[tuple[int, int]] = []

    async with database(tmp_path) as db:
        (job,) = await db.write(intake.submit, [new()])
        claim = await take(db)
        assert claim is not None
        steps = [Step(step=s, total=t) for s, t in ((0, 0), (2, 4), (1, 4), (2, 4), (9, 4), (3, 4))]
        script = Script(*(item for step in steps for item in (step, 0.05)), picture())
        images = ImageStore("local", tmp_path / "images")
        running = asyncio.create_task(runner.Attempt(claim, script, db=db, images=images, policy=PreviewPolicy()).run())
        tick = after = 0
        while not running.done():
            news = await db.read(journal.news, job, after, tick)
            after, tick = news.seq, news.tick
            told += [(event.step, event.total) for event in news.events if isinstance(event, Progress)]
            await asyncio.sleep(0.005)
        assert told == sorted(set(told))
        assert told[-1] == (4, 4)
        assert {total for _, total in told} == {4}


ANY_ERROR = st.sampled_from(
    [kind("it broke", hint="mend it") for kind in errors.BY_CODE.values()]
    + [ValueError("odd"), asyncio.CancelledError(), OSError(28, "No space left on device"), KeyError("k")]
)
NUMBERS = st.integers(-2, 6)
ANY_SIGNAL = st.one_of(
    st.builds(Phase, name=st.sampled_from(["loading", "encoding", "sampling", "decoding", "saving"])),
    st.builds(Step, step=NUMBERS, total=NUMBERS, image=NUMBERS),
    st.builds(
        Shown,
        step=NUMBERS,
        total=NUMBERS,
        data=st.sampled_from([bytes(192), b"", b"junk"]),
        mime=st.sampled_from([RAW_RGB, "image/png", "text/plain"]),
        width=st.sampled_from([8, 0, -1, 10**6]),
        height=st.just(8),
    ),
    st.builds(Notice, code=st.text(max_size=5), message=st.text(max_size=20)),
    st.builds(Handle, token=st.text(max_size=5)),
    st.builds(
        Output,
        data=st.sampled_from([bytes(192), b"", b"junk"]),
        mime=st.sampled_from([RAW_RGB, "image/png"]),
        width=st.just(8),
        height=st.just(8),
        index=st.integers(-1, 3),
    ),
    st.just(picture(0)),
    st.just(picture(1)),
)


@settings(max_examples=60, deadline=None)
@given(
    said=st.lists(st.one_of(ANY_SIGNAL, ANY_SIGNAL, ANY_SIGNAL, ANY_ERROR), max_size=8),
    n=st.integers(1, 3),
    preview=st.sampled_from([None, PreviewPolicy(count=3), PreviewPolicy(stride=1), PreviewPolicy(method="off")]),
)
def test_any_signals_and_any_error_leave_a_grammatical_record(
    tmp_path_factory: pytest.TempPathFactory, said: list[Said], n: int, preview: PreviewPolicy | None
) -> None:
    """Property: a job always ends, or waits again with its failure counted; its story is in order."""

    async def scenario() -> None:
        folder = tmp_path_factory.mktemp("any")
        async with database(folder) as db:
            try:
                job, state = await draw(db, folder, Script(*said), n=n, preview=preview)
            except asyncio.CancelledError:
                (only,) = await db.read(history.jobs_list)
                job, state = only.id, only.state
            ended = await db.read(history.job, job)
            events = await record(db, job)
            grammar(events)
            assert state is ended.state
            if ended.state is State.QUEUED:
                assert events[-1].type == "requeued"
            else:
                assert events[-1].terminal
                assert events[-1].type == ended.state.value
            if ended.state is State.COMPLETED:
                assert [image.index for image in ended.images] == list(range(n))
            if isinstance(events[-1], Failed):
                assert isinstance(events[-1].error, ImagenError)
                assert events[-1].error.hint
            held = await db.read(lambda c: c.exec_driver_sql("select count(job_id) from slots").scalar_one())
            assert held == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [errors.Crashed("it broke", hint="mend it"), ZeroDivisionError("oops")])
async def test_what_breaks_because_its_worker_is_stopped_is_no_failure(tmp_path: Path, error: Exception) -> None:
    """A backend that cannot be closed in peace costs its job nothing, and whoever stopped it is obeyed."""

    class Sulking(Script):
        async def generate(
            self, request: Request, model: Model, previews: Previews, resume: str | None = None
        ) -> AsyncGenerator[Signal]:
            try:
                async for signal in super().generate(request, model, previews, resume):
                    yield signal
            finally:
                raise error

    async with database(tmp_path) as db:
        script = Sulking(Step(step=1, total=4), 60.0)
        drawing = asyncio.create_task(draw(db, tmp_path, script))
        while not script.calls:
            await asyncio.sleep(0.01)
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        (job,) = await db.read(history.jobs_list)
        assert (job.state, job.failures) == (State.QUEUED, 0)
        end = (await record(db, job.id))[-1]
        assert isinstance(end, Requeued)
        assert (end.reason, end.error) == ("the worker was stopped", None)
