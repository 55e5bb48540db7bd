"""The fake ComfyUI is held against what a real one was recorded saying; with `-m live`, against one that runs."""

import asyncio
import copy
import io
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from PIL import Image
from tests.comfy_kit import REAL, TRANSCRIPT, Bare, Entry, bare, story

from imagen.testing.comfyui import Fake, Node

GRAPH: dict[str, Any] = TRANSCRIPT["graph"]
RUNS: dict[str, list[Entry]] = {run["name"].split(":")[0].split(",")[0]: run["entries"] for run in TRANSCRIPT["runs"]}


def graph(prefix: str = "try/fox", **changes: Any) -> dict[str, Any]:
    """The recorded graph; `width=64` changes that input wherever a node has it."""
    made = copy.deepcopy(GRAPH)
    for node in made.values():
        node["inputs"] |= {name: value for name, value in changes.items() if name in node["inputs"]}
    made["9"]["inputs"]["filename_prefix"] = prefix
    return made


def streamed(**changes: Any) -> dict[str, Any]:
    """The recorded graph with the picture sent through the socket."""
    return graph(**changes) | {"9": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["8", 0]}}}


async def interrupt(client: Bare, entry: Entry) -> None:
    """Stop what runs, as the recording did after the first step."""
    await client.ask("POST", "/interrupt", json={"prompt_id": entry["msg"]["data"]["prompt_id"]})
    client.entries[-1]["req"] = "POST /interrupt"


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    server = Fake()
    async with server.serving():
        yield server


async def test_what_it_says_is_what_a_real_server_said() -> None:
    """Five recorded runs, one after the other: the same messages and frames in the same order with the same keys."""
    fake = Fake()
    told = []
    async with fake.serving() as url:
        for made, flags, method, seen in (
            (graph(), True, "auto", None),
            (graph(), True, "auto", None),
            (graph(seed=1, steps=2), False, "auto", None),
            (streamed(seed=1, steps=2, width=128), True, "none", None),
            (graph(seed=1, steps=50, width=64), True, "none", interrupt),
        ):
            if seen:
                fake.hold("sampling", step=2)  # so that it comes in time
            async with bare(url, flags=flags) as client:
                await client.draw(made, preview_method=method, seen=seen)
                told.append(story(client.entries))
    assert told == [story(entries) for entries in list(RUNS.values())[:5]]


async def test_a_refusal_is_the_recorded_one(fake: Fake) -> None:
    """A file that is not installed is refused in exactly the recorded words."""
    (recorded,) = RUNS["POST /prompt refused"]
    async with bare(fake.url) as client:
        answer = await client.ask("POST", "/prompt", json={"prompt": graph(unet_name="not-there.safetensors")})
    assert (answer.status_code, answer.json()) == (recorded["status"], recorded["body"])
    assert [one["type"] for one in fake.refused] == ["prompt_outputs_failed_validation"]


async def test_a_node_that_fails_says_so_as_recorded(fake: Fake) -> None:
    """The messages of a failure have the recorded keys and order, with tensors and server paths in them."""
    fake.fail("mat1 and mat2 shapes cannot be multiplied")
    async with bare(fake.url) as client:
        await client.draw(graph())
    recorded, told = (entries[-4:-1] for entries in (RUNS["execution_error"], client.entries))
    assert [one["msg"]["type"] for one in told] == [one["msg"]["type"] for one in recorded]
    assert [one["msg"]["data"].keys() for one in told] == [one["msg"]["data"].keys() for one in recorded]
    error = json.dumps(told[0])
    assert "/home/comfy" in error
    assert "tensor" in error


async def test_system_stats_have_the_recorded_names(fake: Fake) -> None:
    """What the fake tells of itself is a part of what the real server tells."""
    (recorded,) = RUNS["GET /system_stats"]
    async with bare(fake.url) as client:
        told = (await client.ask("GET", "/system_stats")).json()
    assert told["devices"][0].keys() == recorded["body"]["devices"][0].keys()
    assert told["system"].keys() <= recorded["body"]["system"].keys()


async def test_a_picture_has_its_size_its_graph_and_pixels_of_its_own(fake: Fake) -> None:
    """The same values give the same pixels, another seed others, and the graph stands in the file."""
    async with bare(fake.url) as client:
        first, second, other = [
            await client.picture(await client.draw(made))
            for made in (graph("a", width=64), graph("b", width=64), graph("c", width=64, seed=1))
        ]
    pictures = [Image.open(io.BytesIO(data)) for data in (first, second, other)]
    assert [one.size for one in pictures] == [(64, 256)] * 3
    assert pictures[0].tobytes() == pictures[1].tobytes() != pictures[2].tobytes()
    assert json.loads(pictures[0].info["prompt"]) == graph("a", width=64)


