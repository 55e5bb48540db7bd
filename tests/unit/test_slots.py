"""A model that is drawn by filling in a template: where the template comes from, and what must fill it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagen.backends.base import Registration, Templates
from imagen.backends.mock import Mock, MockKeys
from imagen.core.errors import BadConfig, ImagenError
from imagen.core.model import Model
from imagen.core.template import Template
from imagen.models.catalog import LOOK_S, Catalog, CatalogWatch, Entry, load_catalog
from imagen.reading import read_yaml

PLAIN = {
    "1": {"kind": "Load", "inputs": {"file": "${model}", "vae": "${vae}"}},
    "2": {"kind": "Draw", "inputs": {"text": "${prompt}", "seed": "${seed}", "cfg": "${cfg}", "from": ["1", 0]}},
}
REQUEST = {"prompt", "negative", "seed", "steps", "cfg"}
BASE = "backend: engine\nmodel: base.safetensors\nvae: base.vae\ntitle: Base\ndefaults: {steps: 4}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The engine's own model keys."""

    url: str = ""


def wrong(document: Any) -> tuple[str, str] | None:
    """A graph of this engine has nodes with a kind."""
    nodes = document.values() if isinstance(document, dict) else [None]
    good = all(isinstance(node, dict) and "kind" in node for node in nodes)
    return None if good else ("is no graph", "export it")


ENGINE = Registration(
    create=Mock,
    keys=Keys,
    device=lambda settings: f"engine@{settings.get('url', settings['host'])}",
    templates=Templates(
        default="base",
        filled=lambda slots: slots & REQUEST,
        aliases={"ae": "vae"},
        knobs=frozenset({"vae", "shift", "dtype"}),
        wrong=wrong,
    ),
)


def model_folder(home: Path, name: str, text: str, graph: Any = None) -> Path:
    """models/NAME with its model.yaml and, where one is given, its workflow.json."""
    folder = home / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(text)
    if graph is not None:
        (folder / "workflow.json").write_text(graph if isinstance(graph, str) else json.dumps(graph))
    return folder


def load(home: Path, config: str = "models: {}\n") -> Catalog:
    """The models of a home that has an engine which fills templates, and a mock."""
    (home / "config.yaml").write_text(config)
    document = read_yaml(home / "config.yaml")
    return load_catalog(
        folders=[home / "models"],
        configured={
            name: Entry(name=name, keys=keys, document=document, path=("models", name))
            for name, keys in document.data["models"].items()
        },
        default_model="base",
        backends={"engine": ENGINE, "mock": Registration(create=Mock, keys=MockKeys)},
        backend_settings={},
        host="here",
    )


def good(home: Path, config: str = "models: {}\n") -> Mapping[str, Model]:
    """The models, none of which is broken."""
    found = load(home, config)
    assert not found.problems, [problem.message for problem in found.problems]
    return found.models


def broken(home: Path, name: str, config: str = "models: {}\n") -> ImagenError:
    """What is wrong with this model."""
    return load(home, config).broken[name]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the model that others go on from."""
    model_folder(tmp_path, "base", BASE, PLAIN)
    return tmp_path


def test_slots_are_whole_values_and_keep_their_type() -> None:
    """A number stays a number; text that merely contains a slot's spelling stays text."""
    template = Template({"1": {"a": "${seed}", "b": "to ${seed}", "c": ["${steps}", "x"], "d": "${a-b}"}})
    assert template.slots == {"seed", "steps"}
    assert template.fill({"seed": 7, "steps": 4}) == {"1": {"a": 7, "b": "to ${seed}", "c": [4, "x"], "d": "${a-b}"}}


def test_a_prompt_that_looks_like_a_slot_is_painted_as_it_is() -> None:
    """What is filled in is not looked at again."""
    assert Template({"a": "${prompt}"}).fill({"prompt": "${seed}", "seed": 1}) == {"a": "${seed}"}


