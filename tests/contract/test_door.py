"""One suite over both doors: the app of this machine, and another imagen server asked over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import NOWHERE
from tests.serving_kit import serving, until

from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.core import events
from imagen.core.errors import ImagenError, RequestError, UnknownDevice, UnknownJob, UnknownModel, UnknownSeries
from imagen.core.ids import new_id
from imagen.core.job import Cell, Job, State
from imagen.core.request import Draft, PreviewPolicy, Request
from imagen.door import Door
from imagen.surfaces.wire import job_json, series_json

SMALL = Draft(prompt="a red fox", model="mock", width=32, height=32, seed=7, options={"slow": 0})
SLOW = replace(SMALL, steps=500, options={"slow": 600})


@pytest.fixture(params=["here", "away"])
async def door(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Door]:
    """Each door, with somebody behind it who draws."""
    async with AsyncExitStack() as stack:
        environ = {"IMAGEN_COMFYUI_URL": NOWHERE, "IMAGEN_DEFAULT_MODEL": "mock"}
        if request.param == "here":
            settings = load_settings(home=tmp_path, environ=environ)
            app = await stack.enter_async_context(open_app(settings=settings))
            await stack.enter_async_context(app.drawing(models=["mock", "mock-warm"]))
            yield app
        else:
            served = await stack.enter_async_context(serving(tmp_path, environ=environ))
            own = load_settings(home=tmp_path / "own", environ={})
            yield await stack.enter_async_context(open_app(settings=own, server=served.url))


async def told(door: Door, job: Job, **how: Any) -> list[events.Event]:
    """Everything that is told of a job."""
    async with asyncio.timeout(60), aclosing(door.follow(job.id, **how)) as stream:
        return [event async for event in stream]


async def drawn(door: Door, draft: Draft = SMALL) -> Job:
    """A job that ended."""
    job = await door.submit(draft)
    await told(door, job)
    return await door.job(job.id)


async def compared(door: Door) -> str:
    """A series of two models that ended; its id."""
    series = await door.submit_series(
        ["a fox"], ["mock", "mock-warm"], [1], settings={"width": 32, "height": 32, "options": {"slow": 0}}
    )
    for cell in series.cells:
        assert cell.job is not None
        await told(door, cell.job)
    return series.id


async def test_a_job_is_told_from_its_beginning_to_its_one_end(door: Door) -> None:
    """Durable events without a gap, previews with their bytes, the picture at last, and the record says the same."""
    draft = replace(SMALL, width=400, height=640, preview=PreviewPolicy(count=3))
    job = await door.submit(draft)
    assert isinstance(job.request, Request)
    assert job.request.seed == 7
    said = await told(door, job, previews=True)
    assert [event.seq for event in said if event.durable] == list(range(1, 1 + sum(event.durable for event in said)))
    assert isinstance(said[0], events.Queued)
    (end,) = [event for event in said if event.terminal]
    assert said[-1] is end
    assert isinstance(end, events.Completed)
    assert {"sample", "total"} <= set(end.timings)
    previews = [event for event in said if isinstance(event, events.Preview)]
    assert previews
    assert all(event.data.startswith(b"\xff\xd8") for event in previews)
    (started,) = [event for event in said if isinstance(event, events.Started)]
    assert started.request["prompt"] == "a red fox"
    after = await door.job(job.id)
    assert (after.state, after.images) == (State.COMPLETED, end.images)
    data = await door.image_bytes(after.images[0])
    assert data.startswith(b"\x89PNG")
    small = await door.image_bytes(after.images[0], size="thumbnail")
    assert small[8:12] == b"WEBP"
    sidecar = await door.sidecar(after.images[0].id)
    assert (sidecar["request"]["seed"], sidecar["run"]["job"]) == (7, job.id)
    assert (await door.drawn_by(after.images[0].id)).id == job.id


async def test_a_job_goes_on_saying_what_it_warned_of(door: Door) -> None:
    """From the moment it is submitted, each once; the backend's own words, too, and in every list."""
    orders = {"slow": 0, "notice": "mind the fox"}
    job = await door.submit(replace(SMALL, options=orders, negative="no dogs"))
    assert [one.code for one in job.warnings] == ["ignored"]
    await told(door, job)
    after = await door.job(job.id)
    assert [(one.code, one.message) for one in after.warnings][1:] == [("ordered", "mind the fox")]
    assert after.warnings[0] == job.warnings[0]
    assert next(one for one in await door.jobs() if one.id == job.id).warnings == after.warnings
    assert not (await drawn(door)).warnings


