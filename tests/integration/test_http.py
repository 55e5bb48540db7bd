"""Jobs over HTTP: what a client may send, what it is answered, and what it never sees."""

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.serving_kit import SMALL, Contract, Served, drawn, follow, serving, submit, until

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/wire.json").read_text())
SLOW = {"options": {"slow": 60}}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as running:
        yield running


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Served]:
    """A server that draws nothing: what is submitted waits."""
    async with serving(tmp_path, drawing=False) as running:
        yield running


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    told: dict[str, Any] = answer.json()["error"]
    assert {"type", "code", "message", "hint", "param", "retryable"} <= set(told)
    assert told["message"]
    assert told["hint"]
    return told


# Submit


async def test_a_job_is_accepted_with_its_address(served: Served) -> None:
    """202, the complete request with every promised name, and where to look."""
    client = served.client()
    answer = await client.post("/v1/jobs", json={**SMALL, "seed": 7, "options": {"slow": 0}})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert set(job) == set(GOLDEN["job"])
    assert job["request"]["seed"] == 7
    assert job["request"]["steps"] > 0
    assert (await client.get(answer.headers["location"])).json()["id"] == job["id"]


async def test_a_wait_answers_with_the_end(served: Served) -> None:
    """`Prefer: wait` gives 200 and the finished job; its picture is fetched at its url."""
    client = served.client()
    answer = await client.post(
        "/v1/jobs", json={**SMALL, "options": {"slow": 0}}, headers={"Prefer": "respond-async, wait=20"}
    )
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=20"
    (picture,) = answer.json()["images"]
    assert picture["url"] == f"/v1/images/{picture['id']}"
    assert (await client.get(picture["url"])).content.startswith(b"\x89PNG")


async def test_a_wait_ends_also_with_a_failure(served: Served) -> None:
    """A job that failed is an answer, not an error of the request: 200, and the job carries the error."""
    job = await drawn(served.client(), prompt="a fox [fail:rejected]")
    assert job["state"] == "failed"
    assert job["error"]["code"] == "rejected"


async def test_a_wait_that_runs_out_says_how_it_stands(served: Served) -> None:
    """202 with the job as it is, and it goes on being drawn."""
    client = served.client()
    answer = await client.post("/v1/jobs", json={**SMALL, **SLOW}, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.json()["state"] in ("queued", "running")


async def test_a_wait_is_bounded(tmp_path: Path) -> None:
    """Nobody holds a request open for longer than the owner of the server allows; what was granted is said."""
    async with serving(tmp_path, environ={"IMAGEN_LIMITS_WAIT_S": "1"}) as served:
        answer = await served.client().post("/v1/jobs", json={**SMALL, **SLOW}, headers={"Prefer": "wait=1000"})
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "wait=1"


async def test_previews_may_be_a_flag_or_a_policy(idle: Served) -> None:
    """Every way to say it is taken."""
    client = idle.client()
    for wish in (None, True, False, {"count": 6}, {"stride": 2, "format": "webp"}, {"method": "off"}):
        assert (await submit(client, preview=wish))["state"] == "queued"


async def test_a_whole_number_may_be_written_with_a_point(idle: Served) -> None:
    """7.0 is 7 in JSON, and the same body under an Idempotency-Key."""
    client = idle.client()
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    bodies = (b'{"prompt": "a fox", "seed": 7.0}', b'{"prompt": "a fox", "seed": 7}')
    first, again = [(await client.post("/v1/jobs", content=body, headers=headers)).json() for body in bodies]
    assert first["request"]["seed"] == 7
    assert first["id"] == again["id"]


# The same again


async def test_the_same_key_and_body_are_the_same_job(served: Served) -> None:
    """However often it is sent, in whatever order its fields stand, and also after it failed."""
    client = served.client()
    body = {**SMALL, "prompt": "a fox [fail:rejected]"}
    headers = {"Idempotency-Key": "once"}
    first = (await client.post("/v1/jobs", json=body, headers=headers | {"Prefer": "wait=60"})).json()
    turned = json.dumps(dict(reversed(body.items())), indent=3)
    again = await client.post("/v1/jobs", content=turned, headers=headers | {"Content-Type": "application/json"})
    assert again.json()["id"] == first["id"]
    assert again.json()["state"] == "failed"
    assert len((await client.get("/v1/jobs")).json()["jobs"]) == 1


async def test_the_same_key_with_another_body_is_refused(idle: Served) -> None:
    """409: whoever reuses a key by mistake learns of it."""
    client = idle.client()
    headers = {"Idempotency-Key": "once"}
    await client.post("/v1/jobs", json=dict(SMALL), headers=headers)
    other = await client.post("/v1/jobs", json={**SMALL, "seed": 1}, headers=headers)
    assert other.status_code == 409
    assert error_of(other)["code"] == "conflict"


async def test_two_keys_of_the_same_name_are_two_jobs(idle: Served) -> None:
    """An Idempotency-Key belongs to who sends it: nobody is given somebody else's job."""
    ada, bob = idle.client(await idle.app.add_key("ada")), idle.client(await idle.app.add_key("bob"))
    ids = {
        (await one.post("/v1/jobs", json=dict(SMALL), headers={"Idempotency-Key": "k"})).json()["id"]
        for one in (ada, bob)
    }
    assert len(ids) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "naïve"])
