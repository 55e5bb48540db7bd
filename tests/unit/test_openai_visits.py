"""Who waits for which job at the OpenAI door: a repeated request finds its job, and nobody else's."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests import NOWHERE

import imagen
from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.core.errors import DevicePaused, TooMany
from imagen.core.job import Job, State
from imagen.core.request import Draft
from imagen.surfaces.http.foreign.visits import LATE, REMEMBERED, Vigil, Visit, Visits, taken_up
from imagen.surfaces.http.openai.routes import ROUTE, UNKEYED

NOW = datetime(2026, 5, 11, tzinfo=UTC)
JOB = Job(id="J", state=State.RUNNING, request=Draft(prompt="a fox"), created_at=NOW)
HASH = sha256(b"a body").hexdigest()


def visits() -> Visits:
    return Visits(clock=lambda: NOW)


def test_a_job_is_owed_to_nobody_while_somebody_waits_for_it() -> None:
    """And is owed again as soon as the last one lost the connection."""
    there = visits()
    assert there.owed(JOB)
    there.enter("J", "ada")
    there.enter("J", "ada")
    assert not there.owed(JOB)
    assert not there.leave("J", "ada", answered=False)
    assert not there.owed(JOB)
    assert there.leave("J", "ada", answered=False)
    assert there.owed(JOB)


def test_an_answer_is_given_once() -> None:
    """Whoever has it has no reason to come back; very old ones are forgotten."""
    there = visits()
    there.enter("J", "ada")
    there.leave("J", "ada", answered=True)
    assert not there.owed(JOB)
    for number in range(REMEMBERED):
        there.enter(str(number), "ada")
        there.leave(str(number), "ada", answered=True)
    assert there.owed(JOB)


@pytest.mark.parametrize(
    ("state", "age", "owed"),
    [
        (State.QUEUED, None, True),
        (State.RUNNING, None, True),
        (State.COMPLETED, timedelta(seconds=1), True),
        (State.FAILED, LATE - timedelta(seconds=1), True),
        (State.FAILED, LATE + timedelta(seconds=1), False),
        (State.COMPLETED, LATE + timedelta(seconds=1), False),
        (State.CANCELLED, timedelta(seconds=1), False),
    ],
)
def test_an_old_end_is_not_waited_for(state: State, age: timedelta | None, owed: bool) -> None:
    """A library asks again within two minutes or never; and a cancelled job has nothing to give."""
    job = replace(JOB, state=state, finished_at=NOW - age if age is not None else None)
    assert visits().owed(job) is owed


def test_a_caller_cannot_hold_every_connection(tmp_path: Path) -> None:
    """As many as it may have streams open, and the refusal names the limit; others are not concerned."""
    limits = load_settings(home=tmp_path, environ={"IMAGEN_LIMITS_STREAMS_PER_KEY": "2"}).limits
    there = visits()
    for _ in range(2):
        there.check_room("ada", limits)
        there.enter("J", "ada")
    with pytest.raises(TooMany) as refused:
        there.check_room("ada", limits)
    assert "streams_per_key" in refused.value.hint
    there.check_room("bob", limits)
    there.leave("J", "ada", answered=True)
    there.check_room("ada", limits)


def test_a_thousand_who_come_at_once_are_counted_before_their_jobs_are_there(tmp_path: Path) -> None:
    """Each from its arrival on and only once, whether its request comes to a job or not; and all of them together."""
    environ = {"IMAGEN_LIMITS_STREAMS_PER_KEY": "2", "IMAGEN_LIMITS_STREAMS": "3"}
    limits = load_settings(home=tmp_path, environ=environ).limits
    there = visits()
    with there.arriving("ada", limits), there.arriving("ada", limits):
        there.enter("J", "ada")
        with pytest.raises(TooMany, match="'ada'"), there.arriving("ada", limits):
            pass
    there.check_room("ada", limits)  # one of the two was refused for another reason
    there.enter("J", "ada")
    there.enter("J", "bob")
    with pytest.raises(TooMany) as refused, there.arriving("carol", limits):
        pass
    assert "streams:" in refused.value.hint
    assert "carol" not in refused.value.message
    there.leave("J", "bob", answered=True)
    with there.arriving("carol", limits):
        pass


async def submitted(app: imagen.App, **more: Any) -> str:
    draft = Draft(prompt="a fox", model="mock")
    return (await app.submit(draft, **{"owner": "ada", "route": UNKEYED, "body_hash": HASH} | more)).id


async def test_a_repetition_finds_the_newest_job_of_the_same_body(place: str, tmp_path: Path) -> None:
    """On both databases: of the same owner and address only, not one that somebody waits for, and no other body's."""
    environ = {"IMAGEN_COMFYUI_URL": NOWHERE}
    if not place.startswith("sqlite"):
        environ["IMAGEN_DATABASE"] = place.replace("+psycopg", "")
    async with open_app(settings=load_settings(home=tmp_path, environ=environ)) as app:
        there = Visits()
        assert await taken_up(there, app, owner="ada", route=UNKEYED, body_hash=HASH) is None
        old, new = await submitted(app), await submitted(app)
        assert old != new
        await submitted(app, owner="bob")
        await submitted(app, body_hash=sha256(b"another").hexdigest())
        await submitted(app, route=ROUTE, idempotency_key="mine")
        found = await taken_up(there, app, owner="ada", route=UNKEYED, body_hash=HASH)
        assert found is not None
        assert found.id == new
        visit = Visit(there, app, found, cancels=True, by="ada", route=ROUTE)
        other = await taken_up(there, app, owner="ada", route=UNKEYED, body_hash=HASH)
        assert other is not None
        assert other.id == old
        await visit.over(answered=False, left=True)
        assert (await app.job(new)).state is State.CANCELLED
        assert (await app.job(old)).state is State.QUEUED