async def test_an_unknown_input_is_ignored_but_counts_for_the_cache(fake: Fake) -> None:
    """A sampler with an extra input is run again and gives the same picture; without one it is not run again."""
    made = graph(width=64)
    other = copy.deepcopy(made)
    other["31"]["inputs"]["more"] = "anything"
    async with bare(fake.url) as client:
        drawn = [await client.picture(await client.draw(one)) for one in (made, made, other)]
    assert len(fake.samplings) == 2
    assert len({Image.open(io.BytesIO(data)).tobytes() for data in drawn}) == 1


async def test_a_restart_forgets_everything_but_the_output_folder(fake: Fake) -> None:
    """Connections break; queue, history and temporary pictures are gone; saved pictures stay."""
    shown = graph(width=64) | {"9": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}}
    async with bare(fake.url) as client:
        saved, temporary = await client.draw(graph(width=64)), await client.draw(shown)
        images = [next(iter(one["outputs"].values()))["images"][0] for one in (saved, temporary)]
        assert [one["type"] for one in images] == ["output", "temp"]
        fake.hold("sampling")
        await client.submit(graph(seed=2))
        waiting = await client.submit(graph(seed=3))
        await fake.restart()
        fake.go_on()
        with pytest.raises(Exception, match=r".*"):
            await client.until("never")
    async with bare(fake.url) as client:
        assert [(await client.http.get("/view", params=one)).status_code for one in images] == [200, 404]
        assert (await client.ask("GET", f"/history/{waiting}")).json() == {}
        assert (await client.ask("GET", "/queue")).json() == {"queue_running": [], "queue_pending": []}
    assert [one.state for one in fake.prompts] == ["completed", "completed", "lost", "lost"]


async def test_while_it_is_down_nobody_is_answered(fake: Fake) -> None:
    """A restart that takes a while refuses connections meanwhile."""
    async with bare(fake.url) as client:
        restarting = asyncio.create_task(fake.restart(down_s=0.5))
        refused = 0
        while not restarting.done():
            await asyncio.sleep(0.02)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(fake.url.rpartition(":")[2]))
                writer.close()
            except OSError:
                refused += 1
        await restarting
        assert refused
        assert (await client.http.get("/prompt")).status_code == 200


async def test_an_old_version_has_only_what_it_had() -> None:
    """0.3.75 has no jobs, no previews of a prompt's own, any id, and not the nodes that came later."""
    fake = Fake(version="0.3.75")
    async with fake.serving() as url, bare(url) as client:
        await client.draw(graph(width=64), preview_method="auto")
        assert not [one for one in client.entries if one["kind"] == "ws-binary"]
        assert (await client.ask("GET", "/api/jobs")).status_code == 404
        assert (await client.ask("POST", "/api/jobs/x/cancel")).status_code == 405
        assert (await client.ask("GET", "/object_info/SamplerLCM")).json() == {}
        answer = await client.ask("POST", "/prompt", json={"prompt": graph(seed=9), "prompt_id": "Any"})
        assert answer.json()["prompt_id"] == "Any"
        refused = await client.ask("POST", "/prompt", json={"prompt": {"1": {"class_type": "Nope", "inputs": {}}}})
        assert refused.json()["error"]["type"] == "invalid_prompt"


async def test_a_new_version_wants_ids_in_one_spelling(fake: Fake) -> None:
    """A prompt id that is no lowercase UUID is refused."""
    async with bare(fake.url) as client:
        answer = await client.ask("POST", "/prompt", json={"prompt": graph(), "prompt_id": str(uuid.uuid4()).upper()})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_prompt_id"


async def test_a_stranger_without_a_name_is_heard_by_everybody(fake: Fake) -> None:
    """Its progress and its previews come to all, without metadata; of its nodes and its end nothing is told."""
    async with bare(fake.url) as client:
        theirs = fake.stranger(steps=2)
        await client.until("status", status={"exec_info": {"queue_remaining": 0}})
    told = [one for one in client.entries if theirs in json.dumps(one.get("msg"))]
    assert {one["msg"]["type"] for one in told} == {"progress", "progress_state"}
    assert [one["event"] for one in client.entries if one["kind"] == "ws-binary"] == [1, 1]