def test_a_slot_that_nobody_fills_is_named() -> None:
    """Filling raises before anything is sent."""
    with pytest.raises(KeyError, match="vae"):
        Template({"a": "${vae}"}).fill({})


def test_the_same_graph_has_one_digest_in_any_order() -> None:
    """What a job carries does not depend on how a file was written."""
    assert Template({"a": 1, "b": 2}).digest == Template({"b": 2, "a": 1}).digest
    assert Template({"a": 1}).digest != Template({"a": 2}).digest


def test_a_folder_brings_its_own_workflow(home: Path) -> None:
    """workflow.json beside model.yaml needs no key."""
    model = good(home)["base"]
    assert model.graph == PLAIN
    assert model.template == Template(PLAIN).digest
    assert model.keys == {"url": "", "model": "base.safetensors", "vae": "base.vae"}


def test_the_record_carries_the_digest_and_not_the_graph(home: Path) -> None:
    """A thousand jobs of one model keep its graph once."""
    model = good(home)["base"]
    record = json.loads(json.dumps(model.as_dict()))
    assert "graph" not in record
    assert record["template"] == model.template
    assert Model.from_dict(record).digest() == model.digest()


@pytest.mark.parametrize("key", ["workflow", "workflow_template"])
def test_an_instance_inherits_everything_of_the_workflow_it_names(home: Path, key: str) -> None:
    """Only what differs is written; both spellings of the key mean it."""
    mine = good(home, f"models:\n  mine: {{backend: engine, {key}: base, model: other.safetensors}}\n")["mine"]
    assert mine.graph == PLAIN
    assert mine.keys["model"] == "other.safetensors"
    assert mine.keys["vae"] == "base.vae"
    assert (mine.title, mine.defaults.steps, mine.workflow) == ("Base", 4, "base")


def test_an_instance_that_names_no_workflow_has_the_default_one(home: Path) -> None:
    """As before there was a choice."""
    mine = good(home, "models:\n  mine: {backend: engine, model: other.safetensors}\n")["mine"]
    assert (mine.graph, mine.title) == (PLAIN, "Base")


def test_a_folder_that_lost_its_workflow_does_not_become_another_model(home: Path) -> None:
    """Drawing with the default's graph would be a lie."""
    model_folder(home, "half", "backend: engine\nmodel: x\nvae: y\n")
    assert "no workflow.json beside it" in broken(home, "half").message


def test_a_workflow_may_be_a_path(home: Path) -> None:
    """Relative to the file that names it; nothing is inherited."""
    (home / "flows").mkdir()
    (home / "flows" / "one.json").write_text(json.dumps({"1": {"kind": "Draw", "inputs": {"t": "${prompt}"}}}))
    mine = good(home, "models:\n  mine: {backend: engine, workflow: flows/one.json}\n")["mine"]
    assert mine.graph == {"1": {"kind": "Draw", "inputs": {"t": "${prompt}"}}}
    assert mine.title == "mine"
    assert set(mine.ignores) == {"negative", "steps", "guidance"}, "the template has no slot for them"


def test_an_older_name_of_a_slot_is_understood(home: Path) -> None:
    """`ae` is how others spell `vae`, also over an inherited value."""
    mine = good(home, "models:\n  mine: {backend: engine, ae: mine.vae}\n")["mine"]
    assert mine.keys["vae"] == "mine.vae"
    both = broken(home, "mine", "models:\n  mine: {backend: engine, ae: mine.vae, vae: other.vae}\n")
    assert "both are given" in both.message


def test_a_knob_that_the_template_lacks_is_one_note(home: Path) -> None:
    """Two knobs of other templates: one line that names both and the place."""
    found = load(home, "models:\n  mine:\n    backend: engine\n    shift: 3\n    dtype: fp8\n")
    assert not found.problems
    (note,) = found.notices
    assert "`shift`, `dtype`" in note
    assert "config.yaml:4" in note
    assert "shift" not in found.models["mine"].keys


