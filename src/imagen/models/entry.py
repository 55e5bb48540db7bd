"""One model as it is written: checked key by key, so that every mistake is named by file and line."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar, get_type_hints

from imagen.core.errors import BadConfig, NotConfigured, RequestError
from imagen.core.model import Defaults, Limits, Model, ModelFile, Option
from imagen.core.request import Draft, preview_policy
from imagen.core.template import Template
from imagen.models import slots
from imagen.models.resolve import resolve
from imagen.models.slots import FillsTemplates
from imagen.reading import Document, maybe

MERGED = ("defaults", "limits", "options")  # given key by key over what is inherited; other keys replace
OPTION_TYPES = ("str", "int", "float", "bool")
# What a model has, and no file says.
NOT_WRITTEN = {"name", "backend", "keys", "origin", "template", "graph", "paid", "off"}

NAME = re.compile(r"\w[\w.-]{0,99}")

T = TypeVar("T")


class Accepts(Protocol):
    """What the catalog has to know of a backend."""

    @property
    def keys(self) -> type:
        """A dataclass: the model keys the backend takes beyond the common ones."""

    @property
    def device(self) -> str | Callable[[Mapping[str, Any]], str]:
        """The device of a model that names none."""

    @property
    def slots(self) -> int | Callable[[Mapping[str, Any]], int]:
        """How many jobs that device draws at once."""

    @property
    def paid(self) -> bool | Callable[[Mapping[str, Any]], bool]:
        """Whether drawing costs money."""

    @property
    def templates(self) -> FillsTemplates | None:
        """How it wants to be told about templates, if it fills them in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model as it is written: its keys, and where."""

    name: str
    keys: Mapping[str, Any]
    document: Document
    path: tuple[Any, ...] = ()  # where in the document the keys begin
    template: Template | None = None  # its own, or the one it inherits

    def wrong(self, message: str, *path: Any, hint: str) -> BadConfig:
        return self.document.wrong(message, *self.path, *path, hint=hint)


def inherit(entry: Entry, written: Mapping[str, Entry], backends: Mapping[str, Accepts]) -> Entry:
    """An entry goes on from the model whose workflow it names, else from the one of its own name.

    One with a template of its own goes on from nobody, and one that needs a template and names none gets the
    default of its backend.
    """
    if not isinstance(entry.keys, Mapping):
        raise entry.wrong(f"the model {entry.name!r} has no keys", hint="give at least `backend:`")
    name = slots.named(entry.keys)
    file = slots.file_of(entry.keys, entry.document.file)
    base = written.get(entry.name) if name is None else written.get(name)
    kind = backends.get(str(entry.keys.get("backend", base.keys.get("backend") if base else None)))
    templates = kind.templates if kind is not None else None
    if templates is not None:
        if file is not None:
            return replace(entry, template=slots.read_template(entry, file, templates.wrong))
        if base is None and name is None:
            if entry.document.file.name == "model.yaml":  # a whole model, of which a part is gone
                raise entry.wrong(
                    f"there is no {slots.FILE} beside it",
                    "backend",
                    hint=f"put it there, or name one: `workflow: {templates.default}`",
                )
            base = written.get(templates.default)
        if base is None:
            raise _no_workflow(entry, name, _with_templates(written))
    elif name is not None and file is None and base is None and "backend" not in entry.keys:
        raise _no_workflow(entry, name, sorted(written.keys() - {entry.name}))
    if base is None or entry.keys.get("backend", base.keys.get("backend")) != base.keys.get("backend"):
        return entry
    merged = {**base.keys, **entry.keys}
    if templates is not None:
        for alias, slot in templates.aliases.items():
            if alias in entry.keys and slot not in entry.keys:
                merged.pop(slot, None)  # said anew under another name
    for key in MERGED:
        mine, theirs = entry.keys.get(key), base.keys.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            merged[key] = {**theirs, **mine}
    if "options" in merged:
        merged["options"] = _merged_options(merged["options"], base.keys.get("options"))
    return replace(entry, keys=merged, template=base.template)


def _with_templates(written: Mapping[str, Entry]) -> list[str]:
    return sorted(name for name, entry in written.items() if entry.template is not None)


def _merged_options(options: Any, theirs: Any) -> Any:
    """`options: {slow: 2}` over an inherited option means its default."""
    if not isinstance(options, Mapping) or not isinstance(theirs, Mapping):
        return options
    return {
        name: value
        if isinstance(value, Mapping) or not isinstance(theirs.get(name), Mapping)
        else {**theirs[name], "default": value}
        for name, value in options.items()
    }


def _no_workflow(entry: Entry, name: str | None, known: Sequence[str]) -> BadConfig:
    return entry.wrong(
        f"there is no workflow {name!r}{maybe(str(name), known)}",
        *(key for key in slots.KEYS if key in entry.keys),
        hint=f"give a file, or one of: {', '.join(known)}",
    )


def model_of(
    entry: Entry,
    backends: Mapping[str, Accepts],
    backend_settings: Mapping[str, Mapping[str, Any]],
    host: str,
    note: Callable[[str], None] = lambda _text: None,
) -> Model:
    """The model that these keys say; `note` hears what is left out of it."""
    if not NAME.fullmatch(entry.name):
        raise entry.wrong(
            f"{entry.name!r} cannot be the name of a model",
            hint="use letters, digits, `.`, `_` and `-`, up to 100 of them: names end up in file names",
        )
    keys = dict(entry.keys)
    backend = keys.pop("backend", None)
    if backend is None:
        raise entry.wrong("no backend is named", hint=f"add `backend:`, one of {', '.join(sorted(backends))}")
    registration = backends.get(backend) if isinstance(backend, str) else None
    if registration is None:
        raise NotConfigured(
            f"{entry.document.where(*entry.path, 'backend')}: no backend {backend!r} is installed",
            hint=f"installed are: {', '.join(sorted(backends))}",
        )
    templates, template = registration.templates, entry.template
    if templates is not None and template is not None:
        keys = slots.renamed(entry, keys, templates.aliases)
        if "workflow_template" in keys:
            keys["workflow"] = keys.pop("workflow_template")
    own = {item.name for item in fields(registration.keys)}
    common = {item.name for item in fields(Model)} - NOT_WRITTEN
    filled = _slots_of(template, templates)
    entry.document.known(keys, [*common, *own, *filled, "backend"], *entry.path)
    values: dict[str, Any] = {key: value for key, value in keys.items() if key in common}
    for key, kind in (("defaults", Defaults), ("limits", Limits)):
        if key in values:
            values[key] = _read(entry, kind, values[key], key)
    if "options" in values:
        values["options"] = _each(entry, Option, values["options"], "options")
    if "files" in values:
        if not isinstance(values["files"], list):
            raise entry.wrong("`files` is a list", "files", hint="write each file as `- path: …`")
        values["files"] = tuple(_read(entry, ModelFile, item, "files", i) for i, item in enumerate(values["files"]))
    try:
        preview_policy(values.get("preview"))
    except RequestError as error:
        raise entry.wrong(error.message, "preview", hint=error.hint) from error
    given: Any = _read(entry, registration.keys, {key: value for key, value in keys.items() if key in own})
    kept = {item.name: getattr(given, item.name) for item in fields(registration.keys)}
    if templates is not None and template is not None:
        rest = {key: value for key, value in keys.items() if key not in common and key not in own}
        kept |= slots.values_of(entry, rest, template, values.get("options", {}), templates, note)
        # A key of the name of an option is what the option is when nobody sets it.
        values["options"] = {
            name: replace(option, default=kept[name]) if name in kept else option
            for name, option in values.get("options", {}).items()
        }
    plain = _read(entry, _Plain, {k: values.pop(k) for k in list(values) if k in _PLAIN})
    settings = {"host": host, **backend_settings.get(backend, {})}
    settings |= {key: value for key, value in kept.items() if value not in (None, "")}
    model = Model(
        name=entry.name,
        backend=backend,
        origin=entry.document.where(*entry.path),
        keys=kept,
        template=template.digest if template else "",
        graph=template.graph if template else None,
        **{
            **values,
            "title": plain.title or entry.name,
            "enabled": plain.enabled,
            "device": plain.device or _device(registration.device, settings),
            "slots": _told(registration.slots, settings) if plain.slots is None else plain.slots,
            "paid": _told(registration.paid, settings),
            "licence": plain.licence,
            "source": plain.source,
            "ignores": plain.ignores,
            "workflow": plain.workflow,
            "vram_mib": plain.vram_mib,
            "notes": plain.notes,
        },
    )
    if template is not None:
        model = replace(model, ignores=slots.ignored(model, template.slots))
    _check_sense(entry, model)
    return model


def _slots_of(template: Template | None, templates: FillsTemplates | None) -> set[str]:
    """The keys that a template adds to those a model may have."""
    if template is None or templates is None:
        return set()
    return {*template.slots - templates.filled(template.slots), *templates.knobs}


def _check_sense(entry: Entry, model: Model) -> None:
    """What no type can say: bounds in order, defaults within them, words that mean something."""
    limits = model.limits
    low, high = limits.steps
    fields_of_draft = {item.name for item in fields(Draft)} - {"prompt", "model", "preview", "priority", "webhook"}
    wrong: list[tuple[bool, str, tuple[str, ...]]] = [
        (model.slots < 1, "`slots` is at least 1", ("slots",)),
        (limits.multiple_of < 1, "`multiple_of` is at least 1", ("limits", "multiple_of")),
        (not 1 <= limits.min <= limits.max, "`min` is at least 1 and at most `max`", ("limits", "min")),
        (not 1 <= low <= high, "`steps` is [lowest, highest]", ("limits", "steps")),
        (limits.n < 1, "`n` is at least 1", ("limits", "n")),
        *(
            (
                word not in fields_of_draft,
                f"{word!r} is no field of a request{maybe(word, fields_of_draft)}",
                ("ignores",),
            )
            for word in model.ignores
        ),
        *(
            (option.type not in OPTION_TYPES, f"the type {option.type!r} is not known", ("options", name, "type"))
            for name, option in model.options.items()
        ),
    ]
    for is_wrong, message, path in wrong:
        if is_wrong:
            raise entry.wrong(message, *path, hint="see docs/reference/model-file.md for what belongs here")
    try:
        resolve(Draft(prompt="x"), model, lambda: 0)
        resolve(
            Draft(prompt="x", options={k: o.default for k, o in model.options.items() if o.default is not None}),
            model,
            lambda: 0,
        )
    except RequestError as error:
        path = tuple((error.param or "defaults").split("."))
        raise entry.wrong(f"the model's own defaults do not work: {error.message}", *path, hint=error.hint) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plain:
    """The common keys that are single values, so that their types are checked like the others'."""

    title: str = ""
    enabled: bool = True
    device: str = ""
    slots: int | None = None
    licence: str = ""
    source: str = ""
    ignores: tuple[str, ...] = ()
    workflow: str | None = None
    vram_mib: int | None = None
    notes: str = ""


