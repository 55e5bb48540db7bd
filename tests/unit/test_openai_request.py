"""What a client of the OpenAI Images API sends, read as a draft: every field honoured, warned about, or refused."""

from collections.abc import Mapping
from typing import Any

import pytest

from imagen.config import OpenAI, load_settings
from imagen.core.errors import RequestError, UnknownModel
from imagen.core.model import Limits, Model
from imagen.models.catalog import Catalog
from imagen.surfaces.http.openai.request import Asked, read

PLAIN = OpenAI(aliases={"dall-e-3": None, "painter": "oil"}, strict=False, on_disconnect="auto", hold_s=45)
STRICT = OpenAI(aliases={"dall-e-3": None}, strict=True, on_disconnect="keep", hold_s=45)
MODELS = {
    "oil": Model(name="oil", backend="mock", device="cpu", limits=Limits(min=64, max=1024)),
    "sizes": Model(
        name="sizes", backend="mock", device="cpu", limits=Limits(sizes=((512, 512), (768, 512), (512, 768)))
    ),
    "ink": Model(name="ink", backend="mock", device="cpu", limits=Limits(min=64, max=2048)),
}
CATALOG = Catalog(models=MODELS, default="ink")


def asked(settings: OpenAI = PLAIN, public_url: str | None = None, **body: Any) -> Asked:
    return read({"prompt": "a fox", **body}, CATALOG, settings, public_url)


def test_what_is_left_out_is_the_models_own() -> None:
    """One picture of the default model, in its size, with nothing to warn about."""
    told = asked()
    assert told.draft.model is None
    assert (told.draft.width, told.draft.height, told.draft.steps, told.draft.seed) == (None, None, None, None)
    assert told.draft.n == 1
    assert told.draft.preview is None
    assert not told.warnings
    assert (told.stream, told.url, told.output_format, told.on_disconnect) == (False, False, None, "auto")


def test_null_is_as_good_as_nothing() -> None:
    """Some libraries send every field there is."""
    names = ("model", "n", "size", "quality", "style", "user", "stream", "partial_images", "seed", "options", "steps")
    nulls: dict[str, Any] = dict.fromkeys(names)
    assert asked(**nulls) == asked()


@pytest.mark.parametrize(
    ("body", "drafted"),
    [
        ({"negative_prompt": "blue"}, {"negative": "blue"}),
        ({"negative": "blue"}, {"negative": "blue"}),
        ({"steps": 4}, {"steps": 4}),
        ({"num_inference_steps": " 4 "}, {"steps": 4}),
        ({"guidance": 4}, {"guidance": 4}),
        ({"guidance_scale": "4.5"}, {"guidance": 4.5}),
        ({"cfg_scale": 4.5}, {"guidance": 4.5}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": ""}, {"seed": None}),
        ({"n": "2"}, {"n": 2}),
        ({"options": {"slow": 0}}, {"options": {"slow": 0}}),
        ({"size": "auto"}, {"width": None, "height": None}),
        ({"size": "640x384"}, {"width": 640, "height": 384}),
        ({"size": " 640 X 384 "}, {"width": 640, "height": 384}),
        ({"size": "auto", "width": 640, "height": "384"}, {"width": 640, "height": 384}),
        ({"model": "dall-e-3"}, {"model": None}),
        ({"model": "painter"}, {"model": "oil"}),
        ({"model": "oil"}, {"model": "oil"}),
        ({"model": ""}, {"model": None}),
    ],
)
def test_each_spelling_is_understood(body: Mapping[str, Any], drafted: Mapping[str, Any]) -> None:
    """The names and types that clients really send, and none of them is worth a warning."""
    told = asked(**body)
    assert {name: getattr(told.draft, name) for name in drafted} == drafted
    assert not told.warnings


@pytest.mark.parametrize(
    ("model", "size", "fit"),
    [
        ("ink", "2048x2048", None),
        ("ink", "4096x2048", (2048, 1024)),
        ("oil", "1792x1024", (1024, 585)),
        ("oil", "32x48", (64, 96)),
        ("oil", "9000x10", (1024, 64)),
        ("sizes", "1024x1024", (512, 512)),
        ("sizes", "1536x1024", (768, 512)),
        ("sizes", "1024x1792", (512, 768)),
        ("sizes", "768x512", None),
    ],
)
def test_a_size_the_model_has_not_becomes_the_nearest(model: str, size: str, fit: tuple[int, int] | None) -> None:
    """Of the same shape where there is one; and that is said."""
    told = asked(model=model, size=size)
    width, height = map(int, size.split("x"))
    assert (told.draft.width, told.draft.height) == (fit or (width, height))
    assert bool(told.warnings) == (fit is not None)
    assert not fit or f"{fit[0]}x{fit[1]}" in told.warnings[0]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"quality": "high"}, "quality 'high'"),
        ({"style": "vivid"}, "style 'vivid'"),
        ({"background": "transparent"}, "background"),
        ({"moderation": "auto"}, "nothing is moderated"),
        ({"user": "ada"}, "user: it is not kept"),
        ({"safety_identifier": "ada"}, "safety_identifier"),
        ({"output_format": "gif"}, "'gif'"),
        ({"output_compression": 50}, "output_compression"),
        ({"partial_images": 2}, "stream: true"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"model": "oli"}, "did you mean 'oil'"),
        ({"width": 300}, "both, width and height"),
        ({"size": "64x64", "width": 128, "height": 128}, "size 64x64"),
    ],
)
def test_what_cannot_be_honoured_is_said(body: Mapping[str, Any], word: str) -> None:
    """One warning, and the request goes on."""
    (warning,) = asked(**body).warnings
    assert word in warning


