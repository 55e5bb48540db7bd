"""One server over HTTP: what it is asked, on which version, and how often."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from imagen.backends.comfyui.address import Address
from imagen.backends.comfyui.server import Server, Stats, version_of
from imagen.core.errors import BadConfig, ImagenError, NotConfigured, Unreachable

KSAMPLER = {"KSampler": {"input": {"required": {"steps": ["INT", {}]}}, "output": ["LATENT"]}}

Answers = dict[str, Any]


class Asked:
    """A server made of answers; it remembers what it was asked."""

    def __init__(self, answers: Answers, version: str = "0.33.0") -> None:
        self.answers: Answers = {"/system_stats": {"system": {"comfyui_version": version}, "devices": [{}]}, **answers}
        self.asked: list[tuple[str, str, Any]] = []
        self.server = Server(Address.of("http://one"), transport=httpx2.MockTransport(self._answer))

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.asked]

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, request.url.path, body))
        answer = self.answers.get(request.url.path, 404)
        if isinstance(answer, Callable):  # type: ignore[arg-type]  # a function is one
            answer = answer(request)
        match answer:
            case httpx2.Response():
                return answer
            case int():
                return httpx2.Response(answer)
            case str():
                return httpx2.Response(200, text=answer)
            case _:
                return httpx2.Response(200, json=answer)


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "shown", "place"),
        [
            ("http://127.0.0.1:8188", "http://127.0.0.1:8188", "box:8188"),
            ("http://localhost:8188/", "http://localhost:8188", "box:8188"),
            ("127.0.0.1:8188", "http://127.0.0.1:8188", "box:8188"),
            ("http://[::1]:8188", "http://[::1]:8188", "box:8188"),
            ("http://gpu", "http://gpu", "gpu:80"),
            ("https://ann:secret@gpu.example/comfy/", "https://gpu.example/comfy", "gpu.example:443/comfy"),
        ],
    )
    def test_is_shown_without_its_password(self, url: str, shown: str, place: str) -> None:
        """And this machine goes by its name, so that every machine means the same device."""
        address = Address.of(url)
        assert (address.url, address.place("box")) == (shown, place)

    def test_keeps_what_it_takes_to_get_in(self) -> None:
        """Written as in any URL."""
        address = Address.of("http://ann:p%40ss@gpu:1")
        assert (address.user, address.password) == ("ann", "p@ss")

    @pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://gpu:secret", "http://gpu:99999"])
    def test_that_is_none_is_said_without_repeating_it(self, url: str) -> None:
        """There may be a password in it."""
        with pytest.raises(BadConfig) as caught:
            Address.of(url)
        assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "numbers"), [("0.33.0", (0, 33, 0)), ("v0.3.75", (0, 3, 75)), ("0.4.0rc1", (0, 4, 0)), ("", ()), ("x", ())]
)
def test_versions_are_compared_as_numbers(text: str, numbers: tuple[int, ...]) -> None:
    """0.10 is newer than 0.9; one that says nothing is taken for new."""
    assert version_of(text) == numbers
    assert Stats(version=text, devices=(), raw={}).has((0, 3, 45))


class TestWhatItIs:
    async def test_is_asked_once(self) -> None:
        """Until somebody wants it fresh, or the server may have been restarted."""
        one = Asked({"/object_info/KSampler": KSAMPLER})
        for _ in range(3):
            assert (await one.server.stats()).version == "0.33.0"
            assert set(await one.server.types(["KSampler"])) == {"KSampler"}
        assert one.paths() == ["GET /system_stats", "GET /object_info/KSampler"]
        one.server.forget()
        await one.server.stats()
        await one.server.stats(fresh_s=-1.0)
        assert one.paths().count("GET /system_stats") == 3

    async def test_is_asked_once_for_many_at_once(self) -> None:
        """A check of all models is one question for each kind of node."""
        one = Asked({"/object_info/KSampler": KSAMPLER})
        await asyncio.gather(*(one.server.types(["KSampler"], 5.0) for _ in range(10)))
        assert one.paths() == ["GET /object_info/KSampler"]

    async def test_a_node_that_was_not_there_is_asked_for_again(self) -> None:
        """It may have been installed meanwhile."""
        one = Asked({"/object_info/KSampler": {}})
        assert await one.server.types(["KSampler"]) == {}
        one.answers["/object_info/KSampler"] = KSAMPLER
        assert set(await one.server.types(["KSampler"])) == {"KSampler"}

    async def test_an_error_among_many_questions_is_one_error(self) -> None:
        """And no question goes on behind it."""
        one = Asked({"/object_info/KSampler": KSAMPLER, "/object_info/Other": 502})
        before = asyncio.all_tasks()
        with pytest.raises(Unreachable):
            await one.server.types(["KSampler", "Other"])
        assert asyncio.all_tasks() == before

    @pytest.mark.parametrize("answer", ["<html>hello", [], {"system": 3}, {"devices": []}, 404])
    async def test_something_else_is_told_from_it(self, answer: Any) -> None:
        """Many things listen on a port."""
        with pytest.raises(NotConfigured, match="not ComfyUI"):
            await Asked({"/system_stats": answer}).server.stats()


class TestWhere:
    @pytest.mark.parametrize(
        ("status", "where"),
        [
            ("pending", "waiting"),
            ("in_progress", "running"),
            *((status, "ended") for status in ("completed", "failed", "cancelled", "something new")),
        ],
    )
    async def test_is_one_question_where_there_is_a_jobs_api(self, status: str, where: str) -> None:
        """The server's own words, in ours."""
        one = Asked({"/api/jobs/a": {"status": status}})
        assert await one.server.where("a") == where
        assert one.paths()[1:] == ["GET /api/jobs/a"]
        assert await one.server.where("b") == "nowhere"

    @pytest.mark.parametrize(
        ("running", "waiting", "history", "where"),
        [
            ([[0, "a", {}]], [], {}, "running"),
            ([], [[0, "b", {}], [1, "a", {}]], {}, "waiting"),
            ([], [], {"a": {}}, "ended"),
            ([[0, "b", {}]], [[]], {}, "nowhere"),
        ],
    )
    async def test_is_asked_of_queue_and_history_elsewhere(
        self, running: Any, waiting: Any, history: Any, where: str
    ) -> None:
        """Older servers have no other way."""
        queue = {"queue_running": running, "queue_pending": waiting}
        one = Asked({"/queue": queue, "/history/a": history}, version="0.3.75")
        assert await one.server.where("a") == where

    async def test_a_prompt_that_ends_between_the_two_questions_is_not_lost(self) -> None:
        """The queue is asked first: what leaves it then is in the history."""
        one = Asked({"/history/a": {}}, version="0.3.75")

        def queue(_: httpx2.Request) -> Any:
            one.answers["/history/a"] = {"a": {}}
            return {"queue_running": [], "queue_pending": []}

        one.answers["/queue"] = queue
        assert await one.server.where("a") == "ended"


