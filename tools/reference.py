"""Write docs/reference from the code, or with --check say where the two have drifted apart."""

import argparse
import difflib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from tools.source import doc, field_table, fields, key_table, line, lower, signature, table, upper

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
HEADER = "<!-- Written by `make docs` from the code. Change the code, not this page. -->\n\n"

# Fields of a model that no file says: the folder, the backend, its workflow and the loader tell them.
ELSEWHERE = {"name", "keys", "origin", "template", "graph"}

# What the catalog fills in, so that the dataclass requires it and a file does not.
DEFAULTED = {"device": "by the backend", "slots": "by the backend"}


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

    parts = ["# Events", doc(events), "Every event has"]
    parts.append(field_table(fields(events._Event)))
    parts.append("and what its type adds. Readers ignore types and fields they do not know.")
    for kind in events.KINDS:
        nature = "durable, ends the job" if kind.terminal else "durable" if kind.durable else "ephemeral"
        parts.append(f"## `{kind.type}`\n\n`imagen.{kind.__name__}`, {nature}. {doc(kind)}")
        if table := field_table(fields(kind)):
            parts.append(table)
    parts.append(
        "## A stored image\n\nOn the wire an `image` event carries these beside its envelope; `images` lists them."
    )
    parts.append(field_table(fields(job.StoredImage)))
    return "\n\n".join(parts)


def errors_page() -> str:
    """The error tree and what each leaf means to a program."""
    from imagen.core import errors

    lines, _, tree = doc(errors).partition("\n\n")
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
            doc(kind),
        )
        for code, kind in errors.BY_CODE.items()
    ]
    parts.append(table(("code", "class", "exit", "HTTP", "retried", "meaning"), rows))
    return "\n\n".join(parts)


def config_page() -> str:
    """The keys of config.yaml and how they are overridden."""
    from imagen import config
    from imagen.config import keys
    from imagen.surfaces.cli.config_sample import BACKENDS

    parts = ["# Settings", doc(config)]
    parts.append(
        "`IMAGEN_HOME` puts everything under one folder: `config.yaml`, `models/`, `imagen.db`, `images/`, `logs/`.\n"
        "Without it the platform's own folders are used. `imagen config path` says where the file is, and\n"
        "`imagen config show` prints each value that is in force and where it came from.\n"
        "`IMAGEN_SERVER` has another imagen do the work, with the key in `IMAGEN_KEY`:\n"
        "[how](../howto/use-a-server.md)."
    )
    rows = [
        (
            f"`{name}`",
            kind,
            "below" if name in keys.GROUPS else "" if default in (None, {}) else f"`{default}`",
            f"`{config.PREFIX}{name.upper()}`" if name in keys.FROM_ENVIRONMENT else "",
            upper(meaning),
        )
        for name, (kind, default, meaning) in keys.KEYS.items()
    ]
    parts.append(table(("key", "type", "default", "environment", "meaning"), rows))
    parts.append(
        "A setting of a backend can come from the environment too:\n"
        f"`{config.PREFIX}NAME_KEY` sets `key` of the backend `name`.\n"
        f"`_FILE` behind a variable named on this page names a file that holds the value, as containers are given\n"
        f"secrets: `{config.PREFIX}DATABASE_FILE=/run/secrets/database_url`. Backends have no such files."
    )
    for backend, told in BACKENDS.items():
        parts.append(f"## `backends:` `{backend}:`")
        lines = [
            (
                f"`{name}`",
                "" if default is None else f"`{default}`",
                f"`{config.PREFIX}{backend}_{name}`".upper(),
                upper(meaning),
            )
            for name, default, meaning in told
        ]
        parts.append(table(("key", "default", "environment", "meaning"), lines))
    lines = [
        (f"`{name}`", _KINDS.get(kind, kind), _default(default), upper(meaning))
        for name, (kind, default, meaning) in keys.DEVICE.items()
    ]
    parts.append("## `devices:` `NAME:`\n\nHow one device is shared: docs/howto/share-a-gpu.md.")
    parts.append(table(("key", "type", "default", "meaning"), lines))
    for group, told_keys in keys.GROUPS.items():
        rows = [
            (
                f"`{name}`",
                _KINDS.get(kind, kind),
                _default(default),
                f"`{config.PREFIX}{group}_{name}`".upper(),
                upper(meaning),
            )
            for name, (kind, default, meaning) in told_keys.items()
        ]
        parts.append(f"## `{group}:`")
        parts.append(table(("key", "type", "default", "environment", "meaning"), rows))
    return "\n\n".join(parts)


