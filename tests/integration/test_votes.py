"""The blind vote over HTTP and in the terminal: nothing tells the model before the vote, and the ratings follow."""

import csv
import fcntl
import io
import json
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from tests.integration.conftest import PROGRAM, Imagen, both_doors
from tests.serving_kit import Contract, Served, serving, until

from imagen import models
from imagen.engine.pictures.sidecar import pixels_sha256, text_chunks

MODELS = ["mock", "mock-warm", "mock-cool"]
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "options": {"slow": 0}}
FAST = ("--size", "64x64", "--steps", "2", "--set", "slow=0")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with one more model than the box has."""
    own = tmp_path / "models" / "mock-own"
    own.mkdir(parents=True)
    (own / "model.yaml").write_text((Path(models.__file__).parent / "mock" / "model.yaml").read_text())
    async with serving(tmp_path) as running:
        yield running


async def a_series(client: httpx2.AsyncClient, names: list[str] = MODELS, prompt: str = "a red fox") -> dict[str, Any]:
    """One that is drawn."""
    answer = await client.post("/v1/series", json={"prompt": prompt, "models": names, "seed": 7, **SMALL})
    assert answer.status_code == 202, answer.text
    address = answer.headers["location"]

    async def done() -> dict[str, Any] | None:
        told: dict[str, Any] = (await client.get(address)).json()
        return told if told["state"] != "running" else None

    found: dict[str, Any] = await until(done)
    return found


async def vote(client: httpx2.AsyncClient, series: str, choice: str = "left") -> dict[str, Any]:
    """Say something of the next pair."""
    pair = (await client.get(f"/v1/series/{series}/pairs?next")).json()["pair"]
    body = {"left": pair["left"]["id"], "right": pair["right"]["id"], "round": pair["round"], "choice": choice}
    answer = await client.post(f"/v1/series/{series}/votes", json=body)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_nothing_tells_the_model_before_the_vote(served: Served) -> None:
    """Neither the pair nor a header nor a byte of the pictures names a model, a picture's id or the time."""
    client = served.client()
    series = await a_series(client)
    images = {one["id"]: one for cell in series["cells"] for one in cell["job"]["images"]}
    answer = await client.get(f"/v1/series/{series['id']}/pairs?next")
    told = answer.text + str(answer.headers)
    pair = answer.json()["pair"]
    hashes = {image["pixels_sha256"] for image in images.values()}
    for side in (pair["left"], pair["right"]):
        picture = await client.get(side["url"])
        assert picture.status_code == 200
        assert picture.headers["content-type"] == "image/png"
        assert text_chunks(picture.content) == {}
        assert pixels_sha256(picture.content) in hashes, "the pixels are the picture's"
        small = await client.get(f"{side['url']}?w=32")
        assert small.headers["content-type"] == "image/webp"
        with Image.open(io.BytesIO(small.content)) as opened:
            assert not opened.info.get("exif")
        for one in (picture, small):
            told += str(one.headers) + one.content.decode("latin-1")
        tag = picture.headers["etag"]
        for named in (tag, f'"other", W/{tag}', "*"):
            again = await client.get(side["url"], headers={"If-None-Match": named})
            assert (again.status_code, again.headers["etag"]) == (304, tag)
    assert "mock" not in told
    for image_id, image in images.items():
        assert image_id not in told
        assert image["sha256"] not in told


async def test_a_vote_tells_the_names_and_the_ratings_follow(served: Served) -> None:
    """Three models, three pairs, one voter: rated best first with an interval, and exported as CSV."""
    client = served.client()
    series = (await a_series(client))["id"]
    owner = {
        image: cell["model"]
        for cell in (await client.get(f"/v1/series/{series}")).json()["cells"]
        for image in [cell["job"]["images"][0]["id"]]
    }
    for number in range(3):
        ballot = (await client.get(f"/v1/series/{series}/pairs?next")).json()
        assert (ballot["round"], ballot["done"], ballot["total"]) == (1, number, 3)
        told = await vote(client, series)
        assert told["choice"] == "left"
        for side in ("left", "right"):
            assert told[side]["model"] == owner[told[side]["image"]]
    assert (await client.get(f"/v1/series/{series}/pairs")).json()["round"] == 2
    ratings = (await client.get("/v1/ratings")).json()
    assert (ratings["votes"], ratings["sides"]) == (3, {"left": 3, "right": 0, "tie": 0})
    (group,) = ratings["groups"]
    assert {one["model"] for one in group["models"]} == set(MODELS)
    for one in group["models"]:
        assert one["low"] < one["rating"] < one["high"]
        assert one["votes"] == 2
    export = await client.get("/v1/ratings?format=csv")
    assert export.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(export.text)))
    assert [line["model"] for line in lines] == [one["model"] for one in group["models"]]


