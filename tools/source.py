"""Read the code as its author wrote it, and write it down as Markdown tables."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Types as somebody who writes YAML calls them.
IN_YAML = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "any value"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a dataclass as its source tells it."""

    name: str
    type: str
    default: str
    comment: str


def fields(kind: type) -> list[Field]:
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
        value = node.value and _spelt_out(node.value, vars(sys.modules[kind.__module__]))
        found.append(Field(name=node.target.id, type=annotation, default=_default(value), comment=_told(comment)))
    return found


def _told(comment: str) -> str:
    return "" if comment.startswith(("noqa", "type:")) else comment


def _spelt_out(value: ast.expr, names: Mapping[str, Any]) -> ast.expr:
    """A text that has a name, as itself: whoever reads the reference does not know the name."""
    known = names.get(value.id) if isinstance(value, ast.Name) else None
    return ast.Constant(known) if type(known) is str else value


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


def field_table(fields: list[Field]) -> str:
    if not fields:
        return ""
    return table(
        ("field", "type", "default", ""),
        [(f"`{field.name}`", f"`{field.type}`", field.default, field.comment) for field in fields],
    )


def key_table(fields: list[Field]) -> str:
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
    return table(("key", "type", "default", ""), rows) if rows else ""


def table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(titles), "|" + "---|" * len(titles), *(line(row) for row in rows)])


def signature(function: Any) -> str:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    names = inspect.unwrap(function).__globals__
    node.args.defaults = [_spelt_out(value, names) for value in node.args.defaults]
    node.args.kw_defaults = [value and _spelt_out(value, names) for value in node.args.kw_defaults]
    arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({arguments}){returns}"


def doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def line(thing: Any) -> str:
    return " ".join(doc(thing).split())


def upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def lower(text: str) -> str:
    return text[:1].lower() + text[1:]
