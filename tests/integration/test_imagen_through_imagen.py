"""An imagen that draws through another imagen: its `openai` backend, asking the other one's OpenAI door."""

import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from tests.serve_kit import Until, ask, ended
from tests.service_kit import House, free_port
from tests.serving_kit import Served, drawn, follow, serving, until

FAR = {"model": "far", "width": 64, "height": 48, "steps": 8, "seed": 7}


def far(url: str, **keys: Any) -> dict[str, Any]:
    """A model that is another imagen's."""
    usual = {"model": "mock", "dialect": "imagen", "options": {"slow": {"type": "float", "default": 0}}}
    return {"backend": "openai", "url": f"{url}/v1", **usual, **keys}


def settle(home: Path, url: str, **keys: Any) -> None:
    """Tell one where the other is."""
    home.mkdir(exist_ok=True)
    (home / "config.yaml").write_text(json.dumps({"models": {"far": far(url, **keys)}}))


@asynccontextmanager
async def two(folder: Path, **keys: Any) -> AsyncIterator[tuple[Served, Served]]:
    """The one who is asked, and the one who asks."""
    async with serving(folder / "there", environ={"IMAGEN_DEFAULT_MODEL": "mock"}) as there:
        settle(folder / "here", there.url, **keys)
        async with serving(folder / "here") as here:
            yield there, here


async def test_a_picture_is_the_same_as_if_it_was_asked_for_there(tmp_path: Path) -> None:
    """Prompt, seed, steps, negative prompt and guidance arrive: every pixel is equal, several at a time too."""
    fields = {"prompt": "a red fox", "negative": "blue", "width": 64, "height": 48, "steps": 8, "seed": 7, "n": 2}
    async with two(tmp_path) as (there, here):
        direct = await drawn(there.client(), **fields)
        through = await drawn(here.client(), **{**fields, "model": "far"})
        jobs = (await there.client().get("/v1/jobs")).json()["jobs"]
    assert [one["pixels_sha256"] for one in through["images"]] == [one["pixels_sha256"] for one in direct["images"]]
    assert [one["seed"] for one in through["images"]] == [7, 8]
    asked = next(one for one in jobs if one["id"] != direct["id"])["request"]
    kept = ("prompt", "negative", "steps")
    assert {name: asked[name] for name in kept} == {name: direct["request"][name] for name in kept}


async def test_the_model_in_the_box_is_drawn_through_it_too(tmp_path: Path) -> None:
    """A network that denoises there, and nothing of it here."""
    async with two(tmp_path, model="tiny-3d", options={}) as (there, here):
        fields = {"prompt": "a red apple", "seed": 3, "width": None, "height": None, "options": {}}
        direct = await drawn(there.client(), **{**fields, "model": "tiny-3d", "steps": 4, "width": 64, "height": 64})
        through = await drawn(here.client(), **{**fields, "model": "far", "steps": 4, "width": 64, "height": 64})
    assert through["images"][0]["pixels_sha256"] == direct["images"][0]["pixels_sha256"]


async def test_the_picture_is_seen_forming(tmp_path: Path) -> None:
    """Partial images of the one are previews of the other: they decode, and come closer to the picture."""
    async with two(tmp_path) as (_, here):
        client = here.client()
        job = (await client.post("/v1/jobs", json={"prompt": "a fox", **FAR, "options": {"slow": 2}})).json()
        told = await follow(client, f"/v1/jobs/{job['id']}/events?previews=inline")
        (image,) = [data for type_, _, data in told if type_ == "image"]
        final = _read((await client.get(image["url"])).content)
    shown = [data for type_, _, data in told if type_ == "preview"]
    assert len(shown) == 3
    off = [_far_apart(_read(base64.b64decode(one["data"])), final) for one in shown]
    assert off == sorted(off, reverse=True)
    steps = [(data["step"], data["total"]) for type_, _, data in told if type_ == "progress"]
    assert steps[-1] == (4, 4)


async def test_cancelling_here_cancels_there(tmp_path: Path) -> None:
    """The device of the other is free again."""
    async with two(tmp_path) as (there, here):
        client, other = here.client(), there.client()
        job = (await client.post("/v1/jobs", json={"prompt": "a fox", **FAR, "options": {"slow": 600}})).json()

        async def running() -> Any:
            jobs = (await other.get("/v1/jobs")).json()["jobs"]
            return jobs and jobs[0]["state"] == "running" and jobs[0]["id"]

        over_there = await until(running)
        await client.post(f"/v1/jobs/{job['id']}/cancel")

        async def cancelled() -> bool:
            states = [(await one.get(f"/v1/jobs/{id_}")).json()["state"] for one, id_ in
                      ((client, job["id"]), (other, over_there))]  # fmt: skip
            return states == ["cancelled", "cancelled"]

        await until(cancelled)


