"""A workflow of somebody's own becomes a model: its folder is written whole, or not at all."""

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imagen.backends.base import Adopted, Adopts, Backend, Site
from imagen.backends.registry import registrations
from imagen.config import Settings
from imagen.core.errors import BadConfig, Conflict, RequestError, TooLarge, Unsupported
from imagen.engine.pictures.sidecar import text_chunks
from imagen.models import slots
from imagen.models.catalog import FILE, Catalog, load_catalog
from imagen.models.entry import NAME
from imagen.reading import parse_json

MAX_PICTURE_BYTES = 64 * 2**20  # a picture with a workflow in it, as ComfyUI saves them
LINE = 110  # characters of a line that can be broken
_DEEP = " " * 6
# Text that needs no quotes in YAML, and words that would be something else without.
_PLAIN = re.compile(r"[A-Za-z][\w./()-]*( [\w./()-]+)*", re.ASCII)
_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])
_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNKS = ("prompt", "workflow")  # what ComfyUI writes into a picture: what was drawn, and what the editor showed


async def adopt(backend: Backend, document: Mapping[str, Any], answers: Mapping[str, str]) -> Adopted:
    """Ask a backend that was made for this, and close it."""
    try:
        if not isinstance(backend, Adopts):
            raise Unsupported("this backend cannot make a model out of a workflow", hint="write its model.yaml by hand")
        return await backend.adopt(document, answers)
    finally:
        await backend.aclose()


def read_document(file: Path) -> Mapping[str, Any]:
    """The workflow in a file: JSON, or a PNG that ComfyUI made."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_PICTURE_BYTES + 1)
    except OSError as exc:
        raise RequestError(f"{file} cannot be read: {exc.strerror}", hint="give the path of a workflow file") from exc
    if raw.startswith(_PNG) and len(raw) <= MAX_PICTURE_BYTES:
        texts = text_chunks(raw)
        documents = [_json(texts[name], file) for name in _CHUNKS if texts.get(name)]
        if not documents:
            raise RequestError(f"no workflow is inside {file}", hint="give a picture as ComfyUI saved it, or a .json")
        return documents[0]
    if len(raw) > slots.MAX_BYTES:
        raise TooLarge(f"{file} is larger than {slots.MAX_BYTES:,} bytes", hint="give a workflow file")
    try:
        return _json(raw.decode("utf-8-sig"), file)
    except UnicodeDecodeError as exc:
        raise RequestError(f"{file} is not JSON: it is not UTF-8 text", hint="give a workflow file") from exc


def name_for(file: Path) -> str:
    """A name for the model out of the name of its file."""
    words = re.sub(r"[^\w.-]+", "-", file.stem.strip().lower()).strip("-._")
    return words[:60].rstrip("-._") or "workflow"


def check_name(name: str, catalog: Catalog, folder: Path, *, force: bool) -> None:
    """Raise unless a model of this name can be made here."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} cannot be the name of a model",
            hint="use letters, digits, `.`, `_` and `-`, up to 100 of them",
            param="name",
        )
    there = os.path.lexists(folder / name)
    known = catalog.models.get(name)
    if not force and (there or known is not None):
        where = folder / name if there or known is None else known.origin
        raise Conflict(
            f"there is a model {name!r} already: {where}",
            hint="give another name with --name, or replace it with --force",
            param="name",
        )


def write(
    adopted: Adopted,
    name: str,
    settings: Settings,
    *,
    title: str,
    origin: str,
    url: str | None = None,
) -> Path:
    """Write the model's folder, over one that is there; the catalog has read it before it gets its name."""
    folder = settings.models_folder
    draft = folder / f".{name[:40]}-{secrets.token_hex(4)}"
    made, there = draft / name, folder / name
    try:
        made.mkdir(parents=True)
        (made / slots.FILE).write_text(graph_text(adopted.graph), encoding="utf-8")
        (made / FILE).write_text(model_text(adopted, title=title, origin=origin, url=url), encoding="utf-8")
        _prove(name, draft, settings)
        if os.path.lexists(there):
            _keep_others(there, made)
            there.rename(draft / "before")
        made.rename(there)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return there


