"""A file of the editor becomes the graph that the server takes."""

from typing import Any

import pytest
from tests.workflow_kit import object_info

from imagen.backends.comfyui.convert import convert
from imagen.core.errors import RequestError


def box(id: int | str, kind: str, *values: Any, ins: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """One node as the editor saves it; `ins` are its linked inputs: name -> link, or (link, type)."""
    inputs = []
    for name, link in (ins or {}).items():
        number, type_ = link if isinstance(link, tuple) else (link, "*")
        inputs.append({"name": name, "type": type_, "link": number})
    outs = [{"name": type_, "type": type_, "links": []} for type_ in more.pop("outs", ())]
    return {"id": id, "type": kind, "inputs": inputs, "outputs": outs, "widgets_values": list(values), **more}


def file(*boxes: dict[str, Any], links: Any, **more: Any) -> dict[str, Any]:
    return {"nodes": list(boxes), "links": links, "version": 0.4, **more}


def graph(document: dict[str, Any]) -> dict[str, Any]:
    """Class and inputs of every node."""
    made = convert(document, object_info()).graph
    return {name: (node["class_type"], node["inputs"]) for name, node in made.items()}


SAMPLER = (42, "randomize", 20, 8.0, "euler", "normal", 1.0)


def widget(name: str, link: int, type_: str = "INT") -> dict[str, Any]:
    return {"name": name, "type": type_, "link": link, "widget": {"name": name}}


def subgraph(
    *boxes: dict[str, Any], links: list[dict[str, Any]], ins: Any = (), outs: Any = (), id: str = "sub"
) -> Any:
    return {
        "id": id,
        "name": "a subgraph",
        "nodes": list(boxes),
        "links": links,
        "inputs": [{"name": name, "type": type_} for name, type_ in ins],
        "outputs": [{"name": name, "type": type_} for name, type_ in outs],
        "inputNode": {"id": -10},
        "outputNode": {"id": -20},
    }


def wire(id: int, origin: int, origin_slot: int, target: int, target_slot: int) -> dict[str, Any]:
    return {
        "id": id,
        "origin_id": origin,
        "origin_slot": origin_slot,
        "target_id": target,
        "target_slot": target_slot,
        "type": "*",
    }


def test_values_come_in_the_order_of_the_inputs() -> None:
    """The word after a seed is the editor's own; links and values end in one mapping."""
    made = graph(
        file(
            box(1, "CheckpointLoaderSimple", "a.safetensors"),
            box(3, "KSampler", *SAMPLER, ins={"model": 7}),
            links=[[7, 1, 0, 3, 0, "MODEL"]],
        )
    )
    assert made["3"] == (
        "KSampler",
        {
            "model": ["1", 0],
            "seed": 42,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        },
    )


@pytest.mark.parametrize("values", [{"text": "a fox"}, ["a fox"]])
def test_values_may_have_names(values: Any) -> None:
    """Some nodes save a mapping."""
    node = box(1, "CLIPTextEncode") | {"widgets_values": values}
    assert graph(file(node, links=[]))["1"][1] == {"text": "a fox"}


def test_names_help_where_the_list_is_of_another_version() -> None:
    """The list is what the editor reads, so it goes first as long as it fits."""
    stale = {"seed": 1, "steps": 9, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    fitting = box(1, "KSampler", *SAMPLER, widgets_values_named=stale)
    other = box(2, "KSampler", "x", *SAMPLER, widgets_values_named=stale)
    made = graph(file(fitting, other, links=[]))
    assert made["1"][1]["steps"] == 20
    assert made["2"][1]["steps"] == 9


def test_a_value_that_cannot_be_is_the_default_and_said() -> None:
    """A node may have had other inputs when the file was saved."""
    told = convert(file(box(1, "EmptyLatentImage", "wide", 512, 1), links=[]), object_info())
    assert told.graph["1"]["inputs"]["width"] == 512
    assert [node for node, note in told.notes if "'wide'" in note] == ["1"]


def test_an_input_newer_than_the_file_gets_its_default() -> None:
    """And is said."""
    told = convert(file(box(1, "KSampler", 42, "fixed", 20), links=[]), object_info())
    assert told.graph["1"]["inputs"]["cfg"] == 8.0
    assert any("cfg" in note for _, note in told.notes)


def test_the_choice_of_a_dynamic_input_decides_what_follows() -> None:
    """Its own inputs stand between it and the next."""
    made = graph(file(box(1, "ResizeImageMaskNode", "scale longer dimension", 2048, "lanczos"), links=[]))
    assert made["1"][1] == {
        "resize_type": "scale longer dimension",
        "resize_type.longer_size": 2048,
        "scale_method": "lanczos",
    }


def test_a_list_that_is_a_value_is_no_link() -> None:
    """The server takes every bare list for one."""
    made = graph(file(box(1, "Somebodys", widgets_values_named={"points": [1, 2]}), links=[]))
    assert made["1"][1] == {"points": {"__value__": [1, 2]}}


@pytest.mark.parametrize("form", ["list", "mapping"])
def test_both_spellings_of_a_wire_are_read(form: str) -> None:
    """Files of schema 1 have mappings."""
    links: Any = [[7, 1, 1, 2, 0, "CLIP"]] if form == "list" else [wire(7, 1, 1, 2, 0)]
    made = graph(
        file(
            box(1, "CheckpointLoaderSimple", "a.ckpt"),
            box(2, "CLIPTextEncode", "a fox", ins={"clip": 7}),
            links=links,
        )
    )
    assert made["2"][1]["clip"] == ["1", 1]


def test_reroutes_primitives_setters_and_getters_are_followed() -> None:
    """They are the editor's own; the server never hears of them."""
    made = graph(
        file(
            box(1, "CheckpointLoaderSimple", "a.ckpt"),
            box(2, "Reroute", ins={"": 10}),
            box(3, "SetNode", "the clip", ins={"CLIP": 11}),
            box(4, "GetNode", "the clip"),
            box(5, "PrimitiveNode", "a fox", "fixed"),
            box(6, "CLIPTextEncode", "unused", ins={"clip": 12, "text": 13}),
            box(7, "Note", "by the author"),
            links=[
                [10, 1, 1, 2, 0, "CLIP"],
                [11, 2, 0, 3, 0, "CLIP"],
                [12, 4, 0, 6, 0, "CLIP"],
                [13, 5, 0, 6, 1, "STRING"],
            ],
        )
    )
    assert set(made) == {"1", "6"}
    assert made["6"][1] == {"clip": ["1", 1], "text": "a fox"}


def test_a_bypassed_node_lets_through_what_fits() -> None:
    """The input beside the output first, and else one of the same kind."""
    lora = box(2, "LoraLoader", "l", 1, 1, ins={"model": (10, "MODEL"), "clip": (11, "CLIP")}, mode=4)
    lora["outputs"] = [{"name": "MODEL", "type": "MODEL"}, {"name": "CLIP", "type": "CLIP"}]
    made = graph(
        file(
            box(1, "CheckpointLoaderSimple", "a.ckpt"),
            lora,
            box(3, "CLIPTextEncode", "a fox", ins={"clip": 12}),
            box(4, "KSampler", *SAMPLER, ins={"model": 13}),
            links=[[10, 1, 0, 2, 0, "M"], [11, 1, 1, 2, 1, "C"], [12, 2, 1, 3, 0, "C"], [13, 2, 0, 4, 0, "M"]],
        )
    )
    assert made["3"][1]["clip"] == ["1", 1]
    assert made["4"][1]["model"] == ["1", 0]
    assert "2" not in made


def test_a_muted_node_cuts_the_wire() -> None:
    """Nothing comes from it."""
    made = graph(
        file(
            box(1, "CheckpointLoaderSimple", "a.ckpt", mode=2),
            box(3, "CLIPTextEncode", "a fox", ins={"clip": 12}),
            links=[[12, 1, 1, 3, 0, "CLIP"]],
        )
    )
    assert made == {"3": ("CLIPTextEncode", {"text": "a fox"})}


INNER = subgraph(
    box(4, "CLIPTextEncode", "inside") | {"inputs": [{"name": "clip", "link": 1}, widget("text", 2, "STRING")]},
    box(5, "PreviewAny") | {"inputs": [{"name": "source", "link": 3}]},
    links=[wire(1, -10, 0, 4, 0), wire(2, -10, 1, 4, 1), wire(3, -10, 1, 5, 0), wire(4, 4, 0, -20, 0)],
    ins=[("clip", "CLIP"), ("text", "STRING")],
    outs=[("CONDITIONING", "CONDITIONING")],
)


def outer(instance: dict[str, Any], *more: dict[str, Any], links: list[Any] | None = None) -> dict[str, Any]:
    return file(
        box(1, "CheckpointLoaderSimple", "a.ckpt"),
        {"id": 9, "type": "sub", "properties": {}, "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}]}
        | instance,
        box(3, "KSampler", *SAMPLER, ins={"positive": 30}),
        *more,
        links=[[20, 1, 1, 9, 0, "CLIP"], [30, 9, 0, 3, 1, "CONDITIONING"], *(links or [])],
        definitions={"subgraphs": [INNER]},
    )


CLIP = {"name": "clip", "type": "CLIP", "link": 20}


def test_a_subgraph_is_unfolded_under_its_own_names() -> None:
    """`9:4` is node 4 inside of node 9, as ComfyUI says it too."""
    made = graph(outer({"inputs": [CLIP], "widgets_values": []}))
    assert made["9:4"][1] == {"clip": ["1", 1], "text": "inside"}
    assert made["3"][1]["positive"] == ["9:4", 0]


def test_a_value_given_outside_goes_before_the_one_inside() -> None:
    """And every input in there that hangs on it gets it."""
    told = convert(outer({"inputs": [CLIP], "widgets_values": ["outside"]}), object_info())
    assert told.graph["9:4"]["inputs"]["text"] == "outside"
    assert told.graph["9:5"]["inputs"]["source"] == "outside"
    assert told.shared["9:4.text"] == told.shared["9:5.source"]
    assert "9:4.text" in told.shown


def test_an_input_without_a_widget_gets_the_value_of_the_one_beside_it() -> None:
    """Nothing is given outside: the widget inside is the one that people see."""
    assert graph(outer({"inputs": [CLIP], "widgets_values": []}))["9:5"][1] == {"source": "inside"}


def test_what_is_linked_outside_comes_from_there() -> None:
    """The value inside is of no matter then, and people see the one outside."""
    text = {"name": "text", "type": "STRING", "link": 21, "widget": {"name": "text"}}
    told = convert(
        outer(
            {"inputs": [CLIP, text], "widgets_values": ["unused"]},
            box(7, "PrimitiveStringMultiline", "linked"),
            links=[[21, 7, 0, 9, 1, "STRING"]],
        ),
        object_info(),
    )
    assert told.graph["9:4"]["inputs"]["text"] == ["7", 0]
    assert "9:4.text" not in told.shown


def test_older_files_list_what_a_subgraph_shows() -> None:
    """`-1` is an input of the subgraph, another number a node inside."""
    listed = {"properties": {"proxyWidgets": [["4", "text"]]}, "inputs": [CLIP], "widgets_values": []}
    told = convert(outer(listed), object_info())
    assert told.graph["9:4"]["inputs"]["text"] == "inside"
    assert "9:4.text" in told.shown
    given = {"properties": {"proxyWidgets": [["-1", "text"]]}, "inputs": [CLIP], "widgets_values": ["outside"]}
    assert convert(outer(given), object_info()).graph["9:4"]["inputs"]["text"] == "outside"


def test_subgraphs_stand_in_subgraphs() -> None:
    """What the outermost sheet shows is found through all of them."""
    middle = subgraph(
        {
            "id": 8,
            "type": "sub",
            "inputs": [{"name": "clip", "link": 1}, widget("text", 2, "STRING")],
            "properties": {},
        },
        links=[wire(1, -10, 0, 8, 0), wire(2, -10, 1, 8, 1), wire(3, 8, 0, -20, 0)],
        ins=[("clip", "CLIP"), ("text", "STRING")],
        outs=[("CONDITIONING", "CONDITIONING")],
        id="middle",
    )
    document = outer({"type": "middle", "inputs": [CLIP], "widgets_values": ["far outside"]})
    document["definitions"]["subgraphs"].append(middle)
    told = convert(document, object_info())
    assert told.graph["9:8:4"]["inputs"] == {"clip": ["1", 1], "text": "far outside"}
    assert told.graph["3"]["inputs"]["positive"] == ["9:8:4", 0]
    assert "9:8:4.text" in told.shown


def test_weights_and_packages_are_taken_from_what_the_author_says() -> None:
    """Where a file can be fetched, and who brings a node."""
    models = [{"name": "a.ckpt", "url": "https://huggingface.co/o/r/resolve/main/a.ckpt", "directory": "checkpoints"}]
    node = box(1, "Somebodys", properties={"models": models, "cnr_id": "somebodys-pack"})
    told = convert(file(node, links=[]), object_info())
    assert told.files == tuple(models)
    assert told.packages == {"Somebodys": "somebodys-pack"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (file({"id": 1}, links=[]), "no id or no type"),
        (file({"type": "KSampler"}, links=[]), "no id or no type"),
        (
            file(
                box(1, "Reroute", ins={"": 1}),
                box(2, "Reroute", ins={"": 2}),
                box(3, "CLIPTextEncode", "x", ins={"clip": 3}),
                links=[[1, 2, 0, 1, 0, "*"], [2, 1, 0, 2, 0, "*"], [3, 1, 0, 3, 0, "*"]],
            ),
            "in a circle",
        ),
        (
            file(
                box(9, "loop"),
                links=[],
                definitions={"subgraphs": [subgraph(box(9, "loop"), links=[], id="loop")]},
            ),
            "without end",
        ),
        (file(box(1, "workflow>mine"), links=[], extra={"groupNodes": {"mine": {}}}), "group nodes"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_a_way_out(document: dict[str, Any], said: str) -> None:
    """Never a traceback."""
    with pytest.raises(RequestError, match=said) as error:
        convert(document, object_info())
    assert error.value.hint


@pytest.mark.parametrize(
    "document",
    [
        {"nodes": [], "links": None},
        {"nodes": [None, 3, box(1, "KSampler")], "links": [None, [1], ["a", "b", "c", "d", "e"], {}]},
        file(box(1, "KSampler", ins={"model": 99}), links=[]),
        file(box(1, "KSampler") | {"inputs": None, "outputs": 3, "properties": [], "widgets_values": "x"}, links=[]),
        file(box(1, "KSampler"), links=[], definitions={"subgraphs": [None, {}]}),
    ],
)
def test_odd_files_are_read_as_far_as_they_go(document: dict[str, Any]) -> None:
    """A loose end is no reason to stop."""
    convert(document, object_info())
