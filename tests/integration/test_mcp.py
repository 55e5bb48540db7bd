"""Agents with the protocol's own client: five verbs, on standard input and output and over HTTP."""

import asyncio
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.shared.exceptions import MCPError
from PIL import Image
from tests.http_kit import Refused, get, post
from tests.mcp_kit import FAST, KILOBYTES, WAYS, agent, on_stdio, over_http, started
from tests.service_kit import PATIENCE_S, PROGRAM, READY, House
from tests.serving_kit import Served, serving

from imagen.core.ids import new_id
from imagen.surfaces.mcp.pictures import SHEET_PX, SMALL_BYTES, SMALL_PX

pytestmark = pytest.mark.timeout(120)
PAGE = Path(__file__).parents[2] / "docs/howto/connect/mcp.md"
ways = pytest.mark.parametrize("way", WAYS)


def small(data: bytes, longest: int = SMALL_PX) -> None:
    """It decodes, and is what an answer may hold."""
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "JPEG"
    assert max(image.size) <= longest
    assert len(data) <= SMALL_BYTES


async def whole(image: dict[str, Any], served: Served | None) -> bytes:
    """The picture where an answer says that it is."""
    if served is None:
        assert "url" not in image
        return Path(image["path"]).read_bytes()
    assert "path" not in image
    assert image["url"].startswith(served.url)
    async with httpx2.AsyncClient(trust_env=False) as http:
        return (await http.get(image["url"])).raise_for_status().content


@ways
async def test_the_five_verbs(way: str, tmp_path: Path) -> None:
    """From a list of models to a fetched picture and a sheet, as an agent goes through them."""
    async with agent(way, tmp_path) as ask:
        tools = {tool.name: tool for tool in (await ask.client.list_tools()).tools}
        assert list(tools) == ["models", "generate", "status", "compare", "fetch"]
        for tool in tools.values():
            assert tool.title
            assert tool.description
            assert tool.annotations
            assert tool.output_schema
            assert tool.input_schema["additionalProperties"] is False
        reading = {name for name, tool in tools.items() if tool.annotations and tool.annotations.read_only_hint}
        assert reading - {"fetch"} == {"models"}

        listed = await ask("models")
        by_name = {one["name"]: one for one in listed.data["models"]}
        assert by_name["mock"]["available"]
        assert by_name["mock"]["default"]
        assert not by_name["flux1-schnell"]["available"]
        assert by_name["flux1-schnell"]["why"]["hint"]
        one = await ask("models", model="mock")
        assert "slow" in one.data["models"][0]["details"]["options"]
        assert "placeholder" in by_name["mock"]["notes"]
        assert "Not for scenes" in by_name["tiny-3d"]["notes"]
        assert all(len(told["notes"]) <= 200 for told in by_name.values())

        drawn = await ask("generate", prompt="a red fox", seed=7, n=2, wait_s=30, **FAST)
        job = drawn.data["job"]
        assert (job["state"], job["request"]["model"], job["request"]["seed"]) == ("completed", "mock", 7)
        assert [image["seed"] for image in job["images"]] == [7, 8]
        (picture,) = drawn.pictures
        small(picture)

        assert (await ask("status")).data["jobs"][0]["id"] == job["id"]
        assert (await ask("status", id=job["id"])).data["job"]["images"] == job["images"]

        second = await ask("fetch", id=job["id"], index=1)
        assert second.data["image"] == job["images"][1]
        small(second.pictures[0])
        stored = await whole(second.data["image"], ask.served)
        assert Image.open(io.BytesIO(stored)).size == (64, 64)
        assert (await ask("fetch", id=job["images"][1]["id"])).data["image"] == job["images"][1]

        compared = await ask(
            "compare", prompts="a red fox", models=["mock", "mock-broken"], seeds=[7], wait_s=30, **FAST
        )
        series = compared.data["series"]
        assert (series["state"], series["counts"]) == ("partial", {"completed": 1, "failed": 1})
        good, bad = series["cells"]
        assert good["image"]["seed"] == 7
        assert bad["error"]["hint"]
        assert "1 of 2" in compared.data["next"]
        small(compared.pictures[0], SHEET_PX)
        sheet = Image.open(io.BytesIO(await whole(series["sheet"], ask.served)))
        assert sheet.size == (series["sheet"]["width"], series["sheet"]["height"])
        assert (await ask("fetch", id=series["id"])).data["image"] == series["sheet"]
        assert (await ask("status", id=series["id"])).data["series"]["cells"] == series["cells"]
        assert max(told.size for told in (listed, one, drawn, second, compared)) < KILOBYTES


