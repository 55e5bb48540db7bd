"""A complete config.yaml out of the settings' and the catalog's own words, everything in it commented out."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from imagen.config.keys import DEVICE, GROUPS, KEYS
from imagen.core.model import Model, Option
from imagen.core.request import PreviewPolicy
from imagen.core.template import Template
from imagen.models.catalog import Catalog

WIDTH = 100

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_NOT_TEXT = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")  # bare, these words mean something else

# What the backends that come along can be told under `backends:`; the values are those they have anyway.
BACKENDS: dict[str, tuple[tuple[str, Any, str], ...]] = {
    "comfyui": (
        (
            "url",
            "http://127.0.0.1:8188",
            "where its server answers; a model may name another one with a `url` of its own",
        ),
        ("models_folder", None, "the `models` folder of its server, when imagen cannot ask for it: see `models pull`"),
        ("outputs", "temp", "where it keeps pictures: temp, until it starts again, or output, for good"),
        ("preview_method", "auto", "how it makes previews: auto, latent2rgb or taesd"),
        ("patience_s", 60, "how long it may be away in the middle of a picture before that is an error"),
        ("unload_after_s", 600, "seconds without work after which it gives its memory back; 0: never"),
    ),
}

HEAD = """\
## Settings of imagen. A line with one # is a setting: take `# ` away to change it.
## A line with two is an explanation. What is left out keeps the value shown here.
## Flags win over the environment, the environment (IMAGEN_DATABASE, ...) over this file.
"""


def sample(catalog: Catalog) -> str:
    """The text of the sample; with every `# ` taken away it says what is the case anyway."""
    lines = [HEAD.rstrip()]
    for name, (_, default, help_) in KEYS.items():
        lines += ["", *_prose(help_)]
        match name:
            case "default_model":
                lines.append(f"# {name}: {_yaml(catalog.default)}")
            case "preview":
                told = {key: value for key, value in asdict(PreviewPolicy()).items() if value is not None}
                lines += _prose("Instead of leaving the number of previews open: count: 6, or stride: 5.")
                lines.append(f"# {name}: {_yaml(told)}")
            case "devices":
                for key, (_, _, meaning) in DEVICE.items():
                    lines += _prose(f"  {key}: {meaning}")
                lines.append(f"# {name}: {{}}")
            case "backends":
                lines.append("# backends:")
                for backend in sorted({model.backend for model in catalog.models.values()}):
                    lines += _backend(backend)
            case "models":
                lines.append("# models:")
                for model in catalog.models.values():
                    lines += _model(model)
            case _ if name in GROUPS:
                lines.append(f"# {name}:")
                for key, (kind, preset, meaning) in GROUPS[name].items():
                    none = "; null: no limit" if kind == "limit" and "null:" not in meaning else ""
                    lines += _prose(f"  {meaning}{none}")
                    lines.append(f"#   {key}: {_yaml(preset)}")
            case _:
                lines.append(f"# {name}: {_yaml(default)}")
    return "\n".join(lines) + "\n"


def _backend(name: str) -> Iterator[str]:
    if name not in BACKENDS:
        yield f"#   {name}: {{}}"
        return
    yield f"#   {name}:"
    for key, value, meaning in BACKENDS[name]:
        yield from _prose(f"    {meaning}")
        yield f"#     {key}: {_yaml(value)}"


def _model(model: Model) -> Iterator[str]:
    yield from ("", *_prose(" · ".join(filter(None, (model.title, model.licence, model.source)))))
    if model.notes:
        yield from _prose(model.notes)
    yield f"#   {_yaml(model.name)}:"
    yield f"#     enabled: {_yaml(model.enabled)}"
    yield f"#     defaults: {_yaml({key: value for key, value in asdict(model.defaults).items() if value is not None})}"
    slots = Template(model.graph or {}).slots
    for key, value in model.keys.items():
        if key in slots and key not in model.options:
            yield f"#     {_yaml(key)}: {_yaml(value)}"
    if model.options:
        yield "#     options:"
        for name, option in model.options.items():
            yield from _prose(f"      {name}: {_range(option)}; {option.help}".rstrip("; "))
            yield f"#       {_yaml(name)}: {_yaml(option.default)}"


def _range(option: Option) -> str:
    if option.choices:
        return "one of " + ", ".join(map(str, option.choices))
    if option.range:
        return f"{option.type}, {option.range[0]:g} to {option.range[1]:g}"
    return option.type


def _prose(text: str) -> list[str]:
    begin = "## " + " " * (len(text) - len(text.lstrip()))
    return wrap(text.strip(), WIDTH, initial_indent=begin, subsequent_indent=begin, break_on_hyphens=False)


def _yaml(value: Any) -> str:
    """A value on one line. JSON is YAML; bare words read better than quoted ones where that is safe."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)
