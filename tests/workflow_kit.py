"""Workflows that other people made, and what a real server said of their nodes."""

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from imagen.backends.comfyui.nodes import NodeType, node_types
from tests.data.record_object_info import documents

DATA = Path(__file__).parent / "data"


@cache
def sample() -> Mapping[str, Any]:
    """Every template of the package, by name."""
    return documents(DATA / "workflows" / "templates.tar.xz")


@cache
def text_to_image() -> tuple[str, ...]:
    """Those that their authors tag `Text to Image`, of open models."""
    return tuple((DATA / "workflows" / "text_to_image.txt").read_text().split())


@cache
def object_info() -> Mapping[str, NodeType]:
    """The node classes of ComfyUI 0.33.0 that the templates use."""
    with gzip.open(DATA / "object_info.json.gz") as file:
        return node_types(json.load(file))