@ways
async def test_a_job_longer_than_the_clients_patience(way: str, tmp_path: Path) -> None:
    """A client that gives up after 5 s gets the picture of a job of 20 s: first with its id in time, then without."""
    slow: dict[str, Any] = {"options": {"slow": 20}, "width": 64, "height": 64, "steps": 100}
    async with agent(way, tmp_path) as ask:
        begun = await ask("generate", patience_s=5, prompt="a red fox", **slow)
        job = begun.data["job"]["id"]
        assert begun.data["job"]["state"] == "running"
        assert "status" in begun.data["next"]
        with pytest.raises(MCPError, match=r"[Tt]imed out"):
            await ask("status", patience_s=5, id=job, wait_s=60)
        assert job in str(ask.notes[0][2])
        values = [value for value, _, _ in ask.notes]
        assert values == sorted(set(values)), "the protocol wants every note to be higher than the last"
        assert ask.notes[-1][1] == 100
        assert "step" in str(ask.notes[-1][2])
        assert len(values) <= 5 / 0.25 + 3
        for _ in range(10):
            told = await ask("status", patience_s=5, id=job, wait_s=4)
            if told.data["job"]["state"] == "completed":
                break
            small(told.pictures[0])  # how it forms
        fetched = await ask("fetch", patience_s=5, id=job)
        small(fetched.pictures[0])
        assert Image.open(io.BytesIO(await whole(fetched.data["image"], ask.served))).size == (64, 64)


@ways
async def test_a_cancelled_call_leaves_its_job_alone(way: str, tmp_path: Path) -> None:
    """Clients cancel when they lose patience, so a cancelled call ends the waiting and nothing else."""
    async with agent(way, tmp_path) as ask:
        calling = asyncio.create_task(
            ask("generate", prompt="a red fox", wait_s=60, options={"slow": 4}, width=64, height=64)
        )
        while not ask.notes:
            await asyncio.sleep(0.02)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        (job,) = (await ask("status")).data["jobs"]
        assert job["state"] in ("queued", "running")
        assert (await ask("status", id=job["id"], wait_s=30)).data["job"]["state"] == "completed"


@ways
async def test_a_dry_run_draws_nothing(way: str, tmp_path: Path) -> None:
    """It tells the whole request, whether it can be drawn, what it took so far, and that it is free."""
    async with agent(way, tmp_path) as ask:
        first = (await ask("generate", prompt="a red fox", dry_run=True, **FAST)).data["forecast"]
        assert first["request"] == first["request"] | {"model": "mock", "width": 64, "height": 64, "steps": 20}
        assert (first["available"], first["paid"], "seen" in first) == (True, False, False)
        await ask("generate", prompt="a red fox", wait_s=30, options={"slow": 0.5}, width=64, height=64)
        seen = (await ask("generate", prompt="an owl", dry_run=True, **FAST)).data["forecast"]["seen"]
        assert (seen["jobs"], seen["like_this"]) == (1, True)
        assert 0.4 < seen["draw_s"] < 5
        lacking = (await ask("generate", prompt="an owl", model="flux1-schnell", dry_run=True)).data["forecast"]
        assert not lacking["available"]
        assert lacking["error"]["code"] == "unreachable"
        both = (await ask("compare", prompts=["a", "b"], models=["mock", "mock-warm"], seeds=[1, 2], dry_run=True)).data
        assert both["pictures"] == 8
        assert [one["model"] for one in both["forecasts"]] == ["mock", "mock-warm"]
        assert len((await ask("status")).data["jobs"]) == 1


