"""`imagen models add`: a workflow of somebody's own becomes a model, whole or not at all, checked and drawn once."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli_kit import imagen
from tests.workflow_kit import object_info, sample

from imagen.backends.base import Adopted, Site
from imagen.backends.comfyui.adopt import adopted
from imagen.config import Settings, load_settings
from imagen.core.errors import BadConfig, Conflict, RequestError, TooLarge, Unsupported
from imagen.core.template import Template
from imagen.engine.adopt import check_name, model_text, name_for, read_document, write
from imagen.engine.pictures.sidecar import with_text
from imagen.engine.wiring import catalog_of
from imagen.previews.encode import encode_png
from imagen.testing.comfyui import Fake


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with Fake().running() as url:
        yield url


@pytest.fixture
def home(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path))
    monkeypatch.setenv("IMAGEN_COMFYUI_URL", server)
    return tmp_path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, environ={})


def exported(folder: Path, **changed: Any) -> Path:
    """A workflow as ComfyUI exports it: the bundled FLUX.1 [schnell] with values in it."""
    model = catalog_of(load_settings(home=folder, environ={})).models["flux1-schnell"]
    values = {key: value for key, value in model.keys.items() if value is not None}
    values |= {name: option.default for name, option in model.options.items()}
    values |= {"prompt": "a red fox", "seed": 7, "steps": 2, "cfg": 1.0, "width": 64, "height": 64}
    graph = Template(model.graph or {}).fill(values | {"filename_prefix": "mine"})
    file = folder / "My first flow.json"
    file.write_text(json.dumps({name: item for name, item in {**graph, **changed}.items() if item}))
    return file


def two_texts(folder: Path) -> Path:
    """One with a question: two texts go into the picture."""
    more = {
        "50": {"class_type": "CLIPTextEncode", "inputs": {"text": "in the snow", "clip": ["11", 0]}},
        "51": {
            "class_type": "ConditioningCombine",
            "inputs": {"conditioning_1": ["6", 0], "conditioning_2": ["50", 0]},
        },
    }
    file = exported(folder, **more)
    graph = json.loads(file.read_text())
    graph["31"]["inputs"]["positive"] = ["51", 0]
    file.write_text(json.dumps(graph))
    return file


def test_a_workflow_becomes_a_model_and_a_picture(home: Path) -> None:
    """Named after its file; the table says what was found, the last line is the picture."""
    ran = imagen("models", "add", str(exported(home)), "--yes")
    assert ran.code == 0, ran.err
    assert "6.text (CLIPTextEncode: Prompt)" in ran.out
    folder = home / "models" / "my-first-flow"
    assert sorted(path.name for path in folder.iterdir()) == ["model.yaml", "workflow.json"]
    assert Path(ran.out.splitlines()[-1]).read_bytes().startswith(b"\x89PNG")
    assert imagen("generate", "a hare", "--model", "my-first-flow", "--seed", "3").code == 0
    assert [path.name for path in (home / "models").iterdir()] == ["my-first-flow"]


def test_the_model_file_says_where_everything_stands(home: Path) -> None:
    """For people who want to change it, and for the catalog."""
    assert imagen("models", "add", str(exported(home)), "--yes", "--no-draw", "--name", "mine").code == 0
    text = (home / "models" / "mine" / "model.yaml").read_text()
    assert "#   prompt      6.text (CLIPTextEncode: Prompt)" in text
    told = yaml.safe_load(text)
    assert told["title"] == "mine"
    assert told["defaults"] == {"width": 64, "height": 64, "steps": 2, "guidance": 1.0}
    assert told["model"] == "flux1-schnell.safetensors"
    shown = json.loads(imagen("models", "show", "mine", "--json").out)
    assert shown["options"]["sampler"]["default"] == "euler"


def test_a_program_gets_one_document(home: Path) -> None:
    """What was found, what was written, and where the picture is."""
    ran = imagen("models", "add", str(exported(home)), "--json")
    told = json.loads(ran.out)
    assert ran.code == 0
    assert told["found"]["seed"][0] | {"place": "31.seed", "value": 7} == told["found"]["seed"][0]
    assert told["folder"] == str(home / "models" / "my-first-flow")
    assert all(check["ok"] for check in told["checks"])
    assert told["image"]


def test_a_dry_run_writes_nothing(home: Path) -> None:
    """It only says what is found."""
    ran = imagen("models", "add", str(exported(home)), "--dry-run")
    assert (ran.code, "31.seed" in ran.out) == (0, True)
    assert not (home / "models").exists()


def test_what_is_not_certain_is_an_error_where_nobody_can_be_asked(home: Path) -> None:
    """It names what to give, and with that it goes on."""
    file = two_texts(home)
    ran = imagen("models", "add", str(file), "--yes")
    assert ran.code == 2
    assert "6.text (a red fox), 50.text (in the snow)" in ran.err
    assert "--slot prompt=6.text" in ran.err
    assert not (home / "models").exists()
    again = imagen(
        "models", "add", str(file), "--yes", "--no-draw", "--slot", "prompt=6.text", "--slot", "prompt=50.text"
    )
    assert again.code == 0
    graph = json.loads((home / "models" / "my-first-flow" / "workflow.json").read_text())
    assert (graph["6"]["inputs"]["text"], graph["50"]["inputs"]["text"]) == ("${prompt}", "${prompt}")


class Keyboard(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def test_a_person_is_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number; a wrong number is asked again."""
    monkeypatch.setattr(sys, "stdin", Keyboard("9\n2\ny\n"))
    ran = imagen("models", "add", str(two_texts(home)), "--no-draw")
    assert ran.code == 0, ran.err
    assert "2  50.text (CLIPTextEncode)  in the snow" in ran.err
    assert "give a number from 1 to 2" in ran.err
    graph = json.loads((home / "models" / "my-first-flow" / "workflow.json").read_text())
    assert (graph["6"]["inputs"]["text"], graph["50"]["inputs"]["text"]) == ("a red fox", "${prompt}")


