"""The A1111 door with a real client library and what other clients send, against `imagen serve` as a real process."""

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import webuiapi
from PIL import Image, ImageChops, ImageStat
from tests.http_kit import get
from tests.service_kit import House, Program

PATIENCE_S = 60.0
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "connect" / "a1111.md"
LISTS = (
    *("samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-vae", "sd-modules", "sd-models", "loras"),
    *("hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "script-info", "extensions"),
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("a1111")) as home:
        (home.home / "config.yaml").write_text("default_model: mock\n")
        home.model("slower", device="cpu@slower")
        home.model(
            "choosy",
            options={
                "slow": {"type": "float", "range": [0, 3600], "default": 0},
                "sampler": {"choices": ["euler", "dpmpp_2m"], "default": "euler"},
            },
        )
        yield home


@pytest.fixture(scope="module")
def server(house: House) -> Program:
    return house.serve()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Program, str, str]]:
    """A server with two keys."""
    with House(folder=tmp_path_factory.mktemp("keyed")) as home:
        keys = [home.run("keys", "add", name).stdout.split()[-1] for name in ("ada", "bob")]
        yield home, home.serve(), keys[0], keys[1]


_open: list[Any] = []


@pytest.fixture(autouse=True)
def _calm(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test switched or left behind is no business of the next."""
    yield
    while _open:
        _open.pop().close()
    if "server" in request.fixturenames:
        at = request.getfixturevalue("server").url
        _until(lambda: _stopped(at))
        httpx2.post(f"{at}/sdapi/v1/options", json={"sd_model_checkpoint": "mock"}, trust_env=False)


def _stopped(at: str) -> bool:
    httpx2.post(f"{at}/sdapi/v1/interrupt", trust_env=False)
    return bool(httpx2.get(f"{at}/sdapi/v1/progress", trust_env=False).json()["state"]["job_count"] == 0)


def _until(condition: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < give_up, "it never came to that"
        time.sleep(0.05)
    return value


def library(server: Program, key: str | None = None) -> webuiapi.WebUIApi:
    """The client library as a program makes it."""
    made = webuiapi.WebUIApi(baseurl=f"{server.url}/sdapi/v1", username=key and "user", password=key)
    made.session.trust_env = False
    _open.append(made.session)
    return made


class Client:
    """Somebody who sends what was recorded."""

    def __init__(self, server: Program, authorization: str | None = None) -> None:
        headers = {} if authorization is None else {"Authorization": authorization}
        self.http = httpx2.Client(base_url=server.url, headers=headers, trust_env=False, timeout=PATIENCE_S)
        _open.append(self.http)

    def get(self, path: str, **more: Any) -> Any:
        answer = self.http.get(path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.http.post(path) if body is None else self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def client(server: Program) -> Client:
    return Client(server)


def picture(raw: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(raw, validate=True)))
    image.load()
    return image


def basic(told: str) -> str:
    return f"Basic {base64.b64encode(told.encode()).decode()}"


def jobs(client: Client, **wanted: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/jobs", params={"limit": "100", **wanted})["jobs"]
    return found


# The client library


def test_the_library_draws_a_picture(server: Program, client: Client) -> None:
    """It is the stored file, and `info` tells of it in text that others read, with a hundred fields sent along."""
    told = library(server).txt2img(
        prompt="[slow:0] a red fox", negative_prompt="blue", seed=7, steps=3, width=128, height=96, cfg_scale=4.5
    )
    image = told.image
    assert (image.format, image.size) == ("PNG", (128, 96))
    assert (told.info["seed"], told.info["all_seeds"], told.info["steps"]) == (7, [7], 3)
    assert (told.info["width"], told.info["height"], told.info["sd_model_name"]) == (128, 96, "mock")
    assert told.info["infotexts"] == [image.text["parameters"]]
    assert told.info["infotexts"][0].split("\n")[-1].startswith("Steps: 3, Seed: 7, Size: 128x96, Model: mock")
    assert told.parameters["sampler_index"] == "Euler a"
    assert told.parameters["width"] == 128
    job = client.get(f"/v1/jobs/{told.info['job_id']}")
    stored = client.http.get(f"/v1/images/{job['images'][0]['id']}").content
    assert base64.b64decode(told.json["images"][0]) == stored
    assert told.info["image_ids"] == [job["images"][0]["id"]]
    again = library(server).png_info(image)
    assert again.info == told.info["infotexts"][0]
    assert again.parameters["Seed"] == "7"
    assert again.parameters["Size-1"] == "128"


def test_several_pictures_are_one_request(server: Program) -> None:
    """Batches and repetitions are pictures of one job, each with a seed and a text of its own, and no grid."""
    told = library(server).txt2img(
        prompt="[slow:0] foxes", seed=10, steps=2, width=64, height=64, batch_size=2, n_iter=2
    )
    assert len(told.images) == 4
    assert told.info["all_seeds"] == [10, 11, 12, 13]
    assert [f"Seed: {seed}," in text for seed, text in zip(range(10, 14), told.info["infotexts"], strict=True)]
    assert told.info["index_of_first_image"] == 0
    without = library(server).txt2img(prompt="[slow:0] foxes", steps=2, width=64, height=64, send_images=False)
    assert without.images == []
    assert len(without.info["image_ids"]) == 1


def test_the_library_reads_every_list(server: Program) -> None:
    """Its menus hold what there is here; what there is not is an empty list."""
    asking = library(server)
    assert asking.util_get_current_model() == "mock"
    assert {"mock", "slower", "choosy"} < set(asking.util_get_model_names())
    assert asking.util_get_sampler_names() == ["Automatic"]
    assert asking.util_get_scheduler_names() == ["automatic"]
    assert asking.get_upscalers()[0]["name"] == "None"
    empty = (
        asking.get_loras,
        asking.get_sd_vae,
        asking.get_hypernetworks,
        asking.get_face_restorers,
        asking.get_prompt_styles,
        asking.get_realesrgan_models,
        asking.get_latent_upscale_modes,
    )
    assert [call() for call in empty] == [[]] * len(empty)
    assert asking.get_scripts() == {"txt2img": [], "img2img": []}
    assert asking.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert asking.get_memory()["ram"]["total"] > 0
    assert asking.get_cmd_flags()["api"] is True
    assert asking.refresh_checkpoints() is None


def test_the_library_switches_the_model(server: Program) -> None:
    """From then on it draws, and the menu of samplers is its own."""
    asking = library(server)
    asking.util_set_model("choosy")
    assert asking.util_get_current_model() == "choosy"
    assert asking.util_get_sampler_names() == ["DPM++ 2M", "Euler"]
    told = asking.txt2img(prompt="a fox", steps=2, width=64, height=64, sampler_name="DPM++ 2M")
    assert (told.info["sd_model_name"], told.info["sampler_name"]) == ("choosy", "dpmpp_2m")
    assert "Sampler: dpmpp_2m" in told.info["infotexts"][0]
    once = asking.txt2img(
        prompt="[slow:0] a fox", steps=2, width=64, height=64, override_settings={"sd_model_checkpoint": "mock"}
    )
    assert once.info["sd_model_name"] == "mock"
    assert asking.util_get_current_model() == "choosy"


def test_a_picture_to_start_from_is_refused_in_words(server: Program) -> None:
    """However large it is: what to do is in the answer, and nothing was drawn."""
    noise = Image.effect_noise((1500, 1500), 100)  # 2 MB, where other bodies end at one
    for call in (
        lambda: library(server).img2img(images=[noise], prompt="a fox"),
        lambda: library(server).extra_single_image(image=noise),
        lambda: library(server).interrogate(image=noise),
    ):
        with pytest.raises(RuntimeError) as refused:
            call()
        status, text = refused.value.args
        told = json.loads(text)
        assert status == 422
        assert told["detail"].startswith("no model of this server can ")
        assert "txt2img" in told["detail"]
        assert told["error"] == "Unsupported"


def test_a_large_picture_is_looked_into(server: Program) -> None:
    """It is read although it is larger than any other request may be."""
    assert library(server).png_info(Image.effect_noise((1500, 1500), 100)).info == ""


def test_progress_and_interruption_are_the_callers_own(server: Program) -> None:
    """The picture is seen as it forms; what was finished when it was stopped comes as the answer."""
    asking = library(server)
    assert asking.get_progress()["state"]["job_count"] == 0
    with ThreadPoolExecutor() as pool:
        running = pool.submit(
            library(server).txt2img, prompt="[slow:8] a fox", steps=40, seed=3, width=256, height=256, n_iter=2
        )
        seen = []

        def second() -> bool:
            told = asking.get_progress()
            if told["current_image"]:
                seen.append(picture(told["current_image"]))
            states.append((told["progress"], told["state"]["job_no"], told["state"]["sampling_step"]))
            if told["state"]["job_count"]:
                assert told["state"]["job_count"] == 2
                assert 0 < told["progress"] <= 1
                assert 0 <= told["state"]["sampling_step"] <= 40
            return bool(told["state"]["job_no"])

        states: list[tuple[float, int, int]] = []
        _until(second)
        assert asking.interrupt() == {}
        told = running.result(PATIENCE_S)
    assert seen, "no picture while it formed"
    parts = [part for part, _, _ in states if part]
    assert parts == sorted(parts)
    assert len(told.images) == 1
    assert told.info["all_seeds"] == [3]
    final = told.image.convert("RGB")
    near = [ImageStat.Stat(ImageChops.difference(one.convert("RGB").resize(final.size), final)).mean for one in seen]
    assert min(sum(channel) for channel in near) < 60, "none of them looked like the picture"
    assert asking.get_progress()["state"]["job_count"] == 0
    assert asking.get_progress()["progress"] == 0


def test_an_interruption_before_the_first_picture_brings_none(server: Program, client: Client) -> None:
    """The request ends well, with nothing in it; `skip` is the same where there is one picture only."""
    for verb in ("interrupt", "skip"):
        with ThreadPoolExecutor() as pool:
            running = pool.submit(Client(server).post, "/sdapi/v1/txt2img", {"prompt": "[slow:30] a fox"})
            _until(lambda: client.get("/sdapi/v1/progress")["state"]["sampling_step"])
            client.post(f"/sdapi/v1/{verb}")
            told = running.result(PATIENCE_S)
        assert told["images"] == []
        assert json.loads(told["info"])["infotexts"] == []
        assert client.get(f"/v1/jobs/{json.loads(told['info'])['job_id']}")["state"] == "cancelled"


def test_one_of_several_pictures_is_not_skipped(server: Program, client: Client) -> None:
    """Stopping all for one would lose the others."""
    with ThreadPoolExecutor() as pool:
        body = {"prompt": "[slow:2] foxes", "steps": 4, "width": 64, "height": 64, "batch_size": 2}
        running = pool.submit(Client(server).post, "/sdapi/v1/txt2img", body)
        _until(lambda: client.get("/sdapi/v1/progress")["state"]["sampling_step"])
        assert client.post("/sdapi/v1/skip") is None
        assert len(running.result(PATIENCE_S)["images"]) == 2


def test_a_task_is_followed_by_its_name(server: Program, client: Client) -> None:
    """Queued, active with a preview that is sent once, completed; another name is nobody's."""
    name = "task(4xq0ptd5t7cr5y0)"

    def ask(**more: Any) -> dict[str, Any]:
        told: dict[str, Any] = client.post("/internal/progress", {"id_task": name, "live_preview": True, **more})
        return told

    with ThreadPoolExecutor() as pool:
        body = {"prompt": "[slow:6] a fox", "force_task_id": name, "width": 256, "height": 256}
        running = pool.submit(Client(server).post, "/sdapi/v1/txt2img", body)
        shown = _until(lambda: told if (told := ask(id_live_preview=-1))["live_preview"] else None)
        assert shown["active"]
        assert not shown["completed"]
        head, _, data = shown["live_preview"].partition(",")
        assert head == "data:image/jpeg;base64"
        picture(data)
        same = ask(id_live_preview=shown["id_live_preview"])
        assert same["id_live_preview"] > shown["id_live_preview"] or same["live_preview"] is None
        assert ask(id_live_preview=-1, live_preview=False)["live_preview"] is None
        assert client.get("/sdapi/v1/progress?skip_current_image=true")["current_task"] == name
        assert client.get("/sdapi/v1/progress?skip_current_image=true")["current_image"] is None
        client.post("/sdapi/v1/interrupt")
        running.result(PATIENCE_S)
    ended = ask(id_live_preview=-1)
    assert (ended["active"], ended["queued"], ended["completed"]) == (False, False, True)
    other = client.post("/internal/progress", {"id_task": "task(other)"})
    assert (other["active"], other["queued"], other["completed"]) == (False, False, False)


# What other clients were seen to send


def test_open_webui(server: Program) -> None:
    """It looks at the options, sends all of them back with another checkpoint, and draws; its header may be empty."""
    assert get(f"{server.url}/sdapi/v1/options", {"Authorization": "Basic "})["sd_model_checkpoint"] == "mock"
    for authorization in ("", "Basic"):
        client = Client(server, authorization)
        options = client.get("/sdapi/v1/options")
        assert options["sd_model_checkpoint"] == "mock"
        models = [(one["title"], one["model_name"]) for one in client.get("/sdapi/v1/sd-models")]
        assert ("slower", "slower") in models
        assert client.post("/sdapi/v1/options", {**options, "sd_model_checkpoint": "slower"}) is None
        assert client.get("/sdapi/v1/options")["sd_model_checkpoint"] == "slower"
        body = {"prompt": "[slow:0] a fox", "batch_size": 1, "width": 512, "height": 512, "steps": 5}
        told = client.post("/sdapi/v1/txt2img", {**body, "negative_prompt": "", "CFG Scale": 7, "Sampler": "Euler"})
        assert picture(told["images"][0]).size == (512, 512)
        assert json.loads(told["info"])["sd_model_name"] == "slower"
        assert client.post("/sdapi/v1/options", options) is None


def test_librechat(server: Program, client: Client) -> None:
    """It parses `info` and takes the last line of the first text."""
    body = {"prompt": "[slow:0] a fox, snow", "negative_prompt": "ugly, blurry", "cfg_scale": 4.5, "steps": 22}
    told = client.post("/sdapi/v1/txt2img", {**body, "width": 1024, "height": 1024})
    info = json.loads(told["info"])
    assert picture(told["images"][0]).size == (1024, 1024) == (info["width"], info["height"])
    assert isinstance(info["seed"], int)
    assert info["infotexts"][0].split("\n")[-1].startswith("Steps: 22, ")
    assert "data:" not in told["images"][0][:20]


SILLYTAVERN = {
    "url": "http://localhost:7860",
    "auth": "user:secret",
    "prompt": "[slow:0] best quality, a fox <lora:fur:0.8>",
    "negative_prompt": "lowres",
    "sampler_name": "DDIM",
    "scheduler": "normal",
    "steps": 20,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "enable_hr": True,
    "hr_upscaler": "Latent",
    "hr_scale": 1.5,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


def test_sillytavern(server: Program) -> None:
    """Every menu fills, the model is switched and the wait for it ends, and the picture comes."""
    client = Client(server, basic("").strip())
    client.get("/sdapi/v1/options")
    for name in LISTS:
        assert isinstance(client.get(f"/sdapi/v1/{name}"), list)
    assert client.get("/sdapi/v1/upscalers")[0]["name"] == "None"
    assert client.post("/sdapi/v1/options", {"sd_model_checkpoint": "slower"}) is None
    told = client.get("/sdapi/v1/progress")
    assert (told["progress"], told["state"]["job_count"]) == (0, 0)
    told = client.post("/sdapi/v1/txt2img", SILLYTAVERN)
    assert picture(told["images"][0]).size == (512, 512)
    info = json.loads(told["info"])
    assert info["sd_model_name"] == "slower"
    assert info["warnings"][0].startswith("enable_hr: ")
    assert "secret" not in json.dumps(told)


def test_sillytavern_stops_what_it_no_longer_waits_for(server: Program, client: Client) -> None:
    """It interrupts and closes at once; a request that somebody else of this address waits for goes on."""
    body = {"prompt": "[slow:6] a fox that stays", "steps": 12, "width": 64, "height": 64}
    with ThreadPoolExecutor() as pool:
        # The one that is left is older than the one that stays.
        gone = _half_open(server, {"prompt": "[slow:30] a fox that goes", "width": 64, "height": 64})
        _until(lambda: jobs(client, q="a fox that goes"))
        running = pool.submit(Client(server).post, "/sdapi/v1/txt2img", {**body, "model": "slower"})
        _until(lambda: jobs(client, q="a fox that stays"))
        threading.Timer(0.05, gone.close).start()
        client.post("/sdapi/v1/interrupt")
        _until(lambda: jobs(client, q="a fox that goes")[0]["state"] == "cancelled")
        assert len(running.result(PATIENCE_S)["images"]) == 1


def test_sillytavern_for_stable_diffusion_cpp(server: Program, client: Client) -> None:
    """It asks with OPTIONS whether somebody is there, and then draws at this door."""
    assert client.http.options("/v1/images/generations").is_success
    assert client.http.options("/sdapi/v1/txt2img").headers["allow"] == "OPTIONS, POST"
    assert "mock" in [one["id"] for one in client.get("/v1/models")["data"]]
    body = {"prompt": "[slow:0] a fox", "negative_prompt": "lowres", "width": 512, "height": 512, "steps": 20}
    more = {"cfg_scale": 7, "seed": -1, "batch_size": 1, "sampler_name": "euler_a", "scheduler": "discrete"}
    told = client.post("/sdapi/v1/txt2img", body | more | {"clip_skip": 1})
    assert picture(told["images"][0]).format == "PNG"


def test_sillytavern_for_draw_things(server: Program, client: Client) -> None:
    """It looks for a server and its model at the root, where a browser is sent to the page."""
    assert client.http.head("/").status_code == 200
    assert client.get("/") == {"model": "mock", "upscaler": None}
    page = client.http.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.headers["location"]) == (307, "/imagine")
    body = {"prompt": "[slow:0] a fox", "steps": 20, "width": 64, "height": 64, "upscaler_scale": 1.5}
    told = client.post("/sdapi/v1/txt2img", {**body, "seed": 5, "restore_faces": False})
    assert json.loads(told["info"])["seed"] == 5


# Who asks


def test_a_key_is_taken_in_any_header_that_clients_have(keyed: tuple[House, Program, str, str]) -> None:
    """As the password, alone, as a bearer and as x-api-key; without one, or with an empty one, nothing is told."""
    _, server, ada, _ = keyed
    for authorization in (basic(f"user:{ada}"), basic(ada), basic(f"{ada}:"), f"Bearer {ada}"):
        client = Client(server, authorization)
        assert client.get("/sdapi/v1/options")["sd_model_checkpoint"] == "mock"
        client = Client(server)
    assert client.http.get("/sdapi/v1/options", headers={"x-api-key": ada}).status_code == 200
    for headers in ({}, {"authorization": ""}, {"authorization": "Basic"}, {"authorization": basic("user:no")}):
        for method, path in (
            ("GET", "/sdapi/v1/options"),
            ("GET", "/sdapi/v1/progress"),
            ("POST", "/sdapi/v1/interrupt"),
            ("POST", "/sdapi/v1/img2img"),
            ("GET", "/internal/ping"),
            ("GET", "/sdapi/v1/loras"),
        ):
            assert client.http.request(method, path, headers=headers).status_code == 401, (path, headers)
    assert client.get("/") == {"model": None, "upscaler": None}


def test_callers_know_nothing_of_each_other(keyed: tuple[House, Program, str, str]) -> None:
    """Each has a checkpoint of its own, sees its own progress, and stops its own job; a restart forgets the first."""
    house, server, ada, bob = keyed
    hers, his = library(server, ada), library(server, bob)
    hers.util_set_model("mock-warm")
    assert (hers.util_get_current_model(), his.util_get_current_model()) == ("mock-warm", "mock")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(library(server, ada).txt2img, prompt="[slow:5] a fox", width=64, height=64)
        _until(lambda: hers.get_progress()["state"]["job_count"])
        task = hers.get_progress()["state"]["job"]
        assert his.get_progress()["state"]["job_count"] == 0
        followed = his.session.post(f"{server.url}/internal/progress", json={"id_task": task}).json()
        assert (followed["active"], followed["completed"]) == (False, False)
        his.interrupt()
        his.skip()
        told = running.result(PATIENCE_S)
    assert len(told.images) == 1
    assert told.info["sd_model_name"] == "mock-warm"
    server.stop()
    again = house.serve(port=urlsplit(server.url).port or 0)
    assert library(again, ada).util_get_current_model() == "mock"


# What goes wrong


def test_an_error_has_the_shape_of_that_program(client: Client) -> None:
    """In words in `detail`, with what to do; ours beside it."""
    answer = client.http.post("/sdapi/v1/txt2img", json={"prompt": "[fail:out_of_memory@2] [slow:0] a fox"})
    assert answer.status_code == 503
    told = answer.json()
    assert (told["error"], told["code"], told["body"]) == ("OutOfMemory", "out_of_memory", "")
    assert told["detail"].startswith(told["errors"])
    assert told["job_id"]
    for path, body, status in (
        ("/sdapi/v1/txt2img", {"prompt": ""}, 400),
        ("/sdapi/v1/txt2img", {"prompt": "a fox", "n_iter": 1000}, 400),
        ("/sdapi/v1/options", {"sd_model_checkpoint": "sd15"}, 404),
        ("/sdapi/v1/png-info", {"image": "fox"}, 400),
    ):
        answer = client.http.post(path, json=body)
        assert answer.status_code == status
        assert isinstance(answer.json()["detail"], str)
        assert isinstance(answer.json()["error"], str)
    assert client.get("/sdapi/v1/options")["sd_model_checkpoint"] == "mock"
    assert client.http.get("/sdapi/v1/controlnet").status_code == 404
    wrong = client.http.get("/sdapi/v1/txt2img")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "OPTIONS, POST")


