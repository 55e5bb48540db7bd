"""The kit of recorded clients: a server that does it right passes, and each thing it does wrong is found and named."""

import asyncio
import base64
from collections.abc import Iterator, Mapping
from typing import Any

import click
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from tests.replay_kit import EVENT, INFO, PICTURE, Door, stream

from imagen.core.errors import RequestError
from imagen.surfaces.cli.doctor_clients import conclusion, only_with_clients, place_of, summary
from imagen.testing.clients import VERBS, Verdict, insisted, load, pinned, replay, replaying
from imagen.testing.clients.needs import Unmet, find, met
from imagen.testing.clients.recording import Need


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
        {"progress": 0.5, "state": {"job_count": 0}},
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
        stream({"type": "progress", "step": 1}),
        "an event 'progress'",
    ),
    "a stream without an end": (
        *("openai-node", "stream", GENERATIONS),
        stream({"type": "image_generation.partial_image", **EVENT}),
        "the stream ended without",
    ),
    "a stream that fails": (
        *("openai-node", "stream", GENERATIONS),
        stream({"error": {"message": "the card is full", "hint": "smaller"}}),
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
    posted, put_back = door.asked("POST", "options")
    assert posted.json == {"sd_model_checkpoint": "one", "samples_format": "png"}
    assert put_back.json == {"sd_model_checkpoint": "another"}


DRAWING = {"progress": 0.1, "state": {"job_count": 1}}
NEVER_IDLE = {"progress": 0.5, "state": {"job_count": 0}}


async def test_the_checkpoint_of_the_caller_stays(door: Door) -> None:
    """As it was before, also where the client would have stopped half way."""
    door.checkpoint = "another"
    await verdicts(door.url, key="K")
    assert door.checkpoint == "another"
    door.wrong["/sdapi/v1/progress"] = NEVER_IDLE
    assert (await verdict(door.url, "sillytavern-a1111", "switch")).outcome == "fails"
    assert [one.json["sd_model_checkpoint"] for one in door.asked("POST", "options")[-2:]] == ["one", "another"]
    assert door.checkpoint == "another"


async def test_a_checkpoint_that_cannot_be_put_back_is_named(door: Door) -> None:
    """It was there a moment ago; whoever chose it has to hear of it."""
    door.checkpoint, door.gone = "another", ("another",)
    found = await verdict(door.url, "sillytavern-a1111", "switch")
    assert (found.outcome, found.said) == ("fails", "the checkpoint 'another' could not be put back: 404")
    assert found.hint


async def test_what_the_caller_draws_is_left_alone(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither told as a failure of the server, nor stopped; the rest is replayed."""
    monkeypatch.setattr(replaying, "QUIET_S", 0.0)
    door.wrong["/sdapi/v1/progress"] = DRAWING
    found = {one.verb: one for one in await verdicts(door.url, "sillytavern-a1111")}
    assert {verb for verb, one in found.items() if one.outcome == "busy"} == {"switch", "stop"}
    assert found["switch"].said == "something of yours is being drawn"
    assert "when it is done" in found["switch"].hint
    assert all(one.outcome == "works" for verb, one in found.items() if verb not in ("switch", "stop"))
    assert not door.asked("POST", "interrupt")
    assert not door.asked("POST", "options")


async def test_what_is_nearly_done_is_waited_for(door: Door) -> None:
    """A moment, as the client would."""
    door.wrong["/sdapi/v1/progress"] = DRAWING
    asyncio.get_running_loop().call_later(0.4, door.wrong.clear)
    assert (await verdict(door.url, "sillytavern-a1111", "switch")).outcome == "works"


async def test_a_pinned_client_draws_with_one_model_only(door: Door) -> None:
    """Whatever it insists on, and where it names none; what it lists and chooses is as it was."""
    clients = [pinned(client) for client in load()]
    for one in [found async for found in replay(clients, door.url, model="one", timeout_s=20)]:
        assert one.outcome == ("refused" if one.verb == "edit" else "works"), one
    assert {one.json["model"] for one in door.asked("POST", "generations")} == {"one"}
    drawn = [one.json["override_settings"] for one in door.asked("POST", "txt2img")]
    assert {told["sd_model_checkpoint"] for told in drawn} == {"one"}
    assert any(told.get("CLIP_stop_at_last_layers") for told in drawn), "its own settings stay"
    edits = door.asked("POST", "edits")
    assert edits
    assert all(one.body.count(b'name="model"\r\n\r\none\r\n') == one.body.count(b'name="model"') == 1 for one in edits)
    assert insisted(load()) == ["gpt-image-2.5-flare", "gpt-image-1", "dall-e-3", "gpt-image-1-mini"]
    assert insisted(clients) == []


async def test_a_key_that_is_not_taken_is_not_asked_for_again(door: Door) -> None:
    """Three things to do next: give one, give another, or leave it with this program."""
    door.wrong[GENERATIONS] = door.wrong[TXT2IMG] = JSONResponse({"error": {"message": "no"}}, status_code=401)
    for client, key, hint in (
        ("n8n", None, "give one with --key"),
        ("n8n", "bad", "does not take this key"),
        ("sillytavern-sdcpp", "bad", "sends no key"),
    ):
        (found,) = [one for one in await verdicts(door.url, client, key=key) if one.verb == "generate"]
        assert hint in found.hint


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
    assert conclusion(told) == "1 thing fails: see FAIL above"
    assert conclusion([told[2]] * 2) == "2 things fail: see FAIL above"
    busy = [told[0], Verdict(client="n8n", verb="stop", outcome="busy")]
    assert summary(load(["n8n"]), busy)[0] == ["client", "works", "refused", "busy", "fails"]
    assert conclusion(busy).startswith("nothing fails; 1 thing was not tried")
    assert conclusion(told[:2]) == "every client can work with this server"


def test_an_address_may_be_short() -> None:
    """Without a scheme, with a slash, or as other programs want it."""
    for typed in ("127.0.0.1:8450", "http://127.0.0.1:8450/", "http://127.0.0.1:8450/v1", " 127.0.0.1:8450/v1/ "):
        assert place_of(typed) == "http://127.0.0.1:8450"
    assert place_of("https://pictures.example.org") == "https://pictures.example.org"
    assert place_of("") == ""


def test_options_of_the_replay_are_not_ignored_without_it() -> None:
    """A key that is given and not used would look as if it were fine."""
    only_with_clients(key=None, model=None)
    with pytest.raises(click.UsageError, match="--key is for --clients"):
        only_with_clients(key="K", model=None)


def test_every_recording_says_where_it_is_from_and_what_to_type() -> None:
    """Nobody has to guess how a client is set up, nor whether it was seen or read."""
    for client in load():
        assert client.settings, client.name
        assert client.version, client.name
        assert all(exchange.path.startswith("/") for steps in client.verbs.values() for exchange in steps)
        assert set(client.verbs) <= set(VERBS)
