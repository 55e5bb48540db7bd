"""What each version of ComfyUI has, as far as a client can tell."""

from collections.abc import Mapping
from typing import Any

from imagen.testing.comfyui_nodes import Node

SINCE = {
    "own_id": "0.3.45",  # the client may choose the prompt's id
    "progress_state": "0.3.45",
    "flags": "0.3.45",
    "metadata": "0.3.45",  # previews that say whose they are
    "interrupt_one": "0.3.57",
    "preview_method": "0.5.0",  # per prompt
    "jobs": "0.6.0",
    "new_words": "0.9.0",  # `missing_node_type`; `invalid_prompt` before
    "strict_id": "0.25.0",
    "jobs_cancel": "0.26.0",
    "previewable": "0.30.0",  # jobs count what can be shown
}


def has(version: str, feature: str) -> bool:
    """Whether a version has it."""
    return parsed(version) >= parsed(SINCE[feature])


def known(nodes: Mapping[str, Node], version: str) -> dict[str, Node]:
    """The classes that a version has."""
    return {name: node for name, node in nodes.items() if parsed(node.since) <= parsed(version)}


def features(version: str) -> dict[str, Any]:
    """What a server of this version answers to a client's feature flags."""
    told: dict[str, Any] = {"supports_preview_metadata": True, "max_upload_size": 104_857_600}
    if has(version, "jobs_cancel"):
        told |= {"supports_model_type_tags": True, "node_replacements": True, "assets": False}
        told["extension"] = {"manager": {"supports_v4": True}}
    return told


def parsed(version: str) -> tuple[int, ...]:
    """`0.3.75` as numbers that can be compared."""
    return tuple(int(part) for part in version.split("."))