async def test_who_comes_later_is_told_the_rest(door: Door) -> None:
    """From a number on, and nothing at all after the end."""
    job = await drawn(door)
    rest = await told(door, job, after=2)
    assert next(event.seq for event in rest if event.durable) == 3
    assert await told(door, job, after=rest[-1].seq) == []


async def test_a_job_is_found_by_a_part_of_its_id(door: Door) -> None:
    """As people type it; what is nobody's is refused alike, with the command that lists."""
    job = await drawn(door)
    assert (await door.job(job.id[-8:])).id == job.id
    for part in ("no", "nobodysjob", "../../x", "a/b", "01ABCDEFGHJKMNPQRSTVWXYZ01", "..", "ü"):
        with pytest.raises(UnknownJob) as refused:
            await door.job(part)
        assert "imagen jobs list" in refused.value.hint, part
        with pytest.raises(UnknownSeries):
            await door.series(part)


async def test_a_job_that_is_cancelled_ends_so(door: Door) -> None:
    """And stays so, however often it is cancelled."""
    job = await door.submit(SLOW)
    async with asyncio.timeout(60), aclosing(door.follow(job.id)) as stream:
        async for event in stream:
            if isinstance(event, events.Progress):
                await door.cancel(job.id)
    assert isinstance(event, events.Cancelled)
    assert (await door.cancel(job.id[-10:])).state is State.CANCELLED
    again = await door.retry(job.id)
    assert again.retry_of == job.id
    await door.cancel(again.id)


async def test_who_leaves_the_loop_cancels(door: Door) -> None:
    """As in every program that draws."""
    async with asyncio.timeout(60):
        async with aclosing(door.generate("a fox", model="mock", steps=500, options={"slow": 600})) as loop:
            async for event in loop:
                job = event.job
                if event.type == "progress":
                    break
    assert (await door.job(job)).state is State.CANCELLED


async def test_waiting_for_news_is_bounded(door: Door) -> None:
    """Nothing comes of a job that nobody draws, and asking again goes on where it was."""
    first = await door.submit(SLOW)
    job = await door.submit(SLOW)
    async with door.watching(job.id) as watch:
        assert isinstance((await watch.next(30))[0], events.Queued)
        assert not await watch.next(0.05)
        await door.cancel(job.id)
        assert isinstance((await watch.next(30))[-1], events.Cancelled)
        assert watch.ended
        assert not await watch.next(30)
    await door.cancel(first.id)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"model": "mok"}, UnknownModel),
        ({"prompt": "   "}, RequestError),
        ({"prompt": "half \udcff"}, RequestError),
        ({"guidance": float("nan")}, RequestError),
        ({"width": 17, "height": 99_999}, RequestError),
        ({"options": {"slwo": 1}}, RequestError),
        ({"seed": -1}, RequestError),
        ({"n": 10_000}, RequestError),
    ],
    ids=str,
)
async def test_what_is_wrong_is_refused_with_the_same_exit_code(
    door: Door, wrong: dict[str, Any], kind: type[ImagenError]
) -> None:
    """Before anything is queued, with a hint."""
    with pytest.raises(kind) as refused:
        await door.submit(replace(SMALL, **wrong))
    assert refused.value.exit_code == 2
    assert refused.value.hint
    assert await door.jobs() == []


