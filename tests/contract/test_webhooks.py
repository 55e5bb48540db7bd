"""Webhooks in the store: an end and its delivery are one transaction; one at a time has it; a day, then it is over."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, text, update
from tests.store_kit import MODEL, OTHER, database, new, take

from imagen.core.errors import Conflict, Crashed
from imagen.core.events import Completed, Failed
from imagen.core.ids import new_id
from imagen.core.webhook import Webhook
from imagen.store import history, intake, queue, webhooks
from imagen.store.db import Database
from imagen.store.series import new_series, retry_cells
from imagen.store.tables import deliveries, jobs
from imagen.store.webhooks import Answer, Message

HOOK = Webhook(url="https://hook.example/imagen")
FINE = Answer(ok=True, status=204)
AWAY = Answer(ok=False, said="the receiver does not take connections")


def done(claim: queue.Claim) -> Completed:
    return Completed(job=claim.job, attempt=claim.attempt)


def broken(claim: queue.Claim) -> Failed:
    return Failed(job=claim.job, attempt=claim.attempt, error=Crashed("it broke", hint="try again"))


async def ended(db: Database, **fields: Any) -> str:
    """A job with a webhook that was drawn to its end."""
    (job,) = await db.write(intake.submit, [replace(new(), webhook=HOOK, **fields)])
    await drawn(db)
    return job


async def drawn(db: Database, end: Callable[[queue.Claim], Completed | Failed] = done) -> str:
    """Draw the next job in the queue."""
    claim = await take(db)
    assert claim is not None
    await db.write(queue.finish, claim, end(claim), timings={}, facts={})
    return claim.job


def rows(connection: Connection) -> dict[str, Any]:
    return {row.id: row for row in connection.execute(select(deliveries)).all()}


async def taken(db: Database, room: int = 10, busy: tuple[str, ...] = ()) -> list[Message]:
    return await db.write(webhooks.take, room, busy)


def age(connection: Connection, seconds: float) -> None:
    """Everything that waits was begun so long ago, and is due."""
    past = datetime.now(UTC) - timedelta(seconds=seconds)
    connection.execute(update(deliveries).values(since=past, due_at=past))


async def test_an_end_and_its_delivery_are_one_transaction(place: str) -> None:
    """When the end is not recorded, neither is the delivery; when it is, both are."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [replace(new(), webhook=HOOK)])
        claim = await take(db)
        assert claim is not None
        assert claim.webhook

        def broken(connection: Connection) -> None:
            connection.execute(select(1))  # else it is over with that
            queue.finish(connection, claim, done(claim), timings={}, facts={})
            assert job in rows(connection)
            raise KeyError("a crash before the commit")

        with pytest.raises(KeyError):
            await db.write(broken)
        assert await db.read(rows) == {}
        await db.write(queue.finish, claim, done(claim), timings={}, facts={})
        found = await db.read(rows)
        assert {row.type for row in found.values()} == {"job.completed"}
        assert set(found) == {job}


async def test_every_way_to_end_is_told(place: str) -> None:
    """Given up after three failures, cancelled while it waits, refused by the worker, cancelled by SQL."""
    async with database(place) as db:
        (crashing,) = await db.write(intake.submit, [replace(new(), webhook=HOOK)])
        for _ in range(queue.MAX_FAILURES):
            await db.write(lambda c: c.execute(update(jobs).values(run_after=None)))
            claim = await take(db)
            assert claim is not None
            await db.write(queue.give_back, claim, reason="it broke", error=Crashed("it broke", hint="mend it"))
        waiting, by_sql = await db.write(intake.submit, [replace(new(), webhook=HOOK), replace(new(), webhook=HOOK)])
        await db.write(queue.cancel, waiting, by="you")
        await db.write(
            lambda c: c.execute(text("update jobs set cancel_requested = true where id = :id"), {"id": by_sql})
        )
        await db.write(
            lambda c: c.execute(
                text("insert into jobs (id, prompt, model, steps, webhook) values ('bad', 'x', 'test', 1, 'nonsense')")
            )
        )
        assert await take(db) is None
        told = {row.id: row.type for row in (await db.read(rows)).values()}
        assert told == {
            crashing: "job.failed",
            waiting: "job.cancelled",
            by_sql: "job.cancelled",
            "bad": "job.failed",
        }
        assert {message.id for message in await taken(db)} == {crashing, waiting, by_sql}
        bad = await db.read(history.job, "bad")
        assert bad.error is not None
        assert "webhook" in bad.error.message
        assert bad.delivery is not None
        assert bad.delivery.state == "failed"


