"""What the backends over the network share: whom they ask, with which token, and what they take from where."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen.backends.remote.address import Address
from imagen.backends.remote.http import (
    LIBRARY,
    Http,
    data_url,
    from_base64,
    maybe_sent,
    retry_after,
)
from imagen.backends.remote.mark import Mark
from imagen.backends.remote.paying import allow, costs
from imagen.backends.remote.sse import Event, Parser, chunks
from imagen.backends.remote.token import read_token, remedy
from imagen.core.errors import BadConfig, Crashed, ImagenError, MissingFile, NotConfigured, Rejected

RAISED = [kind for _, kind in inspect.getmembers(httpx2, inspect.isclass) if issubclass(kind, Exception)]
CLOUD = "https://api.example.com/v1"


def http(answer: Any = None, token: str = "secret") -> Http:
    """A client whose service is a function."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        said = answer(request) if callable(answer) else answer
        return said or httpx2.Response(200, json={})

    return Http(Address.of(CLOUD), "the service", token=token, transport=httpx2.MockTransport(handle))


@pytest.mark.parametrize("kind", [kind for kind in RAISED if not issubclass(kind, Warning)], ids=lambda k: k.__name__)
def test_every_error_of_the_client_library_is_one_of_ours(kind: type[Exception]) -> None:
    """A new version of it with a new one fails here, and not at somebody's service."""
    if kind.__module__.startswith("httpx2.websockets") or kind.__name__.startswith("WebSocket"):
        pytest.skip("this backend does not use the library's websocket")
    assert issubclass(kind, LIBRARY), f"{kind.__name__} is caught nowhere"
    exc = kind.__new__(kind)
    Exception.__init__(exc, "it says so")
    said = http().away(exc)
    assert said.hint
    assert said.message


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://api.openai.com/v1", True),
        ("http://8.8.8.8:8000", True),
        ("http://[2606:4700::1111]/v1", True),
        ("http://127.0.0.1:8000/v1", False),
        ("localhost:8000", False),
        ("http://192.168.1.20:8000", False),
        ("http://10.0.0.7", False),
        ("http://[::1]:8000", False),
        ("http://gpu-box:8000", False),
        ("http://gpu-box.local:8000", False),
    ],
)
def test_what_lies_on_the_internet_costs_money_unless_told_otherwise(url: str, public: bool) -> None:
    """One's own machines are free, whatever name they go by."""
    assert Address.of(url).public is public
    assert costs({"url": url}, CLOUD) is public
    assert costs({"url": url, "paid": True}, CLOUD)


def test_the_service_itself_is_never_free() -> None:
    """Nothing that a model says of it makes it so."""
    assert costs({"paid": False}, CLOUD)
    assert costs({"url": f"{CLOUD}/other", "paid": False}, CLOUD)
    assert not costs({"url": "https://gpu.example.com", "paid": False}, CLOUD)


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "ftp://host", "http://", "http://host:port"])
def test_an_address_that_is_none_is_refused_without_repeating_a_password(url: str) -> None:
    """A model's url is carried by every job."""
    with pytest.raises(BadConfig) as caught:
        Address.of(url)
    assert "secret" not in caught.value.message + caught.value.hint


def test_a_token_comes_from_the_settings_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order, read anew each time, and without the line's end."""
    file = tmp_path / "token"
    file.write_text("from-file\n")
    monkeypatch.setenv("SOME_TOKEN", "from-environment")
    assert read_token({"token": "said", "token_file": str(file)}, variable="SOME_TOKEN") == "said"
    assert read_token({"token_file": str(file)}, variable="SOME_TOKEN") == "from-file"
    file.write_text("changed")
    assert read_token({"token_file": str(file)}, variable=None) == "changed"
    assert read_token({}, variable="SOME_TOKEN") == "from-environment"
    assert read_token({}, variable=None) == ""
    with pytest.raises(MissingFile):
        read_token({"token_file": str(tmp_path / "none")}, variable=None)


def test_the_remedy_for_a_token_names_the_variable_that_was_to_hold_it() -> None:
    """And never what it holds."""
    assert remedy("", named=None, usual="the usual") == "the usual"
    assert "BOX_KEY is not set" in remedy("", named="BOX_KEY", usual="the usual")
    refused = remedy("secret", named="BOX_KEY", usual="the usual")
    assert "BOX_KEY" in refused
    assert "secret" not in refused


def test_what_is_no_token_is_refused_without_showing_it() -> None:
    """A whole file of something else would otherwise end up in a header, or in a message."""
    with pytest.raises(NotConfigured) as caught:
        read_token({"token": "first line\nsecond line"}, variable=None)
    assert "first" not in caught.value.message


async def test_a_token_goes_to_its_service_and_to_nobody_else() -> None:
    """Neither to the store of its files, nor to another port of its host."""
    seen: dict[str, str | None] = {}

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen[str(request.url)] = request.headers.get("authorization")
        return httpx2.Response(200, content=b"x")

    client = http(answer)
    await client.ask("GET", "account")
    await client.file(f"{CLOUD}/files/1", ())
    await client.file("https://files.example.net/1", ["*.example.net"])
    await client.file("https://api.example.com:8443/1", ())
    assert seen == {
        f"{CLOUD}/account": "Bearer secret",
        f"{CLOUD}/files/1": "Bearer secret",
        "https://files.example.net/1": None,
        "https://api.example.com:8443/1": None,
    }
    await client.aclose()


