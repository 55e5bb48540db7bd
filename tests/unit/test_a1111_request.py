"""What clients of the A1111 API send, read as a draft: brought to what the model draws, and never refused for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen.config import Limits as ServerLimits
from imagen.config import load_settings
from imagen.core.errors import ImagenError, RequestError
from imagen.core.model import Defaults, Limits, Model, ModelFile, Option
from imagen.core.request import MAX_SEED, PreviewPolicy
from imagen.models.catalog import Catalog
from imagen.surfaces.http.a1111.lists import checkpoints, memory, options, samplers, schedulers
from imagen.surfaces.http.a1111.request import SAMPLERS, Asked, checkpoint_of, read

MODELS = {
    "ink": Model(
        name="ink",
        backend="mock",
        device="cpu",
        title="India ink",
        limits=Limits(min=64, max=1024, multiple_of=16, steps=(2, 50)),
        defaults=Defaults(width=640, height=512, steps=8, guidance=3.0),
        files=(ModelFile(path="ink.safetensors", sha256="ab" * 32),),
    ),
    "turbo": Model(name="turbo", backend="mock", device="cpu", ignores=("negative", "guidance")),
    "sizes": Model(
        name="sizes",
        backend="mock",
        device="cpu",
        limits=Limits(sizes=((512, 512), (768, 512))),
        defaults=Defaults(width=512, height=512),
    ),
    "choosy": Model(
        name="choosy",
        backend="mock",
        device="cpu",
        options={
            "sampler": Option(choices=("euler", "dpmpp_2m", "odd_one"), default="dpmpp_2m"),
            "scheduler": Option(choices=("simple", "karras"), default="simple"),
        },
    ),
    "off": Model(name="off", backend="mock", device="cpu", enabled=False),
}
ALIASES = {"dall-e-3": None, "painter": "turbo"}
CATALOG = Catalog(models=MODELS, default="ink")


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> ServerLimits:
    return load_settings(home=tmp_path_factory.mktemp("home"), environ={"IMAGEN_LIMITS_STEPS": "40"}).limits


@pytest.fixture
def asked(limits: ServerLimits) -> Any:
    def asked(checkpoint: str | None = None, **body: Any) -> Asked:
        return read({"prompt": "a fox", **body}, CATALOG, limits, checkpoint=checkpoint, aliases=ALIASES)

    return asked


def test_what_is_left_out_is_the_models_own(asked: Any) -> None:
    """One picture of the default model in its own size, with nothing to note."""
    told = asked()
    draft = told.draft
    assert (draft.model, draft.width, draft.height, draft.steps) == ("ink", None, None, None)
    assert (draft.seed, draft.guidance, draft.negative, draft.n, draft.preview) == (None, None, None, 1, None)
    assert (told.notes, told.send_images, told.task) == ((), True, None)


def test_null_is_as_good_as_nothing(asked: Any) -> None:
    """These clients send null for what they leave open."""
    names = (
        "seed",
        "steps",
        "width",
        "height",
        "cfg_scale",
        "negative_prompt",
        "override_settings",
        "styles",
        "n_iter",
    )
    assert asked(**dict.fromkeys(names)) == asked()


@pytest.mark.parametrize(
    ("body", "drafted"),
    [
        ({"seed": -1}, {"seed": None}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": "7"}, {"seed": 7}),
        ({"seed": MAX_SEED}, {"seed": None}),
        ({"steps": 4}, {"steps": 4}),
        ({"cfg_scale": 4.5}, {"guidance": 4.5}),
        ({"cfg_scale": 0}, {"guidance": 0}),
        ({"negative_prompt": "blue"}, {"negative": "blue"}),
        ({"negative_prompt": ""}, {"negative": None}),
        ({"batch_size": 2, "n_iter": 3}, {"n": 6}),
        ({"batch_size": 0, "n_iter": 0}, {"n": 1}),
        ({"width": 640, "height": 768}, {"width": 640, "height": 768}),
        ({"width": 0, "height": 0}, {"width": None, "height": None}),
        ({"override_settings": {"show_progress_every_n_steps": 3}}, {"preview": PreviewPolicy(stride=3)}),
        ({"override_settings": {"show_progress_every_n_steps": -1}}, {"preview": None}),
        ({"override_settings": {"live_previews_enable": False}}, {"preview": PreviewPolicy(method="off")}),
        ({"sampler_index": 0, "scheduler": "Karras", "eta": 1, "s_noise": 1, "hr_scale": 2}, {"options": {}}),
    ],
)
def test_fields_are_taken_over(asked: Any, body: dict[str, Any], drafted: dict[str, Any]) -> None:
    """Each under its name, without a note."""
    told = asked(**body)
    assert {name: getattr(told.draft, name) for name in drafted} == drafted
    assert not told.notes


@pytest.mark.parametrize(
    ("checkpoint", "body", "drafted", "note"),
    [
        ("ink", {"steps": 150}, {"steps": 40}, "steps 150 became 40"),
        ("ink", {"steps": 1}, {"steps": 2}, "steps 1 became 2"),
        ("ink", {"width": 4096, "height": 2048}, {"width": 1024, "height": 512}, "4096x2048 became 1024x512"),
        ("ink", {"width": 512, "height": 8}, {"width": 1024, "height": 64}, "became 1024x64"),
        ("sizes", {"width": 832, "height": 576}, {"width": 768, "height": 512}, "832x576 became 768x512"),
        ("sizes", {"width": 768}, {"width": 768, "height": 512}, None),
        ("ink", {"cfg_scale": 400}, {"guidance": 100}, "cfg_scale 400 became 100"),
        ("ink", {"cfg_scale": -1}, {"guidance": 0}, "cfg_scale -1 became 0"),
        ("turbo", {"cfg_scale": 7}, {"guidance": None}, "turbo has no guidance"),
        ("turbo", {"negative_prompt": "blue"}, {"negative": None}, "turbo takes none"),
    ],
)
def test_what_the_model_cannot_becomes_what_it_can(
    asked: Any, checkpoint: str, body: dict[str, Any], drafted: dict[str, Any], note: str | None
) -> None:
    """The nearest, with a note, and never a refusal."""
    told = asked(checkpoint, **body)
    assert {name: getattr(told.draft, name) for name in drafted} == drafted
    assert any(note in one for one in told.notes) if note else not told.notes


@pytest.mark.parametrize(
    ("checkpoint", "limit", "asked", "fit"),
    [
        ("ink", {"SIDE": "512"}, (1024, 512), (512, 256)),
        ("ink", {"SIDE": "512"}, (512, 512), (512, 512)),
        ("ink", {"PIXELS": "262144"}, (1024, 1024), (512, 512)),
        ("ink", {"PIXELS": "200000"}, (1024, 512), (624, 304)),
        ("ink", {"PIXELS": "100", "SIDE": "1024"}, (1024, 512), (64, 64)),
        ("sizes", {"SIDE": "600"}, (768, 512), (512, 512)),
        ("sizes", {"PIXELS": "300000"}, (768, 512), (512, 512)),
        ("sizes", {"SIDE": "100"}, (768, 512), (768, 512)),
    ],
)
def test_a_size_is_brought_within_the_limits_of_the_server(
    tmp_path: Path, checkpoint: str, limit: dict[str, str], asked: tuple[int, int], fit: tuple[int, int]
) -> None:
    """Some clients have one size for everybody; a limit that no size of the model keeps refuses it later."""
    environ = {f"IMAGEN_LIMITS_{name}": value for name, value in limit.items()}
    limits = load_settings(home=tmp_path, environ=environ).limits
    body = {"prompt": "a fox", "width": asked[0], "height": asked[1]}
    draft = read(body, CATALOG, limits, checkpoint=checkpoint).draft
    assert (draft.width, draft.height) == fit


def test_a_guess_at_the_model_is_noted(limits: ServerLimits) -> None:
    """Where nothing is configured, the answer says what drew."""
    catalog = Catalog(models=MODELS, default="ink", default_warning="no model is configured")
    assert read({"prompt": "a fox"}, catalog, limits).notes == ("no model is configured",)
    assert not read({"prompt": "a fox"}, catalog, limits, checkpoint="ink").notes


@pytest.mark.parametrize(
    "body",
    [
        {"enable_hr": True},
        {"restore_faces": True},
        {"tiling": True},
        {"styles": ["oil"]},
        {"script_name": "x/y/z plot"},
        {"alwayson_scripts": {"ControlNet": {"args": []}}},
        {"refiner_checkpoint": "sdxl"},
        {"subseed_strength": 0.5},
    ],
)
def test_what_has_no_counterpart_is_noted(asked: Any, body: dict[str, Any]) -> None:
    """The picture is drawn without it, and the answer says so."""
    told = asked(**body)
    assert [note.partition(":")[0] for note in told.notes] == list(body)
    assert told.draft == asked().draft


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("Euler", "euler"),
        ("euler", "euler"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("DPM++ 2M Karras", "dpmpp_2m"),
        ("dpm++2m", "dpmpp_2m"),
        ("k_dpmpp_2m", "dpmpp_2m"),
        ("Odd One", "odd_one"),
        ("odd_one", "odd_one"),
    ],
)
def test_a_sampler_goes_to_a_model_that_has_such_an_option(asked: Any, name: str, choice: str) -> None:
    """By its name there, by ours, and by the older names with the schedule at the end."""
    assert asked("choosy", sampler_name=name).draft.options == {"sampler": choice}
    assert asked("choosy", sampler_name="", sampler_index=name).draft.options == {"sampler": choice}
    assert asked("ink", sampler_name=name).draft.options == {}
    assert not asked("ink", sampler_name=name).notes


def test_a_sampler_that_the_model_has_not_is_left_to_the_model(asked: Any) -> None:
    """Clients send one that was chosen for another model."""
    told = asked("choosy", sampler_name="Euler a", scheduler="Automatic")
    assert told.draft.options == {}
    assert "euler, dpmpp_2m, odd_one" in told.notes[0]
    assert asked("choosy", scheduler="Karras").draft.options == {"scheduler": "karras"}


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a fox <lora:fur:0.8>", "a fox"),
        ("<lora:fur:1>, a fox, <hypernet:x:1>, red", "a fox, red"),
        ("a (fox:1.2) [in] {snow}", "a (fox:1.2) [in] {snow}"),
        ("a fox , red", "a fox , red"),
    ],
)
def test_networks_are_no_words_of_the_prompt(asked: Any, prompt: str, plain: str) -> None:
    """That program takes them out as well; everything else is text."""
    told = asked(prompt=prompt)
    assert told.draft.prompt == plain
    assert bool(told.notes) == (prompt != plain)


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("ink", "ink"),
        ("INK", "ink"),
        ("India ink", "ink"),
        ("ink [0123abcdef]", "ink"),
        ("models/ink.safetensors", "ink"),
        ("folder\\ink.safetensors [0123abcdef]", "ink"),
        ("off", None),
        ("", None),
        ("[0123abcdef]", None),
        ("inky", None),
    ],
)
def test_a_checkpoint_is_found_by_any_of_its_names(name: str, means: str | None) -> None:
    """With and without the hash, the ending and the folder that clients write."""
    assert checkpoint_of(name, CATALOG) == means


def test_the_checkpoint_of_a_request_comes_before_the_callers(asked: Any) -> None:
    """One that is not there leaves the caller's, and one that has gone the default, each with a note."""
    override = {"override_settings": {"sd_model_checkpoint": "turbo"}}
    assert asked("sizes").draft.model == "sizes"
    assert asked("sizes", **override).draft.model == "turbo"
    assert asked("sizes", model="turbo").draft.model == "turbo"
    assert asked("sizes", model="gpt-image-1").draft.model == "sizes"
    assert asked("sizes", model="dall-e-3").draft.model == "ink"
    assert asked("sizes", model="painter").draft.model == "turbo"
    told = asked("sizes", override_settings={"sd_model_checkpoint": "sd15"})
    assert told.draft.model == "sizes"
    assert "'sd15'" in told.notes[0]
    gone = asked("gone")
    assert gone.draft.model == "ink"
    assert "no longer there" in gone.notes[0]


