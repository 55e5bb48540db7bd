"""Another imagen server as a door: what it does where the server is away, old, locked, or no imagen at all."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from tests import NOWHERE
from tests.service_kit import free_port
from tests.serving_kit import Served, serving

from imagen.app import open as open_app
from imagen.away.asking import Asking
from imagen.away.client import Away, open_away
from imagen.away.server import Server
from imagen.config import load_settings
from imagen.core import events
from imagen.core.errors import (
    ImagenError,
    NotConfigured,
    RequestError,
    ServerAway,
    StorageAway,
    Unauthorized,
    UnknownDevice,
)
from imagen.core.job import State
from imagen.core.request import Draft
from imagen.door import Door

SMALL = Draft(prompt="a red fox", model="mock", width=32, height=32, seed=7, options={"slow": 0})
LASTING = replace(SMALL, steps=40, options={"slow": 4})
MOCK = {"IMAGEN_COMFYUI_URL": NOWHERE, "IMAGEN_DEFAULT_MODEL": "mock"}


@asynccontextmanager
async def away(tmp_path: Path, url: str, *, key: str | None = None) -> AsyncIterator[Door]:
    """A door at a server, with a home of its own."""
    settings = load_settings(home=tmp_path / "own", environ={})
    async with open_app(settings=settings, server=url, key=key) as door:
        yield door


class Between(httpx2.AsyncBaseTransport):
    """The way to a server: it carries requests there, and may be told to lose some."""

    def __init__(self) -> None:
        self.inner = httpx2.AsyncHTTPTransport()
        self.lost = 0  # answers that never come back
        self.asked: list[tuple[str, str]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((request.method, request.url.path))
        response = await self.inner.handle_async_request(request)
        if self.lost and request.method != "GET":
            self.lost -= 1
            await response.aclose()
            raise httpx2.ReadError("the connection broke", request=request)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


@asynccontextmanager
async def between(served: Served, *, patience_s: float = 30) -> AsyncIterator[tuple[Away, Between]]:
    """A door at a server that is reached over a bad line."""
    line = Between()
    server = Server.of(served.url, served.app.settings)
    door = Away(Asking(server, patience_s=patience_s, transport=line))
    try:
        yield door, line
    finally:
        await door.aclose()


async def test_a_server_that_restarts_loses_nobody(tmp_path: Path) -> None:
    """Who follows is told every durable event once, and the one end; requests wait for it to be back."""
    port = free_port()
    async with away(tmp_path, f"http://127.0.0.1:{port}") as door:
        async with serving(tmp_path / "home", environ=MOCK, port=port):
            job = await door.submit(LASTING)
            told: list[events.Event] = []
            drawing = asyncio.Event()

            async def follow() -> None:
                async with aclosing(door.follow(job.id)) as stream:
                    async for event in stream:
                        told.append(event)
                        if isinstance(event, events.Progress):
                            drawing.set()

            following = asyncio.create_task(follow())
            async with asyncio.timeout(60):
                await drawing.wait()
        looking = asyncio.create_task(door.job(job.id))
        await asyncio.sleep(0.5)
        assert not looking.done()
        async with serving(tmp_path / "home", environ=MOCK, port=port):
            async with asyncio.timeout(60):
                assert (await looking).id == job.id
                await following
    durable = [event for event in told if event.durable]
    assert [event.seq for event in durable] == list(range(1, len(durable) + 1))
    assert isinstance(told[-1], events.Completed)
    assert sum(event.terminal for event in told) == 1
    assert len(told[-1].images) == 1


async def test_a_server_that_does_not_come_back_is_told_in_the_end(tmp_path: Path) -> None:
    """After the patience, with what to do: nothing is waited for without end."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(tmp_path / "home", environ=MOCK))
        async with between(served, patience_s=0.6) as (door, _):
            job = await door.submit(LASTING)
            async with asyncio.timeout(60), aclosing(door.follow(job.id)) as stream:
                assert isinstance(await anext(stream), events.Queued)
                await stack.aclose()
                with pytest.raises(ServerAway, match="does not answer any more") as gone:
                    async for _event in stream:
                        pass
            assert gone.value.exit_code == 3
            with pytest.raises(ServerAway):
                await door.job(job.id)


async def test_an_answer_that_is_lost_makes_no_second_job(tmp_path: Path) -> None:
    """Jobs and series are sent again under the same name; what cannot be repeated is not, and that is said."""
    async with serving(tmp_path, environ=MOCK) as served, between(served) as (door, line):
        await door.jobs()
        line.lost = 2
        job = await door.submit(LASTING)
        assert [one.id for one in await door.jobs()] == [job.id]
        line.lost = 1
        series = await door.submit_series(["a fox"], ["mock"], [1], settings={"options": {"slow": 60}})
        assert len(await door.series_list()) == 1
        line.lost = 1
        assert (await door.cancel_series(series.id)).id == series.id
        line.lost = 1
        await door.cancel(job.id)
        before = len(line.asked)
        line.lost = 1
        with pytest.raises(ServerAway, match="is not known"):
            await door.retry(job.id)
        assert line.asked[before:] == [("POST", f"/v1/jobs/{job.id}/retry")]


