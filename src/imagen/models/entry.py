"""One model as it is written: checked key by key, so that every mistake is named by file and line."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, TypeVar, get_type_hints

from imagen.core.errors import BadConfig, NotConfigured, RequestError
from imagen.core.model import Defaults, Limits, Model, ModelFile, Option
from imagen.core.request import Draft, preview_policy
from imagen.models.resolve import resolve
from imagen.reading import Document, maybe

MERGED = ("defaults", "limits", "options")  # given key by key over what is inherited; other keys replace
OPTION_TYPES = ("str", "int", "float", "bool")

NAME = re.compile(r"\w[\w.-]{0,99}")

T = TypeVar("T")


class Accepts(Protocol):
    """What the catalog has to know of a backend."""

    @property
    def keys(self) -> type:
        """A dataclass: the model keys the backend takes beyond the common ones."""

    @property
    def device(self) -> str:
        """The device of a model that names none."""

    @property
    def slots(self) -> int:
        """How many jobs that device draws at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model as it is written: its keys, and where."""

    name: str
    keys: Mapping[str, Any]
    document: Document
    path: tuple[Any, ...] = ()  # where in the document the keys begin

    def wrong(self, message: str, *path: Any, hint: str) -> BadConfig:
        return self.document.wrong(message, *self.path, *path, hint=hint)


def inherit(entry: Entry, written: Mapping[str, Entry]) -> Mapping[str, Any]:
    """An entry that names no backend of its own goes on from the model of its name, or of its workflow's."""
    if not isinstance(entry.keys, Mapping):
        raise entry.wrong(f"the model {entry.name!r} has no keys", hint="give at least `backend:`")
    base = written.get(entry.name)
    if base is None and isinstance(entry.keys.get("workflow"), str):
        base = written.get(entry.keys["workflow"])
    if base is None or entry.keys.get("backend", base.keys.get("backend")) != base.keys.get("backend"):
        return entry.keys
    merged = {**base.keys, **entry.keys}
    for key in MERGED:
        mine, theirs = entry.keys.get(key), base.keys.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            merged[key] = {**theirs, **mine}
    if "options" in merged:
        merged["options"] = _merged_options(merged["options"], base.keys.get("options"))
    return merged


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


def model_of(
    entry: Entry,
    backends: Mapping[str, Accepts],
    backend_settings: Mapping[str, Mapping[str, Any]],
    host: str,
) -> Model:
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
    own = {item.name for item in fields(registration.keys)}
    common = {item.name for item in fields(Model)} - {"name", "backend", "keys", "origin"}
    entry.document.known(keys, [*common, *own, "backend"], *entry.path)
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
    settings = {"host": host, **backend_settings.get(backend, {})}
    plain = _read(entry, _Plain, {k: values.pop(k) for k in list(values) if k in _PLAIN})
    model = Model(
        name=entry.name,
        backend=backend,
        origin=entry.document.where(*entry.path),
        keys={item.name: getattr(given, item.name) for item in fields(registration.keys)},
        **{
            **values,
            "title": plain.title or entry.name,
            "enabled": plain.enabled,
            "device": plain.device or _device(registration.device, settings),
            "slots": registration.slots if plain.slots is None else plain.slots,
            "licence": plain.licence,
            "source": plain.source,
            "ignores": plain.ignores,
            "workflow": plain.workflow,
            "vram_mib": plain.vram_mib,
            "notes": plain.notes,
        },
    )
    _check_sense(entry, model)
    return model


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


def _device(pattern: str, settings: Mapping[str, Any]) -> str:
    try:
        return pattern.format(**settings)
    except (KeyError, IndexError):
        return pattern.replace("{", "").replace("}", "")


def _each(entry: Entry, kind: type[T], told: Any, key: str) -> dict[str, T]:
    if not isinstance(told, Mapping):
        raise entry.wrong(f"`{key}` is a mapping of names", key, hint=f"write `{key}:` and under it `name: {{…}}`")
    return {name: _read(entry, kind, item, key, name) for name, item in told.items()}


def _read(entry: Entry, kind: type[T], told: Any, *path: Any) -> T:
    """Check a mapping against a dataclass; the error names file and line."""
    from pydantic import TypeAdapter, ValidationError

    assert is_dataclass(kind)
    if not isinstance(told, Mapping):
        raise entry.wrong(f"`{path[-1]}` is a mapping", *path, hint=f"its keys: {', '.join(get_type_hints(kind))}")
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
