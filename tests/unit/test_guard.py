"""The door of the HTTP server: who is let in, from where, and what is said to those who are not."""

import base64
import resource
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

import imagen
from imagen.config import Settings, load_settings
from imagen.config.keys import LIMITS
from imagen.core.errors import NotConfigured, TooLarge, Unauthorized, Unsupported
from imagen.core.request import Draft
from imagen.engine.webhooks.addresses import is_loopback
from imagen.engine.wiring import catalog_of
from imagen.surfaces.http.auth import FRESH_S, LOCAL, SCOPE, Keyring, may_listen
from imagen.surfaces.http.connection import OTHERS
from imagen.surfaces.http.guard import Guard, make_room, uvicorn_options
from imagen.surfaces.http.limits import check_asked, check_draft, check_series

FRIEND = "https://gallery.example"
HERE = "http://127.0.0.1:8450"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says who asked for what, as a page where the path says so."""
    if scope["path"] == "/imagine":
        answer: Response = HTMLResponse("<p>hello")
    elif scope["path"] == "/docs":
        answer = HTMLResponse("<p>hello", headers={"content-security-policy": "default-src 'none'"})
    else:
        told, more = b"", True
        while more:
            message = await receive()
            told, more = told + message.get("body", b""), message.get("more_body", False)
        caller = scope.get(SCOPE)
        answer = JSONResponse({"body": told.decode(), "who": caller and caller.name, "admin": caller and caller.admin})
    await answer(scope, receive, send)


@asynccontextmanager
async def door(
    home: Path, *, keys: tuple[str, ...] = (), **server: Any
) -> AsyncIterator[tuple[imagen.App, httpx2.AsyncClient]]:
    """A client of the guarded echo, whose app has these keys."""
    settings = load_settings(home=home, environ={}, flags={"server": server})
    assert not settings.problems
    async with imagen.open(settings=settings) as app:
        secrets = {name: await app.add_key(name, admin=name == "root") for name in keys}
        guard = Guard(echo, settings=settings, keyring=Keyring(app))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=guard), base_url=HERE) as client:
            if keys:
                client.headers["authorization"] = f"Bearer {secrets[keys[0]]}"
            yield app, client


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_without_keys_everybody_here_is_the_owner(tmp_path: Path) -> None:
    """Whatever a client sends as a key is ignored: old clients always send one."""
    async with door(tmp_path) as (_, client):
        for headers in (
            {},
            {"authorization": "Bearer sk-anything"},
            {"authorization": "Basic ???"},
            {"x-api-key": "x"},
        ):
            told = (await client.get("/v1/jobs", headers=headers)).json()
            assert (told["who"], told["admin"]) == ("local", True)


async def test_a_key_is_taken_in_each_form_that_clients_send(tmp_path: Path) -> None:
    """Bearer, x-api-key, and Basic with the key as the password."""
    async with imagen.open(home=tmp_path) as app:
        secret = await app.add_key("alice")
        ring = Keyring(app)
        basic = base64.b64encode(f"anybody:{secret}".encode())
        for name, value in (
            (b"authorization", b"Bearer " + secret.encode()),
            (b"authorization", b"bearer  " + secret.encode()),
            (b"authorization", b"Basic " + basic),
            (b"x-api-key", secret.encode()),
        ):
            caller = await ring.caller([(name, value)])
            assert (caller.name, caller.admin, caller.sees) == ("alice", False, "alice")
        root = await ring.caller([(b"x-api-key", (await app.add_key("root", admin=True)).encode())])
        assert (root.name, root.sees) == ("root", None)
        with pytest.raises(Unauthorized):
            await ring.caller([])


async def test_a_key_that_is_taken_away_stops_working_soon(tmp_path: Path) -> None:
    """Answers are remembered for a moment, good ones and bad ones."""
    clock = Clock()
    async with imagen.open(home=tmp_path) as app:
        ring = Keyring(app, clock=clock)
        assert await ring.caller([]) == LOCAL
        await app.add_key("root", admin=True)
        headers = [(b"x-api-key", (await app.add_key("alice")).encode())]
        clock.now += FRESH_S + 1
        assert (await ring.caller(headers)).name == "alice"
        await app.remove_key("alice")
        clock.now += FRESH_S + 1
        with pytest.raises(Unauthorized) as refused:
            await ring.caller(headers)
        assert refused.value.hint


async def test_a_server_for_others_stays_locked_without_a_key(tmp_path: Path) -> None:
    """Taking the last key away locks strangers out; it does not let them in."""
    settings = load_settings(home=tmp_path, environ={}, flags={"server": {"host": "0.0.0.0"}})
    async with imagen.open(settings=settings) as app:
        with pytest.raises(Unauthorized):
            await Keyring(app).caller([])
        with pytest.raises(NotConfigured) as refused:
            await may_listen(app, "0.0.0.0")
        assert "imagen keys add" in refused.value.hint
        await may_listen(app, "127.0.0.1")
        await app.add_key("alice")
        await may_listen(app, "0.0.0.0")


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.2", False),
        ("localhost.example", False),
        ("127.1", False),
    ],
)
def test_only_this_machine_is_this_machine(host: str, alone: bool) -> None:
    """What is not surely loopback needs keys."""
    assert is_loopback(host) is alone


async def test_the_secret_is_nowhere_in_the_files(tmp_path: Path) -> None:
    """Only its hash is kept."""
    async with imagen.open(home=tmp_path) as app:
        secret = await app.add_key("alice")
        assert [key.name for key in await app.keys()] == ["alice"]
        found = await app.key_of(secret)
        assert found is not None
        assert found.name == "alice"
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not any(secret.encode() in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    ("server", "host", "status"),
    [
        ({}, "localhost:8450", 200),
        ({}, "LOCALHOST", 200),
        ({}, "[::1]:8450", 200),
        ({}, "127.0.0.2", 200),
        ({}, "draw.example", 421),
        ({}, "192.168.1.2:8450", 421),
        ({"hosts": "draw.example"}, "draw.example:443", 200),
        ({"hosts": "draw.example"}, "sub.draw.example", 421),
        ({"public_url": "https://draw.example/imagen"}, "draw.example", 200),
        ({"host": "192.168.1.2"}, "192.168.1.2:8450", 200),
        ({"host": "0.0.0.0"}, "192.168.1.2:8450", 200),
        ({"host": "0.0.0.0"}, "box:8450", 421),
    ],
)
async def test_a_server_answers_to_its_own_names(
    tmp_path: Path, server: Mapping[str, str], host: str, status: int
) -> None:
    """Numbers are nobody's names; a server for others answers to any, and to the names in its settings."""
    async with door(tmp_path, keys=("alice",), **server) as (_, client):
        answer = await client.get("/v1/jobs", headers={"host": host})
        assert answer.status_code == status
        if status == 421:
            assert "server: hosts:" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (HERE, "127.0.0.1:8450", 200),
        ("http://localhost:9000", "localhost:9000", 200),
        ("http://localhost", "localhost:80", 200),
        ("https://localhost:443", "localhost", 200),
        ("http://127.0.0.1:8450", "localhost:8450", 403),
        ("https://draw.example", "127.0.0.1:8450", 200),
        ("https://draw.example:444", "127.0.0.1:8450", 403),
        (FRIEND, "127.0.0.1:8450", 200),
        (FRIEND + ":443", "127.0.0.1:8450", 200),
        ("http://gallery.example", "127.0.0.1:8450", 403),
        ("null", "127.0.0.1:8450", 403),
    ],
)
async def test_a_page_of_another_site_is_refused(tmp_path: Path, origin: str, host: str, status: int) -> None:
    """Unless it is our own address, as we or a proxy know it, or a site in the settings."""
    async with door(tmp_path, origins=FRIEND, public_url="https://draw.example/") as (_, client):
        for method in ("GET", "POST", "DELETE"):
            answer = await client.request(method, "/v1/jobs", headers={"origin": origin, "host": host})
            assert answer.status_code == status
            trusted = origin.startswith(FRIEND)
            assert answer.headers.get("access-control-allow-origin") == (origin if trusted else None)
            assert "origin" in answer.headers["vary"]