async def test_a_job_is_cancelled_only_by_the_last_who_leaves(tmp_path: Path) -> None:
    """Two connections with one key wait for one job; an answer given, or one who keeps it, cancels nothing."""
    async with imagen.open(home=tmp_path) as app:
        there = Visits()

        async def visit(job_id: str, cancels: bool = True) -> Visit:
            return Visit(there, app, await app.job(job_id), cancels=cancels, by="ada", route=ROUTE)

        job = await submitted(app)
        first, second = await visit(job), await visit(job)
        await first.over(answered=False, left=True)
        assert (await app.job(job)).state is State.QUEUED
        await (await visit(job, cancels=False)).over(answered=False, left=True)
        await second.over(answered=False, left=True)
        assert (await app.job(job)).state is State.CANCELLED
        kept = await submitted(app)
        await (await visit(kept, cancels=False)).over(answered=False, left=True)
        await (await visit(kept)).over(answered=True, left=False)
        assert (await app.job(kept)).state is State.QUEUED


async def to_its_end(vigil: Vigil) -> None:
    while not vigil.ended:
        await vigil.next(5)


async def test_two_who_wait_with_one_key_are_both_told_to_come_again(tmp_path: Path) -> None:
    """The device was paused: the first is told why, for the second it is no conflict, and the key is free again."""
    async with imagen.open(home=tmp_path) as app:
        there, keyed = Visits(), {"route": ROUTE, "idempotency_key": "one"}
        job = await submitted(app, **keyed)
        assert await submitted(app, **keyed) == job
        visits = [
            Visit(there, app, await app.job(job), cancels=False, by="ada", route=ROUTE, key="one") for _ in range(2)
        ]
        async with visits[0].watching() as first, visits[1].watching() as second:
            for vigil in (first, second):
                await vigil.next(5)
            await app.devices.pause([app.catalog.models["mock"].device], by="bob", reason="a film")
            for vigil, said in ((first, "a film"), (second, "nothing is begun now")):
                with pytest.raises(DevicePaused, match=said) as told:
                    await to_its_end(vigil)
                assert told.value.retryable
        assert (await app.job(job)).state is State.CANCELLED
        await app.devices.resume()
        assert await submitted(app, **keyed) != job