@ways
async def test_errors_say_what_to_do_next(way: str, tmp_path: Path) -> None:
    """A code and a hint in the words of the tools; never a traceback, never a path of a server."""
    async with agent(way, tmp_path) as ask:
        cases: list[tuple[str, dict[str, Any], str, str]] = [
            ("generate", {"prompt": "a fox", "model": "mok"}, "unknown_model", "mock"),
            ("generate", {"prompt": "a fox", "colour": "red"}, "request_error", "fields: prompt"),
            ("generate", {}, "request_error", "prompt"),
            ("generate", {"prompt": "a fox", "steps": "many"}, "request_error", "whole number"),
            ("generate", {"prompt": "a fox", "width": 9000}, "unsupported", "it draws sides from"),
            ("generate", {"prompt": "a fox", "steps": 501}, "too_large", "limits"),
            ("generate", {"prompt": "a fox", "options": {"slov": 1}}, "request_error", "slow"),
            ("compare", {"prompts": ["a fox"], "models": ["mok"]}, "unknown_model", "mock"),
            ("status", {"id": new_id()}, "unknown_job", "`status` without an id"),
            ("fetch", {"id": new_id()}, "unknown_job", "`status` without an id"),
            ("draw", {}, "request_error", "generate"),
        ]
        for verb, arguments, code, hint in cases:
            told = await ask(verb, **arguments)
            assert told.error is not None, (verb, arguments)
            assert told.error["code"] == code
            assert hint in told.error["message"] + told.error["hint"]
            assert told.error["hint"]
            assert not {"Traceback", str(tmp_path), "imagen jobs"} & set(str(told.error).split())
        failed = await ask("generate", prompt="[fail:out_of_memory]", wait_s=30, **FAST)
        assert failed.data["job"]["error"]["code"] == "out_of_memory"
        again = [await ask(verb, id=failed.data["job"]["id"]) for verb in ("status", "fetch")]
        assert [one.data["job"] for one in again] == [failed.data["job"]] * 2
        done = await ask("generate", prompt="a fox", wait_s=30, **FAST)
        assert "only picture 0" in (await ask("fetch", id=done.data["job"]["id"], index=3)).error["hint"]
        assert (await ask("generate", prompt="a fox", steps="5", wait_s=30, **FAST)).data["job"]["request"][
            "steps"
        ] == 5


async def test_a_copy_goes_only_where_the_owner_said(tmp_path: Path) -> None:
    """Below the folder that was named, never over a file, never past a link that leads outside."""
    allowed, outside = tmp_path / "pictures", tmp_path / "outside"
    for folder in (allowed, outside):
        folder.mkdir()
    (allowed / "link").symlink_to(outside)
    async with on_stdio(tmp_path, "--folder", str(allowed)) as ask:
        job = (await ask("generate", prompt="a fox", wait_s=30, **FAST)).data["job"]
        original = Path(job["images"][0]["path"]).read_bytes()
        copies = [(await ask("fetch", id=job["id"], save_to="fox.png")).data for _ in range(2)]
        saved = [one["saved_to"] for one in copies]
        assert ["already" in one["next"] for one in copies] == [False, True]
        assert saved == [str(allowed / "fox.png"), str(allowed / "fox-2.png")]
        assert {Path(one).read_bytes() for one in saved} == {original}
        assert (await ask("fetch", id=job["id"], save_to="evil\0.png")).error["param"] == "save_to"
        into = (await ask("fetch", id=job["id"], save_to=f"{allowed}/new/")).data["saved_to"]
        assert Path(into).parent == allowed / "new"
        for where in ("../fox.png", str(outside / "fox.png"), "link/fox.png", "/etc/fox.png", "~/fox.png"):
            told = await ask("fetch", id=job["id"], save_to=where)
            assert told.error is not None
            assert told.error["code"] == "forbidden", where
            assert "--folder" in told.error["hint"]
        assert not list(outside.iterdir())