async def test_a_trusted_site_may_read_everything_also_refusals(tmp_path: Path) -> None:
    """The browser asks first, without a key; a refusal without these headers would be a riddle to the page."""
    async with door(tmp_path, keys=("alice",), origins=FRIEND) as (_, client):
        asked = {
            "origin": FRIEND,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        del client.headers["authorization"]
        answer = await client.options("/v1/jobs", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == FRIEND
        assert "authorization" in answer.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        refused = await client.get("/v1/jobs", headers={"origin": FRIEND})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == FRIEND
        assert refused.headers["www-authenticate"].startswith("Bearer")


async def test_without_trusted_sites_no_answer_speaks_of_any(tmp_path: Path) -> None:
    """No page may read what it was not meant to."""
    async with door(tmp_path) as (_, client):
        answer = await client.get("/v1/jobs", headers={"origin": HERE})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "cross-site", "referer": FRIEND + "/page"}, 200),
        ({"sec-fetch-site": "cross-site", "referer": FRIEND + ".evil.example/"}, 403),
        ({"sec-fetch-site": "cross-site", "referer": "https://evil.example/" + FRIEND}, 403),
    ],
)
async def test_a_link_may_lead_here_and_a_foreign_page_may_not_use_us(
    tmp_path: Path, headers: Mapping[str, str], status: int
) -> None:
    """A browser says what it wants to do with the answer."""
    async with door(tmp_path, origins=FRIEND) as (_, client):
        assert (await client.get("/v1/images/x", headers=headers)).status_code == status


