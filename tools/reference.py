"""Write docs/reference from the code, or with --check say where the two have drifted apart."""

import argparse
import ast
import difflib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
HEADER = "<!-- Written by `make docs` from the code. Change the code, not this page. -->\n\n"

# Fields of a model that no file says: the folder, the backend and the loader tell them.
ELSEWHERE = {"name", "keys", "origin"}

# What the catalog fills in, so that the dataclass requires it and a file does not.
DEFAULTED = {"device": "by the backend", "slots": "by the backend"}

# Types as somebody who writes YAML calls them.
IN_YAML = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "any value"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; show the drift and exit 1 when there is any"
    )
    check = parser.parse_args(arguments).check
    drifted = False
    for name, page in PAGES.items():
        path = REFERENCE / name
        new = HEADER + page().strip() + "\n"
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if new == old:
            continue
        if check:
            drifted = True
            label = str(path.relative_to(ROOT))
            sys.stdout.writelines(
                difflib.unified_diff(old.splitlines(True), new.splitlines(True), label, f"{label} (from the code)")
            )
        else:
            REFERENCE.mkdir(parents=True, exist_ok=True)
            path.write_text(new, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    if drifted:
        print("\ndocs/reference is not what the code says; run `make docs` and read the difference")
    return int(drifted)


def cli_page() -> str:
    """Every command's own help."""
    from imagen.surfaces.cli.main import cli

    parts = [
        "# Commands",
        "What `--help` says, for every command. Exit codes: 0 done, 1 the backend failed, 2 the request was wrong,",
    ]
    parts[-1] += (
        "\n3 the set-up needs the owner, 130 interrupted. Results go to stdout, everything for people to stderr."
    )
    for path, text in _helps(cli, "imagen"):
        parts.append(f"## `{path}`\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def events_page() -> str:
    """The event union, as data."""
    from imagen.core import events, job

    parts = ["# Events", _doc(events), "Every event has"]
    parts.append(_field_table(_fields(events._Event)))
    parts.append("and what its type adds. Readers ignore types and fields they do not know.")
    for kind in events.KINDS:
        nature = "durable, ends the job" if kind.terminal else "durable" if kind.durable else "ephemeral"
        parts.append(f"## `{kind.type}`\n\n`imagen.{kind.__name__}`, {nature}. {_doc(kind)}")
        if table := _field_table(_fields(kind)):
            parts.append(table)
    parts.append(
        "## A stored image\n\nOn the wire an `image` event carries these beside its envelope; `images` lists them."
    )
    parts.append(_field_table(_fields(job.StoredImage)))
    return "\n\n".join(parts)


def errors_page() -> str:
    """The error tree and what each leaf means to a program."""
    from imagen.core import errors

    lines, _, tree = _doc(errors).partition("\n\n")
    parts = ["# Errors", lines, f"```text\n{tree}\n```"]
    parts.append(
        "Each carries `message` (what happened), `hint` (what to do next), `retryable`, and where they apply `param`,\n"
        "`retry_after_s` and `detail` (the backend's own words). Programs switch on `code`."
    )
    rows = [
        (
            f"`{code}`",
            f"`{kind.__name__}`",
            str(kind.exit_code),
            str(kind.http_status),
            "yes" if kind.retryable else "",
            _doc(kind),
        )
        for code, kind in errors.BY_CODE.items()
    ]
    parts.append(_table(("code", "class", "exit", "HTTP", "retried", "meaning"), rows))
    return "\n\n".join(parts)


def config_page() -> str:
    """The keys of config.yaml and how they are overridden."""
    from imagen import config

    parts = ["# Settings", _doc(config)]
    parts.append(
        "`IMAGEN_HOME` puts everything under one folder: `config.yaml`, `models/`, `imagen.db`, `images/`, `logs/`.\n"
        "Without it the platform's own folders are used. `imagen config path` says where the file is, and\n"
        "`imagen config show` prints each value that is in force and where it came from."
    )
    rows = [
        (
            f"`{name}`",
            kind,
            "" if default in (None, {}) else f"`{default}`",
            f"`{config.PREFIX}{name.upper()}`" if name in config.FROM_ENVIRONMENT else "",
            _upper(meaning),
        )
        for name, (kind, default, meaning) in config.KEYS.items()
    ]
    parts.append(_table(("key", "type", "default", "environment", "meaning"), rows))
    parts.append(
        "A setting of a backend can come from the environment too:\n"
        f"`{config.PREFIX}NAME_KEY` sets `key` of the backend `name`."
    )
    return "\n\n".join(parts)


def model_file_page() -> str:
    """What a model.yaml may say: the common keys, and those of each backend."""
    from imagen.backends.registry import registrations
    from imagen.core import model

    parts = [
        "# The model file",
        "One model is one `model.yaml` in a folder of its name, or one entry under `models:` of `config.yaml`.\n"
        "Any key that stands neither here nor among the slots of its workflow is an error that names file and line.",
        "## Every model",
    ]
    common = [field for field in _fields(model.Model) if field.name not in ELSEWHERE]
    parts.append(_key_table([replace(field, default=DEFAULTED.get(field.name, field.default)) for field in common]))
    inner = {"defaults": model.Defaults, "limits": model.Limits, "options": model.Option, "files": model.ModelFile}
    for name, kind in inner.items():
        shape = {"options": "A mapping; for each name: ", "files": "A list; each of: "}.get(name, "")
        parts.append(f"### `{name}`\n\n{shape}{_lower(_doc(kind)) if shape else _doc(kind)}")
        parts.append(_key_table(_fields(kind)))
    for name, registration in sorted(registrations().items()):
        parts.append(f"## Keys of the backend `{name}`")
        parts.append(_key_table(_fields(registration.keys)) or "None of its own.")
    return "\n\n".join(parts)


def python_page() -> str:
    """The public names of the package."""
    import imagen

    what, _, example = _doc(imagen).partition("\n\n")
    parts = ["# Python", what, f"```python\n{example}\n```"]
    for name in sorted(imagen.__all__, key=str.lower):
        parts.append(_public(name, getattr(imagen, name)))
    return "\n\n".join(parts)


def sidecar_page() -> str:
    """The JSON schemas of what lies beside the pictures."""
    schemas = sorted((ROOT / "src/imagen/engine/schemas").glob("*.json"))
    parts = [
        "# Sidecars",
        "What the JSON files beside pictures hold. The schemas are part of the package, in `imagen/engine/schemas`.",
    ]
    for path in schemas:
        schema = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## {schema.get('title', path.stem)}\n\n`{path.name}`. {schema.get('description', '')}".rstrip())
        parts.append(_table(("key", "type", "meaning"), list(_schema_rows(schema, schema))))
    return "\n\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "config.md": config_page,
    "errors.md": errors_page,
    "events.md": events_page,
    "model-file.md": model_file_page,
    "python.md": python_page,
    "sidecar.md": sidecar_page,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a dataclass as its source tells it."""

    name: str
    type: str
    default: str
    comment: str


def _fields(kind: type) -> list[Field]:
    """Read from the source and not from the class, because there the comments stand and a default is readable."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = []
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        annotation = ast.unparse(node.annotation)
        if annotation.startswith("ClassVar"):
            continue
        _, _, comment = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
        found.append(Field(name=node.target.id, type=annotation, default=_default(node.value), comment=comment))
    return found


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    text = ast.unparse(value)
    match value:
        case ast.Call(func=ast.Name(id="field")):
            factory = next((item.value for item in value.keywords if item.arg == "default_factory"), None)
            plain = next((item.value for item in value.keywords if item.arg == "default"), None)
            if factory is None:
                return "required" if plain is None else _default(plain)
            return {"dict": "`{}`", "list": "`[]`"}.get(ast.unparse(factory), "see below")
        case ast.Tuple(elts=[]):
            return "`[]`"
        case ast.Constant(value=None):
            return ""
        case ast.Constant(value=""):
            return '`""`'
        case _:
            return f"`{text}`" if len(text) <= 24 else ""


def _field_table(fields: list[Field]) -> str:
    if not fields:
        return ""
    return _table(
        ("field", "type", "default", ""),
        [(f"`{field.name}`", f"`{field.type}`", field.default, field.comment) for field in fields],
    )


def _key_table(fields: list[Field]) -> str:
    """The same for people who write YAML."""
    rows = []
    for field in fields:
        kinds = []
        for kind in field.type.split(" | "):
            match kind.partition("["):
                case ("tuple", _, _):
                    kinds.append("list")
                case ("Mapping", _, _) | ("Defaults" | "Limits", _, _):
                    kinds.append("mapping")
                case ("Literal", _, choices):
                    kinds.append(choices.rstrip("]").replace("'", "").replace(", ", " or "))
                case _ if kind != "None":
                    kinds.append(IN_YAML.get(kind, kind))
        default = field.default.replace("True", "true").replace("False", "false").replace("'", "")
        rows.append((f"`{field.name}`", ", ".join(kinds), default.replace("(", "[").replace(")", "]"), field.comment))
    return _table(("key", "type", "default", ""), rows) if rows else ""


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(titles), "|" + "---|" * len(titles), *(line(row) for row in rows)])