async def test_a_vote_counts_once_and_is_final(served: Served) -> None:
    """Sent twice it is the same; changed after the names it is refused; a pair that is none is refused too."""
    client = served.client()
    series = (await a_series(client, MODELS[:2]))["id"]
    pair = (await client.get(f"/v1/series/{series}/pairs?next")).json()["pair"]
    body = {"left": pair["left"]["id"], "right": pair["right"]["id"], "round": 1, "choice": "tie"}
    address = f"/v1/series/{series}/votes"
    first = await client.post(address, json=body)
    again = await client.post(address, json=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    for change, status, code in (
        ({"choice": "left"}, 409, "conflict"),
        ({"round": 3}, 409, "conflict"),
        ({"right": "0" * 32}, 404, "unknown_image"),
        ({"right": body["left"]}, 422, "unsupported"),
        ({"choice": "both"}, 400, None),
        ({"right": "mock"}, 400, None),
        ({"voter": "ben"}, 400, None),
    ):
        answer = await client.post(address, json=body | change)
        assert answer.status_code == status, (change, answer.text)
        error = answer.json()["error"]
        assert error["hint"]
        assert code is None or error["code"] == code
    assert (await client.get("/v1/ratings")).json()["votes"] == 1


async def test_ratings_can_be_narrowed_and_models_apart_stay_apart(served: Served) -> None:
    """By series, models and words of the prompt; two pairs of models that never met are two groups."""
    client = served.client()
    one = (await a_series(client, MODELS[:2]))["id"]
    other = (await a_series(client, ["mock-cool", "mock-own"], "an owl"))["id"]
    await vote(client, one)
    await vote(client, other, "tie")
    whole = (await client.get("/v1/ratings")).json()
    assert len(whole["groups"]) == 2
    for query, votes in (
        (f"series={one}", 1),
        ("q=owl", 1),
        ("q=a", 2),
        ("models=mock,mock-warm", 1),
        ("models=mock,mock-cool", 0),
        ("voter=local", 2),
        ("voter=ben", 0),
    ):
        assert (await client.get(f"/v1/ratings?{query}")).json()["votes"] == votes, query
    assert (await client.get("/v1/ratings?series=NONE")).status_code == 404
    unknown = await client.get("/v1/ratings?models=mock,nobody")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_model")
    assert (await client.get("/v1/ratings?format=xml")).status_code == 400


async def test_a_series_of_one_model_has_no_pair(served: Served) -> None:
    """Nothing to compare is an answer."""
    client = served.client()
    series = (await a_series(client, ["mock"]))["id"]
    assert (await client.get(f"/v1/series/{series}/pairs?next")).json()["pair"] is None


async def test_each_caller_votes_alone_and_sees_no_votes_of_others(served: Served) -> None:
    """With keys, a stranger's series is as good as none, and ratings are of one's own series."""
    keys = {name: await served.app.add_key(name) for name in ("ann", "ben")}
    boss = served.client(await served.app.add_key("boss", admin=True))
    ann, ben = served.client(keys["ann"]), served.client(keys["ben"])
    series = (await a_series(ann, MODELS[:2]))["id"]
    await vote(ann, series)
    for path in ("pairs", "blind/" + "0" * 32):
        assert (await ben.get(f"/v1/series/{series}/{path}")).status_code == 404
    body = {"left": "0" * 32, "right": "1" * 32, "round": 1, "choice": "left"}
    assert (await ben.post(f"/v1/series/{series}/votes", json=body)).status_code == 404
    assert (await ben.get("/v1/ratings")).json()["votes"] == 0
    assert (await ben.get(f"/v1/ratings?series={series}")).status_code == 404
    assert (await boss.get(f"/v1/series/{series}/pairs")).json()["round"] == 1, "the boss has not voted"
    await vote(boss, series)
    assert (await ann.get("/v1/ratings")).json()["votes"] == 2
    assert (await boss.get("/v1/ratings?voter=boss")).json()["votes"] == 1


async def test_every_answer_is_as_the_document_tells(served: Served) -> None:
    """What is answered about votes is what /openapi.json promises."""
    client = served.client()
    contract = Contract((await client.get("/openapi.json")).json())
    series = (await a_series(client))["id"]
    pairs = await client.get(f"/v1/series/{series}/pairs?next")
    contract.check("get", "/v1/series/{id}/pairs", pairs)
    pair = pairs.json()["pair"]
    contract.check("get", "/v1/series/{id}/blind/{picture}", await client.get(pair["left"]["url"]))
    contract.check("get", "/v1/series/{id}/blind/{picture}", await client.get(pair["left"]["url"] + "?w=9"))
    body = {"left": pair["left"]["id"], "right": pair["right"]["id"], "round": 1, "choice": "right"}
    for _ in range(2):
        contract.check("post", "/v1/series/{id}/votes", await client.post(f"/v1/series/{series}/votes", json=body))
    contract.check("get", "/v1/ratings", await client.get("/v1/ratings"))
    contract.check("get", "/v1/ratings", await client.get("/v1/ratings?format=csv"))


# In the terminal


@pytest.fixture
def compared(imagen: Imagen) -> str:
    """The id of a series of three models."""
    made = imagen("compare", "a red fox", "--models", ",".join(MODELS), "--seed", "7", *FAST, "--json")
    assert made.returncode == 0, made.stderr
    told: str = json.loads(imagen("series", "--json").stdout)["series"][0]["id"]
    return told


@both_doors
def test_lines_are_keys_where_nobody_sits_at_a_keyboard(imagen: Imagen, compared: str) -> None:
    """Each pair with its files, the names after the vote; then the ratings as a table, CSV and JSON."""
    run = imagen("vote", compared, stdin="1\nx\nT\ns\n")
    assert run.returncode == 0, run.stderr
    assert "3/3  a red fox" in run.stderr
    assert run.stderr.count("left.png") == 3
    assert "2 voted, 1 skipped" in run.stderr
    assert len(re.findall(r"left was mock\S*, right was mock", run.stderr)) == 2, "no names on a skip"
    assert run.stdout.startswith("MODEL")
    told = json.loads(imagen("ratings", "--json").stdout)
    assert (told["votes"], told["ties"]) == (2, 1), "the third was skipped"
    assert imagen("ratings", "--csv").stdout.startswith("group,model,rating,low,high,votes")
    assert imagen("ratings", "--models", "mock", "--json").stdout.count('"model"') == 0
    back = imagen("vote", compared, stdin="2\n")
    assert "1/1  a red fox" in back.stderr, "what was skipped comes back"
    assert json.loads(imagen("ratings", "--json").stdout)["votes"] == 3
    again = imagen("vote", compared)
    assert again.returncode == 0
    assert "--again" in again.stderr
    assert "2/3" in imagen("vote", compared, "--again", stdin="q\n").stderr


def test_stopping_midway_keeps_what_was_said(imagen: Imagen, compared: str) -> None:
    """The next call goes on with the pair that was shown; the end of the input is a stop as well."""
    first = json.loads(imagen("vote", "--json", stdin="2\nq\n").stdout)
    assert first["series"] == compared, "without a name it is the newest one"
    assert (first["done"], first["total"], len(first["votes"])) == (1, 3, 1)
    assert first["votes"][0]["choice"] == "right"
    assert first["ratings"]["votes"] == 1
    rest = json.loads(imagen("vote", compared, "--json", stdin="1\n").stdout)
    assert (rest["done"], len(rest["votes"])) == (2, 1)


def test_a_series_may_be_named_by_its_folder(imagen: Imagen) -> None:
    """To vote and to look; in front of another database it says whose it is."""
    assert imagen("compare", "a fox", "--models", "mock,mock-warm", *FAST, "-o", "foxes").returncode == 0
    assert "the one pair is done" in imagen("vote", "foxes", stdin="1\n").stderr
    assert imagen("series", "show", "foxes").stdout.count("completed") == 4
    assert imagen("series", "sheet", "foxes", "-o", "again.png").returncode == 0
    for arguments in (("vote", "foxes"), ("series", "show", "foxes")):
        run = imagen(*arguments, environment={"IMAGEN_HOME": str(imagen.here / "other")})
        assert run.returncode == 2
        assert "the comparison in foxes is not in this database" in run.stderr


def test_a_long_prompt_leaves_room_for_the_pictures(imagen: Imagen) -> None:
    """Three rows of it at most."""
    made = imagen("compare", "a very long story " * 60, "--models", "mock,mock-warm", *FAST)
    assert made.returncode == 0, made.stderr
    title = next(line for line in imagen("vote", stdin="q\n").stderr.splitlines() if line.startswith("1/1"))
    assert 160 < len(title) <= 240
    assert title.endswith("…")


def test_what_cannot_be_voted_on_says_why(imagen: Imagen) -> None:
    """No series at all, one of one model, and one that is not there: exit 2 with a hint."""
    assert imagen("vote").returncode == 2
    assert imagen("compare", "a fox", "--models", "mock", *FAST).returncode == 0
    series = json.loads(imagen("series", "--json").stdout)["series"][0]["id"]
    for wanted in (series, "NOWHERE1"):
        run = imagen("vote", wanted, "--json")
        assert run.returncode == 2
        assert json.loads(run.stdout)["error"]["hint"]
    assert imagen("ratings").stdout == ""
    assert "no votes yet" in imagen("ratings").stderr
    assert "no votes match" in imagen("ratings", "--prompt", "zebra").stderr
    assert imagen("ratings", "--models", "mock,mock-warm").returncode == 0, "known, and never voted on"
    unknown = imagen("ratings", "--models", "mock,mock-wram")
    assert unknown.returncode == 2
    assert "mock-wram" in unknown.stderr
    assert imagen("ratings", "--csv", "--json").returncode == 2


class Keyboard:
    """`imagen vote` on a terminal of its own."""

    def __init__(self, imagen: Imagen, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        environment = imagen.environment | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
        environment.pop("NO_COLOR")
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=imagen.here,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # or Ctrl-C would reach nobody
        )
        os.close(slave)
        self.said = ""

    def wait(self, text: str, times: int = 1) -> None:
        give_up = time.monotonic() + 60
        while self.said.count(text) < times:
            assert time.monotonic() < give_up, self.said
            if select.select([self.master], [], [], 0.1)[0]:
                with suppress(OSError):  # how Linux says that the other end has gone
                    self.said += os.read(self.master, 65536).decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def keyboard(imagen: Imagen, compared: str) -> Iterator[Keyboard]:
    started = Keyboard(imagen, "vote", compared)
    yield started
    started.close()


def test_a_terminal_shows_both_pictures_and_takes_single_keys(keyboard: Keyboard) -> None:
    """Two pictures of coloured blocks for each pair; a digit, an arrow and a letter are votes without Enter."""
    ask = "q quit"
    keyboard.wait(ask)
    assert "\x1b[38;2;" in keyboard.said, "coloured blocks"
    assert "left.png" not in keyboard.said
    keyboard.press(b"1")
    keyboard.wait(ask, 2)
    assert "left is better: left was mock" in keyboard.said
    keyboard.press(b"\x1b[C")
    keyboard.wait(ask, 3)
    assert "right is better: left was mock" in keyboard.said
    keyboard.press(b"t")
    keyboard.wait("all 3 pairs are done")
    keyboard.wait("RATING")
    assert keyboard.process.wait(60) == 0


def test_ctrl_c_stops_and_leaves_the_rest(keyboard: Keyboard, imagen: Imagen) -> None:
    """What was said is kept."""
    keyboard.wait("q quit")
    keyboard.press(b"s")
    keyboard.wait("q quit", 2)
    keyboard.press(b"\x03")
    keyboard.wait("interrupted")
    assert keyboard.process.wait(60) == 130
    told = json.loads(imagen("vote", "--json", stdin="q\n").stdout)
    assert (told["done"], told["total"]) == (1, 3)


def test_keys_typed_ahead_are_not_lost(keyboard: Keyboard) -> None:
    """Three votes in one burst."""
    keyboard.wait("q quit")
    keyboard.press(b"1\x1b[Dt")
    keyboard.wait("all 3 pairs are done")
    assert keyboard.said.count("left is better") == 2


def test_a_folder_of_a_comparison_names_its_series(imagen: Imagen) -> None:
    """It is what `imagen compare` printed."""
    assert imagen("compare", "a fox", "--models", "mock,mock-warm", *FAST, "-o", "kc").returncode == 0
    assert imagen("compare", "an owl", "--models", "mock,mock-warm", *FAST).returncode == 0
    for named in ("kc", "kc/compare.json"):
        assert "1/1  a fox" in imagen("vote", named, stdin="q\n").stderr
    assert imagen("vote", ".", stdin="q\n").returncode == 2
