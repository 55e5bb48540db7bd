"""The stream of the OpenAI door, byte by byte: what its protocol knows, and nothing else."""

import asyncio
import base64
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from tests import NOWHERE

from imagen.app import open as open_app
from imagen.config import load_settings
from imagen.core.errors import DatabaseAway, OutOfMemory
from imagen.core.events import Event, Failed, Preview, Progress
from imagen.core.request import Draft
from imagen.previews.decode import decode
from imagen.surfaces.http.openai.pictures import _shown
from imagen.surfaces.http.openai.request import Asked
from imagen.surfaces.http.openai.stream import _OfJob
from imagen.surfaces.http.server import make_server

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/openai.json").read_text())
SMALL: dict[str, Any] = {"prompt": "a red fox", "model": "mock", "size": "64x64", "seed": 7}


@asynccontextmanager
async def served(home: Path, **server: str) -> AsyncIterator[tuple[FastAPI, httpx2.AsyncClient]]:
    """The application in this process, with a worker; answers come whole."""
    environ = {"IMAGEN_COMFYUI_URL": NOWHERE} | {f"IMAGEN_{name.upper()}": value for name, value in server.items()}
    settings = load_settings(home=home, environ=environ)
    async with open_app(settings=settings) as app, app.drawing():
        made = make_server(app, settings=settings, drawing=False)
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=made), base_url="http://127.0.0.1", timeout=60
        ) as client:
            yield made, client


def events_of(text: str) -> list[dict[str, Any]]:
    told = []
    for frame in text.split("\n\n"):
        lines = [line for line in frame.splitlines() if line and not line.startswith((":", "retry:"))]
        if lines:
            name, data = lines
            shape = json.loads(data.removeprefix("data: "))
            assert name == f"event: {shape.get('type', 'error')}"
            told.append(shape)
    return told