_PLAIN = {item.name for item in fields(_Plain)}


def _device(pattern: str | Callable[[Mapping[str, Any]], str], settings: Mapping[str, Any]) -> str:
    if callable(pattern):
        return pattern(settings)
    try:
        return pattern.format(**settings)
    except (KeyError, IndexError):
        return pattern.replace("{", "").replace("}", "")


def _told(said: T | Callable[[Mapping[str, Any]], T], settings: Mapping[str, Any]) -> T:
    return said(settings) if callable(said) else said


def _each(entry: Entry, kind: type[T], told: Any, key: str) -> dict[str, T]:
    if not isinstance(told, Mapping):
        raise entry.wrong(
            f"`{key}` has to be a mapping of names", key, hint=f"write `{key}:` and under it `name: {{…}}`"
        )
    return {name: _read(entry, kind, item, key, name) for name, item in told.items()}


def _read(entry: Entry, kind: type[T], told: Any, *path: Any) -> T:
    """Check a mapping against a dataclass; the error names file and line."""
    from pydantic import TypeAdapter, ValidationError

    assert is_dataclass(kind)
    if not isinstance(told, Mapping):
        name = path[-1] if path else entry.name
        hint = f"its keys: {', '.join(get_type_hints(kind))}"
        raise entry.wrong(f"`{name}` has to be a mapping", *path, hint=hint)
    entry.document.known(told, (item.name for item in fields(kind)), *entry.path, *path)
    try:
        # By way of JSON, because there pydantic is strict about types and still takes a list for a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(told, allow_nan=False), strict=True)
    except ValueError as exc:
        if isinstance(exc, ValidationError):
            first = exc.errors()[0]
            place = (*path, *first["loc"])
            said = f"{first['msg'][:1].lower()}{first['msg'][1:]}, not {first['input']!r}"
        else:
            place, said = path, "a number is not finite"
        name = ".".join(map(str, place)) or "model"
        raise entry.wrong(
            f"`{name}`: {said}", *place, hint="see docs/reference/model-file.md for what belongs here"
        ) from exc