@pytest.mark.parametrize("place", ["http://169.254.169.254/latest", "https://evil.example/1", "file:///etc/passwd"])
async def test_a_picture_is_fetched_only_from_configured_hosts(place: str) -> None:
    """Whatever a service answers, also when it sends us on from a good place."""
    client = http(lambda request: httpx2.Response(302, headers={"location": place}))
    for url in (place, f"{CLOUD}/files/1"):
        with pytest.raises(Rejected, match="not configured"):
            await client.file(url, ["*.example.net"])
    await client.aclose()


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_file_that_is_gone_is_said_to_be_gone(status: int) -> None:
    """That is no error yet: whoever asks knows what it means."""
    client = http(httpx2.Response(status))
    assert await client.file(f"{CLOUD}/files/1", ()) is None
    await client.aclose()


async def test_what_never_left_may_be_sent_again_and_what_may_have_arrived_may_not() -> None:
    """This decides whether something is paid twice."""
    for exc, sent in (
        (httpx2.ConnectError("refused"), False),
        (httpx2.ConnectTimeout("nobody"), False),
        (httpx2.ReadTimeout("silence"), True),
        (httpx2.ReadError("cut"), True),
        (httpx2.WriteError("cut"), True),
        (httpx2.RemoteProtocolError("gone"), True),
    ):

        def fail(request: httpx2.Request, exc: Exception = exc) -> httpx2.Response:
            raise exc

        client = http(fail)
        with pytest.raises(ImagenError) as caught:
            await client.ask("POST", "predictions")
        assert maybe_sent(caught.value) is sent
        await client.aclose()


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, None, 7.0),
        ({}, {"retry_after": 5}, 5.0),
        ({}, {"detail": "Request was throttled. Your rate limit resets in ~12s."}, 12.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None, None),
        ({"retry-after": "-1"}, None, None),
        ({}, {"detail": "no"}, None),
    ],
)
def test_how_long_to_wait_is_read_wherever_it_is_said(headers: Any, body: Any, seconds: float | None) -> None:
    """In the header, in the body, or in words."""
    assert retry_after(httpx2.Response(429, headers=headers), body) == seconds


EVENTS = (
    b': heartbeat\n\nevent: output\ndata: one\ndata: two\n\ndata: {"type": "x"}\r\n\r\nevent: done\n\n: bye\n\n'
    + "data: grün\n\n".encode()
)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=8))
def test_events_are_the_same_wherever_the_network_cuts_them(cuts: list[int]) -> None:
    """Also inside a character."""
    parser, said, at = Parser(), [], 0
    for cut in [*sorted(cuts), len(EVENTS)]:
        said += parser.feed(EVENTS[at:cut])
        at = max(at, cut)
    assert said == [
        Event("output", "one\ntwo"),
        Event("message", '{"type": "x"}'),
        Event("done", ""),
        Event("message", "grün"),
    ]


def test_a_mark_is_read_back_and_nothing_else_is() -> None:
    """A token of another backend, or of an older version, is none."""
    mark = Mark(name="0" * 32, index=3, free=True)
    assert Mark.of(mark.token) == mark
    assert Mark.new().key != Mark.new().key
    for token in (None, "", "mock-123", "{}", "0" * 32):
        assert Mark.of(token) is None


def test_a_switch_of_the_process_is_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for whoever makes a backend without the application."""
    with pytest.raises(NotConfigured, match="IMAGEN_PAID_CALLS"):
        allow("the service")
    monkeypatch.delenv("IMAGEN_PAID_CALLS")
    allow("the service")


def test_pictures_inside_json_are_read_in_every_spelling() -> None:
    """With and without what a browser wants before it."""
    assert data_url("data:image/png;base64,aGk=") == b"hi"
    assert data_url("data:,hi%20there") == b"hi there"
    assert from_base64("aGk=") == from_base64("data:image/png;base64,aGk=") == b"hi"
    assert from_base64("!") == from_base64(None) == b""


async def test_an_answer_without_end_is_left() -> None:
    """No service fills our memory."""
    from imagen.backends.remote import sse

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1000)

    with pytest.raises(Crashed, match="MiB"):
        await sse.whole(httpx2.Response(200, content=endless()), limit=5000)


async def test_who_is_cancelled_while_he_leaves_an_answer_is_cancelled() -> None:
    """And the answer is closed before he is gone."""
    leaving, closed = asyncio.Event(), list[bool]()

    class Slow(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"x"
            try:
                await asyncio.Event().wait()
            finally:
                leaving.set()
                for _ in range(3):
                    await asyncio.sleep(0)
                closed.append(True)

    async def read() -> None:
        async with aclosing(chunks(httpx2.Response(200, stream=Slow()))) as parts:
            await anext(parts)

    reading = asyncio.create_task(read())
    await leaving.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert closed
