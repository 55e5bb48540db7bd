"""A template becomes a graph that is drawn anew, leaves nothing behind, and is known step by step."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from imagen.backends import comfyui
from imagen.backends.comfyui import workflow
from imagen.backends.comfyui.nodes import NodeType, node_types
from imagen.core.errors import BadConfig
from imagen.core.model import Model, Option
from imagen.core.request import Request
from imagen.testing.comfyui_nodes import FILES, NODES

TYPES: Mapping[str, NodeType] = node_types({name: node.info(name, FILES) for name, node in NODES.items()})

PLAIN: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "${model}"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "${prompt}", "clip": ["1", 1]}},
    "3": {"class_type": "EmptySD3LatentImage", "inputs": {"width": "${width}", "height": "${height}", "batch_size": 1}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0],
            "positive": ["2", 0],
            "negative": ["2", 0],
            "latent_image": ["3", 0],
            "seed": "${seed}",
            "steps": "${steps}",
            "cfg": "${cfg}",
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    },
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
    "6": {"class_type": "SaveImage", "inputs": {"filename_prefix": "${filename_prefix}", "images": ["5", 0]}},
}
MODEL = Model(name="mine", backend="comfyui", device="here", graph=PLAIN, keys={"model": FILES["checkpoints"][0]})
REQUEST = Request(prompt="a fox", model="mine", width=64, height=48, steps=5, seed=2**60, guidance=3.5)


def filled(model: Model = MODEL, **fields: Any) -> dict[str, Any]:
    return workflow.fill(model, replace(REQUEST, **fields), "the-id")


def prepared(graph: Mapping[str, Any], types: Mapping[str, NodeType] = TYPES, **said: Any) -> workflow.Drawing:
    return workflow.prepare(graph, types, **{"prompt_id": "the-id", "steps": 9, **said})


def without(name: str, node: str) -> dict[str, Any]:
    inputs = {key: value for key, value in filled()[node]["inputs"].items() if key != name}
    return {**filled(), node: {**filled()[node], "inputs": inputs}}


def advanced(**inputs: Any) -> dict[str, Any]:
    """A graph whose sampler takes its schedule from elsewhere."""
    sampler = {"class_type": "SamplerCustomAdvanced", "inputs": {"sigmas": ["7", 0], "latent_image": ["3", 0]}}
    return {**filled(), "4": sampler, "7": {"class_type": "BasicScheduler", "inputs": inputs}}


class TestFill:
    def test_values_keep_their_type(self) -> None:
        """A slot is a whole value: a seed stays a number, beyond what JavaScript can count too."""
        inputs = filled()["4"]["inputs"]
        assert inputs["seed"] == 2**60
        assert (inputs["steps"], inputs["cfg"]) == (5, 3.5)
        assert filled()["1"]["inputs"]["ckpt_name"] == FILES["checkpoints"][0]

    def test_a_prompt_that_looks_like_a_slot_stays_text(self) -> None:
        """What people type is never looked into."""
        assert filled(prompt="${seed}")["2"]["inputs"]["text"] == "${seed}"

    def test_a_list_is_not_taken_for_a_link(self) -> None:
        """A value with two items would be one."""
        model = replace(MODEL, keys={**MODEL.keys, "model": ["a", 1]})
        assert filled(model)["1"]["inputs"]["ckpt_name"] == {"__value__": ["a", 1]}

    def test_the_request_goes_before_the_model_and_the_model_before_what_its_options_have(self) -> None:
        """Whoever says it last and nearest is right."""
        graph = {**PLAIN, "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "${which}"}}}
        model = replace(MODEL, graph=graph, keys={}, options={"which": Option(default="c")})
        assert filled(model)["1"]["inputs"]["ckpt_name"] == "c"
        model = replace(model, keys={"which": "b"})
        assert filled(model)["1"]["inputs"]["ckpt_name"] == "b"
        assert filled(model, options={"which": "a"})["1"]["inputs"]["ckpt_name"] == "a"

    @pytest.mark.parametrize(
        ("slots", "keys", "expected"),
        [
            ({"cfg": "${cfg}"}, {}, {"cfg": 3.5}),
            ({"cfg": "${guidance}"}, {}, {"cfg": 3.5}),
            ({"cfg": "${cfg}", "denoise": "${guidance}"}, {"guidance": 0.5}, {"cfg": 3.5, "denoise": 0.5}),
        ],
    )
    def test_guidance_fills_cfg_or_else_guidance(
        self, slots: dict[str, str], keys: dict[str, Any], expected: dict[str, float]
    ) -> None:
        """Where both are there, `guidance` is a key of the model."""
        sampler = {**PLAIN["4"], "inputs": {**PLAIN["4"]["inputs"], **slots}}
        model = replace(MODEL, graph={**PLAIN, "4": sampler}, keys={**MODEL.keys, **keys})
        inputs = filled(model)["4"]["inputs"]
        assert {name: inputs[name] for name in expected} == expected

    def test_without_guidance_the_models_own_is_taken(self) -> None:
        """A request need not know what a model is guided with."""
        model = replace(MODEL, keys={**MODEL.keys, "cfg": 7.0})
        assert filled(model, guidance=None)["4"]["inputs"]["cfg"] == 7.0
        assert filled(guidance=None)["4"]["inputs"]["cfg"] == 1.0

    def test_a_slot_that_nobody_fills_is_an_error_before_anything_is_sent(self) -> None:
        """The server would paint the placeholder."""
        with pytest.raises(BadConfig, match=r"\$\{model\}") as caught:
            filled(replace(MODEL, keys={}))
        assert "model: …" in caught.value.hint

    def test_what_is_filled_by_the_request_is_said(self) -> None:
        """The rest is for the model's YAML."""
        slots = {"prompt", "seed", "cfg", "guidance", "vae", "filename_prefix"}
        assert comfyui.filled(slots) == {"prompt", "seed", "cfg", "filename_prefix"}
        assert comfyui.filled(slots - {"cfg"}) == {"prompt", "seed", "guidance", "filename_prefix"}