def test_saying_no_writes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last question is whether to write at all."""
    monkeypatch.setattr(sys, "stdin", Keyboard("n\n"))
    assert imagen("models", "add", str(exported(home))).code == 130
    assert not (home / "models").exists()


def test_a_model_that_is_there_is_not_touched_without_force(home: Path) -> None:
    """Neither one's own nor a bundled one; with force, other files in the folder stay."""
    file = exported(home)
    assert imagen("models", "add", str(file), "--yes", "--no-draw", "--name", "mine").code == 0
    (home / "models" / "mine" / "notes.txt").write_text("mine")
    before = (home / "models" / "mine" / "model.yaml").read_bytes()
    for name in ("mine", "qwen-image", "mock"):
        ran = imagen("models", "add", str(file), "--yes", "--name", name)
        assert (ran.code, "--force" in ran.err) == (2, True)
    assert (home / "models" / "mine" / "model.yaml").read_bytes() == before
    assert imagen("models", "add", str(file), "--yes", "--no-draw", "--name", "mine", "--force").code == 0
    assert (home / "models" / "mine" / "notes.txt").read_text() == "mine"
    assert [path.name for path in (home / "models").iterdir()] == ["mine"]


def test_a_server_that_lacks_a_file_is_told_and_nothing_is_drawn(home: Path) -> None:
    """The model is written, so that its weights can be fetched."""
    loader = {"class_type": "VAELoader", "inputs": {"vae_name": "other.safetensors"}}
    ran = imagen("models", "add", str(exported(home, **{"10": loader})), "--yes")
    assert ran.code == 3
    assert "other.safetensors" in ran.err
    assert (home / "models" / "my-first-flow").is_dir()


def test_without_drawing_no_database_is_needed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even its driver, where the settings name PostgreSQL."""
    monkeypatch.setenv("IMAGEN_DATABASE", "postgresql://nobody@127.0.0.1:9/nothing")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    ran = imagen("models", "add", str(exported(home)), "--yes", "--no-draw")
    assert (ran.code, ran.err) == (0, "")


def test_without_a_server_nothing_is_written(home: Path) -> None:
    """It alone knows what its nodes are."""
    ran = imagen("models", "add", str(exported(home)), "--yes", "--url", "http://127.0.0.1:9")
    assert ran.code == 1
    assert not (home / "models").exists()


def test_an_address_of_its_own_is_kept_in_the_model(home: Path, server: str) -> None:
    """So that the model is drawn where its nodes are."""
    assert imagen("models", "add", str(exported(home)), "--yes", "--no-draw", "--url", server).code == 0
    assert yaml.safe_load((home / "models" / "my-first-flow" / "model.yaml").read_text())["url"] == server


@pytest.mark.parametrize("slot", ["prompt", "prompt=", "=6.text"])
def test_a_slot_that_says_nothing_is_refused(home: Path, slot: str) -> None:
    """Before anybody is asked."""
    ran = imagen("models", "add", str(exported(home)), "--slot", slot)
    assert (ran.code, "--slot prompt=6.text" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[1, 2]", "it holds a list"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b"[" * 500 + b"]" * 500, "brackets are too deep"),
        (b"[" * 100_000, "brackets are too deep"),
        (b'{"a": ' * 150 + b"1" + b"}" * 150, "brackets are too deep"),
        (encode_png(bytes(48), 4, 4), "no workflow is inside"),
    ],
)
def test_a_file_that_is_no_workflow_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """With what to give instead."""
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with pytest.raises(RequestError, match=said) as error:
        read_document(file)
    assert error.value.hint


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Not there, or too large."""
    with pytest.raises(RequestError, match="cannot be read"):
        read_document(tmp_path / "nowhere.json")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(9 * 2**20)
    with pytest.raises(TooLarge):
        read_document(large)