async def test_every_answer_tells_browsers_to_be_careful(tmp_path: Path) -> None:
    """A page may load what is here, anything else nothing; what a page says itself holds."""
    async with door(tmp_path) as (_, client):
        for path, policy in (
            ("/imagine", "default-src 'self'"),
            ("/docs", "default-src 'none'"),
            ("/v1/jobs", "'none'"),
        ):
            answer = await client.get(path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert policy in answer.headers["content-security-policy"]
            assert len(answer.headers.get_list("content-security-policy")) == 1


async def test_open_pages_need_no_key_and_all_else_does(tmp_path: Path) -> None:
    """Also what nobody has made yet."""
    async with door(tmp_path, keys=("alice",)) as (_, client):
        del client.headers["authorization"]
        for path in ("/healthz", "/readyz", "/openapi.json", "/docs", "/imagine", "/imagine/series/1", "/"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/v1/jobs", "/metrics", "/sdapi/v1/txt2img", "/healthz/more", "/imagined", "/docsx"):
            assert (await client.get(path)).status_code == 401, path


async def test_a_body_arrives_whole(tmp_path: Path) -> None:
    """However many pieces it was sent in."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"a"', b": ", b"1}"):
            yield piece

    async with door(tmp_path, keys=("root",)) as (_, client):
        answer = await client.post(
            "/v1/jobs", content=pieces(), headers={"content-type": "application/json; charset=utf-8"}
        )
        assert answer.json() == {"body": '{"a": 1}', "who": "root", "admin": True}


def test_what_uvicorn_is_told_it_understands(tmp_path: Path) -> None:
    """No WebSockets, no trust in proxies' words, and our own way to end slow connections."""
    config = uvicorn.Config(echo, **uvicorn_options(settings_of(tmp_path)), log_config=None)
    config.load()
    assert config.ws_protocol_class is None
    assert not config.proxy_headers


def test_there_is_room_for_the_streams_that_are_allowed(tmp_path: Path) -> None:
    """Most systems begin with 1,024 files; the allowed streams alone are more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
        make_room(settings_of(tmp_path))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(2000 + OTHERS, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("limit", "fields"),
    [
        ("prompt_chars", {"prompt": "abcdef"}),
        ("prompt_chars", {"prompt": "a", "negative": "abcdef"}),
        ("side", {"prompt": "a", "width": 6}),
        ("side", {"prompt": "a", "height": 6}),
        ("pixels", {"prompt": "a", "width": 2, "height": 3}),
        ("steps", {"prompt": "a", "steps": 6}),
        ("n", {"prompt": "a", "n": 6}),
    ],
)
def test_each_limit_is_named_where_it_is_passed(tmp_path: Path, limit: str, fields: dict[str, Any]) -> None:
    """And switched off by null."""
    settings = settings_of(tmp_path, **{limit: 5})
    with pytest.raises(TooLarge) as refused:
        check_draft(Draft(**fields), settings.limits)
    assert "5" in refused.value.message
    assert f"limits: {limit}:" in refused.value.hint
    check_draft(Draft(**fields), settings_of(tmp_path).limits)
    check_draft(Draft(**fields), settings_of(tmp_path, **{limit: "off"}).limits)


def test_what_a_model_cannot_do_at_all_is_told_before_a_limit(tmp_path: Path) -> None:
    """No owner who sets more would help. A door that promised 400 for it keeps that, and has the model's words."""
    settings = settings_of(tmp_path, side=64)
    catalog = catalog_of(settings)
    wrong = Draft(prompt="a", model="mock", width=20_000, height=64)
    with pytest.raises(Unsupported, match="mock cannot draw") as refused:
        check_draft(wrong, settings.limits, catalog)
    with pytest.raises(TooLarge, match="mock cannot draw") as asked:
        check_asked(wrong, settings.limits, catalog)
    assert (asked.value.hint, asked.value.http_status) == (refused.value.hint, 400)
    with pytest.raises(TooLarge, match="the limit is 64"):
        check_asked(replace(wrong, width=128), settings.limits, catalog)


def test_a_series_is_held_against_the_same_limits(tmp_path: Path) -> None:
    """Its cells, each prompt, and what the cells share."""
    limits = settings_of(tmp_path, series_cells=4, prompt_chars=3, steps=5).limits
    check_series(["a", "b"], ["m"], [1, 2], limits, {"steps": 5})
    for wrong, name in (
        ((["a", "b"], ["m"], [1, 2, 3], limits), "series_cells"),
        ((["a", "abcd"], ["m"], [1], limits), "prompt_chars"),
        ((["a"], ["m"], [1], limits, {"steps": 6}), "steps"),
    ):
        with pytest.raises(TooLarge, match="limit is") as refused:
            check_series(*wrong)
        assert name in refused.value.hint


def settings_of(home: Path, **limits: Any) -> Settings:
    settings = load_settings(home=home, environ={}, flags={"limits": limits})
    assert not settings.problems
    return settings


def test_the_page_about_limits_names_them_all() -> None:
    """With the defaults that hold, and which of them cannot be switched off."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "open-it-to-others.md").read_text(encoding="utf-8")
    for name, (kind, default, meaning) in LIMITS.items():
        mark = "" if kind == "limit" else " *"
        assert f"| `{name}`{mark} | {default} | {meaning.partition(';')[0]} |" in page