def test_the_echo_holds_no_password(asked: Any) -> None:
    """One front end passes its page's own settings through, with address and password for this server."""
    told = asked(auth="user:secret", url="http://10.0.0.1:7860", steps=9, unheard_of={"a": [1]})
    assert "secret" not in json.dumps(told.echo)
    assert "url" not in told.echo
    assert told.echo["unheard_of"] == {"a": [1]}
    assert (told.echo["steps"], told.echo["width"], told.echo["seed"]) == (9, 640, -1)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"steps": "many"}, "steps"),
        ({"prompt": 7}, "prompt"),
        ({"override_settings": [1]}, "override_settings"),
        ({"width": True}, "width"),
        ({"prompt": " "}, "prompt"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(asked: Any, body: dict[str, Any], param: str) -> None:
    """As that program refuses it."""
    with pytest.raises(RequestError) as refused:
        asked(**body)
    assert refused.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e300, 1e300) | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=10), inside, max_size=3),
    max_leaves=5,
)
NAMES = (
    *("prompt", "negative_prompt", "steps", "cfg_scale", "width", "height", "seed", "batch_size", "n_iter", "model"),
    *("sampler_name", "sampler_index", "scheduler", "send_images", "force_task_id", "override_settings", "styles"),
    *("alwayson_scripts", "enable_hr", "subseed_strength", "clip_skip"),
)
WISHES = ("sd_model_checkpoint", "show_progress_every_n_steps", "live_previews_enable")


