"""What two real servers say about their nodes, read into plain values.

The shapes were recorded on ComfyUI 0.33.0 and 0.3.75; tooltips and most choices are left out.
"""

from typing import Any

import pytest

from imagen.backends.comfyui.nodes import node_type, node_types

SEED = {"default": 0, "min": 0, "max": 18446744073709551615, "control_after_generate": True}
K_SAMPLER: dict[str, Any] = {
    "input": {
        "required": {
            "model": ["MODEL", {}],
            "seed": ["INT", SEED],
            "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
            "cfg": ["FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}],
            "sampler_name": [["euler", "heun"], {}],
            "latent_image": ["LATENT", {}],
            "denoise": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}],
        }
    },
    "input_order": {"required": ["model", "seed", "steps", "cfg", "sampler_name", "latent_image", "denoise"]},
    "output": ["LATENT"],
    "output_name": ["LATENT"],
    "name": "KSampler",
    "display_name": "KSampler",
    "python_module": "nodes",
    "category": "sampling",
    "output_node": False,
}
RESIZE: dict[str, Any] = {
    "input": {
        "required": {
            "input": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t", "allowed_types": "IMAGE,MASK"}}],
            "resize_type": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {"key": "scale dimensions", "inputs": {"required": {"width": ["INT", {"default": 512}]}}},
                        {"key": "scale by multiplier", "inputs": {"required": {"multiplier": ["FLOAT", {}]}}},
                    ]
                },
            ],
            "scale_method": ["COMBO", {"default": "area", "multiselect": False, "options": ["area", "lanczos"]}],
        }
    },
    "output": ["COMFY_MATCHTYPE_V3"],
    "output_name": ["resized"],
    "api_node": False,
}


@pytest.mark.parametrize("seed", [SEED, SEED | {"tooltip": "0.3.75 says the same"}])
def test_a_widget_is_told_from_a_link(seed: dict[str, Any]) -> None:
    """Numbers, texts and choices are values; MODEL and LATENT are links."""
    kind = node_type("KSampler", K_SAMPLER)
    values = [item.name for item in kind.inputs.values() if item.widget]
    assert values == ["seed", "steps", "cfg", "sampler_name", "denoise"]
    assert kind.inputs["seed"].control_after_generate
    assert (kind.inputs["seed"].min, kind.inputs["seed"].max) == (0, 18446744073709551615)


def test_both_spellings_of_a_choice_are_one() -> None:
    """Old nodes give the list as the kind, new ones say COMBO with options."""
    old = node_type("KSampler", K_SAMPLER).inputs["sampler_name"]
    new = node_type("ResizeImageMaskNode", RESIZE).inputs["scale_method"]
    assert (old.kind, old.choices, old.default) == ("COMBO", ("euler", "heun"), "euler")
    assert (new.kind, new.choices, new.default) == ("COMBO", ("area", "lanczos"), "area")


def test_a_dynamic_choice_brings_its_inputs() -> None:
    """The inputs of the chosen branch come under a dotted name, those of the others do not."""
    kind = node_type("ResizeImageMaskNode", RESIZE)
    assert list(kind.expanded({})) == ["input", "resize_type", "resize_type.width", "scale_method"]
    other = kind.expanded({"resize_type": "scale by multiplier"})
    assert list(other) == ["input", "resize_type", "resize_type.multiplier", "scale_method"]
    assert list(kind.expanded({"resize_type": ["4", 0]})) == ["input", "resize_type", "scale_method"]


def test_grown_inputs_are_links_with_dotted_names() -> None:
    """An autogrow input is not there itself; what grows from it is named by a prefix or a list."""
    by_prefix = {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 3}
    by_names = {"input": {"required": {"value": ["FLOAT,INT", {}]}}, "names": ["a", "b"], "min": 0}
    groups = {
        "images": ["COMFY_AUTOGROW_V3", {"template": by_prefix}],
        "values": ["COMFY_AUTOGROW_V3", {"template": by_names}],
    }
    told = node_type("Both", {"input": {"required": groups}}).expanded({})
    assert list(told) == ["images.image0", "images.image1", "images.image2", "values.a", "values.b"]
    assert [item.required for item in told.values()] == [True, False, False, False, False]
    assert not any(item.widget for item in told.values())


def test_values_of_other_kinds_are_found_by_what_they_say() -> None:
    """`socketless` and `widgetType` make a widget, `forceInput` makes a link."""
    groups = {
        "color": ["COLOR", {"default": "#ffffff", "socketless": True}],
        "rate": ["FLOAT,INT", {"default": 25.0, "widgetType": "FLOAT"}],
        "layers": ["COMPOSITOR", {"default": {}, "socketless": True}],
        "text": ["STRING", {"forceInput": True}],
        "upload": [["a.png"], {"image_upload": True}],
    }
    inputs = node_type("Odd", {"input": {"required": groups}}).inputs
    assert [item.widget for item in inputs.values()] == [True, True, True, False, True]
    assert inputs["rate"].kind == "FLOAT"
    assert inputs["upload"].upload


def test_a_paid_node_is_recognised_on_old_and_new_servers() -> None:
    """New servers say so; old ones only ask for the account in a hidden input."""
    hidden = {"auth_token": "AUTH_TOKEN_COMFY_ORG"}
    assert node_type("New", {"api_node": True}).api
    assert node_type("Old", {"input": {"required": {}, "hidden": hidden}}).api
    assert not node_type("KSampler", K_SAMPLER).api


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        {"input": None},
        {"input": {"required": {"x": None, "y": [], "z": [[]], "w": [3, 4]}}},
        {"input": {"required": {"x": ["COMFY_AUTOGROW_V3", {}], "y": ["COMFY_DYNAMICCOMBO_V3", {"options": [1]}]}}},
        {"output": [["a"]], "output_name": None, "input_order": {"required": ["gone"]}},
    ],
)
def test_an_odd_description_does_not_stop_the_rest(raw: Any) -> None:
    """A custom node may say anything."""
    told = node_types({"Odd": raw, "KSampler": K_SAMPLER})
    assert told["Odd"].expanded({}) is not None
    assert told["KSampler"].inputs["steps"].default == 20
