"""Schemathesis reads /openapi.json and sends what it allows and what it forbids: no failure, no broken promise."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.http_kit import get
from tests.service_kit import House, Program

from imagen.core.request import MAX_SEED

PROGRAM = Path(sys.executable).parent / "schemathesis"
SEED = 20_260  # the same requests in every run, as far as ids that are made anew allow
EXAMPLES = 5  # of each operation in each phase; together some 1,500 requests
RUN_S = 600  # a minute or two, unless the machine has much else to do
DEVICES = "^/v1/devices"

# Small pictures in no time, and limits that the document below repeats.
SIDES, STEPS, PICTURES = (16, 128), 10, 3
QUICK = {"options": {"slow": 0}, "defaults": {"width": 64, "height": 64, "steps": 2}}
MODELS = ("mock", "mock-cool", "mock-warm")
OTHERS = ("mock-broken", "tiny-3d", "tiny-flat", "tiny-noto")  # would be compared where no model is named
SETTINGS = {
    "limits": {"side": SIDES[1], "steps": STEPS, "n": PICTURES, "series_cells": 10, "queued": None, "wait_s": 1},
    "models": {name: QUICK for name in MODELS} | {name: {"enabled": False} for name in OTHERS},
}

# How this API differs from what the tool takes for granted.
TOOL = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 304, 401, 403, 404, 409, 410, 416, 429]

# Deleting a job deletes its pictures; the job stays in the history and says so.
[[operations]]
include-path-regex = "^/v1/jobs/"
checks.use_after_free.enabled = false

# What it votes on are two pictures of the series, and it names others.
[[operations]]
include-path-regex = "^/v1/series/{id}/votes$"
checks.ensure_resource_availability.enabled = false

# That `before` is the id of a job there is, a schema cannot say.
[[operations]]
include-path-regex = "^/v1/jobs$"
include-method = "GET"
checks.positive_data_acceptance.expected-statuses = ["2xx", 304, 400, 401, 403, 404, 409, 410, 416, 429]

# How many prompts times models times seeds are too many, a schema cannot say.
[[operations]]
include-path-regex = "^/v1/series"
checks.positive_data_acceptance.expected-statuses = ["2xx", 304, 400, 401, 403, 404, 409, 410, 416, 429]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Program, str]]:
    with House(folder=tmp_path_factory.mktemp("schemathesis")) as house:
        (house.home / "config.yaml").write_text(json.dumps(SETTINGS))  # JSON is YAML
        key = house.run("keys", "add", "tester", "--admin").stdout.strip()
        yield house, house.serve(), key


@pytest.mark.timeout(RUN_S + 30)
def test_the_server_keeps_what_its_document_promises(server: tuple[House, Program, str]) -> None:
    """Every check there is, on every operation: no 5xx, no answer that the document does not allow."""
    house, program, key = server
    document = narrowed(get(f"{program.url}/openapi.json"))
    # This stream has no end to wait for; test_streams.py reads it. A paused device would let everything else wait.
    ran = schemathesis(
        house, program, key, document, "--exclude-path", "/v1/events", "--exclude-path-regex", f"{DEVICES}.+"
    )
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
    assert "Traceback" not in program.said()
    assert program.alive


@pytest.mark.timeout(RUN_S + 30)
def test_devices_keep_what_the_document_promises(tmp_path: Path) -> None:
    """The same of pausing and resuming, on a server where nothing else waits for a device."""
    with House(folder=tmp_path) as house:
        (house.home / "config.yaml").write_text(json.dumps(SETTINGS))
        key = house.run("keys", "add", "tester", "--admin").stdout.strip()
        program = house.serve()
        document = narrowed(get(f"{program.url}/openapi.json"))
        there = [
            device["name"] for device in get(f"{program.url}/v1/devices", {"Authorization": f"Bearer {key}"})["devices"]
        ]
        for path, operations in document["paths"].items():
            if path.startswith("/v1/devices/"):  # half of what is sent meets a device that is there
                for parameter in operations["post"]["parameters"]:
                    if parameter["name"] == "name":
                        parameter["schema"]["examples"] = there
        ran = schemathesis(house, program, key, document, "--include-path-regex", DEVICES)
        assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
        assert "Traceback" not in program.said()
        assert program.alive


def test_a_broken_promise_is_found(server: tuple[House, Program, str]) -> None:
    """The same check on a document that is wrong in one word fails."""
    house, program, key = server
    document = get(f"{program.url}/openapi.json")
    answer = document["paths"]["/healthz"]["get"]["responses"]["200"]
    answer["content"]["application/json"]["schema"] = {"type": "integer"}
    ran = schemathesis(house, program, key, document, "--include-path", "/healthz")
    assert ran.returncode == 1
    assert "Response violates schema" in ran.stdout


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what this very server's models and settings add to it: no schema can know them."""
    for name in ("NewJob", "NewSeries", "NamedSeries"):
        fields = document["components"]["schemas"][name]["properties"]
        for field, bounds in (
            ("width", {"minimum": SIDES[0], "maximum": SIDES[1]}),
            ("height", {"minimum": SIDES[0], "maximum": SIDES[1]}),
            ("steps", {"maximum": STEPS}),
            ("n", {"maximum": PICTURES}),
            ("model", {"enum": MODELS}),
            ("options", {"additionalProperties": False}),
            ("seed", {"maximum": MAX_SEED}),  # the framework writes it as a float, which is one more
        ):
            for shape in fields.get(field, {}).get("anyOf", ()):
                if shape.get("type") != "null":
                    shape.update(bounds)
    for name in ("NewSeries", "NamedSeries"):
        seeds = document["components"]["schemas"][name]["properties"]["seeds"]
        for shape in seeds.get("anyOf", (seeds,)):
            if shape.get("type") == "array":
                shape["items"]["maximum"] = MAX_SEED
    for name in ("NewSeries", "NamedSeries", "MoreModels"):
        shapes = document["components"]["schemas"][name]["properties"]["models"]
        for shape in shapes.get("anyOf", (shapes,)):
            if shape.get("type") == "array":
                shape["items"] = {"enum": MODELS}
    schemas = document["components"]["schemas"]
    cells = next(shape for shape in schemas["NamedSeries"]["properties"]["cells"]["anyOf"] if shape["type"] == "array")
    cells["maxItems"] = 3  # of the ten that are allowed; and that `prompt` goes without `prompts` a 400 may say
    del schemas["NamedSeries"]["allOf"]  # together they take the tool minutes to make up
    schemas["NewCell"]["properties"]["model"]["enum"] = MODELS
    schemas["NewCell"]["properties"]["seed"]["maximum"] = MAX_SEED
    return document


def schemathesis(
    house: House, program: Program, key: str, document: dict[str, Any], *more: str
) -> subprocess.CompletedProcess[str]:
    """The tool as a person runs it."""
    (house.folder / "openapi.json").write_text(json.dumps(document))
    (house.folder / "schemathesis.toml").write_text(TOOL)
    return subprocess.run(
        [
            PROGRAM,
            "run",
            house.folder / "openapi.json",
            *("--url", program.url),
            *("--header", f"Authorization: Bearer {key}"),
            *("--checks", "all"),
            *("--max-examples", str(EXAMPLES)),
            *("--seed", str(SEED)),
            *("--generation-database", "none"),
            *("--request-timeout", "30"),
            *("--generation-allow-x00", "false"),  # no database stores a NUL; test_hostile.py sends them
            "--suppress-health-check=too_slow",  # of making up requests, on a machine with other things to do
            "--continue-on-failure",
            "--no-color",
            *more,
        ],
        cwd=house.folder,
        env=house.environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