@given(
    body=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6),
    wishes=st.dictionaries(st.sampled_from(WISHES), JSON, max_size=3),
    checkpoint=st.sampled_from([None, *MODELS]),
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_a_draft_or_a_refusal(
    limits: ServerLimits, body: dict[str, Any], wishes: dict[str, Any], checkpoint: str | None
) -> None:
    """Nothing else comes out of any JSON, and what is drafted can be drawn."""
    sent = {"prompt": "a fox", "override_settings": wishes} | body
    try:
        told = read(sent, CATALOG, limits, checkpoint=checkpoint, aliases=ALIASES)
    except ImagenError:
        return
    assert CATALOG.resolve(told.draft, lambda: 7).request.model == told.model.name
    json.dumps(told.echo)


def test_only_an_object_is_a_request(limits: ServerLimits) -> None:
    """A list is none."""
    with pytest.raises(RequestError):
        read(["a fox"], CATALOG, limits)


def test_every_model_that_can_be_asked_for_is_a_checkpoint() -> None:
    """The default first; what a client sends back of it finds it again; nothing tells where files lie."""
    told = checkpoints(CATALOG)
    assert [one["title"] for one in told] == ["ink", "turbo", "sizes", "choosy"]
    assert all(checkpoint_of(one["title"], CATALOG) == one["model_name"] for one in told)
    assert told[0].keys() == {"title", "model_name", "hash", "sha256", "filename", "config"}
    assert told[0]["sha256"] == "ab" * 32
    assert "safetensors" not in json.dumps(told)