def graph_text(graph: Mapping[str, Any]) -> str:
    """The template, a node a line, so that people see what they change."""
    lines = [f"  {json.dumps(name)}: {json.dumps(node)}" for name, node in graph.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def model_text(adopted: Adopted, *, title: str, origin: str, url: str | None = None) -> str:
    """model.yaml, with what was found where."""
    keys = dict(adopted.keys)
    lines = [*_comment(f"Made by `imagen models add` from {origin}. The slots of workflow.json and where they stand:")]
    lines += [f"#   {slot:<12}{', '.join(map(_told, places))}"[:LINE] for slot, places in adopted.found.items()]
    lines += [f"title: {_scalar(title)}", "backend: comfyui"]
    if url is not None:
        lines.append(f"url: {_scalar(url)}")
    for key in ("defaults", "limits"):
        lines += _block(key, keys.pop(key, {}))
    files = keys.pop("files", [])
    options = keys.pop("options", {})
    if keys:
        lines.append("# The files as this server names them.")
        lines += [f"{key}: {_scalar(value)}" for key, value in keys.items()]
    if options:
        lines.append("options:")
        for key, option in options.items():
            lines += [f"  {line}" for line in _block(key, option)]
    if files:
        lines.append("files:")
    for file in files:
        first, *rest = (f"{key}: {_scalar(value)}" for key, value in file.items())
        lines += [f"  - {first}", *(f"    {line}" for line in rest)]
        if "hub" not in file:
            lines.append(
                "    # The workflow does not say where to fetch it: `hub: ORG/REPO/path/in/it`, where you know."
            )
    if adopted.notes:
        lines.append("# Worth knowing:")
        lines += [f"#   {line}" for note in adopted.notes for line in _wrapped(f"- {note}", LINE - 4)]
    return "\n".join(lines) + "\n"


def _prove(name: str, draft: Path, settings: Settings) -> None:
    """What was written can be read."""
    backends = registrations()
    catalog = load_catalog(
        folders=[draft],
        configured={},
        default_model=None,
        backends=backends,
        backend_settings={key: settings.backend(key) for key in backends},
        host="localhost",
    )
    if name in catalog.broken:
        error = catalog.broken[name]
        said = re.sub(r"\S*?(model\.yaml|workflow\.json)", r"\1", error.message)
        raise BadConfig(
            f"the model that follows from this workflow cannot be read: {said}",
            hint="nothing was written; choose other places with --slot, or change the workflow",
        ) from error


def _keep_others(there: Path, made: Path) -> None:
    """Whatever else lies in the folder that is replaced goes along."""
    for path in there.iterdir() if there.is_dir() else ():
        if path.name not in (FILE, slots.FILE):
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, made / path.name)


def _json(text: str, file: Path) -> Mapping[str, Any]:
    try:
        document = parse_json(text, file, hint="give the file of `Workflow > Save` or of `Workflow > Export (API)`")
    except BadConfig as exc:
        raise RequestError(exc.message, hint=exc.hint) from exc
    if not isinstance(document, Mapping):
        raise RequestError(
            f"{file} is no workflow: it holds a {type(document).__name__}",
            hint="give the file of `Workflow > Save` or of `Workflow > Export (API)`",
        )
    return document


def _told(place: Site) -> str:
    title = _one_line(place.title)
    return f"{place.name} ({place.kind}{f': {title}' if title and title != place.kind else ''})"


def _block(key: str, values: Mapping[str, Any]) -> Iterator[str]:
    if values:
        yield f"{key}:"
        for name, value in values.items():
            yield f"  {name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    """A value on one line of YAML."""
    match value:
        case str() if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return value
        case str():
            import yaml

            text: str = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf)
            return text.strip()
        case list():
            from textwrap import fill

            items = ", ".join(map(_scalar, value))
            # Words alone may be broken anywhere; what is quoted stays whole.
            short = len(items) < LINE or '"' in items
            return (
                f"[{items}]"
                if short
                else f"\n{fill(f'[{items}]', LINE, initial_indent=_DEEP, subsequent_indent=_DEEP)}"
            )
        case float():
            digits, e, power = repr(value).partition("e")
            return f"{digits}.0e{power}" if e and "." not in digits else repr(value)
        case _:
            return json.dumps(value)


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in _wrapped(text, LINE - 2))


def _wrapped(text: str, width: int) -> list[str]:
    from textwrap import wrap

    return wrap(_one_line(text), width, subsequent_indent="  " if text.startswith("- ") else "")


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
