"""The OpenAI door with OpenAI's own client library, against `imagen serve` as a real process."""

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image
from tests.http_kit import get
from tests.openai_kit import AT_ONCE, SMALL, Clients, clients, distance, extra, jobs, picture, slow
from tests.service_kit import House, Program

from imagen.core.errors import BackendError, ImagenError
from imagen.core.errors import Conflict as ConflictOfOurs

Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("openai")) as home:
        (home.home / "config.yaml").write_text("default_model: mock\n")
        yield home


@pytest.fixture(scope="module")
def server(house: House) -> Program:
    return house.serve()


@pytest.fixture
def client() -> Iterator[Clients]:
    with clients() as made:
        yield made


# Generate


def test_a_picture_is_generated(client: Clients, server: Program) -> None:
    """It decodes, has the size that was asked, is the stored file byte for byte, and names its job."""
    told = client(server).images.generate(**SMALL, extra_body={**AT_ONCE, "steps": 3, "negative_prompt": "blue"})
    assert told.data
    (one,) = told.data
    image = picture(one.b64_json)
    assert (image.format, image.size, told.size, told.output_format) == ("PNG", (128, 128), "128x128", "png")
    assert one.url is None
    assert told.created > 1_700_000_000
    assert told.usage is not None
    job = get(f"{server.url}/v1/jobs/{extra(told)['job_id']}")
    assert told._request_id == job["id"]
    assert (job["state"], job["request"]["steps"], job["request"]["seed"]) == ("completed", 3, 7)
    assert job["images"][0]["id"] == extra(one)["id"]
    assert extra(one)["seed"] == 7