async def test_a_waiting_prompt_that_is_deleted_leaves_without_a_word(fake: Fake) -> None:
    """Only the length of the queue changes; it is in no history, and no job."""
    fake.hold("queued")
    async with bare(fake.url) as client:
        prompt_id = await client.submit(graph())
        fake.somebody_deletes(prompt_id)
        await client.until("status", status={"exec_info": {"queue_remaining": 0}})
        assert (await client.ask("GET", f"/history/{prompt_id}")).json() == {}
        assert (await client.ask("GET", f"/api/jobs/{prompt_id}")).status_code == 404
    assert fake.prompt(prompt_id).state == "deleted"
    assert not fake.samplings


async def test_the_worker_waits_where_it_is_told_and_can_be_interrupted_there(fake: Fake) -> None:
    """Held at step 2, a prompt has one step; an interrupt ends it there."""
    fake.hold("sampling", step=2)
    async with bare(fake.url) as client:
        prompt_id = await client.submit(graph(steps=4))
        await client.until("progress", value=1)
        assert (await client.ask("GET", f"/api/jobs/{prompt_id}")).json()["status"] == "in_progress"
        assert (await client.ask("POST", f"/api/jobs/{prompt_id}/cancel")).json() == {"cancelled": True}
        await client.until("executing", node=None)
        assert (await client.ask("GET", f"/api/jobs/{prompt_id}")).json()["status"] == "cancelled"
        assert (await client.ask("POST", f"/api/jobs/{prompt_id}/cancel")).json() == {"cancelled": False}
    assert fake.prompt(prompt_id).steps == 1


async def test_loading_cannot_be_interrupted(fake: Fake) -> None:
    """A prompt held while it loads stays there whatever is asked, and stops at the next node."""
    fake.hold("loading")
    async with bare(fake.url) as client:
        prompt_id = await client.submit(graph())
        await client.until("executing")
        await interrupt(client, {"msg": {"data": {"prompt_id": prompt_id}}})
        assert fake.held
        fake.go_on()
        await client.until("execution_interrupted")
    assert not fake.samplings


async def test_a_silent_socket_stays_silent_until_the_second_reconnect(fake: Fake) -> None:
    """What is connected hears nothing more, the next connection hears only its greeting, the one after it works."""
    fake.hold("sampling", step=2)
    async with bare(fake.url, name="me") as first:
        await first.submit(graph())
        await first.until("progress")
        fake.go_silent()
        async with bare(fake.url, name="me", flags=False) as second, bare(fake.url, name="me", flags=False) as third:
            fake.go_on()
            await third.until("executing", node=None)
            for deaf in (first, second):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(deaf.until("executing", node=None), 0.05)


async def test_the_end_of_an_old_socket_takes_the_new_one_of_its_name_along(fake: Fake) -> None:
    """As with the real server: a client that connected again before its old connection ended hears nothing more."""
    async with bare(fake.url, name="me", flags=False) as old, bare(fake.url, name="me", flags=False) as new:
        await old.socket.close()
        while len(fake.sockets) > 1:
            await asyncio.sleep(0.005)
        fake.stranger()
        with pytest.raises(TimeoutError):
            await new.socket.receive(0.1)


async def test_sockets_break_after_so_many_messages_and_the_prompt_runs_on(fake: Fake) -> None:
    """A dropped socket ends the listening, not the drawing."""
    fake.drop_sockets(after=5)
    async with bare(fake.url) as client:
        prompt_id = await client.submit(graph())
        with pytest.raises(Exception, match=r".*"):
            await client.until("executing", node=None)
        while not (await client.ask("GET", f"/history/{prompt_id}")).json():
            await asyncio.sleep(0.01)
    assert fake.prompt(prompt_id).state == "completed"


async def test_a_reply_can_be_lost_after_the_prompt_was_taken(fake: Fake) -> None:
    """The connection breaks, and the prompt is drawn all the same."""
    fake.lose_reply()
    async with bare(fake.url) as client:
        with pytest.raises(Exception, match=r".*"):
            await client.submit(graph())
        await client.until("execution_success")
    assert [one.state for one in fake.prompts] == ["completed"]


async def test_a_route_can_answer_something_else(fake: Fake) -> None:
    """Once, then as usual; and a route can be slow."""
    fake.answer("/queue", 502, "<html>Bad Gateway</html>")
    fake.delay("/queue", 0.05)
    async with bare(fake.url) as client:
        answers = [await client.http.get(path) for path in ("/queue", "/api/queue", "/queue")]
    assert [one.status_code for one in answers] == [502, 200, 200]
    assert [one.path for one in fake.requests[-3:]] == ["/queue"] * 3