def test_samplers_are_those_of_the_model() -> None:
    """Its default first, by the names that clients know; each is understood again, and there is always one."""
    names = [one["name"] for one in samplers(MODELS["choosy"])]
    assert names == ["DPM++ 2M", "Euler", "odd_one"]
    assert [SAMPLERS.get(name, name) for name in names] == ["dpmpp_2m", "euler", "odd_one"]
    assert [one["label"] for one in schedulers(MODELS["choosy"])] == ["Simple", "Karras"]
    assert [one["name"] for one in samplers(MODELS["ink"])] == ["Automatic"]
    assert [one["name"] for one in schedulers(MODELS["ink"])] == ["automatic"]


def test_the_menu_of_samplers_is_understood(asked: Any) -> None:
    """Whatever a client picks from it arrives."""
    for one in samplers(MODELS["choosy"]):
        assert asked("choosy", sampler_name=one["name"]).draft.options == {"sampler": one["aliases"][0]}
    for one in schedulers(MODELS["choosy"]):
        assert asked("choosy", scheduler=one["name"]).draft.options == {"scheduler": one["name"]}
    for name in ("Automatic", "automatic"):
        assert asked("choosy", sampler_name=name, scheduler=name).draft.options == {}


def test_the_options_are_not_those_of_forge() -> None:
    """A client that finds one of Forge's there sends other fields."""
    told = options(MODELS["ink"])
    assert told["sd_model_checkpoint"] == "ink"
    assert told["samples_format"] == "png"
    assert not [name for name in told if name.startswith("forge")]


def test_memory_is_that_of_this_machine() -> None:
    """What is used and what is free are all of it."""
    ram = memory()["ram"]
    assert 10 * 2**20 < ram["used"] < ram["total"]
    assert ram["used"] + ram["free"] == ram["total"]