async def test_the_async_client_generates_several_at_once(server: Program) -> None:
    """Each answer is that of its own request; picture k of a request has seed + k."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as asking:
        told = await asyncio.gather(
            *(asking.images.generate(**SMALL, n=2, extra_body={"options": {"slow": 0}, "seed": k}) for k in (10, 20))
        )
    assert [[extra(one)["seed"] for one in answer.data or ()] for answer in told] == [[10, 11], [20, 21]]
    assert len({one.b64_json for answer in told for one in answer.data or ()}) == 4


@pytest.mark.parametrize(
    ("body", "warned"),
    [
        # As Open WebUI, LibreChat and LobeChat send it, and with a field that nobody knows.
        ({"n": 1, "size": "512x512", "response_format": "b64_json", "steps": 3}, False),
        (
            {"size": "auto", "quality": "auto", "background": "auto", "output_format": "png", "model": "gpt-image-1"},
            False,
        ),
        ({"width": 64, "height": 64, "seed": -1, "steps": "4", "cfg": 7, "model": "dall-e-3"}, False),
        ({"quality": "hd", "style": "vivid", "user": "ada", "made_up": {"deep": [1]}}, True),
        ({"background": "transparent", "moderation": "auto", "output_compression": 50}, True),
        ({"guidance_scale": 3.5, "size": "64x64"}, True),  # the mock has no guidance
        ({"size": "9000x100"}, True),
        ({"output_format": "svg"}, True),
        ({"model": "flux-of-tomorrow"}, True),
        ({"partial_images": 2}, True),
    ],
)
def test_what_clients_really_send_is_drawn(
    client: Clients, server: Program, body: dict[str, Any], warned: bool
) -> None:
    """What cannot be honoured is said in a header, what nobody knows is ignored."""
    sent = {"model": "mock", "prompt": "a grey owl", "options": {"slow": 0}, **body}
    raw = client(server)._client.post(f"{server.url}/v1/images/generations", json=sent)
    assert raw.status_code == 200, raw.text
    assert picture(raw.json()["data"][0]["b64_json"]).format == "PNG"
    assert ("imagen-warning" in raw.headers) == warned


@pytest.mark.parametrize(("asked", "told"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_a_format_is_honoured(client: Clients, server: Program, asked: Any, told: str) -> None:
    """The bytes are of the format that was asked for, smaller where more compression was."""
    sizes = []
    for compression in (90, 20):
        answer = client(server).images.generate(
            **SMALL, output_format=asked, output_compression=compression, extra_body=AT_ONCE
        )
        assert answer.data
        assert answer.output_format == asked
        assert picture(answer.data[0].b64_json).format == told
        sizes.append(len(answer.data[0].b64_json or ""))
    assert (sizes[0] > sizes[1]) == (asked != "png")


def test_an_address_is_given_where_the_server_knows_its_own(client: Clients, tmp_path: Path, server: Program) -> None:
    """`response_format: url` leads to the picture; without `public_url` it is refused and says what to do."""
    with pytest.raises(openai.BadRequestError) as refused:
        client(server).images.generate(**SMALL, response_format="url")
    assert "public_url" in str(refused.value.body)
    with House(folder=tmp_path / "public") as house, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        (house.home / "config.yaml").write_text(f"server:\n  public_url: http://127.0.0.1:{port}\n")
        public = house.serve(port=port)
        told = client(public).images.generate(**SMALL, response_format="url", extra_body=AT_ONCE)
        assert told.data
        assert told.data[0].b64_json is None
        assert told.data[0].url
        found = client(public)._client.get(told.data[0].url)
        assert found.headers["content-type"] == "image/png"
        same = client(public).images.generate(**SMALL, extra_body=AT_ONCE).data
        assert same
        assert picture(same[0].b64_json).tobytes() == picture(base64.b64encode(found.content).decode()).tobytes()


# Stream


@pytest.mark.parametrize(
    ("model", "more"),
    [("mock", slow(1, steps=20)), ("tiny-3d", {"steps": 20}), ("tiny-3d", {"steps": 4})],
    ids=["mock", "tiny-20", "tiny-4"],
)
def test_partial_images_decode_and_converge(client: Clients, server: Program, model: str, more: dict[str, Any]) -> None:
    """Three of them, spread over the run, each nearer to the picture, which is the one that no stream would give."""
    asked: dict[str, Any] = {"prompt": "a red fox", "model": model, "size": "256x256"}
    asked["extra_body"] = {"seed": 7, **more}
    *partials, final = list(client(server).images.generate(**asked, stream=True, partial_images=3))
    assert [event.type for event in partials] == ["image_generation.partial_image"] * 3
    assert final.type == "image_generation.completed"
    assert [getattr(event, "partial_image_index", None) for event in partials] == [0, 1, 2]
    steps, total = [extra(event)["step"] for event in partials], more["steps"]
    assert steps == sorted(set(steps))
    assert steps[0] <= total * 0.4
    assert total * 0.6 <= steps[2] < total
    done = picture(final.b64_json)
    assert {(picture(event.b64_json).format or "").lower() for event in partials} == {"jpeg"}
    assert {getattr(event, "output_format", None) for event in partials} == {"jpeg"}
    away = [distance(picture(event.b64_json), done) for event in partials]
    assert away[0] > away[1] > away[2]
    plain = client(server).images.generate(**asked).data
    assert plain
    assert final.b64_json == plain[0].b64_json


def test_each_picture_of_a_stream_has_its_own_partials(client: Clients, server: Program) -> None:
    """With n, every picture ends with its own event, and none of its partial images comes after it."""
    stream = client(server).images.generate(
        **SMALL, n=3, stream=True, partial_images=2, extra_body=slow(1, seed=7, steps=4)
    )
    told = [(extra(event)["image"], event.type.rpartition(".")[2]) for event in stream]
    assert [image for image, _ in told] == sorted(image for image, _ in told)
    for number in range(3):
        kinds = [kind for image, kind in told if image == number]
        assert kinds[-1] == "completed"
        assert kinds[:-1] == ["partial_image"] * (len(kinds) - 1)
        assert 1 <= len(kinds[:-1]) <= 2


def test_a_stream_without_partial_images_is_one_event(client: Clients, server: Program) -> None:
    """`partial_images: 0`, or none said."""
    wishes: tuple[dict[str, Any], ...] = {}, {"partial_images": 0}
    for wish in wishes:
        events = list(client(server).images.generate(**SMALL, **wish, stream=True, extra_body=AT_ONCE))
        assert [event.type for event in events] == ["image_generation.completed"]


def preview_cost(server: Program, job_id: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/v1/jobs/{job_id}/events") as stream:
        told = [json.loads(line[6:]) for line in stream if line.startswith(b"data: ")]
    assert told[-1]["type"] == "completed"
    cost: dict[str, Any] = told[-1]["preview_cost"]
    return cost


def test_previews_that_nobody_asked_for_are_not_made(client: Clients, server: Program) -> None:
    """Neither for a plain request nor for a stream without partial images; with them, no more than were asked for."""
    plain = client(server).images.generate(**SMALL, extra_body=slow(0.5))
    assert preview_cost(server, extra(plain)["job_id"])["frames"] == 0
    for asked, made in ((0, 0), (2, 2)):
        *_, final = client(server).images.generate(**SMALL, stream=True, partial_images=asked, extra_body=slow(0.5))
        assert preview_cost(server, extra(final)["job_id"])["frames"] == made


def test_a_backend_that_shows_nothing_ends_with_the_picture_all_the_same(client: Clients, server: Program) -> None:
    """What it sends cannot be decoded, or its one step is the last: no partial image is made up."""
    for more in (slow(0.5, **{"options": {"slow": 0.5, "preview_fail": True}}), slow(0, steps=1)):
        told = list(client(server).images.generate(**SMALL, stream=True, partial_images=3, extra_body=more))
        assert [event.type for event in told] == ["image_generation.completed"]


async def test_the_async_client_streams(server: Program) -> None:
    """The same events."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as asking:
        stream = await asking.images.generate(**SMALL, stream=True, partial_images=1, extra_body=slow(0.5, seed=1))
        kinds = [event.type async for event in stream]
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]


