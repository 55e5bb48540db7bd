"""The page /docs: what there is to ask, from the OpenAPI document. No script, nothing from elsewhere."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from imagen.surfaces.web import pages

CSS = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: #222 }
h2 { margin-top: 2.5rem; text-transform: capitalize }
details { border: 1px solid #ddd; border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem }
summary { cursor: pointer } code, pre { font: 14px/1.4 ui-monospace, monospace }
summary b { display: inline-block; min-width: 4.2rem; font: 600 14px ui-monospace, monospace }
.said { color: #666 } pre { background: #f6f6f6; padding: .6rem; overflow: auto }
td { padding: .1rem .8rem .1rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } details { border-color: #444 }
pre { background: #222 } .said { color: #999 } a { color: #8ab4f8 } }
"""


def page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            group = (operation.get("tags") or ["other"])[0]
            groups.setdefault(group, []).append("".join(_operation(document, method, path, operation)))
    body = "".join(f"<h2>{escape(name)}</h2>{''.join(entries)}" for name, entries in groups.items())
    about = "".join(f"<p>{escape(part)}</p>" for part in document["info"]["description"].strip().split("\n\n"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>imagen: the HTTP API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="/imagine/static/{pages.version()}/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/docs/page.css"></head><body><main>'
        f"<h1>imagen {escape(document['info']['version'])}</h1>{about}"
        '<p>The same for programs: <a href="/openapi.json">/openapi.json</a></p>'
        f"{body}</main></body></html>"
    )


def _operation(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code>"
    yield f' <span class="said">{escape(operation.get("summary", ""))}</span></summary>'
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    rows = [
        (one["name"], one["in"], one.get("description", "") or _type(one["schema"]))
        for one in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        body = _resolved(document, body)
        for example in body.get("examples", ()):
            yield f"<pre>{escape(json.dumps(example))}</pre>"
        needed = body.get("required", ())
        rows += [
            (name, "body, needed" if name in needed else "body", one.get("description", "") or _type(one))
            for name, one in body.get("properties", {}).items()
        ]
    yield _table(rows)
    yield _table([(code, "answer", one["description"]) for code, one in operation["responses"].items()])
    yield "</details>"


def _table(rows: list[tuple[str, str, str]]) -> str:
    cells = "".join(
        f'<tr><td><code>{escape(name)}</code></td><td class="said">{escape(where)}</td><td>{escape(said)}</td></tr>'
        for name, where, said in rows
    )
    return f"<table>{cells}</table>" if rows else ""


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type(one) for one in options if one.get("type") != "null"))
    return str(schema.get("type", ""))


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = document
    for part in schema.get("$ref", "#").split("/")[1:]:
        found = found[part]
    return found if "$ref" in schema else schema