async def test_a_process_draws_what_an_earlier_one_left(tmp_path: Path) -> None:
    """A client that closes its end stops `imagen mcp`; the job waits, and is drawn for whoever asks after it."""
    async with on_stdio(tmp_path) as ask:
        slow: dict[str, Any] = {"options": {"slow": 8}, "width": 64, "height": 64}
        job = (await ask("generate", prompt="a red fox", wait_s=1, **slow)).data["job"]["id"]
    async with on_stdio(tmp_path) as ask:
        assert (await ask("status", id=job)).data["job"]["state"] in ("queued", "running")
        assert (await ask("status", id=job, wait_s=60)).data["job"]["state"] == "completed"


def test_it_stops_when_it_is_told_to(tmp_path: Path) -> None:
    """SIGTERM ends it at once although its other side is still there, and what it drew goes back."""
    who = {"name": "test", "version": "1"}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": who}
    with House(folder=tmp_path / "house") as house, ExitStack() as stack:
        program = stack.enter_context(
            subprocess.Popen(
                [PROGRAM, "mcp"], env=house.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}) + "\n")
        program.stdin.flush()
        answer = json.loads(program.stdout.readline())["result"]
        assert answer["serverInfo"]["name"] == "imagen"
        assert "status" in answer["instructions"]
        broken = {"name": "generate", "arguments": {"prompt": "half \ud800 of a character"}}
        program.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": broken}) + "\n")
        program.stdin.flush()
        refused = json.loads(program.stdout.readline())
        assert (refused["id"], "half of a character" in refused["error"]["message"]) == (2, True)
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 143


async def test_each_key_sees_its_own(tmp_path: Path) -> None:
    """Over HTTP an agent is its key: with none it is refused, and another's job is as good as none."""
    async with serving(tmp_path) as served:
        keys = {name: await served.app.add_key(name) for name in ("ann", "bob")}
        async with over_http(served, key=keys["ann"]) as ann:
            job = (await ann("generate", prompt="a fox", model="mock", wait_s=30, **FAST)).data["job"]["id"]
        async with over_http(served, key=keys["bob"]) as bob:
            assert (await bob("status")).data["jobs"] == []
            assert (await bob("status", id=job)).error["code"] == "unknown_job"
            assert (await bob("fetch", id=job)).error["code"] == "unknown_job"
        client = served.client()
        refused = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert refused.status_code == 401
        assert "imagen keys add" in refused.json()["error"]["hint"]
        assert (await served.client(keys["ann"]).get("/mcp")).status_code == 405


async def test_a_server_that_stops_lets_waiting_agents_go(tmp_path: Path) -> None:
    """Whoever waits for a long job is answered with how far it is, not cut off."""
    async with serving(tmp_path) as served, over_http(served) as ask:
        await ask.client.list_tools()  # with which the client checks the answer, when the server is gone
        calling = asyncio.create_task(
            ask("generate", prompt="a fox", model="mock", wait_s=60, options={"slow": 30}, width=64, height=64)
        )
        while len(ask.notes) < 3:
            await asyncio.sleep(0.02)
        served.stop.set()
        told = await asyncio.wait_for(calling, 10)
        assert told.data["job"]["state"] in ("queued", "running")


async def test_the_same_seed_is_the_same_picture_by_every_door(tmp_path: Path) -> None:
    """What an agent asks for is an ordinary job: the same request over HTTP gives the same bytes."""
    async with serving(tmp_path) as served, over_http(served) as ask:
        mine = (await ask("generate", prompt="a fox", model="mock", seed=3, wait_s=30, **FAST)).data["job"]
        body = {"prompt": "a fox", "model": "mock", "seed": 3, **FAST}
        theirs = (await served.client().post("/v1/jobs", json=body, headers={"Prefer": "wait=30"})).json()
        pictures = [await whole(job["images"][0], served) for job in (mine,)]
        assert hashlib.sha256(pictures[0]).hexdigest() == theirs["images"][0]["sha256"]


