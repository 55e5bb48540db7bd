"""The OpenAI door with OpenAI's own library for Node, against `imagen serve` as a real process."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.openai_kit import distance, jobs, picture
from tests.service_kit import House, Program

pytestmark = pytest.mark.needs_node

FOLDER = Path(__file__).with_name("openai_node")
Until = Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Node:
    """Runs `drive.mjs` with the library that `package.json` names; each line it says is one dictionary."""

    folder: Path

    def __call__(self, server: Program, act: str, **options: Any) -> list[dict[str, Any]]:
        ran = subprocess.run(
            ["node", "drive.mjs", server.url, act, json.dumps(options)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not ran.returncode, ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """With the library fetched into a folder of its own."""
    folder = tmp_path_factory.mktemp("node") / "openai"
    shutil.copytree(FOLDER, folder)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefer-offline"]
    fetched = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"npm could not fetch OpenAI's library: {fetched.stderr.strip().splitlines()[-1:]}")
    return Node(folder=folder)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("house")) as home:
        (home.home / "config.yaml").write_text("default_model: mock\nopenai: {hold_s: 1}\n")
        yield home


@pytest.fixture(scope="module")
def server(house: House) -> Program:
    return house.serve()


def test_the_page_works_as_it_stands(server: Program, node: Node) -> None:
    """The program in JavaScript, on the model in the box."""
    text = (Path(__file__).parents[2] / "docs/howto/connect/openai.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```js served\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert "http://127.0.0.1:8450/v1" in block
    program = block.replace("http://127.0.0.1:8450", server.url).replace("gpt-image-1", "tiny-3d")
    folder = node.folder
    (folder / "page.mjs").write_text(program)
    ran = subprocess.run(["node", "page.mjs"], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert not ran.returncode, ran.stderr
    for name, kind in (("fox-0.jpg", "JPEG"), ("fox-1.jpg", "JPEG"), ("fox-2.jpg", "JPEG"), ("fox.png", "PNG")):
        with Image.open(folder / name) as image:
            assert image.format == kind


def states(server: Program, prompt: str) -> list[str]:
    return [job["state"] for job in jobs(server, prompt)]


def asked(prompt: str, slow: float = 0, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "options": {"slow": slow}, **more}


def test_pictures_and_the_models(server: Program, node: Node) -> None:
    """At once, and after blanks; several of one request; each is the picture of its seed."""
    assert "dall-e-3" in node(server, "models")[0]["ids"]
    told = node(server, "generate", body=asked("plain fast", n=2, seed=7))
    assert [(one["kind"], one["seed"]) for one in told] == [("picture", 7), ("picture", 8)]
    assert [picture(one["b64_json"]).size for one in told] == [(128, 128)] * 2
    (late,) = node(server, "generate", body=asked("plain slow", 3, seed=7))
    assert states(server, "plain slow") == ["completed"]
    assert late["job"] == jobs(server, "plain slow")[0]["id"]


def test_a_stream_converges(server: Program, node: Node) -> None:
    """Three partial images that decode, each nearer to the picture."""
    *partials, final = node(server, "stream", body=asked("streamed", 1, partial_images=3))
    assert [one["index"] for one in partials] == [0, 1, 2]
    done = picture(final["b64_json"])
    assert (final["kind"], done.format) == ("image_generation.completed", "PNG")
    away = [distance(picture(one["b64_json"]), done) for one in partials]
    assert away[0] > away[1] > away[2]


@pytest.mark.parametrize("act", ["break", "abort"])
def test_leaving_cancels(server: Program, node: Node, until: Until, act: str) -> None:
    """Both ways in which a program of that library leaves a stream."""
    told = node(server, act, body=asked(f"left by {act}", 20, partial_images=3))
    assert [one["kind"] for one in told] == ["image_generation.partial_image"]
    until(lambda: states(server, f"left by {act}") == ["cancelled"])


def test_errors_are_typed(server: Program, node: Node) -> None:
    """With status and code; nothing is asked twice."""
    (wrong,) = node(server, "generate", body=asked(""))
    assert (wrong["kind"], wrong["status"], wrong["param"]) == ("BadRequestError", 400, "prompt")
    (failed,) = node(server, "generate", body=asked("memory [fail:out_of_memory@1]"))
    assert (failed["kind"], failed["status"], failed["code"]) == ("InternalServerError", 503, "out_of_memory")
    assert states(server, "memory") == ["failed"]
    (broken,) = node(server, "stream", body=asked("midway [fail:rejected@9]", 0.5))
    assert (broken["kind"], broken["code"]) == ("APIError", "rejected")
    (edited,) = node(server, "edit", body=asked("a hat"))
    assert (edited["kind"], edited["param"]) == ("BadRequestError", "image")


def test_a_retry_after_a_time_out_takes_up_the_same_job(node: Node, tmp_path: Path) -> None:
    """The library gives up several times before an answer begins, and asks again: one job is drawn."""
    with House(folder=tmp_path / "patient") as house:
        server = house.serve()
        (told,) = node(server, "generate", body=asked("many retries", 4), client={"timeout": 1000, "maxRetries": 20})
        (job,) = jobs(server, "many retries")
        assert (told["kind"], job["state"], job["attempt"]) == ("picture", "completed", 1)


def test_a_failure_after_the_first_blank_is_an_exception(server: Program, node: Node) -> None:
    """Of Node's own: its library asks again only until an answer begins. There is one job, and it says why."""
    (late,) = node(server, "generate", body=asked("late [fail:rejected@18]", 3))
    assert late["kind"] == "TypeError"
    assert states(server, "late") == ["failed"]


def test_a_server_that_is_killed_costs_no_second_job(house: House, server: Program, node: Node) -> None:
    """Before its answer begins, the library asks again, and finds the job."""
    own = house.serve()
    port = int(own.url.rpartition(":")[2])

    def restart() -> None:
        deadline = time.monotonic() + 30
        while not states(server, "killed") and time.monotonic() < deadline:
            time.sleep(0.02)
        own.process.kill()
        own.process.wait()
        house.serve(port=port)

    restarting = threading.Thread(target=restart)
    restarting.start()
    (told,) = node(own, "generate", body=asked("killed", 6), client={"maxRetries": 10})
    restarting.join()
    assert told["kind"] == "picture"
    assert states(server, "killed") == ["completed"]