_KINDS = {"limit": "number or null", "flag": "true or false", "aliases": "mapping", "hook": "words or address"}


def _default(value: object) -> str:
    if value in (None, ()):
        return ""
    return f"`{json.dumps(value) if isinstance(value, dict | bool) else value}`"


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
    common = [field for field in fields(model.Model) if field.name not in ELSEWHERE]
    parts.append(key_table([replace(field, default=DEFAULTED.get(field.name, field.default)) for field in common]))
    inner = {"defaults": model.Defaults, "limits": model.Limits, "options": model.Option, "files": model.ModelFile}
    for name, kind in inner.items():
        shape = {"options": "A mapping; for each name: ", "files": "A list; each of: "}.get(name, "")
        parts.append(f"### `{name}`\n\n{shape}{lower(doc(kind)) if shape else doc(kind)}")
        parts.append(key_table(fields(kind)))
    for name, registration in sorted(registrations().items()):
        parts.append(f"## Keys of the backend `{name}`")
        parts.append(key_table(fields(registration.keys)) or "None of its own.")
        if registration.templates is not None:
            parts.append(_slots(registration.templates))
    return "\n\n".join(parts)


def _slots(templates: Any) -> str:
    """How the slots of a workflow become keys."""
    everywhere = {"prompt", "negative", "seed", "steps", "width", "height", "cfg", "guidance", "filename_prefix"}
    filled = ", ".join(f"`{name}`" for name in sorted(templates.filled(everywhere)))
    others = ", ".join(f"`{name}` for `{slot}`" for name, slot in sorted(templates.aliases.items()))
    knobs = ", ".join(f"`{name}`" for name in sorted(templates.knobs))
    return (
        "Besides these, every slot of its workflow is a key: `${vae}` is filled by `vae: …`, or by an option of that\n"
        "name; where there are both, the key is the option's default. A slot that nothing fills is an error. Without\n"
        f"`workflow`, or a `workflow.json` beside the file, the workflow is that of `{templates.default}`;\n"
        "`workflow_template` is another name of `workflow`.\n\n"
        f"* filled by every request: {filled}; `guidance` where there is no `cfg`\n"
        f"* other names: {others}\n"
        f"* a warning, and no error, where the workflow has no such slot: {knobs}"
    )


def python_page() -> str:
    """The public names of the package."""
    import imagen

    what, _, example = doc(imagen).partition("\n\n")
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
        parts.append(table(("key", "type", "meaning"), list(_schema_rows(schema, schema))))
    return "\n\n".join(parts)


TABLES = """\
# Tables

Another program may ask for pictures, cancel them and watch them by SQL alone. On SQLite the tables are in
`imagen.db`. The columns below are promises: they stay, also on PostgreSQL, where a later version keeps them in the
schema `imagen`. What else there is may change with a version.

```sql
INSERT INTO jobs (prompt, model) VALUES ('a red fox', 'mock');
UPDATE jobs SET cancel_requested = true WHERE id = '…';
```

Columns left empty are filled in by whoever draws the job, before `started`. A row that cannot be drawn becomes
`failed` with the reason in `error`. `state` is `queued`, `running`, `completed`, `failed` or `cancelled`; it is for
reading. After the insert, `cancel_requested` is the one column to write."""