async def test_a_key_that_cannot_be_kept_is_refused(idle: Served, key: str) -> None:
    """400 instead of a key that is silently another."""
    headers = {"Idempotency-Key": key.encode()}
    answer = await idle.client().post("/v1/jobs", json=dict(SMALL), headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "Idempotency-Key"


# Strict


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"promt": "x"}, 400, "promt"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": 7}, 400, "prompt"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": " \n"}, 400, "prompt"),
        ({"prompt": "x" * 20_001}, 400, "prompt"),
        ({"prompt": "a\0b"}, 400, "prompt"),
        ({"seed": "7"}, 400, "seed"),
        ({"seed": 7.5}, 400, "seed"),
        ({"seed": True}, 400, "seed"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 2**63}, 400, "seed"),
        ({"seed": 10**30}, 400, "seed"),
        ({"width": 0}, 400, "width"),
        ({"width": "32"}, 400, "width"),
        ({"steps": 2**40}, 400, "steps"),
        ({"steps": [4]}, 400, "steps"),
        ({"guidance": "4"}, 400, "guidance"),
        ({"guidance": 101}, 400, "guidance"),
        ({"n": 17}, 400, "n"),
        ({"options": []}, 400, "options"),
        ({"options": {"nope": 1}}, 400, "options.nope"),
        ({"options": {"slow": {}}}, 400, "options.slow"),
        ({"options": {"a\0": 1}}, 400, "options"),
        ({"preview": "on"}, 400, "preview"),
        ({"preview": 1}, 400, "preview"),
        ({"preview": {"cuont": 1}}, 400, "preview.cuont"),
        ({"preview": {"count": 0}}, 400, "preview.count"),
        ({"preview": {"count": 1, "stride": 1}}, 400, "preview"),
        ({"priority": 101}, 400, "priority"),
        ({"model": "mok"}, 404, "model"),
        ({"model": ""}, 400, "model"),
        ({"width": 4000}, 422, "size"),
        ({"webhook": "http://10.0.0.1/"}, 403, "webhook.url"),
        ({"webhook": "hook.example"}, 400, "webhook"),
        ({"webhook": {"url": "https://hook.example/", "evnts": ["failed"]}}, 400, "webhook.evnts"),
        ({"webhook": {"url": "https://hook.example/", "secret": "short"}}, 400, "webhook.secret"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_wrong_is_refused_and_named(idle: Served, fields: Any, status: int, param: str) -> None:
    """No coercion, no unknown field, nothing a database cannot store; and the error says which field is meant."""
    client = idle.client()
    answer = await client.post("/v1/jobs", json={**SMALL, **fields})
    assert answer.status_code == status, answer.text
    assert error_of(answer)["param"] == param
    assert (await client.get("/v1/jobs")).json()["jobs"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"a fox"',
        b'{"prompt": NaN}',
        b'{"prompt": "x", "guidance": Infinity}',
        b'{"prompt": "x", "guidance": 1e999}',
        b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "options": {"\\ud800": 1}}',
        b"[" * 100_000,
        b'{"a":' * 5_000,
        '{"prompt": "a fox"}'.encode("utf-16"),
    ],
    ids=lambda body: ascii(body[:24]),
)
async def test_a_body_that_is_no_plain_json_is_refused(idle: Served, body: bytes) -> None:
    """400 in our shape, whatever the reader stumbles over."""
    answer = await idle.client().post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error_of(answer)


