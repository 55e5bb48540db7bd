"""Events over HTTP: in order, joined late, left and rejoined, also across the death of the server."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.service_kit import House, free_port
from tests.serving_kit import SMALL, Served, drawn, follow, serving, submit, until

STEPS = 12
PACED: dict[str, Any] = {"options": {"slow": 1.2}, "steps": STEPS}
DURABLE = {"queued", "started", "warning", "image", "requeued", "completed", "failed", "cancelled"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as running:
        yield running


def kinds(told: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """The durable ones, in order."""
    return [type_ for type_, _, _ in told if type_ in DURABLE]


# One job


async def test_a_stream_tells_everything_and_closes(served: Served) -> None:
    """Durable events 1, 2, 3 … and each step in order; the end comes last, and then the stream is over."""
    client = served.client()
    job = await submit(client, **PACED)
    told = await follow(client, f"/v1/jobs/{job['id']}/events")
    assert kinds(told) == ["queued", "started", "image", "completed"]
    assert [data["seq"] for type_, _, data in told if type_ in DURABLE] == [1, 2, 3, 4]
    steps = [data["step"] for type_, _, data in told if type_ == "progress"]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert all(data["type"] == type_ and data["job"] == job["id"] for type_, _, data in told)
    assert all(int(id_) == data["seq"] for _, id_, data in told)


async def test_a_stream_looks_as_a_browser_wants_it(served: Served) -> None:
    """Frames of event, id and one line of data; nothing between here and there keeps it back."""
    client = served.client()
    job = await drawn(client)
    answer = await client.get(f"/v1/jobs/{job['id']}/events")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    retry, _, rest = answer.text.partition("\n")
    assert re.fullmatch(r"retry: \d+", retry)
    for frame in rest.strip().split("\n\n"):
        assert re.fullmatch(r"id: \d+\nevent: [a-z]+\ndata: \{.*\}", frame), frame


async def test_whoever_comes_late_is_told_everything(served: Served) -> None:
    """A finished job is told whole, as often as somebody asks."""
    client = served.client()
    job = await drawn(client)
    for _ in range(2):
        told = await follow(client, f"/v1/jobs/{job['id']}/events")
        assert kinds(told) == ["queued", "started", "image", "completed"]


async def test_whoever_comes_late_sees_at_once_how_far_it_is(served: Served) -> None:
    """The current progress and the latest preview do not wait for the next step."""
    client = served.client()
    job = await submit(client, options={"slow": 60}, steps=30, preview={"stride": 1})
    there = f"/v1/jobs/{job['id']}/events?previews=1"
    await follow(client, there, until="preview")
    told = await follow(client, there, until="preview")
    assert kinds(told) == ["queued", "started"]
    assert told[-1][2]["step"] >= 1
    assert {"progress", "preview"} <= {type_ for type_, _, _ in told}


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_client_goes_on_where_it_was(served: Served, by: str) -> None:
    """Only the durable events after the one it names; what cannot be read, or was never given out, is all of them."""
    client = served.client()
    job = await drawn(client)
    there = f"/v1/jobs/{job['id']}/events"

    async def after(last: str) -> list[str]:
        if by == "header":
            return kinds(await follow(client, there, last=last))
        return kinds(await follow(client, f"{there}?after={last}"))

    assert await after("2") == ["image", "completed"]
    assert await after("0") == ["queued", "started", "image", "completed"]
    for unreadable in ("x", "-1", "1.5", "9" * 30, "77"):
        assert await after(unreadable) == ["queued", "started", "image", "completed"], unreadable


async def test_the_header_wins_over_the_address(served: Served) -> None:
    """A browser that comes back asks the same address again; what it saw stands in the header."""
    client = served.client()
    job = await drawn(client)
    told = await follow(client, f"/v1/jobs/{job['id']}/events?after=0", last="3")
    assert kinds(told) == ["completed"]


async def test_a_browser_that_saw_the_end_is_told_not_to_come_back(served: Served) -> None:
    """204 is the one answer after which it does not connect again."""
    client = served.client()
    job = await drawn(client)
    answer = await client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": "4"})
    assert answer.status_code == 204
    assert answer.content == b""


async def test_previews_are_told_as_asked(served: Served) -> None:
    """Not at all, by reference, or with their bytes; and it is the asking that makes them."""
    client = served.client()
    plain = await submit(client, **PACED)
    told = await follow(client, f"/v1/jobs/{plain['id']}/events")
    assert "preview" not in {type_ for type_, _, _ in told}
    assert told[-1][2]["preview_cost"]["frames"] == 0

    shown = await submit(client, **PACED)
    told = await follow(client, f"/v1/jobs/{shown['id']}/events?previews=1")
    previews = [data for type_, _, data in told if type_ == "preview"]
    assert previews
    assert all(data["preview_url"] == f"/v1/jobs/{shown['id']}/preview" and "data" not in data for data in previews)

    inside = await submit(client, **PACED)
    told = await follow(client, f"/v1/jobs/{inside['id']}/events?previews=inline")
    previews = [data for type_, _, data in told if type_ == "preview"]
    assert previews
    assert all(base64.b64decode(data["data"]).startswith(b"\xff\xd8") for data in previews)


async def test_previews_that_a_request_asked_for_are_told(served: Served) -> None:
    """Without a word in the address, and also to whoever comes back; `previews=0` leaves them out."""
    client = served.client()
    job = await submit(client, **PACED, preview={"count": 3})
    there = f"/v1/jobs/{job['id']}/events"
    plain, told, again = await asyncio.gather(
        follow(client, f"{there}?previews=0"), follow(client, there), follow(client, there, last="2")
    )
    assert "preview" not in {type_ for type_, _, _ in plain}
    assert len([type_ for type_, _, _ in told if type_ == "preview"]) == 3
    assert [type_ for type_, _, _ in again if type_ == "preview"]


async def test_many_watchers_are_told_the_same(served: Served) -> None:
    """Nobody loses the end, whenever he came; everybody's steps rise."""
    client = served.client()
    job = await submit(client, **PACED)

    async def watcher(number: int) -> list[tuple[str, str, dict[str, Any]]]:
        await asyncio.sleep(number * 0.05)
        return await follow(served.client(), f"/v1/jobs/{job['id']}/events")

    for told in await asyncio.gather(*(watcher(number) for number in range(30))):
        assert kinds(told) == ["queued", "started", "image", "completed"]
        steps = [data["step"] for type_, _, data in told if type_ == "progress"]
        assert steps == sorted(set(steps))


