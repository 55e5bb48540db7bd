"""What each pipeline is called with, read off the signatures of the real classes."""

import inspect
from typing import Any

import diffusers
import pytest

from imagen.backends.diffusers.calling import arguments, guidance_name
from imagen.core.errors import BadConfig
from imagen.core.model import Model, Option
from imagen.core.request import Request

PIPELINES = {
    "flux": diffusers.FluxPipeline,
    "klein": diffusers.Flux2KleinPipeline,
    "sd3": diffusers.StableDiffusion3Pipeline,
    "z-image": diffusers.ZImagePipeline,
    "qwen": diffusers.QwenImagePipeline,
}


def model(**keys: Any) -> Model:
    return Model(
        name="mine",
        backend="diffusers",
        device="cpu@here",
        keys={"arguments": {}, **keys},
        options={"lora": Option(), "max_sequence_length": Option(type="int")},
    )


def told(family: str, *, keys: dict[str, Any] | None = None, **fields: Any) -> tuple[dict[str, Any], list[str]]:
    request = Request(
        **{
            "prompt": "a fox",
            "model": "mine",
            "width": 64,
            "height": 32,
            "steps": 5,
            "seed": 1,
            "guidance": 4.0,
            **fields,
        }
    )
    given, notices = arguments(PIPELINES[family].__call__, request, model(**(keys or {})), ["one", "two"])
    return given, [notice.message for notice in notices]


@pytest.mark.parametrize("family", PIPELINES)
def test_every_argument_is_one_that_the_pipeline_takes(family: str) -> None:
    """By name, because the first of some is not the prompt; with a list of generators, one for each picture."""
    given, _ = told(family, negative="grey")
    assert set(given) <= set(inspect.signature(PIPELINES[family].__call__).parameters)
    assert given["prompt"] == "a fox"
    assert (given["width"], given["height"], given["num_inference_steps"]) == (64, 32, 5)
    assert (given["generator"], given["num_images_per_prompt"]) == (["one", "two"], 2)


def test_guidance_goes_where_it_has_an_effect() -> None:
    """Qwen-Image's guidance_scale is for models that do not exist yet."""
    names = {family: guidance_name(inspect.signature(kind.__call__).parameters) for family, kind in PIPELINES.items()}
    assert names.pop("qwen") == "true_cfg_scale"
    assert set(names.values()) == {"guidance_scale"}


def test_qwen_is_guided_without_a_negative_prompt_too() -> None:
    """It is only where there is one, so it gets a blank; without guidance it gets none."""
    assert told("qwen")[0]["negative_prompt"] == " "
    assert told("qwen", negative="grey")[0]["negative_prompt"] == "grey"
    assert "negative_prompt" not in told("qwen", guidance=1.0)[0]


@pytest.mark.parametrize(("family", "reads"), [("sd3", True), ("z-image", True), ("flux", False), ("klein", False)])
def test_a_negative_prompt_that_nobody_reads_is_said(family: str, reads: bool) -> None:
    """FLUX.1 reads one only with a second kind of guidance, which is off."""
    given, notices = told(family, negative="grey")
    assert ("negative_prompt" in given) == reads
    assert bool(notices) != reads


def test_options_and_the_models_own_arguments_are_passed_on() -> None:
    """The model's file over the request, and what is for loading is left out."""
    options = {"max_sequence_length": 128, "lora": "x", "lora_scale": 1.0}
    assert told("flux", options=options)[0]["max_sequence_length"] == 128
    given, _ = told("flux", options=options, keys={"arguments": {"max_sequence_length": 256}})
    assert given["max_sequence_length"] == 256
    assert "lora" not in given


@pytest.mark.parametrize("name", ["prompt", "width", "guidance", "no_such"])
def test_an_argument_that_is_ours_or_unknown_is_refused(name: str) -> None:
    """With those there are."""
    with pytest.raises(BadConfig, match=name) as caught:
        told("flux", keys={"arguments": {name: 1}})
    assert "max_sequence_length" in caught.value.hint