async def test_a_misspelt_field_is_told_its_name(idle: Served) -> None:
    """One letter is the commonest mistake."""
    error = error_of(await idle.client().post("/v1/jobs", json={"promt": "a fox"}))
    assert "did you mean 'prompt'" in error["message"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limt=3", "limt"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("state=done", "state"),
        ("q=%00", "q"),
        ("q=%ED%A0%80x", None),
    ],
)
async def test_a_query_is_as_strict_as_a_body(idle: Served, query: str, param: str | None) -> None:
    """A typing mistake in an address does not silently list everything."""
    answer = await idle.client().get(f"/v1/jobs?{query}")
    if param is None:
        assert answer.status_code in (200, 400)  # half a character arrives as a replacement, which is harmless
    else:
        assert answer.status_code == 400
        assert error_of(answer)["param"] == param


# Whose it is


async def test_somebody_elses_job_does_not_exist(served: Served) -> None:
    """Every address of it is 404, like one that was never there; the list does not show it. An admin sees it."""
    ada, bob = served.client(await served.app.add_key("ada")), served.client(await served.app.add_key("bob"))
    admin = served.client(await served.app.add_key("root", admin=True))
    job = await drawn(ada)
    there = f"/v1/jobs/{job['id']}"
    asked = [("GET", there), ("DELETE", there)]
    asked += [("POST", f"{there}/{verb}") for verb in ("cancel", "retry")]
    asked += [("GET", f"{there}/{part}") for part in ("events", "preview")]
    asked += [("GET", job["images"][0]["url"]), ("DELETE", job["images"][0]["url"])]
    for method, address in asked:
        answer = await bob.request(method, address)
        assert answer.status_code == 404, f"{method} {address}"
        error_of(answer)
    assert (await bob.get("/v1/jobs")).json()["jobs"] == []
    assert (await ada.get(there)).status_code == 200
    assert (await admin.get(there)).json()["state"] == "completed"
    assert [one["id"] for one in (await admin.get("/v1/jobs")).json()["jobs"]] == [job["id"]]


async def test_part_of_an_id_is_not_enough(idle: Served) -> None:
    """What a person may type at the command line could be another job tomorrow."""
    client = idle.client()
    job = await submit(client)
    for method, part in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry")):
        answer = await client.request(method, f"/v1/jobs/{job['id'][-8:]}{part}")
        assert answer.status_code == 404
        assert error_of(answer)["code"] == "unknown_job"
    assert (await client.get(f"/v1/jobs/{job['id']}")).json()["state"] == "queued"


async def test_going_first_is_for_admins(idle: Served) -> None:
    """403 for a priority above 0; below it is a courtesy anybody may do."""
    ada, admin = idle.client(await idle.app.add_key("ada")), idle.client(await idle.app.add_key("root", admin=True))
    refused = await ada.post("/v1/jobs", json={**SMALL, "priority": 1})
    assert refused.status_code == 403
    assert error_of(refused)["param"] == "priority"
    assert (await submit(ada, priority=-5))["priority"] == -5
    assert (await submit(admin, priority=5))["priority"] == 5


async def test_a_key_fills_its_own_queue_only(tmp_path: Path) -> None:
    """429 that says when to come back, names the limit, and concerns nobody else."""
    async with serving(tmp_path, drawing=False, environ={"IMAGEN_LIMITS_QUEUED": "2"}) as served:
        ada, bob = served.client(await served.app.add_key("ada")), served.client(await served.app.add_key("bob"))
        for _ in range(2):
            await submit(ada)
        refused = await ada.post("/v1/jobs", json=dict(SMALL))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert error_of(refused)["retryable"] is True
        await submit(bob)


# Look


async def test_the_list_goes_on_where_the_last_page_ended(idle: Served) -> None:
    """Every job once, newest first, and `next` is null on the last page."""
    client = idle.client()
    made = [(await submit(client))["id"] for _ in range(5)]
    seen: list[str] = []
    before = ""
    while True:
        page = (await client.get(f"/v1/jobs?limit=2{before}")).json()
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert seen == made[::-1]


