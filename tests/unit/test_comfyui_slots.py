"""What a request can fill in a graph is found by following it, and what is not certain is asked."""

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.workflow_kit import object_info

from imagen.backends.base import Adopted
from imagen.backends.comfyui.adopt import adopted
from imagen.backends.comfyui.weights import hub_of, spelled
from imagen.core.errors import ImagenError, RequestError, Unsupported
from imagen.core.template import Template
from imagen.engine.wiring import catalog_of


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def plain(**changed: Any) -> dict[str, Any]:
    """The graph that everybody begins with; a node that is None is left out."""
    graph = {
        "4": node("CheckpointLoaderSimple", ckpt_name="sd.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a fox", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "3": sampler(seed=7),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }
    return {name: item for name, item in {**graph, **changed}.items() if item is not None}


def sampler(**changed: Any) -> dict[str, Any]:
    inputs = {
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
        "seed": 1,
        "steps": 20,
        "cfg": 7.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    return node("KSampler", **{**inputs, **changed})


def adopt(document: Any, **answers: str) -> Adopted:
    return adopted(document, object_info(), answers)


def where(told: Adopted, slot: str) -> list[str]:
    return [place.name for place in told.found.get(slot, ())]


def asked(told: Adopted, slot: str) -> list[str]:
    """The candidates of the question about a slot."""
    return next([place.name for place in q.candidates] for q in told.questions if q.slot == slot)


def test_the_usual_graph_is_understood() -> None:
    """Everything that a request can say, and what the model says itself."""
    told = adopt(plain())
    assert not told.questions
    assert {slot: where(told, slot) for slot in told.found} == {
        "prompt": ["6.text"],
        "negative": ["7.text"],
        "seed": ["3.seed"],
        "steps": ["3.steps"],
        "cfg": ["3.cfg"],
        "width": ["5.width"],
        "height": ["5.height"],
        "sampler": ["3.sampler_name"],
        "scheduler": ["3.scheduler"],
        "model": ["4.ckpt_name"],
        "output": ["9.images"],
    }
    assert told.keys["defaults"] == {"width": 512, "height": 768, "steps": 20, "guidance": 7.0, "negative": "blurry"}
    assert told.keys["limits"] == {"multiple_of": 8}
    assert told.keys["model"] == "sd.safetensors"
    assert told.keys["files"] == [{"path": "sd.safetensors", "folder": "checkpoints"}]
    assert told.keys["options"]["sampler"]["default"] == "euler"
    assert told.graph["9"]["inputs"]["filename_prefix"] == "${filename_prefix}"


BUNDLED = (
    "flux1-schnell",
    "flux2-klein",
    "flux2-klein-base",
    "hidream-o1",
    "qwen-image",
    "sd35-medium",
    "z-image-turbo",
)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_workflows_are_found_again(name: str, bundled: Any) -> None:
    """Each was made a template by hand; filled with values, the same slots are found in the same places."""
    model = bundled[name]
    values = {
        "prompt": "a fox",
        "negative": "bad",
        "seed": 5,
        "steps": 20,
        "width": 1024,
        "height": 512,
        "cfg": model.defaults.guidance,
        "filename_prefix": "x",
        **{option: item.default for option, item in model.options.items()},
        **{key: value for key, value in model.keys.items() if value is not None},
    }
    told = adopt(Template(model.graph).fill(values))
    assert not told.questions
    files = {file.path: key for key, file in _files(model)}
    for id_, item in model.graph.items():
        for key, value in item["inputs"].items():
            slot = value[2:-1] if isinstance(value, str) and value.startswith("${") else None
            found = told.graph[id_]["inputs"][key]
            if slot in files.values() or slot in ("noise_scale", "dtype"):
                assert slot == "noise_scale" or found.startswith("${")
            else:
                assert found == (value if slot else item["inputs"][key]), f"{id_}.{key}"


def _files(model: Any) -> list[tuple[str, Any]]:
    return [(key, file) for file in model.files for key, value in model.keys.items() if value == file.path]


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from imagen.config import load_settings

    return catalog_of(load_settings(home=tmp_path_factory.mktemp("home"), environ={})).models


def test_a_linked_value_is_filled_where_it_stands() -> None:
    """Primitives are followed, however many."""
    told = adopt(
        plain(
            **{
                "3": sampler(seed=["20", 0]),
                "6": node("CLIPTextEncode", text=["21", 0], clip=["4", 1]),
                "20": node("PrimitiveInt", value=["22", 0]),
                "21": node("PrimitiveStringMultiline", value="a fox"),
                "22": node("PrimitiveInt", value=9),
            }
        )
    )
    assert where(told, "seed") == ["22.value"]
    assert where(told, "prompt") == ["21.value"]


def test_one_number_for_both_sides_becomes_two() -> None:
    """A square workflow can draw oblongs too."""
    latent = node("EmptyLatentImage", width=["20", 0], height=["20", 0], batch_size=1)
    told = adopt(plain(**{"5": latent, "20": node("PrimitiveInt", value=640)}))
    assert (where(told, "width"), where(told, "height")) == (["5.width"], ["5.height"])
    assert told.graph["5"]["inputs"] == {"width": "${width}", "height": "${height}", "batch_size": 1}
    assert told.keys["defaults"]["height"] == 640


def test_a_computed_size_is_taken_over() -> None:
    """The request says it; what it comes to now is the default."""
    told = adopt(
        plain(
            **{
                "5": node("EmptyLatentImage", width=["20", 0], height=["20", 1], batch_size=1),
                "20": node("ResolutionSelector", aspect_ratio="16:9 (Widescreen)", megapixels=1.0, multiple=8),
            }
        )
    )
    assert told.keys["defaults"] | {"width": 1368, "height": 768} == told.keys["defaults"]
    assert "20" not in told.graph
    assert any("no longer needed" in note for note in told.notes)


def test_the_size_is_told_to_every_node_that_was_told_it() -> None:
    """A schedule or a model that is tuned to the size stays in tune."""
    told = adopt(
        plain(
            **{
                "3": sampler(model=["20", 0]),
                "20": node("ModelSamplingFlux", model=["4", 0], max_shift=1.1, base_shift=0.5, width=512, height=768),
            }
        )
    )
    assert where(told, "width") == ["5.width", "20.width"]


def two_passes(**changed: Any) -> dict[str, Any]:
    again = sampler(latent_image=["10", 0], seed=2, steps=14, denoise=0.5)
    second = {
        "10": node("LatentUpscaleBy", samples=["3", 0], upscale_method="bilinear", scale_by=1.5),
        "11": again,
        "8": node("VAEDecode", samples=["11", 0], vae=["4", 2]),
    }
    return plain(**second | changed)


def test_several_samplers_share_the_seed_and_ask_for_the_steps() -> None:
    """Which of two numbers of steps is meant nobody can know; the same cfg is one."""
    told = adopt(two_passes())
    assert where(told, "seed") == ["3.seed", "11.seed"]
    assert where(told, "cfg") == ["3.cfg", "11.cfg"]
    assert asked(told, "steps") == ["3.steps", "11.steps"]
    assert where(told, "prompt") == ["6.text"]
    assert where(adopt(two_passes(), steps="3.steps"), "steps") == ["3.steps"]
    assert "steps" not in adopt(two_passes(), steps="none").found


def test_the_same_number_of_steps_everywhere_is_one_setting() -> None:
    """Unless a sampler begins or ends in the middle."""
    again = sampler(latent_image=["10", 0], seed=2, steps=20, denoise=0.5)
    assert where(adopt(two_passes(**{"11": again})), "steps") == ["3.steps", "11.steps"]


def test_two_sizes_are_a_question_and_the_height_goes_along() -> None:
    """Only the author knows whether the small or the large one is meant."""
    larger = {"samples": ["3", 0], "upscale_method": "bilinear", "width": 1024, "height": 1536, "crop": "disabled"}
    graph = two_passes(**{"10": node("LatentUpscale", **larger)})
    assert asked(adopt(graph, steps="none"), "width") == ["10.width", "5.width"]
    told = adopt(graph, steps="none", width="5.width")
    assert not told.questions
    assert (where(told, "width"), where(told, "height")) == (["5.width"], ["5.height"])
    fixed = adopt(graph, steps="none", width="none")
    assert fixed.keys["limits"] == {"sizes": [[1024, 1536]]}


def test_two_texts_that_differ_are_a_question() -> None:
    """Both may be given; the rest stays as it is."""
    graph = plain(
        **{
            "20": node("CLIPTextEncode", text="in a forest", clip=["4", 1]),
            "21": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["20", 0]),
            "3": sampler(positive=["21", 0]),
        }
    )
    assert asked(adopt(graph), "prompt") == ["6.text", "20.text"]
    told = adopt(graph, prompt="6.text")
    assert (where(told, "prompt"), told.graph["20"]["inputs"]["text"]) == (["6.text"], "in a forest")
    assert where(adopt(graph, prompt="6.text, 20.text"), "prompt") == ["6.text", "20.text"]
    graph["20"]["inputs"]["text"] = "a fox"
    assert where(adopt(graph), "prompt") == ["6.text", "20.text"]


def test_a_text_that_is_put_together_is_a_question() -> None:
    """A prompt and what is added to it look alike."""
    graph = plain(
        **{
            "6": node("CLIPTextEncode", text=["20", 0], clip=["4", 1]),
            "20": node("StringConcatenate", string_a=["21", 0], string_b="best quality", delimiter=", "),
            "21": node("PrimitiveStringMultiline", value="a fox"),
        }
    )
    assert asked(adopt(graph), "prompt") == ["21.value", "20.string_b"]


def test_a_form_is_not_the_text_that_is_put_into_it() -> None:
    """What stands in its gap is."""
    graph = plain(
        **{
            "6": node("CLIPTextEncode", text=["20", 0], clip=["4", 1]),
            "20": node("StringReplace", string="You are an artist. Draw {it}.", find="{it}", replace=["21", 0]),
            "21": node("PrimitiveStringMultiline", value="a fox"),
        }
    )
    assert where(adopt(graph), "prompt") == ["21.value"]


@pytest.mark.parametrize("made", ["ConditioningZeroOut", "the prompt again"])
def test_without_a_text_of_its_own_there_is_no_negative_prompt(made: str) -> None:
    """Wiped out, or the same as the prompt."""
    zero = node("ConditioningZeroOut", conditioning=["6", 0])
    link = ["7", 0] if made == "ConditioningZeroOut" else ["6", 0]
    told = adopt(plain(**{"7": zero, "3": sampler(negative=link)}))
    assert "negative" not in told.found
    assert where(told, "prompt") == ["6.text"]


def test_conditioning_is_followed_through_nodes_with_both_ends() -> None:
    """What goes in as positive comes out as positive."""
    told = adopt(
        plain(
            **{
                "20": node(
                    "ControlNetApplyAdvanced",
                    **{"positive": ["6", 0], "negative": ["7", 0], "control_net": ["21", 0], "image": ["22", 0]},
                    **{"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
                ),
                "21": node("ControlNetLoader", control_net_name="canny.safetensors"),
                "22": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
                "3": sampler(positive=["20", 0], negative=["20", 1]),
            }
        )
    )
    assert (where(told, "prompt"), where(told, "negative")) == (["6.text"], ["7.text"])
    assert where(told, "controlnet") == ["21.control_net_name"]


def test_guidance_of_a_distilled_model_is_what_the_encoder_is_told() -> None:
    """At cfg 1 there is none; with both the file does not say which one is meant."""
    flux = node("FluxGuidance", conditioning=["6", 0], guidance=3.5)
    told = adopt(plain(**{"20": flux, "3": sampler(positive=["20", 0], cfg=1.0)}))
    assert (where(told, "guidance"), where(told, "cfg")) == (["20.guidance"], [])
    assert told.keys["defaults"]["guidance"] == 3.5
    both = plain(**{"20": flux, "3": sampler(positive=["20", 0], cfg=4.0)})
    assert asked(adopt(both), "guidance") == ["3.cfg", "20.guidance"]
    assert where(adopt(both, guidance="20.guidance"), "guidance") == ["20.guidance"]


def test_a_switch_is_set_and_what_is_off_goes() -> None:
    """The note says how it stands."""
    told = adopt(
        plain(
            **{
                "3": sampler(model=["20", 0]),
                "20": node("ComfySwitchNode", switch=["21", 0], on_false=["4", 0], on_true=["22", 0]),
                "21": node("PrimitiveBoolean", value=False),
                "22": node("LoraLoaderModelOnly", model=["4", 0], lora_name="l.safetensors", strength_model=1.0),
            }
        )
    )
    assert "lora" not in told.found
    assert told.graph["3"]["inputs"]["model"] == ["4", 0]
    assert any("stays off" in note for note in told.notes)


def test_several_pictures_are_a_question() -> None:
    """A saved one goes before one that is only shown, and the same picture twice is one."""
    other = {"20": node("VAEDecode", samples=["5", 0], vae=["4", 2]), "10": node("PreviewImage", images=["8", 0])}
    assert where(adopt(plain(**other)), "output") == ["9.images"]
    second = sampler(seed=2)
    graph = plain(
        **{
            "30": second,
            "31": node("VAEDecode", samples=["30", 0], vae=["4", 2]),
            "32": node("SaveImage", images=["31", 0], filename_prefix="y"),
        }
    )
    assert asked(adopt(graph), "output") == ["9.images", "32.images"]
    told = adopt(graph, output="32.images")
    assert (where(told, "seed"), not told.questions, "3" in told.graph) == (["30.seed"], True, False)


def test_whatever_shows_the_picture_becomes_a_plain_saver() -> None:
    """The end is one that every server has; several at once become one at a time."""
    told = adopt(
        plain(
            **{
                "9": node("PreviewImage", images=["8", 0]),
                "5": node("EmptyLatentImage", width=512, height=512, batch_size=4),
            }
        )
    )
    assert told.graph["9"]["class_type"] == "SaveImage"
    assert told.graph["5"]["inputs"]["batch_size"] == 1


def test_any_other_value_can_be_made_a_setting() -> None:
    """With its bounds, as the server has them."""
    told = adopt(plain(), denoise="3.denoise")
    assert told.keys["options"]["denoise"] == {"type": "float", "range": [0.0, 1.0], "default": 1.0}
    assert told.graph["3"]["inputs"]["denoise"] == "${denoise}"


def test_files_are_spelled_as_the_server_has_them() -> None:
    """The folder above a file is nobody's business but the server's."""
    assert spelled("SDXL\\a.safetensors", ["a.safetensors", "b.safetensors"]) == "a.safetensors"
    assert spelled("a.safetensors", ["x/a.safetensors", "y/a.safetensors"]) == "a.safetensors"


@pytest.mark.parametrize("path", ["../../up.pt", "/etc/a.pt", "a/../../b.pt", "C:\\a.pt", "..\\a.pt"])
def test_a_file_outside_of_its_folder_is_never_fetched(path: str) -> None:
    """Workflows come from anywhere, and what a model lists may be written by `imagen models pull`."""
    loader = node("CheckpointLoaderSimple", ckpt_name=path)
    told = adopt(plain(**{"4": loader}))
    assert (told.keys["model"], "files" in told.keys) == (path.replace("\\", "/"), False)


@pytest.mark.parametrize(
    ("url", "hub"),
    [
        ("https://huggingface.co/o/r/resolve/main/a/b.safetensors?download=true", "o/r/a/b.safetensors"),
        ("https://huggingface.co/o/r/blob/main/b%20c.pt", "o/r/b c.pt"),
        ("https://huggingface.co/o/r/resolve/v2/b.pt", ""),
        ("https://huggingface.co.evil.example/o/r/resolve/main/b.pt", ""),
        ("https://civitai.com/api/download/models/1", ""),
        ("", ""),
    ],
)
def test_an_address_of_the_hub_is_kept_as_its_place_there(url: str, hub: str) -> None:
    """Any other address is nothing that we could fetch."""
    assert hub_of(url) == hub


FROM_FILE = node("VAEEncode", pixels=["20", 0], vae=["4", 2])


@pytest.mark.parametrize(
    ("document", "said", "hint"),
    [
        ({}, "no workflow", "Workflow > Save"),
        ({"a": 1}, "no workflow", "Workflow > Save"),
        ([], "no workflow", "Workflow > Save"),
        (plain(**{"9": None}), "gives no picture", "Save Image"),
        (plain(**{"9": node("SaveVideo", video=["8", 0], filename_prefix="x")}), "SaveVideo", "Save Image"),
        (plain(**{"5": FROM_FILE, "20": node("LoadImage", image="a.png")}), "LoadImage .20.", "bypass"),
        (plain(**{"8": node("Somebodys Decoder", samples=["3", 0])}), "does not have the nodes Somebodys", "install"),
        (plain(**{"5": node("EmptyHunyuanLatentVideo", width=64, height=64, length=33)}), "33 frames", "single"),
        (plain(**{"8": node("EmptyImage", width=64, height=64, batch_size=1, color=0)}), "no sampler", "prompt"),
        (plain(**{"4": None}), "nothing is linked to", "Export"),
        (plain(**{"6": node("CLIPTextEncode", text="${prompt}", clip=["4", 1])}), "template of imagen", "model.yaml"),
        (plain(**{"3": sampler(scheduler="beta57")}), "does not know the scheduler 'beta57'", "update"),
        (plain(**{"8": node("GeminiImage2Node", prompt="a fox")}), "paid service", "your own machine"),
    ],
)
def test_a_refusal_says_why_and_what_would_help(document: Any, said: str, hint: str) -> None:
    """It is the file that is wrong, so it is a RequestError."""
    with pytest.raises(RequestError, match=said) as error:
        adopt(document)
    assert hint in error.value.hint


def test_missing_nodes_are_told_with_the_package_that_brings_them() -> None:
    """The file of the editor says it."""
    saver = {"id": 2, "type": "Fine Saver", "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]}
    document = {
        "nodes": [
            {"id": 1, "type": "VAEDecode", "outputs": [{"name": "IMAGE", "type": "IMAGE"}]},
            saver | {"properties": {"aux_id": "somebody/fine-nodes"}},
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    }
    with pytest.raises(Unsupported, match=r"Fine Saver \(somebody/fine-nodes\)") as error:
        adopt(document)
    assert "install somebody/fine-nodes" in error.value.hint


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"prompt": "99.text"}, "no such place"),
        ({"prompt": "6.txt"}, "no such place"),
        ({"output": "8"}, "no picture comes out"),
        ({"title": "6.text"}, "name of a slot"),
        ({"not a name": "6.text"}, "name of a slot"),
        ({"filename_prefix": "9.filename_prefix"}, "name of a slot"),
        ({"prompt": "7.text", "negative": "7.text"}, "cannot be both"),
    ],
)
def test_an_answer_that_leads_nowhere_is_refused(answers: dict[str, str], said: str) -> None:
    """And says what there is."""
    with pytest.raises(RequestError, match=said) as error:
        adopt(plain(), **answers)
    assert error.value.hint


def test_what_is_sent_to_the_server_is_a_workflow_too() -> None:
    """The body of a prompt, and what a picture carries."""
    assert where(adopt({"prompt": plain(), "client_id": "x"}), "prompt") == ["6.text"]


JUNK = st.sampled_from([None, True, -1, 2.5, "x", "", [], {}, ["3", 0], ["3"], {"a": 1}, float("nan"), 10**30, "none"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(0, 200), JUNK), min_size=1, max_size=6))
def test_a_broken_graph_is_taken_or_refused_and_nothing_else(changes: list[tuple[int, Any]]) -> None:
    """Property: whatever stands in a file, the worst that comes of it is one of our errors."""
    document = json.loads(json.dumps(two_passes()))
    for number, junk in changes:
        places = list(_places(document))
        holder, key = places[number % len(places)]
        holder[key] = copy.deepcopy(junk)
    with contextlib.suppress(ImagenError):
        adopt(document)


def _places(value: Any) -> Any:
    for key in range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ():
        yield value, key
        yield from _places(value[key])