async def test_a_server_that_wants_a_key(tmp_path: Path) -> None:
    """None, a wrong one, and the right one: it sees its own jobs and no others."""
    async with serving(tmp_path, environ=MOCK) as served:
        mine, other = await served.app.add_key("mine"), await served.app.add_key("other")
        for wrong in (None, "imagen_wrong"):
            async with away(tmp_path, served.url, key=wrong) as door:
                with pytest.raises(Unauthorized) as refused:
                    await door.jobs()
                assert refused.value.exit_code == 3  # as `imagen doctor` has it
                assert "IMAGEN_KEY" in refused.value.hint
        async with away(tmp_path, served.url, key=mine) as door:
            job = await door.submit(SMALL)
            assert (await served.app.job(job.id)).owner == "mine"
            async with asyncio.timeout(60), aclosing(door.follow(job.id)) as stream:
                assert [event async for event in stream][-1].terminal
        async with away(tmp_path, served.url, key=other) as door:
            assert await door.jobs() == []
            with pytest.raises(RequestError):
                await door.job(job.id)


async def test_a_key_that_is_taken_away_is_no_outage(tmp_path: Path) -> None:
    """Who watches is told what became of the job, and nothing of a server that does not answer."""
    async with serving(tmp_path, environ=MOCK) as served:
        mine, _ = await served.app.add_key("mine"), await served.app.add_key("other")
        own = load_settings(home=tmp_path / "own", environ={})
        said: list[str] = []
        async with open_away(served.url, own, key=mine, say=said.append) as door:
            job = await door.submit(replace(LASTING, options={"slow": 60}))
            async with asyncio.timeout(60), aclosing(door.follow(job.id)) as stream:
                assert isinstance(await anext(stream), events.Queued)
                await served.app.remove_key("mine")
                with pytest.raises(Unauthorized, match=f"job {job.id} goes on there") as refused:
                    async for _event in stream:
                        pass
            assert "not known here" in refused.value.message
            assert said == []


async def test_nobody_at_the_address_is_told_at_once(tmp_path: Path) -> None:
    """A wrong address is more often the cause than a server that starts slowly."""
    async with away(tmp_path, f"127.0.0.1:{free_port()}") as door:
        async with asyncio.timeout(20):
            with pytest.raises(ServerAway, match="does not answer") as gone:
                await door.submit(SMALL)
    assert gone.value.exit_code == 3
    assert "imagen serve" in gone.value.hint


async def _plain(_request: Request) -> Response:
    return PlainTextResponse("hello")


async def _stranger(_request: Request) -> Response:
    return JSONResponse({"error": {"message": "no route", "type": "x", "code": "y"}}, 404)


async def _elsewhere(_request: Request) -> Response:
    return RedirectResponse("https://gpu.example/v1/jobs")


@pytest.mark.parametrize(
    ("answer", "words"),
    [(_plain, "is not an imagen server"), (_stranger, "HTTP 404"), (_elsewhere, "https://gpu.example")],
)
async def test_what_is_no_imagen_is_told_apart(tmp_path: Path, answer: Any, words: str) -> None:
    """Another program at that port, and a proxy that sends one on."""
    transport = httpx2.ASGITransport(app=_app(answer))
    server = Server.of("http://gpu.example", load_settings(home=tmp_path, environ={}))
    door = Away(Asking(server, transport=transport))
    with pytest.raises(NotConfigured, match=words):
        await door.jobs()
    await door.aclose()


