"""The one door: draw and follow, leave and cancel, come back to what was left."""

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import imagen
from imagen.core.errors import BadConfig, UnknownJob, UnknownModel
from imagen.core.job import State
from imagen.engine.drawing import worker

QUICK = {"slow": 0}
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 4}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[imagen.App]:
    async with imagen.open(home=tmp_path) as app:
        yield app


async def ids(app: imagen.App) -> list[str]:
    return [job.id for job in await app.jobs()]


async def test_a_prompt_becomes_a_picture(app: imagen.App) -> None:
    """The events come in order, and the picture of the last one can be read."""
    events = [event async for event in app.generate("a fox", model="mock", options=QUICK, **SMALL)]
    assert [event.type for event in events if event.durable] == ["queued", "started", "image", "completed"]
    end = events[-1]
    assert isinstance(end, imagen.Completed)
    path = await app.image_path(end.images[0])
    assert path is not None
    assert path.read_bytes() == await app.image_bytes(end.images[0])
    assert path.with_suffix(".json").exists()


async def test_leaving_the_loop_cancels_the_work(app: imagen.App) -> None:
    """No close, no context: break is enough."""
    async for event in app.generate("a fox", model="mock", options={"slow": 60}, width=64, height=64, steps=600):
        if isinstance(event, imagen.Progress):
            break
    (job,) = await app.jobs()
    async with asyncio.timeout(10):
        while not (await app.job(job.id)).state.terminal:
            await asyncio.sleep(0.01)
    assert (await app.job(job.id)).state is State.CANCELLED


@pytest.mark.parametrize("kept", [True, False])
async def test_leaving_the_loop_and_the_app_at_once_cancels_too(tmp_path: Path, kept: bool) -> None:
    """With nothing awaited in between, and even with the loop's iterator still in somebody's hands."""
    async with imagen.open(home=tmp_path) as app:
        events = app.generate("a fox", model="mock", options={"slow": 60}, width=64, height=64, steps=600)
        held = events if kept else None
        async for event in events:
            if isinstance(event, imagen.Progress):
                break
        del events
    async with imagen.open(home=tmp_path) as again:
        (job,) = await again.jobs()
        assert job.state is State.CANCELLED
        assert await again.orphans() == []
    if held is not None:
        await held.aclose()


@pytest.mark.parametrize(
    "wish",
    [
        {"preview": {"stride": 1}},
        {"emit_previews": True, "preview_stride": 1},
        {"preview": {"previewStride": 1}},
        {"emitPreviews": True, "previewStride": 1},
    ],
)
async def test_every_spelling_of_the_preview_wish_gives_previews(app: imagen.App, wish: dict[str, object]) -> None:
    """The first seed's names and ours mean the same; the last step is never shown."""
    said = app.generate("a fox", model="mock", options={"slow": 0.2}, **SMALL, **wish)
    steps = [event.step async for event in said if isinstance(event, imagen.Preview)]
    assert steps
    assert steps == sorted(steps)
    assert max(steps) < 4


async def test_previews_do_not_change_the_picture(app: imagen.App) -> None:
    """The final bytes are the same with previews on and off."""
    hashes = set()
    for preview in (None, True, {"count": 3}, False):
        said = app.generate("a fox", model="mock", seed=3, options=QUICK, preview=preview, **SMALL)
        ends = [event async for event in said if isinstance(event, imagen.Completed)]
        hashes.add(ends[0].images[0].sha256)
    assert len(hashes) == 1


async def test_who_arrives_late_hears_the_whole_story(app: imagen.App) -> None:
    """Following an ended job replays its durable events, from any of them on."""
    told = [event async for event in app.generate("a fox", model="mock", options=QUICK, **SMALL)]
    (job,) = await ids(app)
    again = [event async for event in app.follow(job)]
    assert [event.seq for event in again if event.durable] == [event.seq for event in told if event.durable]
    later = [event async for event in app.follow(job, after=3) if event.durable]
    assert [event.type for event in later] == ["completed"]


async def test_a_watcher_who_arrives_late_makes_previews_begin(app: imagen.App) -> None:
    """Nobody asked for previews; somebody looks, and they are drawn from then on."""
    job = await app.submit(imagen.Draft(prompt="a fox", model="mock", options={"slow": 3}, **SMALL, n=4))
    async with app.working([job.id]):
        async for event in app.follow(job.id):
            if isinstance(event, imagen.Progress):
                break
        seen = [event async for event in app.follow(job.id, previews=True) if isinstance(event, imagen.Preview)]
    assert seen


async def test_what_was_submitted_first_is_drawn_first(app: imagen.App) -> None:
    """Six loops at once, one device: nobody overtakes."""
    order: list[int] = []

    async def draw(number: int) -> None:
        async for event in app.generate(f"fox {number}", model="mock", options={"slow": 0.1}, **SMALL):
            if isinstance(event, imagen.Started):
                order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(draw(number))
            while len(await app.jobs()) <= number:
                await asyncio.sleep(0.005)
    assert order == sorted(order)


async def test_a_job_nobody_draws_is_found_and_finished(tmp_path: Path) -> None:
    """Submitted by a process that ended: the next one sees it, and can draw it."""
    async with imagen.open(home=tmp_path) as first:
        left = await first.submit(imagen.Draft(prompt="a fox", model="mock", options=QUICK, **SMALL))
    async with imagen.open(home=tmp_path) as second:
        assert [job.id for job in await second.orphans()] == [left.id]
        async with second.working([left.id]):
            events = [event async for event in second.follow(left.id)]
        assert events[-1].type == "completed"
        assert await second.orphans() == []


