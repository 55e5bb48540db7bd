"""What `imagen --server` needs of the API beyond jobs: who one is, parts of ids, ids of one's own, records."""

from pathlib import Path
from typing import Any

import httpx2
from tests.serving_kit import Contract, Served, drawn, serving, submit

from imagen.app import VERSION
from imagen.core.ids import new_id

MOCK = {"IMAGEN_DEFAULT_MODEL": "mock"}
GRID: dict[str, Any] = {"prompt": "a fox", "models": ["mock"], "seed": 1, "width": 32, "height": 32}


async def contract(served: Served) -> Contract:
    answer = await served.client().get("/openapi.json")
    return Contract(answer.json())


def refused(answer: httpx2.Response, status: int, word: str) -> None:
    """With a hint, and a word on the cause."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["hint"]
    assert word in error["message"] + error["hint"]


async def test_a_server_says_what_it_is_and_who_asks(tmp_path: Path) -> None:
    """Its version, its limits, how busy it is; to each key what that key is."""
    async with serving(tmp_path, environ=MOCK | {"IMAGEN_LIMITS_STEPS": "50"}) as served:
        promised = await contract(served)
        client = served.client()
        answer = await client.get("/v1/server")
        promised.check("get", "/v1/server", answer)
        told = answer.json()
        assert (told["version"], told["key"], told["queue"]) == (VERSION, {"name": "local", "admin": True}, {})
        assert (told["limits"]["steps"], told["limits"]["n"]) == (50, 16)
        await submit(client, options={"slow": 60})
        await submit(client, options={"slow": 60})
        assert (await client.get("/v1/server")).json()["queue"] == {"mock": 2}
    async with serving(tmp_path / "locked", environ=MOCK) as served:
        key = await served.app.add_key("alice")
        assert (await served.client(key).get("/v1/server")).json()["key"] == {"name": "alice", "admin": False}
        refused(await served.client("imagen_wrong").get("/v1/server"), 401, "key")


async def test_a_part_of_an_id_is_understood_when_asked_for(tmp_path: Path) -> None:
    """A program means what it says; somebody who types says `part=1`. What is another's stays unknown."""
    async with serving(tmp_path, environ=MOCK) as served:
        client = served.client(await served.app.add_key("alice"))
        job = await drawn(client)
        refused(await client.get(f"/v1/jobs/{job['id'][-8:]}"), 404, job["id"])
        assert (await client.get(f"/v1/jobs/{job['id'][-8:]}", params={"part": "1"})).json()["id"] == job["id"]
        series = (await client.post("/v1/series", json=GRID)).json()["id"]
        assert (await client.get(f"/v1/series/{series[-8:]}?part=1")).json()["id"] == series
        refused(await client.get(f"/v1/jobs/{job['id'][-3:]}?part=1"), 404, "there is no job")
        refused(await client.get(f"/v1/jobs/{job['id']}?part=yes"), 400, "part")
        other = served.client(await served.app.add_key("bob"))
        refused(await other.get(f"/v1/jobs/{job['id'][-8:]}?part=1"), 404, "there is no job")


async def test_a_series_under_an_id_of_its_sender(tmp_path: Path) -> None:
    """Sent twice it is there once; nobody's id is taken over; what makes no sense is refused."""
    async with serving(tmp_path, environ=MOCK, drawing=False) as served:
        promised = await contract(served)
        alice, bob = [served.client(await served.app.add_key(name)) for name in ("alice", "bob")]
        admin = served.client(await served.app.add_key("owner", admin=True))
        name = new_id()
        for _ in range(2):
            answer = await alice.put(f"/v1/series/{name}", json=GRID)
            assert answer.status_code == 202, answer.text
            promised.check("put", "/v1/series/{id}", answer)
            assert answer.headers["location"] == f"/v1/series/{name}"
            assert len(answer.json()["cells"]) == 1
        refused(await bob.put(f"/v1/series/{name}", json=GRID), 409, name)
        cells = [{"index": 5, "prompt": "a fox", "model": "mock-warm", "seed": 2}]
        more = GRID | {"models": ["mock-warm"], "seed": 2, "cells": cells}
        grown = (await admin.put(f"/v1/series/{name}", json=more)).json()
        assert [(cell["index"], cell["model"]) for cell in grown["cells"]] == [(0, "mock"), (5, "mock-warm")]
        assert {job.owner for job in await served.app.jobs()} == {"alice"}
        refused(await alice.put("/v1/series/short", json=GRID), 400, "ULID")
        refused(await alice.put(f"/v1/series/{new_id()}", json=GRID | {"cells": cells * 2}), 400, "same index")
        refused(await alice.put(f"/v1/series/{new_id()}", json=GRID | {"cells": []}), 400, "cells")
        refused(await alice.put(f"/v1/series/{new_id()}", json=GRID | {"models": ["mok"]}), 404, "mock")
        assert len(await served.app.series_list()) == 1


async def test_what_is_recorded_beside_a_picture(tmp_path: Path) -> None:
    """Enough to draw it again, for who may see the picture; gone with it, and of models what they are made of."""
    async with serving(tmp_path, environ=MOCK) as served:
        promised = await contract(served)
        alice = served.client(await served.app.add_key("alice"))
        job = await drawn(alice, seed=7)
        place = f"/v1/images/{job['images'][0]['id']}"
        answer = await alice.get(f"{place}/sidecar.json")
        promised.check("get", "/v1/images/{id}/sidecar.json", answer)
        told = answer.json()
        assert (told["request"]["seed"], told["run"]["job"]) == (7, job["id"])
        assert told["model"]["digest"]
        bob = served.client(await served.app.add_key("bob"))
        refused(await bob.get(f"{place}/sidecar.json"), 404, "there is no")
        assert (await alice.delete(place)).status_code == 204
        refused(await alice.get(f"{place}/sidecar.json"), 410, "deleted")
        answer = await alice.get("/v1/models")
        promised.check("get", "/v1/models", answer)
        models = {one["name"]: one for one in answer.json()["models"]}
        assert (models["mock"]["paid"], models["mock"]["slots"], models["mock"]["files"]) == (False, 1, [])
        assert all(not file["path"].startswith("/") for file in models["flux2-klein"]["files"])
        assert models["flux2-klein"]["files"][0]["path"]