@pytest.mark.parametrize(
    ("wrong", "message", "hint"),
    [
        ({"prompt": ""}, "the prompt is empty", "say what the picture should show"),
        ({"prompt": "  "}, "the prompt is empty", "say what the picture should show"),
        ({"width": 20_000, "height": 20_000}, "mock cannot draw 20000x20000", "it draws sides from"),
    ],
    ids=str,
)
async def test_a_mistake_is_told_in_the_same_words(door: Door, wrong: dict[str, Any], message: str, hint: str) -> None:
    """What no model or this one cannot do, before the limits of an owner."""
    with pytest.raises(RequestError) as refused:
        await door.submit(replace(SMALL, **wrong))
    assert refused.value.message == message
    assert refused.value.hint.startswith(hint)


async def test_a_failure_is_told_in_full(door: Door) -> None:
    """The error of a job is the very one that its backend raised."""
    job = await drawn(door, replace(SMALL, prompt="a fox [fail:out_of_memory]"))
    assert job.state is State.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.exit_code) == ("out_of_memory", 1)
    assert "memory" in job.error.message + job.error.hint


async def test_jobs_are_listed_newest_first(door: Door) -> None:
    """Filtered, and no more than was asked for."""
    ids = [(await drawn(door, replace(SMALL, seed=seed))).id for seed in range(3)]
    failed = await drawn(door, replace(SMALL, prompt="a fox [fail:rejected]"))
    assert [job.id for job in await door.jobs()] == [failed.id, *reversed(ids)]
    assert [job.id for job in await door.jobs(state="completed", limit=2)] == [ids[2], ids[1]]
    assert await door.jobs(model="mock-warm") == []
    assert [job.id for job in await door.jobs(q="[fail:")] == [failed.id]
    assert [job.id for job in await door.jobs(before=ids[2], limit=1)] == [ids[1]]
    assert [job.id for job in await door.jobs(before=ids[2])] == [ids[1], ids[0]]
    series = await compared(door)
    assert {job.series for job in await door.jobs(series=series)} == {series}
    assert len(await door.jobs(series=series)) == 2


async def test_no_list_goes_on_from_an_unknown_place(door: Door) -> None:
    """It would be the first page once more, and a loop over pages would never end."""
    job = await door.submit(SLOW)
    for before in ("nonsense", job.id[:-1]):
        with pytest.raises(RequestError, match="go on from") as refused:
            await door.jobs(before=before)
        assert refused.value.param == "before"


async def test_a_series_is_made_followed_and_shown(door: Door) -> None:
    """Its cells, its list, its sheet."""
    name = await compared(door)
    series = await door.series(name[-10:])
    assert (series.id, series.state, len(series.cells)) == (name, "completed", 2)
    assert [one.id for one in await door.series_list()] == [name]
    assert len((await door.series_list(1))[0].cells) == 2
    assert (await door.series_sheet(name)).startswith(b"\x89PNG")


async def test_a_series_under_an_id_of_ones_own_grows(door: Door) -> None:
    """Said twice it is there once; further cells are added to it."""
    name = new_id()
    shared: dict[str, Any] = {"settings": {"width": 32, "height": 32, "options": {"slow": 0}}, "series_id": name}
    first = [Cell(index=3, prompt="a fox", model="mock", seed=1)]
    for _ in range(2):
        made = await door.submit_series(["a fox"], ["mock"], [1], cells=first, **shared)
        assert [(cell.index, cell.model) for cell in made.cells] == [(3, "mock")]
    more = [*first, Cell(index=4, prompt="a fox", model="mock-warm", seed=1)]
    made = await door.submit_series(["a fox"], ["mock", "mock-warm"], [1], cells=more, **shared)
    assert (made.id, [cell.index for cell in made.cells], made.models) == (name, [3, 4], ("mock", "mock-warm"))
    assert len(await door.jobs()) == 2
    await door.cancel_series(name)