async def test_a_live_worker_is_left_to_do_its_work(tmp_path: Path) -> None:
    """A one-shot process does not take a job whose model a live worker serves."""
    async with imagen.open(home=tmp_path) as daemon, imagen.open(home=tmp_path) as guest:
        async with daemon.drawing(models=["mock"]) as served:
            while not await guest.workers():
                await asyncio.sleep(0.01)
            said = guest.generate("a fox", model="mock", options=QUICK, **SMALL)
            started = [event async for event in said if isinstance(event, imagen.Started)]
        assert started[0].worker == served.id


async def test_a_follower_hears_when_its_worker_breaks(app: imagen.App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the worker itself ends the wait, instead of making it endless."""
    from imagen.store import queue

    def broken(*_args: object, **_named: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(queue, "claim", broken)
    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError):
            async for _ in app.generate("a fox", model="mock", options=QUICK, **SMALL):
                pass


@pytest.mark.parametrize("part", ["queue.claim", "presence.beat"])
async def test_a_daemon_does_not_live_on_without_its_worker(
    app: imagen.App, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A fault in drawing or in the heartbeat ends whoever relies on it, so that it is seen and started anew."""
    from imagen.store import presence, queue

    def broken(*_args: object, **_named: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    module, name = part.split(".")
    monkeypatch.setattr({"queue": queue, "presence": presence}[module], name, broken)

    async def daemon() -> None:
        async with app.drawing():
            await app.submit(imagen.Draft(prompt="a fox", model="mock"))
            await asyncio.sleep(60)

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(daemon(), 20)


async def test_a_retry_is_a_new_job_with_the_same_request(app: imagen.App) -> None:
    """The old one stays as it ended."""
    said = app.generate("a fox [fail:rejected]", model="mock", options=QUICK, **SMALL)
    assert [event async for event in said][-1].type == "failed"
    (old,) = await app.jobs()
    new = await app.retry(old.id)
    assert new.retry_of == old.id
    assert new.request == old.request
    assert (await app.job(old.id)).state is State.FAILED


async def test_a_series_is_model_by_model_and_complete(app: imagen.App) -> None:
    """Each cell has its prompt, model and seed, and each model is drawn in one go."""
    series = await app.submit_series(
        ["a", "b"], ["mock", "mock-warm"], [1, 2], settings={**SMALL, "options": {"slow": 0}}
    )
    assert [cell.model for cell in series.cells] == ["mock"] * 4 + ["mock-warm"] * 4
    async with app.working():
        for cell in series.cells:
            assert cell.job is not None
            async for _ in app.follow(cell.job.id):
                pass
    series = await app.series(series.id)
    assert series.state == "completed"
    assert series.counts == {"completed": 8}
    first = series.cells[0].job
    assert first is not None
    again = await app.retry(first.id)
    assert (again.retry_of, again.series, again.request) == (first.id, None, first.request)
    assert await app.series(series.id) == series  # what was drawn stays what it is a record of


async def test_one_wrong_cell_stops_a_series_before_it_begins(app: imagen.App) -> None:
    """Nothing is queued when any model is unknown."""
    with pytest.raises(UnknownModel, match=r"mock-wram.*did you mean 'mock-warm'"):
        await app.submit_series(["a"], ["mock", "mock-wram"], [1], settings={})
    assert await app.jobs() == []
    assert await app.series_list() == []


async def test_part_of_an_id_is_enough_when_it_is_the_only_one(app: imagen.App) -> None:
    """Its beginning or its end; too little of it means nothing."""
    job = await app.submit(imagen.Draft(prompt="a fox", model="mock"))
    assert (await app.job(job.id[-8:])).id == job.id
    assert (await app.job(job.id[:12].lower())).id == job.id
    with pytest.raises(UnknownJob):
        await app.job("nothing")


async def test_a_broken_config_is_refused_at_the_door(tmp_path: Path) -> None:
    """With file and line."""
    (tmp_path / "config.yaml").write_text("storage: local\ndefualt_model: mock\n")
    with pytest.raises(BadConfig, match=r"config\.yaml:2: 'defualt_model'.*did you mean 'default_model'"):
        async with imagen.open(home=tmp_path):
            pass


async def test_a_new_model_needs_no_restart(app: imagen.App, tmp_path: Path) -> None:
    """A folder that appears while the program runs is a model; when it breaks, its last good version stays."""
    folder = tmp_path / "models" / "dusk"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("backend: mock\npalette: warm\n")
    async with asyncio.timeout(10):
        while "dusk" not in app.catalog.models:
            await asyncio.sleep(0.05)
        (folder / "model.yaml").write_text("backend: mock\npalete: warm\n")
        while not app.catalog.problems:
            await asyncio.sleep(0.05)
    assert "dusk" in app.catalog.models
    assert "palete" in app.catalog.problems[0].message


def test_public_names_only_grow() -> None:
    """The golden list of what `import imagen` offers."""
    golden = Path(__file__).parent.parent / "golden" / "public.txt"
    assert imagen.__all__ == golden.read_text().split()
    assert all(getattr(imagen, name) is not None for name in imagen.__all__)


async def test_the_next_job_starts_as_soon_as_the_device_is_free(app: imagen.App) -> None:
    """Not when the worker next looks by itself: ten jobs of nothing take far less than ten looks."""
    draft = imagen.Draft(prompt="a fox", model="mock", options=QUICK, **SMALL)
    async with app.drawing():
        jobs = [await app.submit(draft) for _ in range(10)]
        for job in jobs:
            assert [event async for event in app.follow(job.id)][-1].type == "completed"
    done = [await app.job(job.id) for job in jobs]
    gaps = [
        (after.started_at - before.finished_at).total_seconds()
        for before, after in itertools.pairwise(done)
        if after.started_at and before.finished_at
    ]
    assert len(gaps) == 9
    assert statistics.median(gaps) < worker.IDLE_S / 2