async def test_only_events_of_that_protocol_are_told(tmp_path: Path) -> None:
    """Steps and phases are left out: the libraries take any event they do not know for a picture."""
    async with served(tmp_path) as (_, client):
        body = {**SMALL, "stream": True, "partial_images": 2, "options": {"slow": 0.5}}
        answer = await client.post("/v1/images/generations", json=body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-should-retry"] == "false"
        told = events_of(answer.text)
        assert [one["type"].rpartition(".")[2] for one in told] == ["partial_image", "partial_image", "completed"]
        assert {one["job_id"] for one in told} == {answer.headers["x-request-id"]}


async def test_silence_is_broken_by_comments(tmp_path: Path) -> None:
    """However many steps happen meanwhile: none of them is told, and none of them is a heartbeat."""
    async with served(tmp_path) as (server, client):
        server.state.streams.heartbeat_s = 0.4
        body = {**SMALL, "stream": True, "steps": 200, "options": {"slow": 2}}
        answer = await client.post("/v1/images/generations", json=body)
        comments = [line for line in answer.text.splitlines() if line.startswith(":")]
        assert 2 <= len(comments) < 50
        assert [one["type"] for one in events_of(answer.text)] == ["image_generation.completed"]


async def test_names_are_kept_for_ever(tmp_path: Path) -> None:
    """Every name that was ever sent is still sent, in a stream and without one, in errors and in lists."""
    async with served(tmp_path) as (_, client):
        plain = (await client.post("/v1/images/generations", json={**SMALL, "options": {"slow": 0}})).json()
        stream = {**SMALL, "stream": True, "partial_images": 1, "options": {"slow": 0.3}}
        partial, completed = events_of((await client.post("/v1/images/generations", json=stream)).text)
        failing = {**SMALL, "prompt": "a fox [fail:rejected]"}
        failed = (await client.post("/v1/images/generations", json=failing)).json()["error"]
        (broken,) = events_of((await client.post("/v1/images/generations", json={**failing, "stream": True})).text)
        models = (await client.get("/v1/models")).json()
    told = {
        "answer": plain,
        "picture": plain["data"][0],
        "usage": plain["usage"],
        "partial": partial,
        "completed": completed,
        "error": failed,
        "models": models,
        "model": models["data"][0],
        "alias": models["data"][-1],
    }
    assert {name: sorted(shape) for name, shape in told.items()} == GOLDEN
    assert sorted(broken["error"]) == GOLDEN["error"]


async def test_a_request_that_nobody_reads_any_more_is_told_so_when_the_server_stops(tmp_path: Path) -> None:
    """A library that says how often it asked is told to ask again; anybody else is not, and the job goes on."""
    async with served(tmp_path) as (server, client):
        body = {**SMALL, "options": {"slow": 30}}
        for headers, wanted in (({"x-stainless-retry-count": "0"}, "true"), ({}, "false")):
            asking = asyncio.create_task(client.post("/v1/images/generations", json=body, headers=headers))
            while not len(await server.state.app.jobs(state="running")) + len(
                await server.state.app.jobs(state="queued")
            ):
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            server.state.streams.stopping.set()
            answer = await asking
            server.state.streams.stopping.clear()
            assert (answer.status_code, answer.headers["x-should-retry"]) == (503, wanted)
            job = await server.state.app.job(answer.json()["error"]["job_id"])
            assert not job.state.terminal
            await server.state.app.cancel(job.id)


async def test_too_many_who_wait_are_refused_before_there_is_a_job(tmp_path: Path) -> None:
    """429 with the limit, and a library may ask again: nothing was begun."""
    async with served(tmp_path, limits_streams_per_key="1") as (server, client):
        asking = asyncio.create_task(client.post("/v1/images/generations", json={**SMALL, "options": {"slow": 3}}))
        while not await server.state.app.jobs():
            await asyncio.sleep(0.02)
        refused = await client.post("/v1/images/generations", json=SMALL)
        assert refused.status_code == 429
        assert refused.headers["x-should-retry"] == "true"
        assert (await asking).status_code == 200
        assert len(await server.state.app.jobs()) == 1


async def test_of_many_who_come_at_once_only_as_many_are_let_in_as_there_is_room_for(tmp_path: Path) -> None:
    """None of them is counted by a job, since none has one yet; whoever is refused has none later either."""
    async with served(tmp_path, limits_streams_per_key="2") as (server, client):
        body = {**SMALL, "options": {"slow": 0.5}}
        answers = await asyncio.gather(*(client.post("/v1/images/generations", json=body) for _ in range(6)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]
        assert len(await server.state.app.jobs()) == 2
        assert (await client.post("/v1/images/generations", json=body)).status_code == 200


@pytest.mark.parametrize("stored", ["RGB", "RGBA"])
@pytest.mark.parametrize("wanted", [None, "png", "jpeg", "webp"])
def test_a_picture_is_what_its_format_says(stored: str, wanted: str | None) -> None:
    """Untouched where nothing else was asked; see-through where it was and can be; white behind it in a JPEG."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new(stored, (8, 8), (200, 30, 30, 0)[: len(stored)]).save(stream, "PNG")
    shown = _shown(stream.getvalue(), wanted, None)
    data = base64.b64decode(shown.b64_json)
    assert shown.output_format == (wanted or "png")
    assert Image.open(io.BytesIO(data)).format == shown.output_format.upper()
    assert shown.background == ("transparent" if stored == "RGBA" and wanted != "jpeg" else "opaque")
    assert (data == stream.getvalue()) == (wanted in (None, "png"))
    if stored == "RGBA" and wanted == "jpeg":
        pixel = decode(data).convert("RGB").getpixel((4, 4))
        assert isinstance(pixel, tuple)
        assert min(pixel) > 240


def test_a_stored_jpeg_is_sent_as_it_is_or_as_what_was_asked() -> None:
    """What a cloud model made may be a JPEG; nothing is encoded twice without need."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(stream, "JPEG", quality=90)
    stored = stream.getvalue()
    assert base64.b64decode(_shown(stored, None, None).b64_json) == stored
    assert _shown(stored, None, None).output_format == "jpeg"
    assert base64.b64decode(_shown(stored, "jpeg", None).b64_json) == stored
    assert len(base64.b64decode(_shown(stored, "jpeg", 10).b64_json)) < len(stored)
    assert base64.b64decode(_shown(stored, "png", None).b64_json).startswith(b"\x89PNG")


class Recorded:
    """A watch that tells these events, in batches."""

    previews = True

    def __init__(self, *batches: list[Event]) -> None:
        self._batches = list(batches)
        self.ended = False

    async def next(self, timeout_s: float) -> list[Event]:
        batch = self._batches.pop(0)
        self.ended = not self._batches
        return batch


def preview(step: int, image: int = 0, total: int = 8) -> Preview:
    sizes = {"width": 4, "height": 4, "target_width": 8, "target_height": 8}
    told: dict[str, Any] = {"method": "backend", "estimate": True, "mime": "image/webp", "data": b"RIFF", **sizes}
    return Preview(job="J", step=step, total=total, image=image, **told)


async def test_a_backend_that_shows_too_much_is_not_repeated() -> None:
    """Whatever it sends: no more partial images than were asked for, none of the last step, of each picture alone."""
    watch: Any = Recorded(
        [Progress(job="J", step=1, total=8)],
        [preview(1), preview(4), preview(3), preview(2)],
        [preview(5, image=1), preview(8, image=1)],
        [Failed(job="J", error=OutOfMemory("too large", hint="ask for less"))],
    )
    nobody: Any = None
    asked = Asked(draft=Draft(prompt="a fox"), partial_images=2, on_disconnect="auto")
    source = _OfJob(nobody, watch, asked, 2)
    told = ""
    while not source.ended:
        told += (await source.next(1)).decode()
    *partials, failed = events_of(told)
    assert [(one["image"], one["step"], one["partial_image_index"]) for one in partials] == [
        (0, 1, 0),
        (0, 3, 1),
        (1, 5, 0),
    ]
    assert {one["output_format"] for one in partials} == {"webp"}
    assert (failed["error"]["code"], failed["error"]["job_id"]) == ("out_of_memory", "J")


# Time


class Wire:
    """A client of an ASGI application that notes when it was told something, and what."""

    def __init__(self, app: Any, body: dict[str, Any], *, per_piece_s: float = 0, **extensions: Any) -> None:
        self._app = app
        self._body = json.dumps(body).encode()
        self._per_piece_s = per_piece_s
        self._extensions = extensions
        self._asked = False
        self.at: list[float] = []
        self.text = b""
        self.ended = False

    async def ask(self) -> None:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        headers += [(b"content-length", str(len(self._body)).encode())]
        path = "/v1/images/generations"
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
        }
        scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "extensions": self._extensions}
        await self._app(scope, self._receive, self._send)

    def silences(self) -> list[float]:
        return [later - sooner for sooner, later in itertools.pairwise(self.at)]

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            self.at.append(time.monotonic())
            return {"type": "http.request", "body": self._body, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(self._per_piece_s)
            self.at.append(time.monotonic())
            self.text += message["body"]
            self.ended = not message.get("more_body")


@pytest.mark.parametrize("stream", [True, False])
async def test_no_silence_is_longer_than_a_heartbeat(tmp_path: Path, stream: bool) -> None:
    """While the job waits for its turn, which it never gets here; neither for a stream nor for a plain request."""
    heartbeat_s = 4.2  # longer than followers of a job have a timer of their own, and not at a time when all look
    settings = load_settings(home=tmp_path, environ={"IMAGEN_OPENAI_HOLD_S": "5"})
    async with open_app(settings=settings) as app:
        server = make_server(app, settings=settings, drawing=False)
        server.state.streams.heartbeat_s = heartbeat_s
        wire = Wire(server, {**SMALL, "stream": stream})
        asking = asyncio.create_task(wire.ask())
        await asyncio.sleep(12.5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    first, *later = wire.silences()
    assert first < 5 + 2.5  # with the time that the job takes to be there
    assert later
    assert max(later) < heartbeat_s + 1.2
    assert wire.text.count(b": still here") == 2 if stream else not wire.text.strip()


async def test_a_picture_that_takes_long_to_make_is_no_silence_either(tmp_path: Path) -> None:
    """A stream has its comments, a plain request its blanks, and both end with the whole picture."""
    async with served(tmp_path, openai_hold_s="1") as (server, _):
        server.state.streams.heartbeat_s = 0.1
        read = server.state.app.image_bytes

        async def slowly(image: Any) -> bytes:
            await asyncio.sleep(3.5)
            return bytes(await read(image))

        server.state.app.image_bytes = slowly
        for stream in (True, False):
            wire = Wire(server, {**SMALL, "stream": stream, "options": {"slow": 0}})
            await wire.ask()
            assert wire.ended
            assert max(wire.silences()) < 3
            if stream:
                assert [one["type"] for one in events_of(wire.text.decode())] == ["image_generation.completed"]
            else:
                assert len(json.loads(wire.text)["data"]) == 1


def large(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture of this app is some megabytes of JSON."""

    async def bytes_of(image: Any) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + bytes(3_000_000)

    monkeypatch.setattr(app, "image_bytes", bytes_of)


async def test_who_takes_a_large_picture_slowly_is_not_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes twice as long for all of it as a silent client is waited for, and never stops taking."""
    async with served(tmp_path) as (server, _):
        large(server.state.app, monkeypatch)
        server.state.streams._stalled_s = 0.5
        wire = Wire(server, {**SMALL, "stream": True, "options": {"slow": 0}}, per_piece_s=0.08)
        await wire.ask()
        (completed,) = events_of(wire.text.decode())
        assert len(completed["b64_json"]) > 4_000_000
        assert wire.at[-1] - wire.at[1] > 1.0


async def test_half_an_event_is_never_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops in the middle of a large picture breaks the connection, which no client takes for an end."""
    cut = asyncio.Event()
    async with served(tmp_path) as (server, _):
        large(server.state.app, monkeypatch)
        wire = Wire(
            server, {**SMALL, "stream": True, "options": {"slow": 0}}, per_piece_s=0.1, **{"imagen.abort": cut.set}
        )
        asking = asyncio.create_task(wire.ask())
        while b'"b64_json"' not in wire.text:
            await asyncio.sleep(0.02)
        server.state.streams.stop()
        await asking
        assert cut.is_set()
        assert not wire.ended
        assert b"error" not in wire.text


async def test_a_database_that_goes_away_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the job is waited for: 503, and whoever would be known again may come back for it."""
    away = DatabaseAway("the database does not answer", hint="wait for it")
    async with served(tmp_path) as (server, client):
        app = server.state.app

        def broken(*_: Any, **__: Any) -> None:
            raise away

        monkeypatch.setattr(app, "watching", broken)
        for headers, again in (({"x-stainless-retry-count": "0"}, "true"), ({}, "false")):
            answer = await client.post("/v1/images/generations", json=SMALL, headers=headers)
            assert (answer.status_code, answer.headers["x-should-retry"]) == (503, again)
            assert answer.headers["retry-after"]
            assert answer.json()["error"]["code"] == "database_away"
            assert answer.json()["error"]["job_id"] == (await app.jobs())[0].id