class TestCancel:
    async def test_is_one_request_where_the_server_can(self) -> None:
        """It finds the prompt wherever it is, and cannot hit another one."""
        one = Asked({"/api/jobs/a/cancel": {"cancelled": True}})
        await one.server.cancel("a")
        assert one.paths()[1:] == ["POST /api/jobs/a/cancel"]

    async def test_is_two_requests_on_older_servers(self) -> None:
        """Out of the queue, and interrupted by its name."""
        one = Asked({"/queue": {}, "/interrupt": ""}, version="0.25.0")
        await one.server.cancel("a")
        assert one.asked[1:] == [("POST", "/queue", {"delete": ["a"]}), ("POST", "/interrupt", {"prompt_id": "a"})]

    @pytest.mark.parametrize(("running", "interrupts"), [("a", 1), ("somebody's", 0)])
    async def test_interrupts_nobody_else_where_that_takes_no_name(self, running: str, interrupts: int) -> None:
        """The oldest ones stop whatever runs."""
        queue = {"queue_running": [[0, running, {}]], "queue_pending": []}
        one = Asked({"/queue": queue, "/interrupt": ""}, version="0.3.50")
        await one.server.cancel("a")
        assert one.paths().count("POST /interrupt") == interrupts


async def test_a_broken_kept_connection_is_no_error_of_a_question() -> None:
    """The server may close it at the moment it is used; a question is asked again, an order is not."""
    failures: list[Exception] = []

    def answer(_: httpx2.Request) -> Any:
        if failures:
            raise failures.pop()
        return {"queue_running": [], "queue_pending": []}

    one = Asked({"/queue": answer, "/free": answer})
    failures.append(httpx2.RemoteProtocolError("Server disconnected"))
    assert await one.server.queue() == ([], [])
    failures.append(httpx2.RemoteProtocolError("Server disconnected"))
    with pytest.raises(Unreachable):
        await one.server.free()
    assert one.paths() == ["GET /queue", "GET /queue", "POST /free"]


async def test_who_handed_a_prompt_over_is_found() -> None:
    """Only that client is told what becomes of it."""
    queue = {"queue_running": [[0, "a", {}, {"client_id": "me"}]], "queue_pending": [[1, "b", {}, {}], [2, "c"]]}
    one = Asked({"/queue": queue})
    assert [await one.server.sender(name) for name in "abd"] == ["me", None, None]


async def test_a_picture_that_is_gone_is_none() -> None:
    """Whoever asked knows better what that means."""
    picture = httpx2.Response(200, content=b"bytes", headers={"content-type": "image/png"})
    one = Asked({"/view": lambda request: 404 if "b.png" in str(request.url) else picture})
    assert await one.server.view({"filename": "a.png", "subfolder": "x", "type": "temp"}) == b"bytes"
    assert await one.server.view({"filename": "b.png"}) is None
    with pytest.raises(NotConfigured):
        await Asked({"/view": "<html>Log in</html>"}).server.view({"filename": "a.png"})


async def test_whatever_is_answered_is_an_answer_or_an_error_of_ours() -> None:
    """Every route, every strange answer."""
    for answer in ("", "<html>", "[]", "null", "{", 204, 301, 400, 404, 418, 500, 503):
        one = Asked({path: answer for path in ("/queue", "/prompt", "/history/a", "/free", "/object_info/A", "/view")})
        server = one.server
        calls = [server.queue(), server.submit({}), server.history("a"), server.free(), server.types(["A"])]
        for said in await asyncio.gather(*calls, server.view({}), return_exceptions=True):
            assert not isinstance(said, BaseException) or isinstance(said, ImagenError), (answer, said)
