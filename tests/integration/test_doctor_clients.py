"""`imagen doctor --clients` as a person runs it, against a server that runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service_kit import House, Program, free_port

QUICK = {"slow": {"type": "float", "default": 0.0}}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("doctor")) as home:
        home.model("quick", options=QUICK)
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


def test_what_fails_is_named_with_its_hint(house: House, server: Program) -> None:
    """A model that is not there cannot be chosen: exit code 3."""
    ran = house.run("doctor", "--clients", server.url, "--client", "sillytavern-sdcpp", "--model", "nothing")
    assert ran.returncode == 3
    assert 'FAIL     sillytavern-sdcpp: models: GET /v1/models: none of `data[].id` is "nothing"' in ran.stdout
    assert "hint: the model is not in its menu" in ran.stdout
    assert "see FAIL above" in ran.stdout


def test_a_server_with_keys(tmp_path: Path) -> None:
    """Without one it says so; with one every client puts it where it does."""
    with House(folder=tmp_path / "keyed") as keyed:
        keyed.model("quick", options=QUICK)
        key = keyed.run("keys", "add", "ada").stdout.split()[-1]
        url = keyed.serve().url
        without = keyed.run("doctor", "--clients", url)
        assert (without.returncode, "asks for a key" in without.stderr) == (3, True), without.stderr
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