def _helps(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    import click

    # As wide as a terminal of 80 columns, whoever runs this and wherever.
    told = {**command.context_settings, "terminal_width": 80, "max_content_width": 80}
    context = click.Context(command, info_name=name, parent=parent, **told)
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            child = command.get_command(context, inner)
            if child is not None and not child.hidden:
                yield from _helps(child, inner, context)


def _public(name: str, value: Any) -> str:
    if not inspect.isclass(value):
        if callable(value):
            return f"## `{name}{_signature(value)}`\n\n{_line(value)}"
        return f"## `{name}`\n\nOne of {', '.join(f'`{kind.__name__}`' for kind in get_args(value))}."
    told = f"## `{name}`\n\n{_line(value)}"
    if value.__module__ == "imagen.core.events":
        return f"{told} Its fields: [events](events.md#{name.lower()})."
    if issubclass(value, Exception):
        return f"{told} What is below it: [errors](errors.md)."
    if is_dataclass(value):
        return f"{told}\n\n{_field_table(_fields(value))}"
    if issubclass(value, Enum):
        return f"{told} {', '.join(f'`{item.value}`' for item in value)}."
    return told + _methods(value)


def _methods(kind: type) -> str:
    lines = [
        f"- `{name}{_signature(value)}`: {_line(value)}"
        for name, value in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(inspect.unwrap(value)) and value.__doc__
    ]
    return "\n\n" + "\n".join(lines) if lines else ""


def _signature(function: Any) -> str:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({arguments}){returns}"


def _schema_rows(
    schema: Mapping[str, Any], whole: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    while "$ref" in schema:
        schema = _reference(whole, schema["$ref"])
    for name, item in schema.get("properties", {}).items():
        told = item
        while "$ref" in told:
            told = _reference(whole, told["$ref"]) | {key: value for key, value in told.items() if key != "$ref"}
        kinds = told.get("type", "const" if "const" in told else "any")
        kind = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
        yield f"`{prefix}{name}`", kind, str(told.get("description", ""))
        if "properties" in told:
            yield from _schema_rows(told, whole, f"{prefix}{name}.")
        elif isinstance(told.get("items"), dict):
            yield from _schema_rows(told["items"], whole, f"{prefix}{name}[].")


def _reference(whole: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    found: Any = whole
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def _line(thing: Any) -> str:
    return " ".join(_doc(thing).split())


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    sys.exit(main())