async def test_what_fails_there_fails_here_in_the_same_words(tmp_path: Path) -> None:
    """Whoever asks learns what happened to whoever drew."""
    async with two(tmp_path) as (_, here):
        told = await drawn(here.client(), **{**FAR, "prompt": "a fox [fail:out_of_memory@2]"}, options={})
    assert told["state"] == "failed"
    assert "memory" in told["error"]["message"]
    assert told["error"]["hint"]


async def test_its_check_names_the_other_and_a_model_it_does_not_have(tmp_path: Path) -> None:
    """As `imagen models check far` says it."""
    async with two(tmp_path) as (there, here):
        model = here.app.catalog.get("far")
        fine = await here.app.backend_for(model).check(model)
        assert [check.ok for check in fine] == [True]
        assert there.url in (fine[0].note or "")
        for wrong, remedy in (({"model": "tiny-3"}, "it has: tiny-3d"), ({"url": there.url}, f"{there.url}/v1")):
            (check,) = await here.app.backend_for(model).check(replace(model, keys={**model.keys, **wrong}))
            assert check.error is not None, wrong
            assert remedy in check.error.hint


def test_with_keys_there_a_token_is_needed_here(tmp_path: Path, until: Until) -> None:
    """It comes from the environment, under the name that the model says."""
    with House(folder=tmp_path / "there") as there, House(folder=tmp_path / "here") as here:
        secret = json.loads(there.run("keys", "add", "ann", "--json").stdout)["key"]
        served = there.serve()
        settle(here.home, served.url, token_env="FAR_TOKEN", options={})
        command = ("generate", "a fox", "-m", "far", "--size", "64x48", "--steps", "4", "-o", "fox.png")
        stranger = here.run(*command)
        assert stranger.returncode == 3
        assert "token" in stranger.stderr
        known = here.start(*command, environment={"FAR_TOKEN": secret})
        assert known.process.wait(60) == 0, known.said()
        assert secret not in known.said()
        assert len(json.loads(there.run("jobs", "list", "--json").stdout)["jobs"]) == 1


def test_whoever_asks_may_be_killed(tmp_path: Path, until: Until) -> None:
    """Its death ends the job there, and the next attempt has it drawn."""
    with House(folder=tmp_path / "there") as there, House(folder=tmp_path / "here") as here:
        drawer = there.serve()
        settle(here.home, drawer.url)
        asker = here.serve()
        _, job = ask(f"{asker.url}/v1/jobs", {"prompt": "a fox", **FAR, "options": {"slow": 5}})
        until(lambda: [one["state"] for one in _jobs(drawer)] == ["running"])
        asker.kill()
        until(lambda: [one["state"] for one in _jobs(drawer)] == ["cancelled"])
        told = ended(here.serve(), str(job["id"]), until)
        assert told["state"] == "completed", told
        assert sorted(one["state"] for one in _jobs(drawer)) == ["cancelled", "completed"]


def test_whoever_asks_may_be_killed_and_its_call_found_again(tmp_path: Path, until: Until) -> None:
    """With `idempotent: true` the job there goes on, and the next attempt takes its picture: drawn once."""
    with House(folder=tmp_path / "there") as there, House(folder=tmp_path / "here") as here:
        drawer = there.serve()
        settle(here.home, drawer.url, idempotent=True)
        asker = here.serve()
        _, job = ask(f"{asker.url}/v1/jobs", {"prompt": "a fox", **FAR, "options": {"slow": 5}})
        until(lambda: [one["state"] for one in _jobs(drawer)] == ["running"])
        asker.kill()
        again = here.serve()
        told = ended(again, str(job["id"]), until)
        assert told["state"] == "completed", told
        assert [one["state"] for one in _jobs(drawer)] == ["completed"]
        _, job = ask(f"{again.url}/v1/jobs", {"prompt": "another fox", **FAR, "options": {"slow": 600}})
        until(lambda: _jobs(drawer)[0]["state"] == "running")
        ask(f"{again.url}/v1/jobs/{job['id']}/cancel", {}, method="POST")
        until(lambda: sorted(one["state"] for one in _jobs(drawer)) == ["cancelled", "completed"])


def test_whoever_draws_may_be_killed(tmp_path: Path, until: Until) -> None:
    """Its restart is waited for."""
    port = free_port()
    with House(folder=tmp_path / "there") as there, House(folder=tmp_path / "here") as here:
        drawer = there.serve(port=port)
        settle(here.home, drawer.url)
        asker = here.serve()
        _, job = ask(f"{asker.url}/v1/jobs", {"prompt": "a fox", **FAR, "options": {"slow": 3}})
        until(lambda: [one["state"] for one in _jobs(drawer)] == ["running"])
        drawer.kill()
        there.serve(port=port)
        told = ended(asker, str(job["id"]), until)
        assert told["state"] == "completed", told


def _jobs(server: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(f"{server.url}/v1/jobs")[1]["jobs"]
    return found


def _read(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB").resize((64, 48))


def _far_apart(one: Image.Image, other: Image.Image) -> int:
    return sum(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))