async def test_an_older_server_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Fields that it does not send are empty; only what it cannot do is refused."""
    job: dict[str, Any] = {
        "id": "01ABCDEFGHJKMNPQRSTVWXYZ01",
        "state": "running",
        "request": {"prompt": "a fox"},
        "created_at": "?",
    }
    stream = (
        'id: 1\nevent: queued\ndata: {"type":"queued","job":"J","seq":1}\n\n'
        'event: mood\ndata: {"type":"mood","job":"J","seq":1}\n\n'
        'event: preview\ndata: {"type":"preview","job":"J","seq":1,"data":"?"}\n\n'
        'event: started\ndata: {"type":"started","seq":2}\n\n'
        'event: completed\ndata: {"type":"completed","job":"J","seq":3}\n\n'
    )

    async def answer(request: Request) -> Response:
        path = request.url.path
        if path.endswith("/events"):
            return PlainTextResponse(stream, media_type="text/event-stream")
        if path == "/v1/models":
            return JSONResponse({"models": [{"name": "mock", "backend": "mock"}]})
        if path.startswith("/v1/jobs/"):
            return JSONResponse(job)
        error = {"type": "invalid_request_error", "code": "not_found", "message": "there is nothing here", "hint": "?"}
        return JSONResponse({"error": error}, 404)

    server = Server.of("http://gpu.example", load_settings(home=tmp_path, environ={}))
    door = Away(Asking(server, transport=httpx2.ASGITransport(app=_app(answer))))
    found = await door.job(job["id"])
    assert (found.state, found.request.prompt, found.images) == (State.RUNNING, "a fox", ())
    async with aclosing(door.follow("J")) as told:
        assert [event.type async for event in told] == ["queued", "started", "completed"]
    assert not (await door.models()).models["mock"].paid
    with pytest.raises(NotConfigured, match="too old for this: it has no GET /v1/server") as refused:
        await door.about()
    assert "update imagen there" in refused.value.hint
    await door.aclose()


NO_METHOD = {"type": "invalid_request_error", "code": "method_not_allowed", "message": "no", "hint": "?"}
NO_FIELD = {
    "type": "invalid_request_error",
    "code": "request_error",
    "message": "there is no field 'webhook'",
    "hint": "?",
}
NO_PARAMETER = NO_FIELD | {"message": "there is no parameter 'part'; did you mean 'parts'?"}


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (405, {"error": NO_METHOD}, "too old for this: it has no GET /v1/series/name"),
        (400, {"error": NO_FIELD}, "too old for this: it has no field 'webhook' in GET /v1/series/name"),
        (400, {"error": NO_PARAMETER}, "too old for this: it has no parameter 'part' in GET /v1/series/name"),
        (200, {"prompts": ["a"]}, "too old for this: it has no 'id' in what it tells"),
        (200, {"id": "01ABC", "prompts": 1}, "is not an imagen server: what it tells cannot be read"),
    ],
)
async def test_what_an_older_server_lacks_is_named(tmp_path: Path, status: int, answer: Any, words: str) -> None:
    """An address, a field or a part of the answer: never an error of Python."""

    async def told(_request: Request) -> Response:
        return JSONResponse(answer, status)

    server = Server.of("http://gpu.example", load_settings(home=tmp_path, environ={}))
    door = Away(Asking(server, transport=httpx2.ASGITransport(app=_app(told))))
    with pytest.raises(NotConfigured) as refused:
        await door.series("name")
    assert words in refused.value.message
    await door.aclose()


async def test_a_picture_may_lie_elsewhere(tmp_path: Path) -> None:
    """A store that the server sends us to is asked, and never told our key."""
    asked: list[tuple[str, str | None]] = []

    async def answer(request: Request) -> Response:
        asked.append((request.url.hostname or "", request.headers.get("authorization")))
        if request.url.hostname == "gpu.example":
            return RedirectResponse("https://store.example/bucket/x.png?signature=1")
        return Response(b"\x89PNG")

    server = Server.of("https://gpu.example", load_settings(home=tmp_path, environ={}), key="imagen_one")
    door = Away(Asking(server, transport=httpx2.ASGITransport(app=_app(answer))))
    assert await door.image_bytes("01ABC") == b"\x89PNG"
    assert asked == [("gpu.example", "Bearer imagen_one"), ("store.example", None)]
    await door.aclose()


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (
            403,
            "<Error><Code>RequestTimeTooSkewed</Code><Key>k</Key></Error>",
            "not_configured",
            "(RequestTimeTooSkewed)",
        ),
        (403, "no", "not_configured", "HTTP 403"),
        (404, "<Error><Code>NoSuchKey</Code></Error>", "gone", "(NoSuchKey)"),
        (503, "", "storage_away", "HTTP 503"),
    ],
)
async def test_a_store_that_refuses_a_picture_is_told_from_the_server(
    tmp_path: Path, status: int, body: str, code: str, words: str
) -> None:
    """By its address and its own word for it; nothing of the signed address is shown."""

    async def answer(request: Request) -> Response:
        if request.url.hostname == "gpu.example":
            return RedirectResponse("https://store.example/bucket/x.png?signature=hush")
        return PlainTextResponse(body, status)

    server = Server.of("https://gpu.example", load_settings(home=tmp_path, environ={}))
    door = Away(Asking(server, patience_s=0.2, transport=httpx2.ASGITransport(app=_app(answer))))
    with pytest.raises(ImagenError) as refused:
        await door.image_bytes("01ABC")
    assert refused.value.code == code
    assert "https://store.example" in refused.value.message
    assert words in refused.value.message
    assert "is not an imagen server" not in refused.value.message
    assert "hush" not in str(refused.value.as_dict())
    await door.aclose()


async def test_a_store_that_is_away_is_told_from_the_server(tmp_path: Path) -> None:
    """Nobody listens there: the server that sent us is well."""

    async def answer(_request: Request) -> Response:
        return RedirectResponse(f"{NOWHERE}/bucket/x.png?signature=hush")

    class Apart(Between):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            here = httpx2.ASGITransport(app=_app(answer)) if request.url.host == "gpu.example" else self.inner
            return await here.handle_async_request(request)

    server = Server.of("http://gpu.example", load_settings(home=tmp_path, environ={}))
    door = Away(Asking(server, patience_s=0.2, transport=Apart()))
    with pytest.raises(StorageAway, match=f"{NOWHERE}, where the server keeps its pictures, does not answer"):
        await door.image_bytes("01ABC")
    await door.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that nobody signed but itself, for 127.0.0.1, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "imagen")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM))
    return file


@asynccontextmanager
async def tls_in_front(port: int, certificate: Path) -> AsyncIterator[str]:
    """A proxy that speaks TLS and passes on what it hears."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, outer), pump(inner, writer), return_exceptions=True)

    server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_certificate_is_checked(tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody here trusts is told with what to do, and what to do works."""
    async with serving(tmp_path / "home", environ=MOCK) as served:
        port = int(served.url.rpartition(":")[2])
        async with tls_in_front(port, certificate) as url:
            async with away(tmp_path, url) as door:
                with pytest.raises(NotConfigured, match="not trusted here") as refused:
                    await door.jobs()
                assert "SSL_CERT_FILE" in refused.value.hint
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            async with away(tmp_path, url) as door:
                assert await door.jobs() == []
            async with away(tmp_path, url.replace("https", "http")) as door:
                with pytest.raises(ImagenError):
                    await door.jobs()
        async with away(tmp_path, served.url.replace("http", "https")) as door:
            with pytest.raises(NotConfigured, match="does not speak TLS"):
                await door.jobs()


async def test_a_proxy_of_the_environment_is_asked_for_what_is_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for what is in the same house."""
    heard: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with away(tmp_path, "http://gpu.example") as door:
            with pytest.raises(ServerAway, match="HTTP 502"):
                await door.jobs()
        assert heard[0].startswith(b"GET http://gpu.example/v1/jobs")
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with away(tmp_path, f"http://127.0.0.1:{nobody.getsockname()[1]}") as door:
                with pytest.raises(ServerAway):
                    await door.jobs()
        assert len(heard) == 1


def _app(answer: Any) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Route

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT"])])


async def test_a_look_at_what_is_wrong_asks_once(tmp_path: Path) -> None:
    """Whoever comes to see why a server is not ready does not wait for it to get ready."""
    asked = []

    async def answer(request: Request) -> Response:
        asked.append(request.url.path)
        if request.url.path == "/v1/server":
            return JSONResponse({"version": "1"})
        error = ServerAway("the database does not answer", hint="see whether PostgreSQL runs")
        return JSONResponse({"error": error.as_dict()}, 503)

    settings = load_settings(home=tmp_path, environ={})
    async with open_away("http://gpu.example", settings, patient=False) as made:
        patience_s = made._asking.patience_s
    server = Server.of("http://gpu.example", settings)
    door = Away(Asking(server, patience_s=patience_s, transport=httpx2.ASGITransport(app=_app(answer))))
    await door.about()
    with pytest.raises(ServerAway, match="the database does not answer"):
        await door.ready()
    assert asked == ["/v1/server", "/readyz"]
    await door.aclose()


async def test_what_was_paused_before_a_failure_is_named(tmp_path: Path) -> None:
    """Several devices are several requests, and a list may have changed since it was asked for."""
    device: dict[str, Any] = {"slots": 1, "taken": 0, "paused": None, "models": [], "workers": []}

    async def answer(request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse({"devices": [{**device, "name": name} for name in ("card:0", "card:1", "card:2")]})
        name = request.url.path.split("/")[3]
        if name == "card:2":
            error = UnknownDevice("there is no device 'card:2'", hint="devices: card:0, card:1")
            return JSONResponse({"error": error.as_dict()}, 404)
        return JSONResponse({**device, "name": name})

    server = Server.of("http://gpu.example", load_settings(home=tmp_path, environ={}))
    door = Away(Asking(server, transport=httpx2.ASGITransport(app=_app(answer))))
    with pytest.raises(UnknownDevice) as told:
        await door.devices.pause(by="me")
    assert told.value.message == "there is no device 'card:2'; paused before that: card:0, card:1"
    with pytest.raises(UnknownDevice) as told:
        await door.devices.resume()
    assert told.value.message == "there is no device 'card:2'; resumed before that: card:0, card:1"
    await door.aclose()