@pytest.mark.parametrize("before", ["nonsense", "01J00000000000000000000000", "part"])
async def test_the_list_goes_on_from_no_unknown_place(idle: Served, before: str) -> None:
    """It would be the first page once more, and a loop over pages would never end. Somebody else's is unknown too."""
    ada, bob = idle.client(await idle.app.add_key("ada")), idle.client(await idle.app.add_key("bob"))
    job = await submit(ada)
    for client, place in ((ada, job["id"][:-1] if before == "part" else before), (bob, job["id"])):
        for noun in ("jobs", "series"):
            answer = await client.get(f"/v1/{noun}?before={place}")
            assert answer.status_code == 400
            assert error_of(answer)["param"] == "before"
    assert (await ada.get(f"/v1/jobs?before={job['id']}")).json() == {"jobs": [], "next": None}


async def test_the_list_can_be_narrowed(idle: Served) -> None:
    """By state, by model and by words of the prompt, which are words and no pattern."""
    client = idle.client()
    fox = await submit(client, prompt="100% fox_trot")
    owl = await submit(client, prompt="an owl", model="mock-warm")
    await client.post(f"/v1/jobs/{owl['id']}/cancel")

    async def found(query: str) -> list[str]:
        return [job["id"] for job in (await client.get(f"/v1/jobs?{query}")).json()["jobs"]]

    assert await found("state=cancelled") == [owl["id"]]
    assert await found("model=mock") == [fox["id"]]
    assert await found("q=FOX_") == [fox["id"]]
    assert await found("q=0%25") == [fox["id"]]
    assert await found("q=o_t") == []


async def test_the_models_say_what_they_can(idle: Served) -> None:
    """Everything a form needs to offer a choice; exactly one is the default."""
    models = (await idle.client().get("/v1/models")).json()["models"]
    assert {"mock", "mock-warm", "mock-broken"} <= {model["name"] for model in models}
    assert sum(model["default"] for model in models) == 1
    mock = next(model for model in models if model["name"] == "mock")
    assert mock["available"] is True
    assert mock["options"]["slow"]["type"] == "float"
    assert mock["limits"]["steps"][0] == 1
    assert "keys" not in mock
    assert "origin" not in mock


# Change


async def test_cancelling_ends_a_job_and_is_no_error_later(served: Served) -> None:
    """Running or waiting, it ends; one that ended stays as it is."""
    client = served.client()
    job = await submit(client, **SLOW)
    await until(lambda: _is(client, job, "running"))
    assert (await client.post(f"/v1/jobs/{job['id']}/cancel")).status_code == 200
    ended = (await follow(client, f"/v1/jobs/{job['id']}/events"))[-1]
    assert ended[0] == "cancelled"
    done = await drawn(client)
    again = await client.post(f"/v1/jobs/{done['id']}/cancel")
    assert (again.status_code, again.json()["state"]) == (200, "completed")


async def test_the_end_says_who_asked_for_it(idle: Served) -> None:
    """The name of the key."""
    ada = idle.client(await idle.app.add_key("ada"))
    job = await submit(ada)
    assert (await ada.post(f"/v1/jobs/{job['id']}/cancel")).json()["state"] == "cancelled"
    assert (await follow(ada, f"/v1/jobs/{job['id']}/events"))[-1][2]["by"] == "ada"


async def test_a_retry_is_a_new_job(served: Served) -> None:
    """The same complete request, the old one untouched; what still runs cannot be retried."""
    client = served.client()
    old = await drawn(client, seed=3)
    answer = await client.post(f"/v1/jobs/{old['id']}/retry")
    assert answer.status_code == 202
    new = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{new['id']}"
    assert new["retry_of"] == old["id"]
    assert new["request"] == old["request"]
    running = await submit(client, **SLOW)
    refused = await client.post(f"/v1/jobs/{running['id']}/retry")
    assert refused.status_code == 409
    error_of(refused)


async def test_deleting_removes_the_pictures_and_keeps_the_record(served: Served) -> None:
    """The job says so, the picture is 410, and what has not ended is 409."""
    client = served.client()
    job = await drawn(client)
    deleted = await client.delete(f"/v1/jobs/{job['id']}")
    assert deleted.status_code == 200
    assert [image["state"] for image in deleted.json()["images"]] == ["deleted"]
    gone = await client.get(job["images"][0]["url"])
    assert gone.status_code == 410
    error_of(gone)
    running = await submit(client, **SLOW)
    assert (await client.delete(f"/v1/jobs/{running['id']}")).status_code == 409