class TestPrepare:
    def test_the_pictures_are_not_left_at_the_server(self) -> None:
        """Files of PreviewImage are gone when the server starts again."""
        drawing = prepared(filled())
        assert drawing.graph["6"]["class_type"] == "PreviewImage"
        assert "filename_prefix" not in drawing.graph["6"]["inputs"]
        assert drawing.outputs == ("6",)

    def test_the_pictures_stay_where_the_owner_wants_them(self) -> None:
        """In a folder of their own, under a name that no other picture has."""
        node = prepared(filled(), keep=True).graph["6"]
        assert node["class_type"] == "SaveImage"
        assert node["inputs"]["filename_prefix"] == "imagen/the-id"

    def test_an_output_through_the_websocket_is_made_one_that_cannot_be_lost(self) -> None:
        """What is sent once over a line that may be down is not there any more."""
        graph = {**filled(), "6": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["5", 0]}}}
        assert prepared(graph).graph["6"]["class_type"] == "PreviewImage"

    def test_outputs_of_others_stay_as_they_are_and_come_second(self) -> None:
        """A node that saves in its own way keeps doing so."""
        extra = {"class_type": "MySaver", "inputs": {"images": ["5", 0]}}
        types = {**TYPES, "MySaver": NodeType(name="MySaver", output_node=True)}
        drawing = prepared({"0": {"class_type": "PreviewImage", "inputs": {}}, **filled(), "7": extra}, types)
        assert drawing.graph["7"] == extra
        assert drawing.outputs == ("6", "7", "0")

    def test_a_picture_is_drawn_anew_and_what_is_loaded_stays(self) -> None:
        """The server remembers nodes by their inputs: the sampler's differ each time, the loader's never."""
        first, second = prepared(filled()), prepared(filled(), prompt_id="another")
        changed = {name for name in first.graph if first.graph[name]["inputs"] != second.graph[name]["inputs"]}
        assert changed == {"4", "6"}
        assert first.weights == second.weights

    def test_other_files_are_other_weights(self) -> None:
        """So that the next picture is known to begin with loading."""
        other = {**filled(), "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "b"}}}
        assert prepared(filled()).weights != prepared(other).weights

    def test_what_each_node_does_is_known_by_what_goes_in_and_out(self) -> None:
        """Never by its name."""
        phases = {"1": "loading", "2": "encoding", "4": "sampling", "5": "decoding"}
        assert prepared(filled()).phases == phases

    def test_the_graph_that_was_given_is_left_alone(self) -> None:
        """It is the catalog's."""
        graph = filled()
        prepared(graph)
        assert graph == filled()

    def test_an_input_that_a_newer_server_wants_gets_its_default_with_a_word(self) -> None:
        """So that a workflow of last year goes on working."""
        drawing = prepared(without("denoise", "4"))
        assert drawing.graph["4"]["inputs"]["denoise"] == 1.0
        assert [notice.code for notice in drawing.notices] == ["workflow_outdated"]
        assert "'denoise'" in drawing.notices[0].message

    def test_a_file_in_a_folder_is_spelled_as_the_server_does(self) -> None:
        """Windows writes folders otherwise."""
        types = node_types({"L": {"input": {"required": {"file": [["sub\\a.safetensors"]]}}, "output": ["MODEL"]}})
        graph = {"1": {"class_type": "L", "inputs": {"file": "sub/a.safetensors"}}}
        assert prepared(graph, types).graph["1"]["inputs"]["file"] == "sub\\a.safetensors"
        assert not list(workflow.check_values(graph, types))


class TestSteps:
    def test_of_a_sampler_with_steps(self) -> None:
        """They are what the request says."""
        assert prepared(filled()).planned == {"4": 5}
        assert prepared(filled()).steps == 5

    @pytest.mark.parametrize(("first", "last", "steps"), [(0, 10_000, 20), (5, 10_000, 15), (0, 8, 8), (5, 8, 3)])
    def test_of_a_part_of_a_schedule(self, first: int, last: int, steps: int) -> None:
        """Two samplers may share one: each counts what it does."""
        inputs = {"steps": 20, "start_at_step": first, "end_at_step": last}
        graph = {**filled(), "4": {"class_type": "KSamplerAdvanced", "inputs": inputs}}
        assert prepared(graph).planned == {"4": steps}

    def test_of_a_schedule_from_elsewhere(self) -> None:
        """The number is found where it is said."""
        assert prepared(advanced(steps=12)).planned == {"4": 12}

    def test_of_a_number_from_elsewhere(self) -> None:
        """A number in a node of its own."""
        graph = {**advanced(steps=["8", 0]), "8": {"class_type": "PrimitiveInt", "inputs": {"value": 6}}}
        assert prepared(graph).planned == {"4": 6}

    @pytest.mark.parametrize(("slot", "steps"), [(0, 4), (1, 8)])
    def test_of_a_schedule_cut_in_two(self, slot: int, steps: int) -> None:
        """The first half up to the cut, the second from there on."""
        graph = {**advanced(steps=12), "8": {"class_type": "SplitSigmas", "inputs": {"sigmas": ["7", 0], "step": 4}}}
        graph["4"]["inputs"]["sigmas"] = ["8", slot]
        assert prepared(graph).planned == {"4": steps}

    def test_of_a_schedule_written_out(self) -> None:
        """Between two numbers lies a step."""
        graph = {**advanced(), "7": {"class_type": "ManualSigmas", "inputs": {"sigmas": "1.0, 0.5, 0.2, 0.0"}}}
        assert prepared(graph).planned == {"4": 3}

    def test_of_what_nobody_knows_are_taken_from_the_request(self) -> None:
        """The total has to be said before the first one."""
        graph = {**advanced(), "7": {"class_type": "Strange", "inputs": {}}}
        assert prepared(graph, steps=9).planned == {"4": 9}

    def test_a_loop_of_links_ends(self) -> None:
        """The server refuses it; reading it must not hang before that."""
        graph = {**advanced(), "7": {"class_type": "Strange", "inputs": {"sigmas": ["7", 0]}}}
        assert prepared(graph, steps=9).planned == {"4": 9}


class TestFault:
    def test_the_editors_own_format_is_told_apart(self) -> None:
        """It is what people have; the error says what makes a model of it."""
        said = workflow.fault({"nodes": [], "links": []})
        assert said is not None
        assert "imagen models add" in said[1]

    @pytest.mark.parametrize(
        "document",
        [
            *(None, [], {}, {"1": 3}, {"1": {"inputs": {}}}, {"1": {"class_type": "A"}}),
            {"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}},
        ],
    )
    def test_what_is_no_graph_is_refused(self, document: Any) -> None:
        """With words, whatever it is."""
        assert workflow.fault(document)

    def test_a_graph_is_one(self) -> None:
        """With its slots in it, too."""
        assert workflow.fault(PLAIN) is None


def test_a_value_that_the_server_has_not_is_found() -> None:
    """Files and words, each with its place and what there is instead."""
    graph = filled()
    graph["1"]["inputs"]["ckpt_name"] = "absent.safetensors"
    graph["4"]["inputs"]["scheduler"] = "wild"
    found = {(node, key, value) for node, key, value, choices in workflow.check_values(graph, TYPES) if choices}
    assert found == {("1", "ckpt_name", "absent.safetensors"), ("4", "scheduler", "wild")}