async def test_without_a_webhook_nothing_is_written(place: str) -> None:
    """No row, and nothing to take."""
    async with database(place) as db:
        await db.write(intake.submit, [new()])
        await drawn(db)
        assert await db.read(rows) == {}
        assert not await db.read(webhooks.anything, ())


async def test_only_the_wanted_ends_are_told(place: str) -> None:
    """A webhook for failures hears of no success."""
    async with database(place) as db:
        wanted = Webhook(url=HOOK.url, events=("failed",))
        (job,) = await db.write(intake.submit, [replace(new(), webhook=wanted)])
        await drawn(db)
        assert await taken(db) == []
        found = await db.read(history.job, job)
        assert found.webhook == wanted
        assert found.delivery is None


async def test_a_message_is_in_one_hand_at_a_time(place: str) -> None:
    """Ten couriers at once: each message goes to one of them; and again to nobody before its lease is over."""
    async with database(place) as db:
        for _ in range(12):
            await ended(db)
        ids: list[str] = []
        while len(ids) < 12:  # what another one just looks at is passed over
            hands = await asyncio.gather(*(taken(db, 2) for _ in range(10)))
            ids += [message.id for hand in hands for message in hand]
        assert len(ids) == len(set(ids)) == 12
        assert await taken(db) == []


async def test_who_slept_too_long_may_not_say_what_became_of_it(place: str) -> None:
    """A courier whose lease ran out while another took the message notes nothing; the other does."""
    async with database(place) as db:
        job = await ended(db)
        (slow,) = await taken(db)
        await db.write(age, webhooks.LEASE_S)
        (quick,) = await taken(db)
        assert quick.id == slow.id == job
        assert await db.write(webhooks.finish, slow, AWAY) is None
        delivery = await db.write(webhooks.finish, quick, FINE)
        assert delivery is not None
        assert (delivery.state, delivery.tries, delivery.status) == ("delivered", 2, 204)
        assert await db.write(webhooks.finish, quick, AWAY) is None, "what arrived has arrived"


@pytest.mark.parametrize(("age_s", "wait_s"), [(0, 1), (1, 3), (4, 12), (1000, 3000), (7200, 3600)])
async def test_the_waits_grow_to_an_hour(place: str, age_s: float, wait_s: float) -> None:
    """1 s after the first try, then three times what was waited in all, an hour at most; by the database's clock."""
    async with database(place) as db:
        await ended(db)
        await db.write(age, age_s)
        (message,) = await taken(db)
        delivery = await db.write(webhooks.finish, message, AWAY)
        assert delivery is not None
        assert delivery.said == AWAY.said
        assert delivery.next_at is not None
        wait = (delivery.next_at - datetime.now(UTC)).total_seconds()
        assert wait_s * 0.9 - 1 < wait < (wait_s + 30) * 1.25 + 1
        assert await taken(db) == []


async def test_after_a_day_it_is_given_up_and_can_be_sent_again(place: str) -> None:
    """The state is `failed` with the reason; sending it again begins anew, under the same id."""
    async with database(place) as db:
        job = await ended(db)
        await db.write(age, webhooks.GIVE_UP_S)
        (message,) = await taken(db)
        delivery = await db.write(webhooks.finish, message, AWAY)
        assert delivery is not None
        assert (delivery.state, delivery.said) == ("failed", AWAY.said)
        assert await taken(db) == []
        assert (await db.read(webhooks.counts))["failed"][0] == 1
        assert await db.write(webhooks.all_again) == [job]
        (message,) = await taken(db)
        assert message.id == job
        assert message.age_s < 60
        await db.write(webhooks.finish, message, FINE)
        assert await db.read(webhooks.counts) == {}
        await db.write(webhooks.again, job)  # one that arrived too
        assert [message.id for message in await taken(db)] == [job]


