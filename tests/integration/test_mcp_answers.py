"""What an agent reads besides its picture: warnings, why it is tried again, what stands still, how to end it."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.mcp_kit import FAST, KILOBYTES, WAYS, agent, on_stdio, over_http
from tests.serving_kit import serving

from imagen.core.ids import new_id
from imagen.surfaces.mcp.pictures import LARGE_BYTES

pytestmark = pytest.mark.timeout(120)
ways = pytest.mark.parametrize("way", WAYS)


@ways
async def test_warnings_reach_the_agent(way: str, tmp_path: Path) -> None:
    """What could not be honoured is in the job, in its picture's answer, in the cell, and in what to do next."""
    prompt = "a fox [notice:too dark to see]"
    async with agent(way, tmp_path) as ask:
        drawn = await ask("generate", prompt=prompt, wait_s=30, **FAST)
        job = drawn.data["job"]
        assert job["warnings"] == ["too dark to see"]
        assert "too dark to see" in drawn.data["next"]
        again = [(await ask("status", id=job["id"])).data["job"], (await ask("fetch", id=job["id"])).data]
        assert [one["warnings"] for one in again] == [job["warnings"]] * 2
        compared = await ask("compare", prompts=[prompt, "an owl"], models="mock", wait_s=30, **FAST)
        warned, other = compared.data["series"]["cells"]
        assert warned["warnings"] == job["warnings"]
        assert "warnings" not in other
        assert "1 of the cells have `warnings`" in compared.data["next"]


@ways
async def test_an_agent_ends_what_it_began(way: str, tmp_path: Path) -> None:
    """`cancel` ends a job that runs, one that waits, and all that is left of a comparison."""
    slow: dict[str, Any] = {"options": {"slow": 30}, "width": 64, "height": 64}
    async with agent(way, tmp_path) as ask:
        assert (await ask("status")).data["jobs"] == []
        assert "no jobs yet" in (await ask("status")).data["next"]
        assert (await ask("status", cancel=True)).error["param"] == "id"
        running = (await ask("generate", prompt="a fox", wait_s=1, **slow)).data["job"]["id"]
        series = (await ask("compare", prompts=["a", "b"], models="mock", wait_s=0, **slow)).data["series"]
        queued = series["cells"][0]["job"]
        assert (await ask("status", id=queued, cancel=True)).data["job"]["state"] == "cancelled"
        ended = (await ask("status", id=running, cancel=True, wait_s=20)).data
        assert ended["job"]["state"] == "cancelled"
        assert "cancelled" in ended["next"]
        whole = (await ask("status", id=series["id"], cancel=True, wait_s=20)).data["series"]
        assert (whole["state"], whole["counts"]) == ("cancelled", {"cancelled": 2})
        done = (await ask("generate", prompt="a fox", wait_s=30, **FAST)).data["job"]["id"]
        assert (await ask("status", id=done, cancel=True)).data["job"]["state"] == "completed"


async def test_a_queue_full_of_a_dead_clients_jobs_has_a_way_out(tmp_path: Path) -> None:
    """The refusal names what stands still and how to have it drawn; the list says so too."""
    full = {"IMAGEN_LIMITS_QUEUED": "2"}
    async with on_stdio(tmp_path, environ=full) as ask:
        asked: dict[str, Any] = {"options": {"slow": 0.2}, "width": 64, "height": 64, "wait_s": 0}
        series = (await ask("compare", prompts=["a", "b"], models="mock", seeds=[1], **asked)).data["series"]["id"]
    async with on_stdio(tmp_path, environ=full) as ask:
        listed = (await ask("status")).data
        assert [(job["state"], job["series"], "waits_for" in job) for job in listed["jobs"]] == [
            ("queued", series, True),
            ("queued", series, True),
        ]
        assert "nobody draws" in listed["next"]
        refused = (await ask("generate", prompt="a fox", **FAST)).error
        assert refused["code"] == "too_many"
        assert series in refused["hint"]
        assert "`cancel` true" in refused["hint"]
        assert (await ask("status", id=series, wait_s=30)).data["series"]["state"] == "completed"
        drawn = await ask("generate", prompt="a fox", wait_s=30, **FAST)
        assert drawn.data["job"]["state"] == "completed"
        assert "waits_for" not in str((await ask("status")).data)


