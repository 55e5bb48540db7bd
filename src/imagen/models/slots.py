"""The template of a model: found, read, and held against the keys that are to fill it."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from imagen.core.errors import BadConfig
from imagen.core.model import Model, Option
from imagen.core.template import Template
from imagen.reading import parse_json

if TYPE_CHECKING:
    from imagen.models.entry import Entry

FILE = "workflow.json"
KEYS = ("workflow", "workflow_template")  # the second is how older files spell the first
MAX_BYTES = 8 * 2**20  # the largest workflows people share have a tenth of it


class FillsTemplates(Protocol):
    """What the catalog has to know of a backend that fills in templates."""

    @property
    def default(self) -> str:
        """The bundled model whose template a model gets that names none."""

    @property
    def filled(self) -> Callable[[Set[str]], Set[str]]:
        """Of a template's slots, those that the request or the backend fills."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of slots."""

    @property
    def knobs(self) -> Collection[str]:
        """Keys that many templates have; where one does not, it is only a warning."""

    @property
    def wrong(self) -> Callable[[Any], tuple[str, str] | None]:
        """What is wrong with a document that should be a template, and what to do; None when nothing is."""


def named(keys: Mapping[str, Any]) -> str | None:
    """What a model calls its workflow: the name of a model, or a file."""
    return next((keys[key] for key in KEYS if isinstance(keys.get(key), str)), None)


def file_of(keys: Mapping[str, Any], document: Path) -> Path | None:
    """The file with the model's own template: the one it names, or the one beside its model.yaml."""
    name = named(keys)
    if name is None:
        beside = document.with_name(FILE)
        return beside if document.name == "model.yaml" and beside.is_file() else None
    if name.endswith(".json") or "/" in name:
        return document.parent / Path(name).expanduser()
    return None


def read_template(entry: "Entry", file: Path, wrong: Callable[[Any], tuple[str, str] | None]) -> Template:
    """The template in a file; BadConfig with the place of every mistake."""
    key = next((key for key in KEYS if key in entry.keys), "backend")
    hint = "export it in ComfyUI with `Workflow > Export (API)`, or let `imagen models add FILE` make the model"
    try:
        raw = file.read_bytes() if file.stat().st_size <= MAX_BYTES else b""
    except OSError as exc:
        raise entry.wrong(f"the workflow {file} cannot be read: {exc.strerror}", key, hint="give its path") from exc
    if not raw:
        raise BadConfig(f"{file} is empty or larger than {MAX_BYTES:,} bytes", hint=hint)
    graph = parse_json(raw, file, hint=hint)
    if said := wrong(graph):
        raise BadConfig(f"{file}: {said[0]}", hint=said[1])
    return Template(graph)


def renamed(entry: "Entry", keys: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """Every key under the name that the slot has."""
    told: dict[str, Any] = {}
    for key, value in keys.items():
        name = aliases.get(key, key)
        # What an alias says goes before what is inherited under the slot's own name, never silently beside it.
        if name in told and told[name] != value and name in entry.keys and key in entry.keys and key != name:
            raise entry.wrong(
                f"{key!r} is another name of {name!r}, and both are given", key, hint="keep one of the two"
            )
        told[name] = value
    return told


def values_of(
    entry: "Entry",
    keys: Mapping[str, Any],
    template: Template,
    options: Mapping[str, Option],
    templates: FillsTemplates,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """What the keys fill the slots with; an error for a slot that nobody fills, a note for a knob it has not."""
    wanted = template.slots - templates.filled(template.slots)
    unused = [key for key in keys if key in templates.knobs and key not in wanted]
    if unused:
        names = ", ".join(f"`{key}`" for key in unused)
        note(f"{entry.document.where(*entry.path, unused[0])}: the workflow of {entry.name!r} does not use {names}")
    values = {key: value for key, value in keys.items() if key in wanted}
    for key, value in values.items():
        if not _plain(value) and not (isinstance(value, list) and all(map(_plain, value))):
            raise entry.wrong(
                f"`{key}` is one value or a list of them, not {value!r}", key, hint="give text or a number"
            )
    given = {*values, *(name for name, option in options.items() if option.default is not None)}
    if missing := sorted(wanted - given):
        raise entry.wrong(
            f"the workflow has a slot ${{{missing[0]}}}, and nothing fills it",
            hint=f"add `{missing[0]}: …` to the model, or an option of that name with a default",
        )
    return values


def ignored(model: Model, slots: Iterable[str]) -> tuple[str, ...]:
    """Fields of a request for which the template has no slot: they change nothing."""
    there = set(slots)
    absent = [name for name in ("negative", "steps") if name not in there]
    if not there & {"cfg", "guidance"}:
        absent.append("guidance")
    return (*model.ignores, *(name for name in absent if name not in model.ignores))


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value))