def test_a_picture_that_comfyui_made_is_a_workflow_too(tmp_path: Path) -> None:
    """What was drawn goes before what the editor showed."""
    file = tmp_path / "made.png"
    texts = {"workflow": '{"nodes": []}', "prompt": exported(tmp_path).read_text()}
    file.write_bytes(with_text(encode_png(bytes(48), 4, 4), texts))
    assert "31" in read_document(file)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("My Flow (2).json", "my-flow-2"),
        ("image_z.app.json", "image_z.app"),
        ("___.json", "workflow"),
        ("狐.json", "狐"),
    ],
)
def test_a_model_is_named_after_its_file(file: str, name: str) -> None:
    """As far as that can be a name."""
    assert name_for(Path(file)) == name


def test_a_name_that_cannot_be_one_is_refused(settings: Settings) -> None:
    """It would be a folder somewhere else."""
    for name in ("../up", "a/b", "", "a" * 101):
        with pytest.raises(RequestError, match="name of a model"):
            check_name(name, catalog_of(settings), settings.models_folder, force=True)
    with pytest.raises(Conflict):
        check_name("mock", catalog_of(settings), settings.models_folder, force=False)


ODD = [
    "yes",
    "1e5",
    "0x10",
    "a: b",
    "# no",
    "- x",
    "狐 👩‍🚀 \u2028 \x07",
    "'\"\\",
    " x ",
    "",
    "~",
    "null",
    "${x}",
    "1.0",
    "a\nb",
    "{",
    "é",
]


@pytest.mark.parametrize("word", ODD)
def test_any_text_survives_the_model_file(word: str) -> None:
    """What YAML would take for something else is quoted."""
    place = Site(node="1", input="x", kind="Odd", title=f"{word}\n# two", value=word)
    keys = {
        "defaults": {"negative": word, "guidance": 1e-07},
        "model": word,
        "options": {"x": {"choices": [word, "y" * 120], "default": word}},
        "files": [{"path": word}],
    }
    told = Adopted(graph={}, found={"prompt": (place,)}, keys=keys, notes=(f"a {word} b",))
    read = yaml.safe_load(model_text(told, title=word, origin=f"{word}.json", url=word))
    assert {key: read[key] for key in keys} == keys
    assert (read["title"], read["url"]) == (word, word)


def test_every_taken_workflow_can_be_written_and_read(settings: Settings) -> None:
    """The catalog reads what was made of the collection's own, options and sizes and all."""
    for number, name in enumerate(("image_z_image", "image_lens_t2i", "flux_schnell", "image_ideogram4_t2i")):
        told = adopted(sample()[name], object_info(), {})
        write(told, f"m{number}", settings, title=name, origin=f"{name}.json")
    catalog = catalog_of(settings)
    assert not catalog.problems
    model = catalog.models["m1"]
    assert (model.defaults.width, model.limits.multiple_of, model.defaults.guidance) == (1448, 8, 5.0)
    assert model.files[0].hub.startswith("Comfy-Org/")


def test_what_the_catalog_cannot_read_is_not_written(settings: Settings) -> None:
    """Nothing is left behind, neither the model nor a draft of it."""
    told = Adopted(graph={"1": {"class_type": "X", "inputs": {"a": "${nobody}"}}}, found={}, keys={})
    with pytest.raises(BadConfig, match="nobody"):
        write(told, "mine", settings, title="mine", origin="mine.json")
    assert list(settings.models_folder.iterdir()) == []


async def test_only_some_backends_can_take_a_workflow() -> None:
    """The others say so."""
    from imagen.backends.mock import registration
    from imagen.engine.adopt import adopt

    with pytest.raises(Unsupported):
        await adopt(registration.create({}), {}, {})