async def test_a_receiver_that_wants_nothing_more_is_left_alone(place: str) -> None:
    """410 is final; `Retry-After` is waited for."""
    async with database(place) as db:
        await ended(db)
        (message,) = await taken(db)
        delivery = await db.write(webhooks.finish, message, Answer(ok=False, status=429, retry_after_s=600))
        assert delivery is not None
        assert delivery.next_at is not None
        assert delivery.next_at - datetime.now(UTC) > timedelta(seconds=590)
        await db.write(age, 10)
        (message,) = await taken(db)
        gone = await db.write(webhooks.finish, message, Answer(ok=False, status=410, final=True, said="gone"))
        assert gone is not None
        assert gone.state == "failed"


async def test_a_busy_host_holds_nobody_up(place: str) -> None:
    """What goes elsewhere is taken past it."""
    async with database(place) as db:
        for _ in range(3):
            await ended(db)
        other = Webhook(url="http://other.example/x")
        (last,) = await db.write(intake.submit, [replace(new(), webhook=other)])
        await drawn(db)
        assert await taken(db, room=0) == []  # it is known by now who wants to hear of them
        assert not await db.read(webhooks.anything, (HOOK.origin, other.origin))
        assert [message.id for message in await taken(db, busy=(HOOK.origin,))] == [last]


async def test_many_ends_that_nobody_wants_are_gone_through_at_once(place: str) -> None:
    """A full page of them rings the bell for the next one."""
    async with database(place) as db:
        quiet = replace(new(), webhook=Webhook(url=HOOK.url, events=("failed",)))
        ids = await db.write(intake.submit, [quiet] * (webhooks.FRESH + 1))
        for job in ids:
            await db.write(queue.cancel, job, by="you")
        for left, rang in ((1, True), (0, False)):
            mark = db.mark()
            assert await taken(db) == []
            assert len(await db.read(rows)) == left
            assert await db.changed(mark, 0.5, frozenset({webhooks.TOPIC})) is rang


async def test_nothing_to_send_again_is_said(place: str) -> None:
    """A job without a webhook, or one that has not ended."""
    async with database(place) as db:
        with pytest.raises(Conflict, match="nothing that a webhook would be told"):
            await db.write(webhooks.again, None)


async def in_series(db: Database, hook: Webhook, cells: int = 3) -> str:
    """A series of so many jobs."""
    name = new_id()
    await db.write(
        new_series,
        name,
        prompts=["x"],
        models=[MODEL.name],
        seeds=list(range(cells)),
        settings={},
        owner="ann",
        new=[replace(new(), series=name, cell=number, owner="ann") for number in range(cells)],
        webhook=hook,
    )
    return name


async def test_a_series_is_told_once_when_its_last_job_has_ended(place: str) -> None:
    """Not before, and once, though every one of its ends is looked at."""
    async with database(place) as db:
        name = await in_series(db, HOOK)
        await drawn(db)
        assert await taken(db) == []
        await drawn(db)
        await drawn(db)
        (message,) = await taken(db)
        assert (message.series, message.type, message.owner) == (name, "series.completed", "ann")
        assert list(await db.read(rows)) == [message.id], "of the cells nothing is left"
        found = await db.read(history.series_one, name)
        assert found.delivery is not None
        assert found.delivery.state == "waiting"
        assert all(cell.job is not None and cell.job.delivery is None for cell in found.cells)


async def test_ends_at_the_same_moment_make_one_ending(place: str) -> None:
    """The last two cells end in transactions side by side, and two couriers look at once."""
    async with database(place) as db:
        name = await in_series(db, HOOK, cells=8)
        claims = []
        for _ in range(8):
            claim = await take(db)
            assert claim is not None
            await db.write(queue.free_device, claim)
            claims.append(claim)

        async def end(claim: queue.Claim) -> list[Message]:
            await db.write(queue.finish, claim, done(claim), timings={}, facts={})
            return await taken(db)

        hands = await asyncio.gather(*(end(claim) for claim in claims))
        told = [message for hand in hands for message in hand] + await taken(db)
        assert [(message.series, message.type) for message in told] == [(name, "series.completed")]


async def test_each_cell_is_told_where_that_was_asked_for(place: str) -> None:
    """Three jobs and the series."""
    async with database(place) as db:
        await in_series(db, Webhook(url=HOOK.url, each=True))
        for _ in range(3):
            await drawn(db)
        told = [message.type for message in [*await taken(db), *await taken(db)]]
        assert sorted(told) == ["job.completed"] * 3 + ["series.completed"]


