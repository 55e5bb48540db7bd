"""The one model of the fake Replicate: what it takes, how that is described, what is refused, and its predictions."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Inputs = Mapping[str, Mapping[str, Any]]

MODEL = "some/flux"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
INPUTS: Inputs = {
    "prompt": {"type": "string"},
    "negative_prompt": {"type": "string", "default": ""},
    "width": {"type": "integer", "default": 64, "minimum": 16, "maximum": 2048},
    "height": {"type": "integer", "default": 64, "minimum": 16, "maximum": 2048},
    "num_inference_steps": {"type": "integer", "default": 4, "minimum": 1, "maximum": 50},
    "guidance_scale": {"type": "number", "default": 3.5},
    "seed": {"type": "integer"},
    "output_format": {"type": "string", "default": "png", "enum": ["png", "webp", "jpg"]},
}


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One prediction, from its creation on."""

    id: str
    input: dict[str, Any]
    deployment: str = ""
    status: str = "starting"
    output: list[str] = field(default_factory=list)
    logs: str = ""
    error: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_at: datetime | None = None
    completed_at: datetime | None = None
    data_removed: bool = False
    listed_after: int = 0
    news: list[tuple[str, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    running: "asyncio.Task[None] | None" = None

    def say(self, name: str, data: str) -> None:
        """Something for the stream."""
        self.news.append((name, data))
        self.changed.set()
        self.changed = asyncio.Event()


def schema(inputs: Inputs) -> dict[str, Any]:
    """As Cog makes it: choices stand apart, under a name."""
    schemas: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    for order, (name, rule) in enumerate(inputs.items()):
        if "enum" in rule:
            schemas[name] = {"title": name, "type": rule["type"], "enum": rule["enum"]}
            rest = {key: value for key, value in rule.items() if key not in ("enum", "type")}
            shown[name] = {"allOf": [{"$ref": f"#/components/schemas/{name}"}], "x-order": order, **rest}
        else:
            shown[name] = {"title": name, "x-order": order, **rule}
    schemas["Input"] = {"type": "object", "title": "Input", "required": ["prompt"], "properties": shown}
    return {"openapi": "3.0.2", "components": {"schemas": schemas}}


def wrong(inputs: Inputs, given: Mapping[str, Any]) -> str:
    """What of a prediction's input this model does not take, in the service's words; nothing when all is well."""
    if "prompt" not in given:
        return "- input: prompt is required\n"
    for name, value in given.items():
        rule = inputs.get(name)
        if rule is None:
            return f"- input: Additional property {name} is not allowed\n"
        kinds: dict[str, Any] = {"integer": int, "number": (int, float), "string": str}
        if not isinstance(value, kinds[rule.get("type", "string")]):
            return f"- input.{name}: Invalid type. Expected: {rule['type']}\n"
        if "maximum" in rule and value > rule["maximum"]:
            return f"- input.{name}: Must be less than or equal to {rule['maximum']}\n"
        if "enum" in rule and value not in rule["enum"]:
            return f"- input.{name}: {value} is not one of {rule['enum']}\n"
    return ""