async def test_the_latest_preview_can_be_polled(served: Served) -> None:
    """404 while there is none and after the end; in between a small picture with a tag that says whether it is new."""
    client = served.client()
    waiting = await submit(client, options={"slow": 3}, steps=30, preview={"stride": 1})
    there = f"/v1/jobs/{waiting['id']}/preview"

    async def shown() -> httpx2.Response | None:
        answer = await client.get(there)
        if answer.status_code == 404:
            error_of(answer)
        return answer if answer.status_code == 200 else None

    first: httpx2.Response = await until(shown)
    assert first.headers["content-type"] == "image/jpeg"
    assert first.content.startswith(b"\xff\xd8")
    tag = first.headers["etag"]
    same = await client.get(there, headers={"If-None-Match": f'"other", W/{tag}'})
    assert same.status_code in (200, 304)  # the next one may have come meanwhile
    assert (same.status_code == 304) == (same.headers["etag"] == tag)
    assert (await client.get(there, headers={"If-None-Match": "*"})).status_code == 304
    await client.post(f"/v1/jobs/{waiting['id']}/cancel")
    await follow(client, f"/v1/jobs/{waiting['id']}/events")
    assert (await client.get(there)).status_code == 404


# What goes wrong


async def test_unknown_addresses_and_methods_have_our_shape(idle: Served) -> None:
    """Also what the framework refuses by itself."""
    client = idle.client()
    for address in ("/nope", "/v1/jobs/", "/v1/jobs/nope", "/v1/series/nope", "/v1/images/nope"):
        answer = await client.get(address)
        assert answer.status_code == 404, address
        error_of(answer)
    put = await client.put("/v1/jobs", json={})
    assert put.status_code == 405
    assert put.headers.get_list("allow") == ["GET, POST"]
    assert error_of(put)["code"] == "method_not_allowed"
    typed = await client.post("/v1/jobs", content=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    assert typed.status_code == 415
    error_of(typed)


async def test_a_failure_inside_tells_nothing_of_the_inside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """500 in our shape without a trace; the log has it, and the server goes on."""
    from imagen.app import open as open_app
    from imagen.surfaces.http.server import make_server

    async with open_app(home=tmp_path) as app:
        server = make_server(app, settings=app.settings, drawing=False)

        async def broken() -> None:
            raise RuntimeError("the secret of /etc/passwd")

        server.add_api_route("/broken", broken)
        transport = httpx2.ASGITransport(app=server)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            with caplog.at_level(logging.ERROR):
                answer = await client.get("/broken")
            assert answer.status_code == 500
            assert error_of(answer)["code"] == "internal_error"
            assert "secret" not in answer.text
            assert "/etc" not in answer.text
            assert "the secret" in caplog.text
            assert (await client.get("/healthz")).status_code == 200


async def test_a_database_that_is_gone_is_the_owners_affair(tmp_path: Path) -> None:
    """503 that may be tried again, without the place where the database lies."""
    async with serving(tmp_path, drawing=False) as served:
        client = served.client()
        await submit(client)
        await served.app._db.close()  # as when the disk goes away below a running server
        answer = await client.get("/v1/jobs")
        assert answer.status_code in (500, 503)
        error_of(answer)


# The document


async def test_every_answer_is_one_that_the_document_tells_of(served: Served) -> None:
    """/openapi.json is true: a client made from it understands what comes."""
    client = served.client()
    contract = Contract((await client.get("/openapi.json")).json())
    job = await drawn(client, prompt="a fox [fail:rejected]")
    good = await drawn(client)
    series = (
        await client.post("/v1/series", json={"prompt": "a fox", "models": ["mock"], "width": 32, "height": 32})
    ).json()
    one, many = "/v1/jobs/{id}", "/v1/series/{id}"
    asked: list[tuple[str, str, str, Any]] = [
        ("post", "/v1/jobs", "", dict(SMALL)),
        ("post", "/v1/jobs", "", {"promt": ""}),
        ("get", "/v1/jobs", "", None),
        ("get", one, job["id"], None),
        ("get", one, "nope", None),
        ("post", f"{one}/cancel", job["id"], {}),
        ("post", f"{one}/retry", job["id"], {}),
        ("get", f"{one}/preview", job["id"], None),
        ("get", f"{one}/events", job["id"], None),
        ("delete", one, good["id"], None),
        ("get", "/v1/models", "", None),
        ("post", "/v1/series", "", {"prompts": ["a", "b"], "models": ["mock"]}),
        ("post", "/v1/series", "", {"prompt": "a", "prompts": ["b"]}),
        ("get", "/v1/series", "", None),
        ("get", many, series["id"], None),
        ("post", f"{many}/models", series["id"], {"models": ["mock-warm"]}),
        ("post", f"{many}/cancel", series["id"], {}),
        ("post", f"{many}/retry", series["id"], {}),
        ("get", f"{many}/sheet.png", series["id"], None),
        ("get", f"{many}/sidecar.json", series["id"], None),
        ("get", f"{many}/sidecar.json", "nope", None),
    ]
    for method, path, id_, body in asked:
        answer = await client.request(method.upper(), path.replace("{id}", id_), json=body)
        contract.check(method, path, answer)


async def test_every_route_tells_what_it_answers(idle: Served) -> None:
    """Success and failure, each with a schema or as bytes of a kind."""
    document = (await idle.client().get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert "422" not in operation["responses"] or "Error" in str(operation["responses"]["422"]), where
            assert not path.startswith("/v1/") or {"400", "401", "403", "500"} <= set(operation["responses"]), where


async def test_the_docs_are_a_page_that_needs_nobody_else(idle: Served) -> None:
    """Every route is on it; nothing of it comes from another server."""
    client = idle.client()
    document = (await client.get("/openapi.json")).json()
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "<script" not in page.text
    for path in document["paths"]:
        assert path in page.text
    assert (await client.get("/docs/page.css")).headers["content-type"].startswith("text/css")


# Series


async def test_a_series_is_every_prompt_with_every_model_and_seed(served: Served) -> None:
    """Its record, its page in the list, its sheet and its sidecar."""
    client = served.client()
    body = {
        "prompts": ["a fox", "an owl"],
        "models": ["mock", "mock-broken"],
        "seed": 5,
        "width": 32,
        "height": 32,
    }
    answer = await client.post("/v1/series", json=body)
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"/v1/series/{made['id']}"
    assert set(made) == set(GOLDEN["series"])
    assert len(made["cells"]) == 4
    told = await follow(client, f"/v1/series/{made['id']}/events")
    assert told[-1][0] == "series"
    assert told[-1][2]["state"] == "partial"
    assert told[-1][2]["counts"] == {"completed": 2, "failed": 2}
    listed = (await client.get("/v1/series")).json()["series"]
    assert [(one["id"], one["state"]) for one in listed] == [(made["id"], "partial")]
    assert "cells" not in listed[0]
    assert (await client.get(f"/v1/series/{made['id']}/sheet.png")).content.startswith(b"\x89PNG")
    assert (await client.get(f"/v1/series/{made['id']}/sidecar.json")).json()["series"] == made["id"]


async def test_a_series_grows_and_is_tried_again(served: Served) -> None:
    """More models add cells; a retry takes the cells that failed, with new jobs."""
    client = served.client()
    small = {"width": 32, "height": 32, "seed": 1}
    made = (await client.post("/v1/series", json={"prompt": "a fox", "models": ["mock-broken"], **small})).json()
    await follow(client, f"/v1/series/{made['id']}/events")
    grown = await client.post(f"/v1/series/{made['id']}/models", json={"models": ["mock", "mock-broken"]})
    assert grown.status_code == 202
    assert [(cell["model"], cell["index"]) for cell in grown.json()["cells"]] == [("mock-broken", 0), ("mock", 1)]
    assert (await follow(client, f"/v1/series/{made['id']}/events"))[-1][2]["counts"] == {"completed": 1, "failed": 1}
    again = (await client.post(f"/v1/series/{made['id']}/retry")).json()
    assert again["cells"][0]["job"]["id"] != made["cells"][0]["job"]["id"]
    assert again["cells"][1]["job"]["state"] == "completed"


async def test_cancelling_a_series_ends_what_has_not_ended(idle: Served) -> None:
    """All of its cells and nothing else."""
    client = idle.client()
    other = await submit(client)
    made = (await client.post("/v1/series", json={"prompt": "a fox", "models": ["mock", "mock-warm"]})).json()
    ended = (await client.post(f"/v1/series/{made['id']}/cancel")).json()
    assert (ended["state"], ended["counts"]) == ("cancelled", {"cancelled": 2})
    assert (await client.get(f"/v1/jobs/{other['id']}")).json()["state"] == "queued"


async def test_a_series_is_submitted_once_with_a_key(idle: Served) -> None:
    """The same key and body are the same series; another body is 409."""
    client = idle.client()
    headers = {"Idempotency-Key": "once"}
    body = {"prompt": "a fox", "models": ["mock"]}
    first, again = [(await client.post("/v1/series", json=body, headers=headers)).json()["id"] for _ in range(2)]
    assert first == again
    assert (await client.post("/v1/series", json={**body, "steps": 3}, headers=headers)).status_code == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"prompt": "a", "prompts": ["b"]}, 400),
        ({"prompts": []}, 400),
        ({"prompt": "a", "seed": 1, "seeds": [1]}, 400),
        ({"prompt": "a", "models": []}, 400),
        ({"prompt": "a", "models": "mock"}, 400),
        ({"prompt": "a", "models": ["nope"]}, 404),
        ({"prompt": "a", "n": 2}, 400),
        ({"prompts": ["a"], "models": ["mock"], "seeds": ["1"]}, 400),
        ({"prompts": ["a"], "models": ["mock"], "steps": 501}, 400),
        ({"prompts": [f"p{k}" for k in range(101)], "models": ["mock"], "seeds": list(range(10))}, 400),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_series_is_as_strict_as_a_job(idle: Served, body: Any, status: int) -> None:
    """Refused whole: no cell is queued."""
    client = idle.client()
    answer = await client.post("/v1/series", json=body)
    assert answer.status_code == status, answer.text
    error_of(answer)
    assert (await client.get("/v1/jobs")).json()["jobs"] == []