async def test_one_key_cannot_hold_every_connection(tmp_path: Path) -> None:
    """Calls that wait count, and the refusal names the limit."""
    async with serving(tmp_path, environ={"IMAGEN_LIMITS_STREAMS_PER_KEY": "1"}) as served, over_http(served) as ask:
        waiting = asyncio.create_task(
            ask("generate", prompt="a fox", model="mock", wait_s=60, options={"slow": 4}, width=64, height=64)
        )
        while not ask.notes:
            await asyncio.sleep(0.02)
        refused = await served.client().post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert refused.status_code == 429
        assert "streams_per_key" in refused.json()["error"]["hint"]
        waiting.cancel()


async def test_a_page_of_a_trusted_site_may_use_it(tmp_path: Path) -> None:
    """Browsers ask before they send the headers of the protocol; other sites are refused."""
    async with serving(tmp_path, environ={"IMAGEN_SERVER_ORIGINS": "https://agents.example"}) as served:
        asks = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, mcp-protocol-version, mcp-session-id",
        }
        friend = await served.client().options("/mcp", headers={**asks, "Origin": "https://agents.example"})
        assert friend.status_code == 204
        assert "mcp-protocol-version" in friend.headers["access-control-allow-headers"]
        stranger = await served.client().options("/mcp", headers={**asks, "Origin": "https://other.example"})
        assert stranger.status_code == 403


BLOCKS = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["here", "server"])
async def test_the_documented_settings_work(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of settings in docs/howto/connect/mcp.md, used as a client uses it."""
    (settings,) = json.loads(block)["mcpServers"].values()
    async with AsyncExitStack() as stack:
        if "command" in settings:
            assert settings["command"] == "imagen"
            with_home = {"HOME": str(tmp_path), "IMAGEN_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
            program = StdioServerParameters(command=str(PROGRAM), args=settings["args"], env=with_home)
            ask = await stack.enter_async_context(started(program))
        else:
            served = await stack.enter_async_context(serving(tmp_path))
            key = await served.app.add_key("agent")
            assert settings["url"] == "http://127.0.0.1:8450/mcp"
            assert settings["headers"] == {"Authorization": "Bearer KEY"}
            ask = await stack.enter_async_context(over_http(served, key=key))
        job = (await ask("generate", prompt="a fox", model="mock", wait_s=30, **FAST)).data["job"]
        if "command" in settings:
            saved = (await ask("fetch", id=job["id"], save_to="fox.png")).data["saved_to"]
            assert saved == str(tmp_path / "Pictures/imagen/fox.png")


def test_a_server_without_the_extra_is_a_server(tmp_path: Path) -> None:
    """It starts, answers, and says at /mcp what to install."""
    code = (
        "import sys; sys.modules['mcp'] = sys.modules['mcp_types'] = None;"
        "sys.argv = ['imagen', 'serve', '--port', '0'];"
        "from imagen.surfaces.cli.main import main; main()"
    )
    with House(folder=tmp_path / "house") as house, (house.folder / "log").open("w+") as log:
        program = subprocess.Popen([sys.executable, "-c", code], env=house.environment, stdout=log, stderr=log)
        try:
            give_up = time.monotonic() + PATIENCE_S
            while READY not in (said := (house.folder / "log").read_text()):
                assert program.poll() is None, said
                assert time.monotonic() < give_up
                time.sleep(0.05)
            url = said.split(READY, 1)[1].split()[0].rstrip("/")
            assert get(f"{url}/healthz")
            with pytest.raises(Refused) as refused:
                post(f"{url}/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            assert refused.value.status == 503
            assert refused.value.body["error"]["code"] == "missing_extra"
            assert refused.value.body["error"]["hint"] == "pip install 'imagen-platform[mcp]'"
        finally:
            program.kill()
            program.wait()