def test_nobody_is_named_in_a_warning() -> None:
    """Who the user of a front end is stays there."""
    assert "ada" not in " ".join(asked(user="ada@example.org", safety_identifier="ada").warnings)


@pytest.mark.parametrize(
    "body",
    [
        {"quality": "auto"},
        {"quality": "standard"},
        {"background": "opaque"},
        {"moderation": "low"},
        {"output_format": "webp", "output_compression": 50},
        {"stream": "false"},
        {"never": {"heard": "of"}, "input_fidelity": "high", "svg": {"model": "x"}},
    ],
)
def test_what_is_the_case_anyway_is_no_warning(body: Mapping[str, Any]) -> None:
    """Nor is a field that nobody knows."""
    assert not asked(**body).warnings


def test_partial_images_are_a_promise_of_the_preview_policy() -> None:
    """As many for each picture, in the format of the pictures where that is a small one; 0 asks for none."""
    told = asked(stream=True, partial_images=3, n=2)
    assert told.partial_images == 3
    assert told.draft.preview is not None
    assert (told.draft.preview.count, told.draft.preview.format) == (6, "jpeg")
    webp = asked(stream=True, partial_images="1", output_format="webp").draft.preview
    assert webp is not None
    assert (webp.count, webp.format) == (1, "webp")
    many = asked(stream=True, partial_images=3, n=100).draft.preview
    assert many is not None
    assert many.count == 64
    assert asked(stream=True, partial_images=0).draft.preview is None
    assert asked(partial_images=3).partial_images == 0


def test_an_unknown_name_is_refused_where_the_owner_is_strict() -> None:
    """By the catalog, which says what there is; an alias is still one."""
    with pytest.raises(UnknownModel, match="oli"):
        asked(STRICT, model="oli", size="64x64")
    assert asked(STRICT, model="oli").draft.model == "oli"
    assert asked(STRICT, model="dall-e-3").draft.model is None


def test_an_alias_of_nothing_is_the_owners_mistake_and_says_so() -> None:
    """Not that there is no model of a name which the client never said."""
    settings = OpenAI(aliases={"dall-e-3": "oli"}, strict=False, on_disconnect="auto", hold_s=45)
    with pytest.raises(UnknownModel, match=r"'dall-e-3' stands for 'oli'.*did you mean 'oil'") as refused:
        asked(settings, model="dall-e-3")
    assert "openai: aliases:" in refused.value.hint


def test_a_model_wins_over_an_alias_of_its_name() -> None:
    """Whoever has a model of that name means it."""
    settings = OpenAI(aliases={"oil": "ink"}, strict=False, on_disconnect="auto", hold_s=45)
    assert asked(settings, model="oil").draft.model == "oil"


def test_an_address_needs_one_to_begin_with() -> None:
    """Otherwise it is refused, and says both ways out."""
    assert asked(public_url="https://draw.example", response_format="url").url
    assert not asked(public_url="https://draw.example", response_format="b64_json").url
    with pytest.raises(RequestError, match="does not know") as refused:
        asked(response_format="url")
    assert "b64_json" in refused.value.hint
    assert "public_url" in refused.value.hint


@pytest.mark.parametrize("body", [[], "a fox", None, 3])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    """With an example of one."""
    with pytest.raises(RequestError) as refused:
        read(body, CATALOG, PLAIN, None)
    assert "prompt" in refused.value.hint


def test_settings_come_from_the_file_and_the_environment(tmp_path: Any) -> None:
    """Each kind in each spelling; what is wrong is named, and the default holds."""
    environ = {
        "IMAGEN_OPENAI_STRICT": "true",
        "IMAGEN_OPENAI_ALIASES": "dall-e-3=flux2-klein, gpt-image-1",
        "IMAGEN_OPENAI_ON_DISCONNECT": "keep",
        "IMAGEN_OPENAI_HOLD_S": "9",
    }
    told = load_settings(home=tmp_path, environ=environ).openai
    assert told == OpenAI(
        aliases={"dall-e-3": "flux2-klein", "gpt-image-1": None}, strict=True, on_disconnect="keep", hold_s=9
    )
    (tmp_path / "config.yaml").write_text(
        "openai:\n  strict: yes please\n  aliases: [a]\n  on_disconnect: never\n  hold_s: 0\n  strange: 1\n"
    )
    settings = load_settings(home=tmp_path, environ={})
    assert len(settings.problems) == 5
    assert settings.openai == load_settings(home=tmp_path / "other", environ={}).openai
    assert {"gpt-image-1", "gpt-image-1.5", "gpt-image-2", "dall-e-2", "dall-e-3"} <= set(settings.openai.aliases)
    assert not any(settings.openai.aliases.values())


def test_what_the_door_is_told_is_no_setting_of_a_backend_of_that_name(tmp_path: Any) -> None:
    """IMAGEN_OPENAI_STRICT is about this door, IMAGEN_OPENAI_URL about servers that draw for us."""
    environ = {"IMAGEN_OPENAI_STRICT": "true", "IMAGEN_OPENAI_URL": "http://127.0.0.1:9/v1"}
    settings = load_settings(home=tmp_path, environ=environ)
    assert settings.openai.strict
    assert settings.backend("openai") == {"url": "http://127.0.0.1:9/v1"}