def tables_page() -> str:
    """The tables that other programs may read and write."""
    from imagen.store import tables

    parts = [TABLES]
    source = inspect.getsource(tables)
    for promise in (tables.jobs, tables.images):
        columns = source[source.index(f'    "{promise.name}",') :].partition("# frozen")[2].partition("# ours")[0]
        names = re.findall(r'Column\("(\w+)"', columns)
        parts.append(f"## `{promise.name}`")
        parts.append(table(("column", "SQLite", "PostgreSQL", "default"), [_column(promise.c[name]) for name in names]))
    return "\n\n".join(parts)


def _column(column: Any) -> tuple[str, ...]:
    from sqlalchemy.dialects import postgresql, sqlite

    kinds = [column.type.compile(dialect=dialect()).lower() for dialect in (sqlite.dialect, postgresql.dialect)]
    if column.server_default is None:
        default = "" if column.nullable else "required"
    else:
        # A default that the database computes is an expression; what it means says more than how it is written.
        computed = {"id": "a new id", "created_at": "now", "cancel_requested": "false"}
        default = computed.get(column.name) or str(column.server_default.arg).strip("'")
    return f"`{column.name}`", *kinds, default


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "config.md": config_page,
    "errors.md": errors_page,
    "events.md": events_page,
    "model-file.md": model_file_page,
    "python.md": python_page,
    "sidecar.md": sidecar_page,
    "tables.md": tables_page,
}


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
            return f"## `{name}{signature(value)}`\n\n{line(value)}"
        return f"## `{name}`\n\nOne of {', '.join(f'`{kind.__name__}`' for kind in get_args(value))}."
    told = f"## `{name}`\n\n{line(value)}"
    if value.__module__ == "imagen.core.events":
        return f"{told} Its fields: [events](events.md#{name.lower()})."
    if issubclass(value, Exception):
        return f"{told} What is below it: [errors](errors.md)."
    if is_dataclass(value):
        return f"{told}\n\n{field_table(fields(value))}"
    if issubclass(value, Enum):
        return f"{told} {', '.join(f'`{item.value}`' for item in value)}."
    return told + _methods(value)


def _methods(kind: type) -> str:
    lines = [
        f"- `{name}{signature(value)}`: {line(value)}"
        for name, value in (*vars(kind).items(), *_handed_on(kind))
        if not name.startswith("_") and inspect.isfunction(inspect.unwrap(value)) and value.__doc__
    ]
    return "\n\n" + "\n".join(lines) if lines else ""


def _handed_on(kind: type) -> list[tuple[str, Any]]:
    """The methods that each App has from its parts."""
    from imagen.app import App
    from imagen.config import load_settings

    if kind is not App:
        return []
    made = vars(App(load_settings(home=Path("nowhere"), environ={})))
    return [(name, value.__func__) for name, value in made.items() if inspect.ismethod(value)]


def _schema_rows(
    schema: Mapping[str, Any], whole: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    while "$ref" in schema:
        schema = _reference(whole, schema["$ref"])
    for name, item in schema.get("properties", {}).items():
        told = item
        while "$ref" in told:
            told = _reference(whole, told["$ref"]) | {key: value for key, value in told.items() if key != "$ref"}
        yield f"`{prefix}{name}`", _schema_type(told), str(told.get("description", ""))
        if "properties" in told:
            yield from _schema_rows(told, whole, f"{prefix}{name}.")
        elif isinstance(told.get("items"), dict):
            yield from _schema_rows(told["items"], whole, f"{prefix}{name}[].")


def _schema_type(told: Mapping[str, Any]) -> str:
    match told:
        case {"const": value}:
            return f"always {value}"
        case {"enum": values}:
            return " or ".join("null" if value is None else str(value) for value in values)
        case {"type": [*kinds]}:
            return " or ".join(kinds)
        case _:
            return str(told.get("type", "any value"))


def _reference(whole: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    found: Any = whole
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


if __name__ == "__main__":
    sys.exit(main())