def test_whoever_leaves_may_come_back_for_the_picture(server: Program, client: Client) -> None:
    """That program goes on drawing too: only `interrupt` stops."""
    connection = _half_open(server, {"prompt": "[slow:1] a fox left alone", "width": 64, "height": 64})
    job = _until(lambda: next(iter(jobs(client, q="a fox left alone")), None))
    connection.close()
    assert _until(lambda: client.get(f"/v1/jobs/{job['id']}")["state"] in ("completed", "cancelled", "failed"))
    assert client.get(f"/v1/jobs/{job['id']}")["state"] == "completed"


def test_a_long_answer_begins_with_blanks(tmp_path: Path) -> None:
    """Every reader of JSON skips them; a server may be told that whoever leaves wants it stopped."""
    with House(folder=tmp_path / "house") as house:
        settings = "default_model: mock\nopenai: {hold_s: 1, on_disconnect: cancel}\nlimits: {queued: 2}\n"
        (house.home / "config.yaml").write_text(settings)
        server = house.serve()
        client = Client(server)
        answer = client.http.post("/sdapi/v1/txt2img", json={"prompt": "[slow:3] a fox", "width": 64, "height": 64})
        assert answer.text.startswith("  ")
        assert len(answer.json()["images"]) == 1
        assert library(server).txt2img(prompt="[slow:2] a fox", width=64, height=64).image.size == (64, 64)
        connection = _half_open(server, {"prompt": "[slow:30] a fox left alone", "width": 64, "height": 64})
        job = _until(lambda: next(iter(jobs(client, q="a fox left alone")), None))
        waiting = [_half_open(server, {"prompt": "[slow:30] one more"}) for _ in range(2)]
        _until(lambda: len(jobs(client, q="one more")) == 2)
        full = client.http.post("/sdapi/v1/txt2img", json={"prompt": "a fox too many"})
        assert (full.status_code, full.json()["error"]) == (429, "TooMany")
        assert int(full.headers["retry-after"]) > 0
        for one in (connection, *waiting):
            one.close()
        assert _until(lambda: client.get(f"/v1/jobs/{job['id']}")["state"] == "cancelled")
        _until(lambda: all(one["state"] == "cancelled" for one in jobs(client, q="one more")))


