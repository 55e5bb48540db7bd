"""What is promised to whoever asks over HTTP, one line for each: from the document of the native API, or from answers.

POST /v1/jobs < NewJob                  is sent
POST /v1/jobs 202 > Job                 is answered
Job.images: [Image]                     is in it, in this type
NewJob ! prompt                         has to be in it
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]


def promises(document: Document) -> set[str]:
    """Every promise of an OpenAPI document."""
    schemas = document.get("components", {}).get("schemas", {})
    found = {line for name, schema in schemas.items() for line in _fields(name, schema)}
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            where = f"{method.upper()} {path}"
            found.add(where)
            for parameter in told.get("parameters", []):
                found.add(f"{where} < {parameter['in']} {parameter['name']}: {_kind(parameter['schema'])}")
                if parameter.get("required"):
                    found.add(f"{where} ! {parameter['name']}")
            for content in told.get("requestBody", {}).get("content", {}).values():
                found.add(f"{where} < {_kind(content['schema'])}")
                found.update(_needed(_kind(content["schema"]), schemas))
            for status, answer in told["responses"].items():
                found.add(f"{where} {status}")
                for mime, content in answer.get("content", {}).items():
                    schema = content.get("schema", {})
                    found.add(f"{where} {status} > {_kind(schema) if mime == 'application/json' else mime}")
                    found.update(_fields(f"{where} {status} >", schema))
    return found


def shape(value: Any, place: str = "") -> set[str]:
    """The names in some JSON and the types of what they hold; of a null only that it is there."""
    if isinstance(value, Mapping):
        inner = [(f"{place}.{name}" if place else str(name), one) for name, one in value.items()]
        return {line for where, one in inner for line in {where} | shape(one, where)}
    if isinstance(value, list):
        return {line for one in value for line in shape(one, f"{place}[]")} | {f"{place}: list"}
    return set() if value is None else {f"{place}: {_NAMES[type(value)]}"}


_NAMES = {str: "text", int: "number", float: "number", bool: "true or false"}


def lost(golden: set[str], today: set[str]) -> list[str]:
    """Promises that are not kept any more, and fields that have to be sent all of a sudden."""
    known = {line.partition(".")[0] for line in golden} | golden
    new = [line for line in today - golden if " ! " in line and line.partition(" ! ")[0] in known]
    gone = [line for line in golden - today if " ! " not in line]
    return sorted([*(f"gone: {line}" for line in gone), *(f"needed now: {line}" for line in new)])


def _fields(name: str, schema: Document) -> Iterator[str]:
    """What is written out in this schema; what it refers to by name stands for itself."""
    for field, one in schema.get("properties", {}).items():
        yield f"{name}.{field}: {_kind(one)}"
        yield from _fields(f"{name}.{field}", one)
    for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _fields(name, one)
    if "items" in schema:
        yield from _fields(f"{name}[]", schema["items"])


def _needed(name: str, schemas: Document) -> Iterator[str]:
    """What has to be in a request of this name, and in what it consists of."""
    for field in schemas.get(name, {}).get("required", []):
        yield f"{name} ! {field}"
    for one in schemas.get(name, {}).get("properties", {}).values():
        for inner in re.findall(r"\w+", _kind(one)):
            if inner in schemas and inner != name:
                yield from _needed(inner, schemas)


def _kind(schema: Document) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if one_of := (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        return "|".join(sorted(_kind(one) for one in one_of))
    if "const" in schema:
        return f"={schema['const']}"
    if "items" in schema:
        return f"[{_kind(schema['items'])}]"
    return str(schema.get("type", "any"))
