"""Programs of others against `imagen serve`, as they are installed: Open WebUI, all of it, and LiteLLM."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.clients_kit import OpenWebUI, litellm, open_webui
from tests.http_kit import get
from tests.service_kit import House, Program

pytestmark = [pytest.mark.needs_clients, pytest.mark.timeout(300)]

MODEL, OTHER = "quick", "other"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("house")) as home:
        (home.home / "config.yaml").write_text(f"default_model: {MODEL}\n")
        for name, like in ((MODEL, "mock"), (OTHER, "mock-warm")):
            home.model(name, like=like, options={"slow": {"type": "float", "default": 0.0}}, limits={"max": 2048})
        yield home


@pytest.fixture(scope="module")
def server(house: House) -> Program:
    program = house.start("serve", "--port", "0", environment={"IMAGEN_DEFAULT_MODEL": MODEL})
    program.ready()
    return program


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    with open_webui(tmp_path_factory.mktemp("webui")) as running:
        yield running


def newest(server: Program) -> dict[str, Any]:
    """The request of the last job."""
    job = get(f"{server.url}/v1/jobs?limit=1")["jobs"][0]
    return {**job["request"], "state": job["state"]}


def size(data: bytes) -> tuple[int, int]:
    """Of a picture that can be opened to its end."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.size