def test_a_key_of_the_client_draws_once(client: Client) -> None:
    """The same key with the same body brings the same job; with another body it is a contradiction."""
    body = {"prompt": "[slow:0] a fox", "width": 64, "height": 64}
    client.http.headers["idempotency-key"] = "a1111-once"
    told = [json.loads(client.post("/sdapi/v1/txt2img", body)["info"]) for _ in range(2)]
    assert told[0]["job_id"] == told[1]["job_id"]
    assert told[0]["all_seeds"] == told[1]["all_seeds"]
    answer = client.http.post("/sdapi/v1/txt2img", json={**body, "steps": 3})
    assert (answer.status_code, answer.json()["error"]) == (409, "Conflict")
    assert client.get("/sdapi/v1/progress")["state"]["job_count"] == 0


def test_what_the_page_shows_works(server: Program, tmp_path: Path) -> None:
    """Its examples, run as they stand but for the port."""
    text = PAGE.read_text().replace("8450", str(urlsplit(server.url).port))
    blocks = re.findall(r"^```(sh|python) served\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["sh", "python"]
    environment = {**os.environ, "NO_PROXY": "*", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("IMAGEN", None)
    for language, code in blocks:
        program = ["sh", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
        ran = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert ran.returncode == 0, ran.stderr
        assert "Seed: 7" in ran.stdout
    with Image.open(tmp_path / "fox.png") as image:
        assert image.size == (512, 512)


def _half_open(server: Program, body: dict[str, Any]) -> socket.socket:
    """A request that was sent, and whose answer nobody has read."""
    where = urlsplit(server.url)
    data = json.dumps(body).encode()
    head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((where.hostname, where.port or 80))
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection
