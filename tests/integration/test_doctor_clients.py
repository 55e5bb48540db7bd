"""`imagen doctor --clients` as a person runs it, against a server that runs."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import JSONResponse, PlainTextResponse
from tests.replay_kit import Door
from tests.service_kit import House, Program, free_port

from imagen.core.errors import NotConfigured, UnknownModel
from imagen.surfaces.cli.doctor_clients import check_clients

QUICK = {"slow": {"type": "float", "default": 0.0}}
SLOW = {"slow": {"type": "float", "default": 300.0}}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("doctor")) as home:
        home.model("quick", options=QUICK)
        home.model("other", options=QUICK)
        home.model("slow", device="elsewhere", options=SLOW)
        port = free_port()
        (home.home / "config.yaml").write_text(json.dumps({"server": {"port": port}}))
        yield home


@pytest.fixture(scope="module")
def server(house: House) -> Program:
    program = house.start("serve", environment={"IMAGEN_DEFAULT_MODEL": "quick"})
    program.ready()
    return program


def test_it_asks_the_server_of_these_settings(house: House, server: Program) -> None:
    """Without an address; each verdict is a line, then one line for each client, and exit code 0."""
    ran = house.run("doctor", "--clients", "--client", "openai-python", "--client", "open-webui-automatic1111")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert any(line.startswith("works    openai-python: generate: 1024x1024") for line in lines)
    assert any(line.startswith("refused  openai-python: edit: no model of this server can edit") for line in lines)
    table = {line.split()[0]: line for line in lines[lines.index("") :] if line}
    assert "connect models switch generate several" in table["open-webui-automatic1111"]
    assert lines[-1] == "every client can work with this server"
    assert server.url in ran.stderr


def test_it_is_one_document_for_programs(house: House, server: Program) -> None:
    """What each client met, and nothing else on stdout; any address of that server will do."""
    ran = house.run("doctor", "--clients", f"{server.url}/v1/", "--client", "n8n", "--model", "quick", "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["ok"] is True
    assert told["server"] == server.url
    assert [(one["client"], one["verb"], one["outcome"]) for one in told["verdicts"]] == [
        ("n8n", "models", "works"),
        ("n8n", "switch", "works"),
        ("n8n", "generate", "works"),
    ]


def test_a_key_without_a_server_is_no_silent_wish(house: House) -> None:
    """Whoever gives one means a server."""
    run = house.run("doctor", "--key", "K")
    assert (run.returncode, "--clients" in run.stderr) == (2, True)


def test_what_fails_is_named_with_its_hint(house: House, server: Program) -> None:
    """A model that fails is shown failing, whatever name a client insists on: exit code 3."""
    ran = house.run("doctor", "--clients", server.url, "--client", "openai-python", "--model", "mock-broken")
    assert ran.returncode == 3
    for verb in ("generate", "several", "stream"):
        assert f"FAIL     openai-python: {verb}: POST /v1/images/generations: " in ran.stdout
    assert "hint: ask for a smaller size or another model" in ran.stdout
    assert "3 things fail: see FAIL above" in ran.stdout


def test_a_model_that_is_not_there_is_refused_at_the_start(house: House, server: Program) -> None:
    """Exit code 2, with the names there are."""
    ran = house.run("doctor", "--clients", server.url, "--model", "quik")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "has no model 'quik'; did you mean 'quick'?" in ran.stderr
    assert "mock-broken" in ran.stderr


def test_it_draws_with_the_model_that_is_asked_for_and_changes_nothing(house: House, server: Program) -> None:
    """No picture of another model, and the checkpoint that was chosen before is chosen after."""
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as http:
        http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "mock-cool"}).raise_for_status()
        before = {job["id"] for job in http.get("/v1/jobs", params={"limit": 200}).json()["jobs"]}
        ran = house.run("doctor", "--clients", server.url.removeprefix("http://"), "--model", "other")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "other stands in place of the names that they insist on: gpt-image" in ran.stderr
        jobs = [job for job in http.get("/v1/jobs", params={"limit": 200}).json()["jobs"] if job["id"] not in before]
        assert len(jobs) > 20
        assert {job["request"]["model"] for job in jobs} == {"other"}
        assert http.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "mock-cool"


def test_what_is_being_drawn_is_neither_a_failure_nor_stopped(house: House, server: Program) -> None:
    """Two things are not tried while a picture of the same caller forms, which goes on."""
    body = {"prompt": "a fox", "override_settings": {"sd_model_checkpoint": "slow"}}
    with ThreadPoolExecutor() as pool, httpx2.Client(base_url=server.url, trust_env=False, timeout=60) as http:
        drawn = pool.submit(http.post, "/sdapi/v1/txt2img", json=body)
        while not http.get("/sdapi/v1/progress").json()["state"]["job_count"]:
            assert not drawn.done(), drawn.result().text
        ran = house.run("doctor", "--clients", server.url, "--client", "sillytavern-a1111", "--model", "quick")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "busy     sillytavern-a1111: switch: something of yours is being drawn" in ran.stdout
        assert "busy     sillytavern-a1111: stop: " in ran.stdout
        assert "2 things were not tried" in ran.stdout
        assert not drawn.done()
        http.post("/sdapi/v1/interrupt").raise_for_status()


def test_a_server_with_keys(tmp_path: Path) -> None:
    """Without one it says so; with one every client puts it where it does."""
    with House(folder=tmp_path / "keyed") as keyed:
        keyed.model("quick", options=QUICK)
        key = keyed.run("keys", "add", "ada").stdout.split()[-1]
        url = keyed.serve().url
        without = keyed.run("doctor", "--clients", url)
        assert (without.returncode, "asks for a key" in without.stderr) == (3, True), without.stderr
        bad = keyed.run("doctor", "--clients", url, "--key", "bad")
        assert (bad.returncode, "does not take this key" in bad.stderr) == (3, True), bad.stderr
        names = ("litellm", "open-webui-automatic1111", "librechat-stable-diffusion")
        chosen = [word for name in names for word in ("--client", name)]
        ran = keyed.run("doctor", "--clients", url, "--key", key, "--model", "quick", *chosen)
        assert ran.returncode == 0, ran.stdout


def test_nobody_there_and_nobody_known(house: House) -> None:
    """It says how to start one, and which clients there are."""
    away = house.run("doctor", "--clients", "http://127.0.0.1:9")
    assert away.returncode == 3
    assert "does not answer" in away.stderr
    assert "imagen serve" in away.stderr
    unknown = house.run("doctor", "--clients", "--client", "nobody")
    assert unknown.returncode == 2
    assert "open-webui-openai" in unknown.stderr


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    with made.running():
        yield made


def asked(url: str, key: str | None = None, model: str | None = None) -> bool:
    return check_clients(url, key=key, model=model, names=("n8n",), json_output=False)


ANSWERS: Mapping[str, tuple[Any, str | None, str, str]] = {
    "another server": (
        *(PlainTextResponse("no", status_code=404), None),
        *("answers, but is no image server: 404 for GET /v1/models", "the port"),
    ),
    "a page for everything": (
        *(PlainTextResponse("hello"), None),
        *("answers, but is no image server: text/plain instead of a list for GET /v1/models", "the port"),
    ),
    "something else as JSON": ({"hello": 1}, None, "application/json instead of a list", "the port"),
    "a list of something else": ({"data": ["x"]}, None, "application/json instead of a list", "the port"),
    "it breaks": (PlainTextResponse("oh", status_code=502), None, "not well: 502 for GET /v1/models", "the log"),
    "no models": ({"data": []}, None, "names no models", "imagen models"),
    "no key": (JSONResponse({}, status_code=401), None, "asks for a key", "give one"),
    "a bad key": (JSONResponse({}, status_code=401), "bad", "does not take this key", "give another"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_image_server_is_said_before_anything_is_replayed(door: Door, answer: str) -> None:
    """It answered: that it does not would send people the wrong way."""
    told, key, said, hint = ANSWERS[answer]
    door.wrong = {"/v1/models": told, "/sdapi/v1/sd-models": told}
    with pytest.raises(NotConfigured) as found:
        asked(door.url, key)
    assert said in found.value.message
    assert hint in found.value.hint
    assert not door.asked("POST")


def test_another_name_of_a_model_means_that_model(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is none is refused before anything is sent; each line says what is asked."""
    with pytest.raises(UnknownModel, match=r"has no model 'ones'; did you mean 'one'\?") as found:
        asked(door.url, model="ones")
    assert found.value.hint == "it has: one, dall-e-3, gpt-image-1"
    assert not door.asked("POST")
    names = [{"id": "one"}, {"id": "dall-e-3", "alias_of": "one"}, {"id": "gpt-image-1", "alias_of": "one"}]
    door.wrong["/v1/models"] = {"data": names}
    assert asked(door.url.removeprefix("http://"), model="gpt-image-1")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{door.url} is asked for pictures of one, as 1 client does",
        "one stands in place of the names that they insist on: gpt-image-1-mini, dall-e-3",
    ]


def test_a_server_of_the_other_kind_names_its_models_too(door: Door) -> None:
    """AUTOMATIC1111 itself has no GET /v1/models."""
    door.wrong["/v1/models"] = PlainTextResponse("no", status_code=404)
    found = [{"title": "one.safetensors [0f]", "model_name": "one"}, {"title": "two", "model_name": "two"}]
    door.wrong["/sdapi/v1/sd-models"] = found
    assert check_clients(door.url, key=None, model=None, names=("librechat-stable-diffusion",), json_output=True)
    with pytest.raises(UnknownModel, match="did you mean 'two'"):
        asked(door.url, model="tow")