def png() -> bytes:
    """A picture to be edited."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


# Open WebUI


def openai_engine(webui: OpenWebUI, server: Program, **changed: Any) -> None:
    webui.settle(
        IMAGE_GENERATION_ENGINE="openai",
        IMAGES_OPENAI_API_BASE_URL=f"{server.url}/v1",
        **{
            "IMAGES_OPENAI_API_KEY": "anything",
            "IMAGE_GENERATION_MODEL": "gpt-image-1",
            "IMAGE_SIZE": "512x512",
            **changed,
        },
    )


def a1111_engine(webui: OpenWebUI, server: Program, **changed: Any) -> None:
    webui.settle(
        IMAGE_GENERATION_ENGINE="automatic1111",
        AUTOMATIC1111_BASE_URL=server.url,
        **{"IMAGE_GENERATION_MODEL": MODEL, "IMAGE_SIZE": "512x512", "IMAGE_STEPS": 8, **changed},
    )


def test_open_webui_shows_a_picture_with_its_engine_openai(webui: OpenWebUI, server: Program) -> None:
    """An address and any key are all that is set; the picture it keeps is the one that was drawn."""
    openai_engine(webui, server)
    (shown,) = webui.pictures()
    assert size(shown) == (512, 512)
    drawn = newest(server)
    assert (drawn["model"], drawn["prompt"], drawn["state"]) == (MODEL, "a red fox", "completed")


def test_open_webui_shows_as_many_pictures_as_asked(webui: OpenWebUI, server: Program) -> None:
    """Two of one request, and not the same."""
    openai_engine(webui, server)
    one, two = webui.pictures(n=2, size="256x256")
    assert size(one) == size(two) == (256, 256)
    assert one != two


def test_open_webui_switches_the_model_with_its_engine_openai(webui: OpenWebUI, server: Program) -> None:
    """The name typed into its settings is the model that draws, and back again."""
    for model, draws in ((OTHER, OTHER), ("dall-e-3", MODEL)):
        openai_engine(webui, server, IMAGE_GENERATION_MODEL=model)
        webui.pictures()
        assert newest(server)["model"] == draws


def test_open_webui_hands_on_what_its_params_say(webui: OpenWebUI, server: Program) -> None:
    """Its field for more parameters reaches the model."""
    openai_engine(webui, server, IMAGES_OPENAI_API_PARAMS={"steps": 3, "seed": 7})
    webui.pictures()
    drawn = newest(server)
    openai_engine(webui, server, IMAGES_OPENAI_API_PARAMS={})
    assert (drawn["steps"], drawn["seed"]) == (3, 7)


def test_open_webui_is_told_that_nothing_edits(webui: OpenWebUI, server: Program) -> None:
    """It shows an error of the request, and goes on."""
    openai_engine(webui, server)
    webui.settle(
        ENABLE_IMAGE_EDIT=True,
        IMAGE_EDIT_ENGINE="openai",
        IMAGE_EDIT_MODEL="gpt-image-1",
        IMAGES_EDIT_OPENAI_API_BASE_URL=f"{server.url}/v1",
        IMAGES_EDIT_OPENAI_API_KEY="anything",
    )
    picture = "data:image/png;base64," + base64.b64encode(png()).decode()
    answer = webui.http.post("/api/v1/images/edit", json={"image": picture, "prompt": "make it blue"})
    assert (answer.status_code, "Bad Request" in answer.text) == (400, True), answer.text
    assert webui.pictures()


def test_open_webui_shows_a_picture_with_its_engine_automatic1111(webui: OpenWebUI, server: Program) -> None:
    """Its connection is verified, its menu lists the models, and the picture is drawn as its settings say."""
    assert webui.verify(server.url)
    a1111_engine(webui, server)
    assert {MODEL, OTHER} <= set(webui.models())
    (shown,) = webui.pictures(negative_prompt="snow")
    assert size(shown) == (512, 512)
    drawn = newest(server)
    assert (drawn["model"], drawn["steps"], drawn["state"]) == (MODEL, 8, "completed")


def test_open_webui_switches_the_model_with_its_engine_automatic1111(webui: OpenWebUI, server: Program) -> None:
    """In its settings, and for one picture: all options come back with another checkpoint."""
    a1111_engine(webui, server, IMAGE_GENERATION_MODEL=OTHER)
    webui.pictures()
    assert newest(server)["model"] == OTHER
    webui.pictures(model=MODEL)
    assert newest(server)["model"] == MODEL


def test_open_webui_with_a_key_of_the_server(webui: OpenWebUI, tmp_path: Path) -> None:
    """With either engine a key opens the door, and without it nothing is drawn."""
    with House(folder=tmp_path / "keyed") as keyed:
        key = keyed.run("keys", "add", "webui").stdout.split()[-1]
        server = keyed.serve()
        small: dict[str, Any] = {"IMAGE_GENERATION_MODEL": "mock", "IMAGE_SIZE": "64x64"}
        openai_engine(webui, server, **small)
        assert webui.ask().status_code == 400
        openai_engine(webui, server, **small, IMAGES_OPENAI_API_KEY=key)
        assert size(webui.pictures()[0]) == (64, 64)
        assert not webui.verify(server.url)
        assert webui.verify(server.url, f"imagen:{key}")
        a1111_engine(webui, server, **small, AUTOMATIC1111_API_AUTH=f"imagen:{key}")
        assert size(webui.pictures()[0]) == (64, 64)


# LiteLLM

GENERATE = """
answer = litellm.image_generation(
    model="openai/" + words["model"], prompt="a red fox", n=2, size="256x256",
    api_base=url + "/v1", api_key="anything", extra_body={"seed": 7, "steps": 3},
)
say(pictures=[one.b64_json for one in answer.data], urls=[one.url for one in answer.data])
"""
REFUSED = """
import io
picture = io.BytesIO(bytes.fromhex(words["png"]))
picture.name = "fox.png"
there = {"model": "openai/quick", "api_base": url + "/v1", "api_key": "anything"}
for act in (
    lambda: litellm.image_generation(prompt="a fox", size="large", **there),
    lambda: litellm.image_edit(image=picture, prompt="blue", **there),
):
    try:
        act()
    except Exception as error:
        say(kind=type(error).__name__, status=error.status_code, message=str(error))
"""


def test_litellm_generates(server: Program) -> None:
    """Through its own function, with what OpenAI has no field for."""
    (told,) = litellm(GENERATE, server.url, model=OTHER)
    assert [size(base64.b64decode(one)) for one in told["pictures"]] == [(256, 256)] * 2
    assert told["urls"] == [None, None]
    drawn = newest(server)
    assert (drawn["model"], drawn["seed"], drawn["steps"], drawn["n"]) == (OTHER, 7, 3, 2)


def test_litellm_raises_its_own_errors(server: Program) -> None:
    """A size that makes no sense and an edit are its BadRequestError, with our words."""
    size_told, edit_told = litellm(REFUSED, server.url, png=png().hex())
    assert (size_told["kind"], size_told["status"]) == ("BadRequestError", 400)
    assert "size" in size_told["message"]
    assert edit_told["status"] == 400
    assert "edit pictures" in edit_told["message"]