@pytest.mark.parametrize(
    ("config", "line", "words"),
    [
        ("models:\n  mine:\n    backend: engine\n    vea: x\n", 4, "did you mean 'vae'"),
        ("models:\n  mine:\n    backend: engine\n    prompt: x\n", 4, "not a key"),
        ("models:\n  mine:\n    backend: engine\n    graph: {}\n", 4, "not a key"),
        ("models:\n  mine:\n    backend: engine\n    vae: {a: 1}\n", 4, "one value or a list"),
        ("models:\n  mine:\n    backend: engine\n    workflow: bsae\n", 4, "did you mean 'base'"),
        ("models:\n  mine:\n    backend: engine\n    workflow: no/such.json\n", 4, "cannot be read"),
    ],
)
def test_a_mistake_is_named_by_file_and_line(home: Path, config: str, line: int, words: str) -> None:
    """Whatever is no slot of this template and no key of the backend is an error."""
    error = broken(home, "mine", config)
    assert isinstance(error, BadConfig)
    assert words in error.message
    assert f"config.yaml:{line}:" in error.message
    assert error.hint


def test_a_slot_that_nothing_fills_is_found_when_the_model_is_read(home: Path) -> None:
    """Long before anybody asks for a picture."""
    model_folder(home, "bare", "backend: engine\nmodel: x\n", PLAIN)
    error = broken(home, "bare")
    assert "${vae}" in error.message
    assert "`vae: …`" in error.hint


def test_an_option_fills_the_slot_of_its_name(home: Path) -> None:
    """With a default it needs no key beside it."""
    model_folder(home, "free", "backend: engine\nmodel: x\noptions: {vae: {default: a.vae}}\n", PLAIN)
    assert good(home)["free"].options["vae"].default == "a.vae"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "workflow.json:1: is not JSON"),
        ('{"a": 1,\n oops}', "workflow.json:2: is not JSON"),
        ("", "is empty"),
        ("[" * 100_000, "too deep"),
        ('{"a": "\\ud800"}', "half a character"),
        ('{"a": NaN}', "NaN"),
        ("[" * 200 + "]" * 200, "too deep"),
        ('{"nodes": [], "links": []}', "is no graph"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_workflow_that_is_none_is_said_so(home: Path, text: str, words: str) -> None:
    """The file is named, and the others work on."""
    folder = model_folder(home, "bad", "backend: engine\n")
    (folder / "workflow.json").write_text(text, errors="surrogateescape")
    found = load(home)
    assert words in found.broken["bad"].message
    assert found.broken["bad"].hint
    assert "base" in found.models


def test_a_changed_workflow_is_taken_up_and_a_broken_one_keeps_the_last(home: Path) -> None:
    """No restart: the file of the template is watched like the others, wherever it lies."""
    flow = home / "one.json"
    flow.write_text(json.dumps({"1": {"kind": "A", "inputs": {"t": "${prompt}"}}}))
    now = [0.0]

    def changed(text: str) -> Any:
        flow.write_text(text)
        now[0] += LOOK_S + 1
        os.utime(flow, (now[0] + 10**9, now[0] + 10**9))
        return watch.current().models["mine"].graph

    watch = CatalogWatch(
        lambda: load(home, "models:\n  mine: {backend: engine, workflow: one.json}\n"), lambda: [], lambda: now[0]
    )
    newer = {"1": {"kind": "B", "inputs": {"t": "${prompt}"}}}
    assert changed(json.dumps(newer)) == newer
    assert changed("{") == newer
    assert watch.current().problems
    assert changed(json.dumps({**newer, "2": {"kind": "C"}})) == {**newer, "2": {"kind": "C"}}


def test_a_device_may_depend_on_the_models_own_keys(home: Path) -> None:
    """Two servers are two devices."""
    found = good(home, "models:\n  far: {backend: engine, url: 'far:1'}\n")
    assert found["far"].device == "engine@far:1"
    assert found["base"].device == "engine@here"