async def test_pictures_are_voted_on_blind_and_rated(door: Door) -> None:
    """A pair without names, the names with the vote, and a rating from it."""
    name = await compared(door)
    ballot = await door.ballot(name)
    assert (ballot.done, ballot.total) == (0, 1)
    assert ballot.pair is not None
    left, right = ballot.pair.left, ballot.pair.right
    assert (await door.blind_picture(name, left.id)).data.startswith(b"\x89PNG")
    for new in (True, False):
        vote, is_new = await door.vote(name, round=ballot.round, left=left.id, right=right.id, choice="left")
        assert is_new is new
    assert {vote.left.model, vote.right.model} == {"mock", "mock-warm"}
    ratings = await door.ratings(series_id=name[-10:])
    assert ratings.votes == 1
    assert ratings.groups[0].models[0].model == vote.left.model
    assert ratings.meetings[0].a_wins + ratings.meetings[0].b_wins == 1


async def test_the_models_are_told_as_far_as_a_choice_needs_them(door: Door) -> None:
    """Enough to complete a request, to compare them, and to say what each is made of."""
    catalog = await door.models()
    assert catalog.default == "mock"
    mock = catalog.get("mock")
    assert (mock.backend, mock.paid, mock.slots) == ("mock", False, 1)
    assert mock.options["slow"].type == "float"
    resolved = catalog.resolve(SMALL, lambda: 1)
    assert resolved.request.seed == 7
    klein = catalog.models["flux2-klein"]
    assert klein.files
    assert all(not file.path.startswith("/") for file in klein.files)
    with pytest.raises(UnknownModel, match="did you mean"):
        catalog.get("mok")
    states = {one.model.name: one for one in await door.model_states()}
    assert states["mock"].available
    assert states["flux2-klein"].error is not None
    # The default model, which is a mock here, and whatever else can draw on this machine.
    usable = await door.usable_models()
    assert "mock" in usable
    assert "mock-warm" not in usable
    assert "tiny-3d" in usable


async def test_how_busy_each_model_is(door: Door) -> None:
    """What waits and what runs, together."""
    jobs = [await door.submit(SLOW) for _ in range(2)]

    async def busy() -> bool:
        return (await door.waiting()).get("mock") == 2

    assert await until(busy)
    assert await door.forming(jobs[1].id) is None
    for job in jobs:
        await door.cancel(job.id)


async def test_what_is_told_is_told_alike(tmp_path: Path) -> None:
    """A job and a series have the same JSON at both doors, but for where their pictures are fetched."""
    environ = {"IMAGEN_COMFYUI_URL": NOWHERE, "IMAGEN_DEFAULT_MODEL": "mock"}
    own = load_settings(home=tmp_path / "own", environ={})
    async with serving(tmp_path, environ=environ) as served, open_app(settings=own, server=served.url) as away:
        name = await compared(away)
        failed = await drawn(away, replace(SMALL, prompt="a fox [fail:rejected]"))
        there = json.dumps(series_json(await served.app.series(name), reader="http"), default=str)
        here = json.dumps(series_json(await away.series(name)), default=str)
        assert here.replace(served.url, "") == there
        assert job_json(failed) == job_json(await served.app.job(failed.id))


async def test_a_device_is_paused_and_resumed(door: Door) -> None:
    """It says who draws there and why not; a slip in one of several names pauses none."""
    async with asyncio.timeout(60):  # for the worker to enter the list
        while not (found := [one.name for one in await door.devices.all() if "mock" in one.models]):
            await asyncio.sleep(0.05)
    mine = found[0]
    with pytest.raises(UnknownDevice, match="no device 'card:9'"):
        await door.devices.pause([mine, "card:9"], by="me")
    assert not any(device.paused for device in await door.devices.all())
    (paused,) = await door.devices.pause([mine], by="me", reason="a film")
    assert paused.paused is not None
    assert paused.paused.reason == "a film"
    assert paused.paused.since.tzinfo is not None
    job = await door.submit(SMALL)
    assert "a film" in ((await door.job(job.id)).waits_for or "")
    (resumed,) = await door.devices.resume([mine])
    assert resumed.paused is None
    await told(door, job)
    assert (await door.job(job.id)).state is State.COMPLETED
    assert mine in [device.name for device in await door.devices.pause(by="me") if device.paused]
    assert mine in [device.name for device in await door.devices.resume() if not device.paused]