async def test_a_stream_of_no_job_is_a_plain_refusal(served: Served) -> None:
    """404 as JSON, not a stream that breaks."""
    answer = await served.client().get("/v1/jobs/nope/events")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_job"


# All jobs


async def test_one_stream_tells_of_all_my_jobs(served: Served) -> None:
    """Mine and nobody else's; a cursor that only rises."""
    ada, bob = served.client(await served.app.add_key("ada")), served.client(await served.app.add_key("bob"))
    mine: list[str] = []
    told: list[tuple[str, str, dict[str, Any]]] = []
    async with ada.sse("/v1/events") as source:

        async def work() -> None:
            await drawn(bob)
            mine.extend([(await drawn(ada))["id"] for _ in range(2)])

        working = asyncio.create_task(work())
        async for one in source:
            told.append((one.event, one.id, json.loads(one.data)))
            if [type_ for type_, _, _ in told].count("completed") == 2:
                break
        await working
    opened, *rest = told
    assert opened[0] == "open"
    assert {data["job"] for _, _, data in rest} == set(mine)
    assert kinds(rest) == ["queued", "started", "image", "completed"] * 2
    cursors = [int(id_) for _, id_, _ in told]
    assert cursors == sorted(cursors)


async def test_a_stream_of_all_jobs_is_rejoined_without_a_loss(served: Served) -> None:
    """What happened while nobody listened comes first, and nothing twice."""
    client = served.client()
    first: list[tuple[str, str, dict[str, Any]]] = []
    async with client.sse("/v1/events") as source:
        making = asyncio.create_task(drawn(client))
        async for one in source:
            first.append((one.event, one.id, json.loads(one.data)))
            if one.event == "started":
                break
    await making
    away = await drawn(client)
    again: list[tuple[str, str, dict[str, Any]]] = []
    async with client.sse("/v1/events", headers={"Last-Event-ID": first[-1][1]}) as source:
        async for one in source:
            again.append((one.event, one.id, json.loads(one.data)))
            if one.event == "completed" and again[-1][2]["job"] == away["id"]:
                break
    durable = [(data["job"], data["seq"]) for type_, _, data in first + again if type_ in DURABLE]
    assert len(durable) == len(set(durable)) == 8
    assert kinds(again) == ["image", "completed", "queued", "started", "image", "completed"]


async def test_one_stream_can_be_of_some_jobs(served: Served) -> None:
    """The ones that are named, from their beginning where that is asked."""
    client = served.client()
    wanted, other = await drawn(client), await drawn(client)
    told: list[tuple[str, str, dict[str, Any]]] = []
    async with client.sse(f"/v1/events?jobs={wanted['id']}&after=0") as source:
        async for one in source:
            told.append((one.event, one.id, json.loads(one.data)))
            if one.event == "completed":
                break
    assert {data["job"] for _, _, data in told[1:]} == {wanted["id"]}
    assert other["id"] not in {data["job"] for _, _, data in told[1:]}


async def test_a_stream_that_heard_nothing_can_be_rejoined_too(served: Served) -> None:
    """It begins with an id: whoever loses the connection before the first event misses none."""
    client = served.client()
    async with client.sse("/v1/events") as source:
        async for one in source:
            opened = one
            break
    assert (opened.event, json.loads(opened.data)) == ("open", {"type": "open", "cursor": int(opened.id)})
    job = await drawn(client)
    async with client.sse("/v1/events", headers={"last-event-id": opened.id}) as source:
        told = []
        async for one in source:
            told.append(one)
            if one.event == "completed":
                break
    assert [one.event for one in told if one.event in ("queued", "started", "completed")] == [
        "queued",
        "started",
        "completed",
    ]
    assert json.loads(told[-1].data)["job"] == job["id"]


