"""The kit of recorded clients: a server that does it right passes, and each thing it does wrong is found and named."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from imagen.core.errors import RequestError
from imagen.surfaces.cli.doctor_clients import summary
from imagen.testing.clients import VERBS, Verdict, load, replay
from imagen.testing.clients.needs import Unmet, find, met
from imagen.testing.clients.recording import Need
from imagen.testing.served import Served

Body = Mapping[str, Any]


def _png() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = _png()
INFO = json.dumps({"infotexts": ["a fox"], "seed": 7, "width": 8, "height": 8})
USAGE = {"input_tokens": 0, "output_tokens": 0, "input_tokens_details": {"text_tokens": 0, "image_tokens": 0}}
EVENT = {"b64_json": PICTURE, "created_at": 1, "output_format": "png"}


class Door(Served):
    """The smallest server that every recorded client can work with, and that can be told to do something wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: dict[str, Any] = {}
        self.checkpoint = "one"
        self.last: Body = {}

    def make_app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._any, methods=["GET", "HEAD", "OPTIONS", "POST"])])

    async def _any(self, request: Request) -> Response:
        path = request.scope["path"]
        body = {}
        if request.headers.get("content-type", "").startswith("application/json"):
            body = self.last = await request.json()
        if (wrong := self.wrong.get(path)) is not None:
            return wrong if isinstance(wrong, Response) else JSONResponse(wrong)
        if request.method == "OPTIONS":
            return Response(status_code=204)
        if path == "/sdapi/v1/options" and body:
            self.checkpoint = body["sd_model_checkpoint"]
        if body.get("stream"):
            kinds = ("partial_image", "partial_image", "completed")
            return _stream(*({"type": f"image_generation.{kind}", **EVENT} for kind in kinds))
        return _edited() if path.endswith("edits") else JSONResponse(self._answer(path, body))

    def _answer(self, path: str, body: Body) -> Any:
        match path.rsplit("/", 1)[-1]:
            case "":
                return {"model": "one", "upscaler": None}
            case "models":
                names = ("one", "dall-e-3", "gpt-image-1")
                return {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
            case "generations":
                return {"created": 1, "data": [{"b64_json": PICTURE}] * body.get("n", 1), "usage": USAGE}
            case "txt2img":
                return {"images": [PICTURE] * body.get("batch_size", 1), "parameters": {}, "info": INFO}
            case "options":
                return {"sd_model_checkpoint": self.checkpoint, "samples_format": "png"}
            case "sd-models":
                return [{"title": "one", "model_name": "one"}]
            case "progress":
                return {"progress": 0.0, "state": {"job_count": 0}}
            case _:
                return [{"name": "Euler a", "model_name": "x"}]


def _edited() -> Response:
    return JSONResponse({"error": {"message": "nothing edits here", "hint": "draw instead"}}, status_code=400)


def _stream(*shapes: Body) -> Response:
    text = ": still there\n\n" + "".join(f"event: {one.get('type')}\ndata: {json.dumps(one)}\n\n" for one in shapes)
    return PlainTextResponse(text + "data: [DONE]\n\n", media_type="text/event-stream")


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    with made.running():
        yield made


async def verdicts(url: str, *names: str, key: str | None = None) -> list[Verdict]:
    return [one async for one in replay(load(names), url, key=key, model="one", timeout_s=20)]


async def verdict(url: str, client: str, verb: str) -> Verdict:
    (found,) = [one for one in await verdicts(url, client) if one.verb == verb]
    return found


async def test_a_server_that_does_it_right_passes(door: Door) -> None:
    """Every client can do everything with it, and says of edits what the server says."""
    for one in await verdicts(door.url):
        wanted = "refused" if one.verb == "edit" else "works"
        assert one.outcome == wanted, one
    assert (await verdict(door.url, "openai-python", "stream")).said == "2 partial images, then 8x8"


GENERATIONS, TXT2IMG = "/v1/images/generations", "/sdapi/v1/txt2img"
IMAGES = {"images": [PICTURE], "parameters": {}, "info": INFO}
FAULTS: Mapping[str, tuple[str, str, str, Any, str]] = {
    "an address beside the picture": (
        *("open-webui-openai", "generate", GENERATIONS),
        {"created": 1, "data": [{"b64_json": PICTURE, "url": "http://10.0.0.1/fox.png"}]},
        "has b64_json and url",
    ),
    "only an address": (
        *("librechat-openai", "generate", GENERATIONS),
        {"created": 1, "data": [{"url": "http://10.0.0.1/fox.png", "b64_json": None}]},
        "`data[0].b64_json` is null, not a picture",
    ),
    "no time": ("litellm", "generate", GENERATIONS, {"data": [{"b64_json": PICTURE}]}, "there is no `created`"),
    "fewer pictures": (
        *("openai-python", "several", GENERATIONS),
        {"created": 1, "data": [{"b64_json": PICTURE}]},
        "`data` has 1 items, not 2",
    ),
    "no pictures": ("lobechat", "generate", GENERATIONS, {"created": 1, "data": []}, "there is no `data[0]`"),
    "a picture that is none": (
        *("openai-node", "generate", GENERATIONS),
        {"created": 1, "data": [{"b64_json": base64.b64encode(b"not a picture").decode()}]},
        "cannot be opened",
    ),
    "a picture as a data URL": (
        *("librechat-stable-diffusion", "generate", TXT2IMG),
        {**IMAGES, "images": ["data:image/png;base64," + PICTURE]},
        "begins with `data:image/png;base64,`",
    ),
    "info that is no JSON": (
        *("librechat-stable-diffusion", "generate", TXT2IMG),
        {**IMAGES, "info": ""},
        '`info` is "", not JSON as text',
    ),
    "no info": ("open-webui-automatic1111", "generate", TXT2IMG, {"images": [PICTURE]}, "there is no `info`"),
    "no job_count": (
        *("sillytavern-a1111", "progress", "/sdapi/v1/progress"),
        {"progress": 0.5, "state": {}},
        "there is no `state.job_count`",
    ),
    "never idle": (
        *("sillytavern-a1111", "switch", "/sdapi/v1/progress"),
        {"progress": 0.5, "state": {"job_count": 1}},
        "`progress` is 0.5, not 0",
    ),
    "options that forget": (
        *("open-webui-automatic1111", "switch", "/sdapi/v1/options"),
        {"sd_model_checkpoint": "another"},
        '`sd_model_checkpoint` is "another", not "one"',
    ),
    "options of Forge": (
        *("sillytavern-a1111", "generate", "/sdapi/v1/options"),
        {"sd_model_checkpoint": "one", "forge_preset": "xl"},
        "`forge_preset` is there",
    ),
    "a list that is none": (
        *("sillytavern-a1111", "lists", "/sdapi/v1/samplers"),
        {"error": "no"},
        "not a list",
    ),
    "no alias": (
        *("n8n", "models", "/v1/models"),
        {"data": [{"id": "one"}]},
        'none of `data[].id` is "dall-e-3"',
    ),
    "an event of our own": (
        *("openai-python", "stream", GENERATIONS),
        _stream({"type": "progress", "step": 1}),
        "an event 'progress'",
    ),
    "a stream without an end": (
        *("openai-node", "stream", GENERATIONS),
        _stream({"type": "image_generation.partial_image", **EVENT}),
        "the stream ended without",
    ),
    "a stream that fails": (
        *("openai-node", "stream", GENERATIONS),
        _stream({"error": {"message": "the card is full", "hint": "smaller"}}),
        "the card is full",
    ),
    "no such route": (
        *("openai-python", "generate", GENERATIONS),
        JSONResponse({"detail": "Not Found"}, status_code=404),
        "404: Not Found",
    ),
    "a key is asked for": (
        *("n8n", "generate", GENERATIONS),
        JSONResponse({"error": {"message": "no key"}}, status_code=401),
        "401: no key",
    ),
    "a page instead": (
        "sillytavern-a1111",
        "models",
        "/sdapi/v1/sd-models",
        PlainTextResponse("hello"),
        "instead of JSON",
    ),
    "a refusal without a word": (
        *("openai-python", "edit", "/v1/images/edits"),
        Response(status_code=400),
        "400: no message",
    ),
    "it breaks": (
        *("openai-python", "edit", "/v1/images/edits"),
        JSONResponse({"error": {"message": "oh"}}, status_code=500),
        "500: oh",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_a_server_does_wrong_is_found(door: Door, fault: str) -> None:
    """The verdict names what was found, and its hint says what that does to the client or what to do next."""
    client, verb, path, answer, said = FAULTS[fault]
    door.wrong[path] = answer
    found = await verdict(door.url, client, verb)
    assert found.outcome == "fails"
    assert said in found.said
    assert found.hint


async def test_nobody_there(door: Door) -> None:
    """It says how to start one."""
    (found,) = await verdicts("http://127.0.0.1:9", "librechat-stable-diffusion")
    assert (found.outcome, found.said) == ("fails", "nobody answers")
    assert "imagen serve" in found.hint


async def test_a_key_goes_where_the_client_puts_it(door: Door) -> None:
    """As Bearer, as the password of Basic, and nowhere; without a key Basic is bare, or the header empty."""
    await verdicts(
        door.url, "n8n", "sillytavern-sdcpp", "librechat-stable-diffusion", "open-webui-automatic1111", key="K"
    )
    sent = {(one.path, one.headers.get("authorization")) for one in door.requests}
    basic = "Basic " + base64.b64encode(b"imagen:K").decode()
    assert {(GENERATIONS, "Bearer K"), (TXT2IMG, basic), (TXT2IMG, None)} <= sent
    await verdicts(door.url, "n8n", "open-webui-automatic1111")
    sent = {(one.path, one.headers.get("authorization")) for one in door.requests}
    assert {(GENERATIONS, "Bearer anything"), ("/sdapi/v1/options", "Basic"), ("/sdapi/v1/options", "")} <= sent


async def test_options_come_back_whole_with_another_checkpoint(door: Door) -> None:
    """As Open WebUI does it: a server that refuses what it sent itself cannot be switched."""
    door.checkpoint = "another"
    found = await verdict(door.url, "open-webui-automatic1111", "switch")
    assert found.outcome == "works"
    (posted,) = [one for one in door.asked("POST", "options")]
    assert json.loads(posted.body) == {"sd_model_checkpoint": "one", "samples_format": "png"}


def test_a_place_that_is_not_there_is_named() -> None:
    """Up to the part that is missing."""
    answer = {"data": [{"b64_json": PICTURE}], "info": INFO, "state": {"job_count": 0}}
    assert find("data[].b64_json", answer) == [PICTURE]
    assert find("info{}.infotexts[0]", answer) == ["a fox"]
    assert find("", answer) == [answer]
    for path, part in (
        ("data[1].url", "`data[1]`"),
        ("state.job", "`state.job`"),
        ("state[].x", "`state`"),
        ("a.b", "`a`"),
    ):
        with pytest.raises(Unmet, match=r"there is no|not a list") as unmet:
            find(path, answer)
        assert part in str(unmet.value)


def test_what_may_be_needed() -> None:
    """Each kind of need is met by one answer and not by another."""
    for kind, good, bad in (
        ("text", "x", 1),
        ("number", 0.5, "0.5"),
        ("whole", 1, True),
        ("list", [], {}),
        ("present", 0, None),
        ("absent", None, 1),
        ("picture", PICTURE, ""),
        ({"among": ["a", "b"]}, "a", "c"),
        ({"equals": 1}, 1, 2),
        ({"count": 1}, [1], []),
        ({"one_of": ["a", "b"]}, {"a": 1, "b": None}, {"a": 1, "b": 2}),
    ):
        need = Need(at="it", is_=kind, otherwise="")
        met(need, {"it": good})
        with pytest.raises(Unmet):
            met(need, {"it": bad})


def test_a_client_that_is_not_recorded_is_named() -> None:
    """With those that are."""
    from imagen.surfaces.cli.doctor_clients import _chosen

    with pytest.raises(RequestError, match="no recording of a client 'nobody'") as refused:
        _chosen(("nobody",))
    assert "open-webui-openai" in refused.value.hint


def test_the_table_says_what_each_client_can_do() -> None:
    """One line for each, by outcome."""
    told = [
        Verdict(client="n8n", verb="models", outcome="works"),
        Verdict(client="n8n", verb="generate", outcome="works"),
        Verdict(client="n8n", verb="switch", outcome="fails"),
    ]
    titles, rows = summary(load(["n8n"]), told)
    assert titles == ["client", "works", "refused", "fails"]
    assert rows == [["n8n", "models generate", "", "switch"]]


def test_every_recording_says_where_it_is_from_and_what_to_type() -> None:
    """Nobody has to guess how a client is set up, nor whether it was seen or read."""
    for client in load():
        assert client.settings, client.name
        assert client.version, client.name
        assert all(exchange.path.startswith("/") for steps in client.verbs.values() for exchange in steps)
        assert set(client.verbs) <= set(VERBS)