def test_a_failure_in_a_stream_is_an_exception(client: Clients, server: Program) -> None:
    """With the code, the hint and the job; nothing is sent again."""
    stream = client(server).images.generate(
        **SMALL | {"prompt": "failing stream [fail:out_of_memory@9]"}, stream=True, extra_body=slow(0.2)
    )
    with pytest.raises(openai.APIError) as failed:
        list(stream)
    assert failed.value.code == "out_of_memory"
    assert isinstance(failed.value.body, dict)
    (job,) = jobs(server, "failing stream")
    assert failed.value.body["job_id"] == job["id"]
    assert failed.value.body["hint"]


# Refusals


KINDS: dict[str, tuple[int, type[openai.APIStatusError]]] = {
    "unreachable": (503, openai.InternalServerError),
    "rate_limited": (429, openai.RateLimitError),
    "timed_out": (504, openai.InternalServerError),
    "rejected": (502, openai.InternalServerError),
    "out_of_memory": (503, openai.InternalServerError),
    "crashed": (502, openai.InternalServerError),
}


def test_every_failure_of_a_backend_is_in_the_table() -> None:
    """A new one has to be thought of here too."""
    leaves = {kind("", hint="h").code for kind in BackendError.__subclasses__()}
    assert leaves == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_job_is_a_typed_exception_and_one_job(client: Clients, server: Program, kind: str) -> None:
    """With the status, the code and the hint; though the library would ask again on any of these, it does not."""
    status, wanted = KINDS[kind]
    prompt = f"failure {kind}"
    with pytest.raises(wanted) as failed:
        client(server).images.generate(**SMALL | {"prompt": f"{prompt} [fail:{kind}@2]"}, extra_body=slow(0, steps=3))
    assert failed.value.status_code == status
    assert (failed.value.code, failed.value.type) == (kind, "backend_error")
    assert isinstance(failed.value.body, dict)
    assert failed.value.body["hint"]
    assert failed.value.response.headers["x-should-retry"] == "false"
    (job,) = jobs(server, prompt)
    assert failed.value.body["job_id"] == job["id"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"size": "large"}, "size"),
        ({"size": "0x64"}, "size"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": "two"}, "n"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"stream": "maybe"}, "stream"),
        ({"response_format": "gif"}, "response_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"steps": 0}, "steps"),
        ({"guidance": "much"}, "guidance"),
        ({"options": {"sloww": 1}}, "options.sloww"),
        ({"options": 3}, "options"),
        ({"on_disconnect": "explode"}, "on_disconnect"),
        ({"size": "20000x20000", "model": "mock-huge"}, "width"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    client: Clients, tmp_path: Path, server: Program, house: House, body: Any, param: str
) -> None:
    """400, typed, with the field and what may be given; no job."""
    if "model" in body:
        house.model(body["model"], limits={"max": 60_000})
        time.sleep(1)
    with pytest.raises(openai.BadRequestError) as refused:
        client(server).images.generate(prompt="wrong field", model="mock", extra_body=body)
    assert refused.value.param == param
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["hint"]
    assert not jobs(server, "wrong field")


def test_a_base_url_without_its_version_says_what_is_missing(client: Clients, server: Program) -> None:
    """The most common slip when a server is typed into a form."""
    slipped = openai.OpenAI(base_url=server.url, api_key="x", max_retries=0)
    with slipped, pytest.raises(openai.NotFoundError) as refused:
        slipped.images.generate(**SMALL)
    assert isinstance(refused.value.body, dict)
    assert "/v1" in refused.value.body["hint"]


def test_a_job_cancelled_by_somebody_else_is_a_conflict(client: Clients, server: Program, until: Until) -> None:
    """The client that waits for it is told, and does not ask again."""
    found: list[Exception] = []

    def ask() -> None:
        try:
            client(server).images.generate(**SMALL | {"prompt": "cancelled elsewhere"}, extra_body=slow(60))
        except Exception as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    job = until(lambda: jobs(server, "cancelled elsewhere"))[0]
    client(server)._client.post(f"{server.url}/v1/jobs/{job['id']}/cancel")
    asking.join()
    (error,) = found
    assert isinstance(error, openai.ConflictError)
    assert error.code == ImagenError.code.fget(ConflictOfOurs("", hint="h"))  # type: ignore[attr-defined]
    assert len(jobs(server, "cancelled elsewhere")) == 1


def test_pictures_cannot_be_edited_yet(client: Clients, server: Program) -> None:
    """400 with words, also for a picture larger than any body may be here; no connection is broken."""
    large = b"\x89PNG\r\n\x1a\n" + bytes(8_000_000)
    asking = client(server, max_retries=0)
    with pytest.raises(openai.BadRequestError, match="edit pictures") as refused:
        asking.images.edit(image=("a.png", large), prompt="a hat")
    assert "models that could" in str(refused.value.body)
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(openai.BadRequestError, match="variations"),
    ):
        asking.images.create_variation(image=("a.png", large))
    assert asking.images.generate(**SMALL, extra_body=AT_ONCE).data  # the connection is good for more


def test_the_same_key_is_the_same_job(client: Clients, server: Program) -> None:
    """As natively: the same body is the same job and picture, another body is a conflict, which is not repeated."""
    asked = {**SMALL, "prompt": "keyed", "extra_headers": {"Idempotency-Key": "order-1"}}
    first, again = (client(server).images.generate(**asked, extra_body={"options": {"slow": 0}}) for _ in range(2))
    assert extra(first)["job_id"] == extra(again)["job_id"]
    assert first.data is not None
    assert again.data is not None
    assert first.data[0].b64_json == again.data[0].b64_json
    with pytest.raises(openai.ConflictError) as refused:
        client(server).images.generate(**asked, extra_body={"options": {"slow": 0}, "seed": 3})
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(jobs(server, "keyed")) == 1
    streamed = {**SMALL, "prompt": "keyed stream", "stream": True, "extra_headers": {"Idempotency-Key": "order-2"}}
    ends = [list(client(server).images.generate(**streamed, extra_body={"options": {"slow": 0}}))[-1] for _ in range(2)]
    assert ends[0] == ends[1]
    assert len(jobs(server, "keyed stream")) == 1
    native = {"prompt": "keyed natively", "model": "mock", "options": {"slow": 0}}
    other = client(server)._client.post(f"{server.url}/v1/jobs", json=native, headers={"Idempotency-Key": "order-1"})
    assert other.status_code == 202  # a key belongs to the address it was sent to


# Models


def test_models_are_listed_for_both_kinds_of_clients(client: Clients, server: Program) -> None:
    """The library's list has every enabled model and every alias; the native answer has all it had before."""
    names = [model.id for model in client(server).models.list()]
    native = get(f"{server.url}/v1/models")
    assert {model["name"] for model in native["models"] if model["enabled"]} <= set(names)
    assert {"gpt-image-1", "gpt-image-1.5", "gpt-image-2", "dall-e-2", "dall-e-3"} <= set(names)
    assert len(names) == len(set(names))
    default = next(model["name"] for model in native["models"] if model["default"])
    assert names[0] == default
    one = client(server).models.retrieve("dall-e-3")
    assert (one.object, one.owned_by, extra(one)["alias_of"]) == ("model", "imagen", default)
    with pytest.raises(openai.NotFoundError):
        client(server).models.retrieve("nothing")


def test_names_are_aliases_guesses_or_refused(client: Clients, tmp_path: Path, server: Program) -> None:
    """An alias draws without a word, another name with a warning; `strict` refuses it and says which there are."""
    raw = client(server).images.with_raw_response
    for name, warned in (("gpt-image-2", False), ("mok", True)):
        told = raw.generate(prompt="a fox", model=name, size="64x64", extra_body={"steps": 2})
        assert ("imagen-warning" in told.headers) == warned, name
    assert "did you mean 'mock'" in told.headers["imagen-warning"]
    with House(folder=tmp_path / "strict") as house:
        (house.home / "config.yaml").write_text(
            "default_model: mock\nopenai:\n  strict: true\n  aliases: {painter: mock-warm, ghost: mock-wram}\n"
        )
        strict = house.serve()
        with pytest.raises(openai.NotFoundError) as refused:
            client(strict).images.generate(prompt="a fox", model="dall-e-3")
        assert refused.value.code == "unknown_model"
        with pytest.raises(openai.NotFoundError, match="'ghost' stands for 'mock-wram'") as refused:
            client(strict).images.generate(prompt="a fox", model="ghost")
        assert "openai: aliases:" in str(refused.value.body)
        told = client(strict).images.with_raw_response.generate(
            prompt="a fox", model="painter", size="64x64", extra_body=AT_ONCE
        )
        assert extra(told.parse())["model"] == "mock-warm"
        assert "imagen-warning" not in told.headers


# Who may


def test_a_key_is_needed_where_there_are_keys(client: Clients, tmp_path: Path) -> None:
    """Typed as the library has it; and nobody is given the job of another key, however alike their requests are."""
    with House(folder=tmp_path / "keys") as house:
        ada, bob = (house.run("keys", "add", name).stdout.strip() for name in ("ada", "bob"))
        server = house.serve()
        with pytest.raises(openai.AuthenticationError):
            client(server).images.generate(**SMALL)
        asked = {**SMALL, "extra_body": slow(2)}
        with pytest.raises(openai.APITimeoutError):
            client(server, api_key=ada, timeout=1.0, max_retries=0).images.generate(**asked)
        ids = {
            extra(client(server, api_key=key).images.generate(**asked, extra_headers={"x-stainless-retry-count": "1"}))[
                "job_id"
            ]
            for key in (ada, bob)
        }
        assert len(ids) == 2
        mine = client(server)._client.get(f"{server.url}/v1/jobs", headers={"authorization": f"Bearer {ada}"})
        assert len(mine.json()["jobs"]) == 1


def test_pings_and_pages_of_trusted_sites_are_answered(client: Clients, tmp_path: Path, server: Program) -> None:
    """OPTIONS says what may be sent; a page may use the library only from a site that the owner lists."""
    http = client(server)._client
    ping = http.request("OPTIONS", f"{server.url}/v1/images/generations")
    assert http.get(f"{server.url}/v1/images/generations").status_code == 405
    chat = http.post(f"{server.url}/v1/chat/completions", json={"messages": []})
    assert (chat.status_code, chat.json()["error"]["message"]) == (404, "there is no chat here")
    assert (ping.status_code, ping.headers["allow"]) == (204, "OPTIONS, POST")
    asks = {
        "origin": "https://gallery.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang,openai-organization,x-evil",
    }
    assert http.request("OPTIONS", f"{server.url}/v1/images/generations", headers=asks).status_code == 403
    with House(folder=tmp_path / "cors") as house:
        (house.home / "config.yaml").write_text("server:\n  origins: ['https://gallery.example']\n")
        friendly = house.serve()
        answer = http.request("OPTIONS", f"{friendly.url}/v1/images/generations", headers=asks)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "https://gallery.example"
        allowed = answer.headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "content-type", "x-stainless-lang", "openai-organization"} <= set(allowed)
        assert "x-evil" not in allowed
        told = client(friendly).images.with_raw_response.generate(
            **SMALL, extra_body=AT_ONCE, extra_headers={"origin": "https://gallery.example"}
        )
        assert "x-request-id" in told.headers["access-control-expose-headers"]


# The page


def test_the_page_works_as_it_stands(house: House, tmp_path: Path) -> None:
    """Every block that talks to a server, on the model in the box: whole programs in Python, and lines with curl."""
    server = house.start("serve", "--port", "0", environment={"IMAGEN_DEFAULT_MODEL": "tiny-3d"})
    server.ready()
    text = (Path(__file__).parents[2] / "docs/howto/connect/openai.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|sh) served\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert sorted(language for language, _ in blocks) == ["python"] * 4 + ["sh"]
    said = ""
    for language, block in blocks:
        program = [sys.executable, "-W", "error", "-c"] if language == "python" else ["sh", "-eu", "-c"]
        assert (language == "sh") or "http://127.0.0.1:8450/v1" in block
        ran = subprocess.run(
            [*program, block.replace("http://127.0.0.1:8450", server.url)],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        said += ran.stdout
    assert said.count("event: image_generation.partial_image") == 2
    assert '"alias_of":"tiny-3d"' in said
    assert "size - give auto" in said
    for name, kind in (("fox.png", "PNG"), ("fox-0.jpeg", "JPEG"), ("fox-2.jpeg", "JPEG"), ("fox-done.png", "PNG")):
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