async def test_out_of_memory_is_told_as_the_real_server_tells_it(fake: Fake) -> None:
    """The type names it, the message has the tip, and it happens once."""
    fake.out_of_memory(step=2)
    async with bare(fake.url) as client:
        await client.submit(graph())
        error = (await client.until("execution_error"))["msg"]["data"]
        assert error["exception_type"] == "torch.OutOfMemoryError"
        assert "Allocation on device" in error["exception_message"]
        again = await client.draw(graph())
    assert again["status"]["status_str"] == "success"


async def test_a_good_output_is_drawn_and_a_bad_one_left_out(fake: Fake) -> None:
    """The answer is 200 and tells what was left out."""
    made = graph() | {
        "50": {"class_type": "PreviewImage", "inputs": {"images": ["51", 0]}},
        "51": {"class_type": "VAEDecode", "inputs": {"samples": ["31", 0]}},
    }
    async with bare(fake.url) as client:
        answer = await client.ask("POST", "/prompt", json={"prompt": made})
    assert answer.status_code == 200
    assert list(answer.json()["node_errors"]) == ["51"]


async def test_memory_is_given_back_between_prompts(fake: Fake) -> None:
    """/free wants a JSON body, is carried out by the worker, and empties the card and the cache."""
    async with bare(fake.url) as client:
        await client.draw(graph())
        before = (await client.ask("GET", "/system_stats")).json()["devices"][0]["vram_free"]
        assert (await client.http.post("/free")).status_code == 500
        await client.ask("POST", "/free", json={"unload_models": True, "free_memory": True})
        while not fake.unloaded:
            await asyncio.sleep(0.005)
        assert (await client.ask("GET", "/system_stats")).json()["devices"][0]["vram_free"] > before
        await client.draw(graph())
    assert len(fake.samplings) == 2


async def test_nodes_and_files_can_be_added() -> None:
    """A class of the test's own is validated, told of and run; a folder holds what the test says."""
    fake = Fake(
        nodes={"Sharpen": Node.of("image:IMAGE strength:FLOAT=1,0,2 > IMAGE")}, files={"vae": ["my.safetensors"]}
    )
    made = graph(vae_name="my.safetensors") | {
        "7": {"class_type": "Sharpen", "inputs": {"image": ["8", 0], "strength": 1}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
    }
    async with fake.serving() as url, bare(url) as client:
        assert (await client.draw(made))["status"]["status_str"] == "success"
        made["7"]["inputs"]["strength"] = 3
        assert (await client.ask("POST", "/prompt", json={"prompt": made})).status_code == 400
        assert (await client.ask("GET", "/models/vae")).json() == ["my.safetensors"]


async def test_a_page_of_elsewhere_and_somebody_without_the_password_are_refused() -> None:
    """An Origin that is not the server's own is 403; a missing login is 401."""
    fake = Fake(login="ann:secret")
    async with fake.serving() as url, httpx2.AsyncClient(base_url=url, trust_env=False) as http:
        assert (await http.get("/queue", headers={"Origin": "http://elsewhere"})).status_code == 403
        assert (await http.get("/queue")).status_code == 401
        assert (await http.get("/queue", auth=("ann", "secret"))).status_code == 200


def test_it_runs_beside_a_test_without_an_event_loop() -> None:
    """In a thread of its own, and it is told things from outside."""
    fake = Fake()
    with fake.running() as url:
        fake.stranger()
        fake.do(fake.restart())
        assert httpx2.get(f"{url}/queue", trust_env=False).json() == {"queue_running": [], "queue_pending": []}
    assert fake.prompts


@pytest.mark.live
async def test_a_real_server_says_the_same() -> None:
    """Side by side with the server of IMAGEN_COMFYUI_URL, which nobody else uses: the same story."""
    seed = uuid.uuid4().int % 2**53
    async with bare(REAL) as client:
        version = (await client.ask("GET", "/system_stats")).json()["system"]["comfyui_version"]
    told: dict[str, list[Any]] = {}
    fake = Fake(version=version, step_s=0.02, preview_method="auto")
    async with fake.serving() as url:
        for server in (REAL, url):
            for made, flags, seen in (
                (graph(seed=seed, width=128, height=128), True, None),
                (graph(seed=seed, width=128, height=128), True, None),
                (graph(seed=seed + 1, steps=2, width=128, height=128), False, None),
                (graph(seed=seed + 2, steps=50, width=128, height=128), True, interrupt),
            ):
                async with bare(server, flags=flags) as client:
                    await client.draw(made, preview_method="auto", seen=seen)
                    told.setdefault(server, []).append(story(client.entries))
    assert told[REAL][1:] == told[url][1:]  # what the first one finds in the cache depends on who was there before