# Series


async def test_a_series_is_told_as_one(served: Served) -> None:
    """Every event of its jobs, its counts whenever they change, and the last word is that it is over."""
    client = served.client()
    body = {**SMALL, "models": ["mock", "mock-warm"], "seeds": [1, 2], "options": {"slow": 0.2}}
    del body["model"]
    made = (await client.post("/v1/series", json=body)).json()
    there = f"/v1/series/{made['id']}/events"
    told = await follow(client, there)
    durable = [(data["job"], data["seq"]) for type_, _, data in told if type_ in DURABLE]
    assert len(durable) == len(set(durable)) == 16
    assert told[-1][0] == "series"
    assert told[-1][2] == {
        "type": "series",
        "series": made["id"],
        "state": "completed",
        "counts": {"completed": 4},
    }
    said = [data for type_, _, data in told if type_ == "series"]
    assert len({json.dumps(data) for data in said}) == len(said) > 2
    assert all(data["state"] == "running" for data in said[:-1])
    late = await follow(client, there)
    assert [type_ for type_, _, _ in late].count("completed") == 4
    assert late[-1][2]["state"] == "completed"
    seen = await client.get(there, headers={"Last-Event-ID": told[-1][1]})
    assert seen.status_code == 204


async def test_a_series_that_grows_is_told_to_its_new_end(served: Served) -> None:
    """Models added while somebody follows are followed too, and nothing of them is lost."""
    client = served.client()
    body = {"prompt": "a fox", "models": ["mock"], "width": 32, "height": 32, "options": {"slow": 2}, "seed": 1}
    made = (await client.post("/v1/series", json=body)).json()
    following = asyncio.create_task(follow(client, f"/v1/series/{made['id']}/events"))
    await until(lambda: _running(client, made["id"]))
    await client.post(f"/v1/series/{made['id']}/models", json={"models": ["mock-warm"]})
    told = await following
    assert told[-1][2]["counts"] == {"completed": 2}
    durable = [(data["job"], data["seq"]) for type_, _, data in told if type_ in DURABLE]
    assert len(durable) == len(set(durable)) == 8


# Leaving


async def test_a_client_that_leaves_is_let_go(served: Served) -> None:
    """Its stream ends at once, and nobody draws previews for it any longer."""
    client, other = served.client(), served.client()
    job = await submit(client, options={"slow": 60}, steps=500)
    for address in (f"/v1/jobs/{job['id']}/events?previews=1", "/v1/events?previews=1"):
        await follow(other, address, until="progress")
    await until(lambda: _open_streams(client, 0))
    await client.post(f"/v1/jobs/{job['id']}/cancel")


async def test_a_server_that_stops_ends_its_streams(tmp_path: Path) -> None:
    """Cleanly after a whole frame, and soon: nobody who watches keeps it from stopping."""
    async with serving(tmp_path) as served:
        client = served.client()
        job = await submit(client, options={"slow": 60}, steps=500)
        following = asyncio.create_task(follow(client, f"/v1/jobs/{job['id']}/events"))
        everything = asyncio.create_task(follow(client, "/v1/events"))
        waiting = asyncio.create_task(
            client.post("/v1/jobs", json=dict(SMALL), headers={"Prefer": "wait=60"}),
        )
        await until(lambda: _open_streams(client, 2))
        served.stop.set()
        told, _, answer = await asyncio.gather(following, everything, waiting)
        assert kinds(told) == ["queued", "started"]
        assert answer.status_code == 202


def test_a_killed_server_loses_no_durable_event(tmp_path: Path) -> None:
    """A client that comes back with its last id to the next server is told every number once, to the end."""
    port = free_port()
    with House(folder=tmp_path) as house:
        server = house.serve(port=port)
        with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            job = client.post("/v1/jobs", json={**SMALL, "options": {"slow": 3}, "steps": 30, "n": 3}).json()
            there = f"/v1/jobs/{job['id']}/events"
            seen: list[tuple[str, int]] = []

            def listen(until: str) -> None:
                last = {"Last-Event-ID": str(seen[-1][1])} if seen else {}
                try:
                    with client.sse(there, headers=last) as source:
                        for one in source:
                            if one.event in DURABLE:
                                seen.append((one.event, int(one.id)))
                            if one.event == until:
                                return
                except httpx2.TransportError:
                    return

            listen(until="image")
            server.kill()
            server = house.serve(port=port)
            listen(until="completed")
            assert [seq for _, seq in seen] == list(range(1, len(seen) + 1))
            types = [type_ for type_, _ in seen]
            assert types.count("image") == 3
            assert types.count("started") == types.count("requeued") + 1
            assert types[-1] == "completed"


async def _running(client: httpx2.AsyncClient, series: str) -> bool:
    return "running" in (await client.get(f"/v1/series/{series}")).json()["counts"]


async def _open_streams(client: httpx2.AsyncClient, count: int) -> bool:
    text = (await client.get("/metrics")).text
    found = re.search(r"^imagen_streams_open (\d+)", text, re.MULTILINE)
    return found is not None and int(found[1]) == count
