"""Every workflow of ComfyUI's own collection: taken as it is, with an answer, or refused with the reason."""

from collections import Counter
from collections.abc import Iterable

import pytest
from tests.workflow_kit import object_info, sample, text_to_image

from imagen.backends.base import Adopted
from imagen.backends.comfyui.adopt import adopted
from imagen.core.errors import ImagenError
from imagen.core.template import Template

# What is said of a file that is refused -> how the documentation counts it.
REASONS = {
    "gives no picture": "no picture",
    "asks a paid service": "paid service",
    "starts from a file": "starts from a file",
    "does not have the nodes": "newer or custom nodes",
    "does not know the": "newer choices",
    "draws nothing": "nothing to draw",
}
ANSWERS = {
    "image_longcat_text_to_image": {"guidance": "13:7.cfg"},
    "image_netayume_lumina_t2i": {"negative": "48:35:42.value"},
    "image_newbieimage_exp0_1-t2i": {"prompt": "44.value"},
    "image_omnigen2_t2i": {"guidance": "42:27.cfg_conds"},
    "sdxl_refiner_prompt_example": {"prompt": "6.text,15.text", "steps": "none"},
    "sdxl_simple_example": {"steps": "none"},
    "template_qwen_Image_2512_360_lora": {"prompt": "266.value"},
    "utility_pid_latent_upscale_dit": {"steps": "95:3.steps", "width": "95:13.width"},
}

# Read by hand in the files: which place each slot must be.
BY_HAND = {
    # everything on one sheet, the two ends of the prompt plain
    "flux_schnell": "prompt 6.text; negative 33.text; seed 31.seed; steps 31.steps; cfg 31.cfg; width 27.width; "
    "height 27.height; model 30.ckpt_name; output 9.images",
    # two texts of one encoder, guidance in the encoder, the negative prompt wiped out
    "flux_schnell_full_text_to_image": "prompt 41.clip_l 41.t5xxl; seed 31.seed; steps 31.steps; "
    "guidance 41.guidance; width 27.width; vae 39.vae_name; clip 40.clip_name1; clip_2 40.clip_name2",
    # a subgraph; noise, guider and schedule are nodes of their own; the prompt stands outside
    "image_flux2_klein_text_to_image": "prompt 76.value; negative 75:67.text; seed 75:73.noise_seed; "
    "steps 75:62.steps; cfg 75:63.cfg; width 75:68.value; height 75:69.value; sampler 75:61.sampler_name",
    # a switch over the model and the steps; the size is told to two nodes
    "image_flux2_text_to_image": "prompt 98:6.text; seed 98:25.noise_seed; steps 98:100.value; "
    "guidance 98:26.guidance; width 98:47.width 98:48.width; height 98:47.height 98:48.height; model 98:12.unet_name",
    # a language model writes the prompt out: the text goes through a form, two switches and the model
    "image_ernie_image": "prompt 88:78.value; negative 88:72.text; seed 88:70.seed; steps 88:70.steps; cfg 88:70.cfg",
    # instructions and the user's text are joined; the subgraph shows only the user's
    "image_krea2_turbo_t2i": "prompt 30:19.value; seed 30:3.seed; steps 30:3.steps; cfg 30:3.cfg; "
    "width 30:5.width; height 30:5.height; model 30:10.unet_name",
    # steps and cfg come out of switches
    "image_qwen_Image_2512": "prompt 238:227.text; negative 238:228.text; steps 238:224.value; cfg 238:223.value; "
    "seed 238:230.seed; width 238:232.width; shift 238:222.shift",
    # base and refiner share texts, seed and cfg
    "sdxl_simple_example": "prompt 6.text 15.text; negative 7.text 16.text; seed 10.noise_seed 11.noise_seed; "
    "cfg 10.cfg 11.cfg; width 5.width; model 4.ckpt_name; model_2 12.ckpt_name",
    # one encoder gives both conditionings and the empty latent
    "image_mage_flow_t2i_int8": "prompt 12:5.prompt; negative 12:5.negative_prompt; seed 12:6.seed; "
    "width 12:5.width; height 12:5.height; steps 12:6.steps",
    # what goes in as second and as negative conditioning is what should not be seen
    "image_omnigen2_t2i": "prompt 42:6.text; negative 42:7.text; seed 42:21.noise_seed; steps 42:23.steps",
    # the size is rounded by sums, and told to the model as well
    "image_lens_t2i": "prompt 34:3.text; negative 34:7.text; width 34:8.width 34:21.width; "
    "seed 34:14.noise_seed; steps 34:16.steps; cfg 34:14.cfg",
    # a switch outside chooses prompt and model
    "basic_switch_node": "prompt 68.value; lora 62.lora_name; model 60.unet_name; seed 64:58.seed",
    # a picture on the way to a video
    "txt_to_image_to_video": "prompt 18.text; negative 19.text; seed 17.seed; steps 17.steps; width 22.width; "
    "output 21.images",
}


def _how(name: str) -> str:
    try:
        told = adopted(sample()[name], object_info(), {})
    except ImagenError as error:
        return next(reason for said, reason in REASONS.items() if said in error.message and error.hint)
    return "with --slot" if told.questions else "as it is"


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(map(_how, names)))


def test_the_whole_collection_is_counted() -> None:
    """No file makes trouble, and the documentation has these figures."""
    assert _counted(sample()) == {
        "as it is": 46,
        "with --slot": 8,
        "no picture": 331,
        "paid service": 130,
        "starts from a file": 80,
        "newer or custom nodes": 42,
        "newer choices": 6,
        "nothing to draw": 1,
    }


def test_most_text_to_image_workflows_are_taken_as_they_are() -> None:
    """Of what is tagged as text to image for open models; this too stands in the documentation."""
    assert _counted(text_to_image()) == {
        "as it is": 43,
        "with --slot": 7,
        "starts from a file": 9,
        "newer or custom nodes": 4,
        "newer choices": 6,
    }


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_an_answer_settles_what_was_asked(name: str) -> None:
    """Every question has an answer, and then there is none left."""
    asked = adopted(sample()[name], object_info(), {})
    told = adopted(sample()[name], object_info(), ANSWERS[name])
    assert {question.slot for question in asked.questions} == set(ANSWERS[name])
    assert not told.questions
    _complete(told)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_slots_are_where_a_person_finds_them(name: str) -> None:
    """Thirteen workflows of different build, read by hand."""
    told = adopted(sample()[name], object_info(), {})
    for line in BY_HAND[name].split("; "):
        slot, *places = line.split()
        assert [place.name for place in told.found[slot]] == places, slot
        if slot != "output":
            for place in told.found[slot]:
                assert told.graph[place.node]["inputs"][place.input] == f"${{{slot}}}"


def test_what_is_taken_is_complete() -> None:
    """Prompt, seed and size can be asked for, every slot has a value, and every link leads somewhere."""
    for name in filter(lambda name: _how(name) == "as it is", text_to_image()):
        told = adopted(sample()[name], object_info(), {})
        assert {"prompt", "seed", "width", "height"} <= set(told.found), name
        _complete(told)


def _complete(told: Adopted) -> None:
    slots = Template(told.graph).slots
    request = {"prompt", "negative", "seed", "steps", "cfg", "guidance", "width", "height", "filename_prefix"}
    assert slots - request <= {*told.keys, *told.keys.get("options", {})}
    assert slots >= {slot for slot in told.found if slot != "output"}
    for node in told.graph.values():
        for value in node["inputs"].values():
            assert not (isinstance(value, list) and value[0] not in told.graph)