async def test_somebody_elses_series_does_not_exist(idle: Served) -> None:
    """404 at every address of it."""
    ada, bob = idle.client(await idle.app.add_key("ada")), idle.client(await idle.app.add_key("bob"))
    made = (await ada.post("/v1/series", json={"prompt": "a fox", "models": ["mock"]})).json()
    there = f"/v1/series/{made['id']}"
    asked = [("GET", there + part) for part in ("", "/events", "/sheet.png", "/sidecar.json")]
    asked += [("POST", f"{there}/{verb}") for verb in ("cancel", "retry")]
    for method, address in asked:
        assert (await bob.request(method, address)).status_code == 404, f"{method} {address}"
    assert (await bob.post(f"{there}/models", json={"models": ["mock"]})).status_code == 404
    assert (await bob.get("/v1/series")).json()["series"] == []
    assert (await ada.get(there)).status_code == 200


async def _is(client: httpx2.AsyncClient, job: dict[str, Any], state: str) -> bool:
    return bool((await client.get(f"/v1/jobs/{job['id']}")).json()["state"] == state)


async def test_many_clients_at_once_get_each_their_own(served: Served) -> None:
    """Answers are not mixed up."""
    client = served.client()
    jobs = await asyncio.gather(*(drawn(client, seed=seed, prompt=f"fox {seed}") for seed in range(8)))
    assert [(job["request"]["seed"], job["request"]["prompt"]) for job in jobs] == [(k, f"fox {k}") for k in range(8)]


# The page


async def test_the_how_to_works_as_it_stands(served: Served, tmp_path: Path) -> None:
    """Every shell block of it, pasted one after the other."""
    text = (Path(__file__).parents[2] / "docs/howto/use-http.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"^```sh served\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    here = tmp_path / "here"
    here.mkdir()
    ran = await asyncio.create_subprocess_exec(
        *("sh", "-eu", "-c", script),
        cwd=here,
        env={"PATH": os.environ["PATH"], "IMAGEN": served.url, "NO_PROXY": "*"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await ran.communicate()
    assert ran.returncode == 0, out.decode() + err.decode()
    told = out.decode()
    assert told.count("event: completed") >= 6
    assert "event: cancelled" in told
    assert told.count('"state":"completed","counts":{"completed":4}') == 1
    assert (here / "fox.png").read_bytes().startswith(b"\x89PNG")
    assert (here / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert (here / "fox-small.webp").read_bytes()[8:12] == b"WEBP"
    assert len(json.loads((here / "compare.json").read_text())["cells"]) == 4
