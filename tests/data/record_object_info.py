"""Record what a server says of the nodes that the sample of workflows uses, without what no test needs.

    python tests/data/record_object_info.py http://127.0.0.1:8188 tests/data/workflows/templates.tar.xz

Descriptions and tooltips are left out, and nodes that no workflow uses, unless they are among the basic ones. Of a list
of choices remain the first, and those that some workflow has: a server that lacks one still lacks it.
"""

import gzip
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

KEPT = ("input_order", "output", "output_name", "display_name", "python_module", "category", "output_node", "api_node")
TOLD = (
    *("default", "min", "max", "step", "multiline", "control_after_generate", "forceInput", "multiselect"),
    *("socketless", "widgetType", "template", "remote", "image_upload", "video_upload", "audio_upload", "file_upload"),
)


def documents(archive: Path) -> dict[str, Any]:
    """Every workflow of the sample by its name."""
    with tarfile.open(archive) as opened:
        files = {item.name: opened.extractfile(item) for item in opened.getmembers() if item.name.endswith(".json")}
        return {Path(name).stem: json.load(file) for name, file in sorted(files.items()) if file is not None}


def trimmed(raw: dict[str, Any], workflows: dict[str, Any]) -> dict[str, Any]:
    """The nodes that the workflows use, with what they need."""
    graphs = [g for w in workflows.values() for g in (w, *w.get("definitions", {}).get("subgraphs", []))]
    used = {node["type"] for graph in graphs for node in graph["nodes"]}
    used |= {name for name, node in raw.items() if node["python_module"] == "nodes"}  # what everybody begins with
    words = set(_words(workflows))
    return {name: _node(raw[name], words) for name in sorted(used & set(raw))}


def _node(node: dict[str, Any], words: set[Any]) -> dict[str, Any]:
    paid = any("AUTH_TOKEN" in str(kind) for kind in node["input"].get("hidden", {}).values())
    told = {key: node[key] for key in KEPT if node.get(key)} | ({"api_node": True} if paid else {})
    return {"input": _groups(node["input"], words), **told}


def _groups(groups: dict[str, Any], words: set[Any]) -> dict[str, Any]:
    return {
        group: {name: _input(spec, words) for name, spec in inputs.items()}
        for group, inputs in groups.items()
        if group in ("required", "optional")
    }


def _input(spec: Any, words: set[Any]) -> Any:
    kind, told = spec[0], spec[1] if len(spec) > 1 else {}
    options = told.get("options")
    told = {key: told[key] for key in TOLD if key in told}
    if isinstance(kind, list):
        kind = _choices(kind, words)
    if isinstance(options, list) and options and isinstance(options[0], dict):
        keys = _choices([option["key"] for option in options], words)
        told["options"] = [o | {"inputs": _groups(o["inputs"], words)} for o in options if o["key"] in keys]
    elif isinstance(options, list):
        told["options"] = _choices(options, words)
    return [kind, told] if told else [kind]


def _choices(choices: list[Any], words: set[Any]) -> list[Any]:
    return [choice for number, choice in enumerate(choices) if number == 0 or choice in words]


def _words(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _words(item)
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str | int | float):
        yield value


if __name__ == "__main__":
    server, sample = sys.argv[1], Path(sys.argv[2])
    with urlopen(f"{server}/object_info") as answer:
        node_info = trimmed(json.load(answer), documents(sample))
    text = json.dumps(node_info, separators=(",", ":"))  # in their order: widgets are read by it
    target = Path(__file__).with_name("object_info.json.gz")
    target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(node_info)} classes, {target.stat().st_size:,} bytes in {target}")