async def test_a_series_that_goes_on_ends_anew(place: str) -> None:
    """A cell that is tried again, and a column that is added, carry the webhook; each ending has its own id."""
    async with database(place) as db:
        name = await in_series(db, HOOK, cells=2)
        first = await drawn(db)
        await drawn(db, broken)
        (partial,) = await taken(db)
        assert partial.type == "series.partial"
        old = (await db.read(history.series_one, name)).cells[1].job
        assert old is not None
        assert old.webhook == HOOK
        assert old.id != first
        again = replace(new(), series=name, cell=1, retry_of=old.id, owner="ann", webhook=old.webhook)
        await db.write(retry_cells, name, [again])
        await drawn(db)
        (completed,) = await taken(db)
        assert completed.type == "series.completed"
        assert completed.id != partial.id
        await db.write(
            new_series,
            name,
            prompts=["x"],
            models=[OTHER.name],
            seeds=[0],
            settings={},
            owner="ann",
            new=[replace(new(OTHER), series=name, cell=2, owner="ann")],
        )
        await drawn(db)
        (more,) = await taken(db)
        assert more.type == "series.completed"
        assert more.id not in (completed.id, partial.id)
        found = await db.read(history.series_one, name)
        assert found.delivery is not None
        assert found.delivery.id == more.id


async def test_the_seed_of_secrets_is_drawn_once(place: str) -> None:
    """Every process of a database signs with the same."""
    async with database(place) as db:
        seeds = await asyncio.gather(*(db.write(webhooks.seed) for _ in range(8)))
        assert len(set(seeds)) == 1
        assert len(seeds[0]) >= 48


async def test_a_webhook_by_sql_is_told(place: str) -> None:
    """An address in the column `webhook` is enough."""
    async with database(place) as db:
        row = "insert into jobs (id, prompt, model, webhook) values ('mine', 'x', 'test', 'https://hook.example/sql')"
        await db.write(lambda c: c.execute(text(row)))
        await drawn(db)
        (message,) = await taken(db)
        assert (message.id, message.owner, message.webhook.url) == ("mine", "local", "https://hook.example/sql")


async def test_what_was_told_long_ago_is_forgotten(place: str) -> None:
    """Delivered or given up, more of them than go at a time; never what still waits, nor what is younger."""
    async with database(place) as db:
        made = [await ended(db) for _ in range(7)]

        def aged(connection: Connection) -> None:
            for number, job in enumerate(made):
                state = "waiting" if number == 5 else ("delivered", "failed")[number % 2]
                over = None if number == 5 else datetime.now(UTC) - timedelta(days=40 if number < 5 else 20)
                values = {"id": f"00{job[2:]}", "state": state, "ended_at": over}
                connection.execute(update(deliveries).where(deliveries.c.job_id == job).values(**values))

        await db.write(aged)
        counts = [await db.write(webhooks.forget, 30, 2) for _ in range(4)]
        assert counts == [2, 2, 1, 0]
        assert {row.job_id for row in (await db.read(rows)).values()} == set(made[5:])
        assert (await db.read(history.job, made[0])).delivery is None
        with pytest.raises(Conflict, match="nothing that a webhook would be told"):
            await db.write(webhooks.again, None)


NONSENSE = ('{"url": "https://hook.example/", "events": 5}', '{"url": "https://hook.example/", "secret": "whsec_é"}')


async def test_a_webhook_by_sql_that_means_nothing_holds_nobody_up(place: str) -> None:
    """The jobs are listed, its own is refused with the reason, and others are told of theirs."""
    async with database(place) as db:
        for hook in NONSENSE:
            row = text("insert into jobs (prompt, model, steps, webhook) values ('x', 'test', 1, :hook)")
            await db.write(Connection.execute, row.bindparams(hook=hook))
        assert [job.webhook for job in await db.read(history.jobs_list)] == [None, None]
        told = await ended(db)
        assert [message.id for message in await taken(db)] == [told]
        refused = [job for job in await db.read(history.jobs_list) if job.id != told]
        assert [job.error.param for job in refused if job.error] == ["webhook.secret", "webhook.events"]
