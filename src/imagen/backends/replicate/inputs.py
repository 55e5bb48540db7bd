"""What is sent: the inputs of a model, out of a request and what the model says it takes. Pure functions."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice

# What most models on Replicate call it. A model whose schema is known and has no such input does not get it.
USUAL: Mapping[str, str] = {
    "prompt": "prompt",
    "negative": "negative_prompt",
    "seed": "seed",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "width": "width",
    "height": "height",
}
OTHERS: Mapping[str, tuple[str, ...]] = {"steps": ("steps",), "guidance": ("guidance", "cfg", "cfg_scale")}
RATIO = "aspect_ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a model says it takes; `known` is False where it did not say."""

    known: bool = False
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    streams: bool = False  # of a container: it tells of a prediction while it runs

    @classmethod
    def of(cls, document: Any) -> "Schema":
        """Out of the OpenAPI document that Cog makes for a model."""
        schemas = _at(document, "components", "schemas")
        given = _at(schemas, "Input", "properties")
        if not isinstance(given, Mapping) or not given:
            return cls()
        post = _at(document, "paths", "/predictions", "post")
        required = _at(schemas, "Input", "required")
        return cls(
            known=True,
            inputs={str(name): _resolved(one, schemas) for name, one in given.items()},
            required=frozenset(map(str, required)) if isinstance(required, list) else frozenset(),
            streams=bool(_at(post, "x-cog-streaming")),
        )


def names(model: Model, schema: Schema) -> dict[str, str]:
    """What the model calls each field of a request that it takes."""
    told = model.keys.get("inputs") or {}
    found = {}
    for name, usual in USUAL.items():
        if name in told:
            if told[name]:
                found[name] = str(told[name])
            continue
        candidates = (usual, *OTHERS.get(name, ()))
        if not schema.known:
            found[name] = usual
        elif there := [one for one in candidates if one in schema.inputs]:
            found[name] = there[0]
    return found


def inputs(request: Request, model: Model, schema: Schema) -> dict[str, Any]:
    """The input of the prediction for one picture."""
    sent: dict[str, Any] = {}
    told = names(model, schema)
    for name, its in told.items():
        value = getattr(request, name)
        if value not in (None, ""):
            sent[its] = value
    if "width" not in told and (ratios := _ratios(schema)):
        sent[RATIO] = nearest(request.width, request.height, ratios)
    sent |= {name: value for name, value in request.options.items() if value is not None}
    return sent | (model.keys.get("extra") or {})


def notices(request: Request, model: Model, schema: Schema) -> Iterator[Notice]:
    """What was asked and this model cannot be told."""
    told, where = names(model, schema), model.title or model.name
    if "seed" not in told:
        yield Notice(
            code="seed_not_used", message=f"{where} takes no seed: the same request gives another picture each time"
        )
    asked = {
        "negative": bool(request.negative),
        "steps": request.steps != model.defaults.steps,
        "guidance": request.guidance not in (None, model.defaults.guidance),
    }
    for name, said in asked.items():
        if said and name not in told and name not in model.ignores:
            yield Notice(code="ignored", message=f"{where} has no input for `{name}`")


def unknown(model: Model, schema: Schema) -> list[str]:
    """Inputs that the model's file names and the model does not have."""
    if not schema.known:
        return []
    named = [name for name in (model.keys.get("inputs") or {}).values() if name]
    return sorted({*named, *(model.keys.get("extra") or {}), *model.options} - set(schema.inputs))


def nearest(width: int, height: int, ratios: list[str]) -> str:
    """Of `16:9` and its like the one closest to a size; `custom` and other words are none."""

    def off(ratio: str) -> float:
        wide, _, high = ratio.partition(":")
        return abs(math.log((float(wide) / float(high)) / (width / height)))

    return min(ratios, key=off)


def _ratios(schema: Schema) -> list[str]:
    choices = schema.inputs.get(RATIO, {}).get("enum")
    found = []
    for choice in choices if isinstance(choices, list) else ():
        wide, _, high = str(choice).partition(":")
        if wide.isdigit() and high.isdigit() and int(wide) and int(high):
            found.append(str(choice))
    return found


def _resolved(one: Any, schemas: Any) -> Mapping[str, Any]:
    """An input with what it refers to: choices stand apart, under a name."""
    if not isinstance(one, Mapping):
        return {}
    found = dict(one)
    for part in one.get("allOf") or [one]:
        name = str(part.get("$ref", "")).rpartition("/")[2] if isinstance(part, Mapping) else ""
        there = _at(schemas, name)
        if isinstance(there, Mapping):
            found = {**there, **found}
    return found


def _at(value: Any, *path: str) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