@ways
async def test_a_job_that_is_tried_again_says_why(way: str, tmp_path: Path) -> None:
    """An engine that is away fails an attempt and not the call; in the end the answer says what to do."""
    async with agent(way, tmp_path) as ask:
        begun = (await ask("generate", prompt="a fox [fail:unreachable@1]", wait_s=2.5, **FAST)).data
        assert begun["job"]["state"] in ("queued", "running")
        assert begun["job"]["last_error"]["code"] == "unreachable"
        assert "tried again by itself" in begun["next"]
        ended = (await ask("status", id=begun["job"]["id"], wait_s=30)).data
        assert (ended["job"]["state"], ended["job"]["error"]["retryable"]) == ("failed", True)
        assert "last_error" not in ended["job"]
        assert "then `generate` it again" in ended["next"]


@ways
async def test_a_large_comparison_is_a_small_answer(way: str, tmp_path: Path) -> None:
    """Forty cells are told, the rest counted, and no prompt is repeated at length."""
    prompts = [f"{number} {'a fox ' * 500}" for number in range(60)]
    async with agent(way, tmp_path) as ask:
        told = await ask("compare", prompts=prompts, models="mock", wait_s=0, **FAST)
        series = told.data["series"]
        assert (len(series["cells"]), series["cells_left_out"]) == (40, 20)
        assert "20 are not" in told.data["next"]
        assert max(len(cell["prompt"]) for cell in series["cells"]) == 200
        done = await ask("status", id=series["id"], wait_s=60)
        assert done.data["series"]["counts"] == {"completed": 60}
        assert max(told.size, done.size) < KILOBYTES
        expected = await ask("compare", prompts=prompts, models="mock", dry_run=True, **FAST)
        assert expected.data["total_s"] >= 0
        assert expected.size < KILOBYTES


@ways
async def test_a_large_picture_where_it_is_asked_for(way: str, tmp_path: Path) -> None:
    """For an agent that opens neither files nor addresses; a comparison has its sheet, and nothing by number."""
    async with agent(way, tmp_path) as ask:
        drawn = (await ask("generate", prompt="a fox", wait_s=30, options={"slow": 0}, width=1280, height=640)).data
        (picture,) = (await ask("fetch", id=drawn["job"]["id"], large=True)).pictures
        assert Image.open(io.BytesIO(picture)).size == (1024, 512)
        assert len(picture) <= LARGE_BYTES
        series = (await ask("compare", prompts="a", models="mock", wait_s=30, **FAST)).data["series"]
        refused = (await ask("fetch", id=series["id"], index=1)).error
        assert refused["param"] == "index"
        assert (await ask("fetch", id=series["id"], large=True)).pictures
        unknown = (await ask("fetch", id=new_id())).error
        assert "job, picture or comparison" in unknown["message"]
        place, other = ("path", "url") if way == "stdio" else ("url", "path")
        for following in (drawn["next"], (await ask("fetch", id=drawn["job"]["id"])).data["next"]):
            assert f"`{place}`" in following
            assert f"`{other}`" not in following


async def test_what_http_has_not_got_is_said(tmp_path: Path) -> None:
    """No copies on the caller's side, a slash at the end of the address, and whose key a picture wants."""
    async with serving(tmp_path, environ={"IMAGEN_DEFAULT_MODEL": "mock"}) as served:
        keys = {name: await served.app.add_key(name) for name in ("ann", "bob")}
        async with over_http(served, key=keys["ann"]) as ann, over_http(served, key=keys["bob"]) as bob:
            drawn = (await ann("generate", prompt="a fox", wait_s=30, **FAST)).data
            assert "with the key" in drawn["next"]
            refused = (await ann("fetch", id=drawn["job"]["id"], save_to="fox.png")).error
            assert (refused["param"], "take `url`" in refused["hint"]) == ("save_to", True)
            assert (await bob("status", id=drawn["job"]["id"], cancel=True)).error["code"] == "unknown_job"
        who = {"name": "test", "version": "1"}
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": who}
        asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        accept = {"Accept": "application/json, text/event-stream"}
        for path in ("/mcp", "/mcp/"):
            assert (await served.client(keys["ann"]).post(path, json=asked, headers=accept)).status_code == 200
        assert (await served.client().post("/mcp/", json=asked, headers=accept)).status_code == 401
