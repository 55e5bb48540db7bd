"""The catalog: every model that can be asked for, out of bundled folders, the user's folders and config.yaml."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_type_hints

from imagen.core.errors import BadConfig, ImagenError, NotConfigured, RequestError, UnknownModel
from imagen.core.model import Defaults, Limits, Model, ModelFile, Option
from imagen.core.request import Draft, preview_policy
from imagen.models.resolve import Resolved, Warned, resolve
from imagen.reading import Document, maybe, read_yaml

__all__ = ["Catalog", "CatalogWatch", "Entry", "Resolved", "Warned", "load_catalog", "model_folders"]

FILE = "model.yaml"
LOOK_S = 0.5  # how often files are looked at, however often somebody asks
MERGED = ("defaults", "limits", "options")  # given key by key over what is inherited; other keys replace
IN_THE_BOX = "tiny"  # what the names of the models that ship with their weights begin with

OPTION_TYPES = ("str", "int", "float", "bool")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All models at one moment."""

    models: Mapping[str, Model]
    default: str
    default_warning: str | None = None
    broken: Mapping[str, ImagenError] = field(default_factory=dict)  # by model name, or by file
    notices: tuple[str, ...] = ()  # what replaced what

    @property
    def problems(self) -> tuple[ImagenError, ...]:
        return tuple(self.broken.values())

    def get(self, name: str | None) -> Model:
        """The model of this name; None means the default."""
        if name is None:
            name = self.default
        model = self.models.get(name)
        if model is None:
            if name in self.broken:
                raise self.broken[name]
            raise UnknownModel(
                f"there is no model {name!r}{maybe(name, self.models)}",
                hint=f"models: {', '.join(sorted(n for n, m in self.models.items() if m.enabled))}",
                param="model",
            )
        if not model.enabled:
            raise RequestError(
                f"the model {name!r} is switched off",
                hint=f"set `enabled: true` in {model.origin}",
                param="model",
            )
        return model

    def resolve(self, draft: Draft, random_seed: Callable[[], int]) -> Resolved:
        """A complete request out of what somebody typed, or the error that says what is wrong with it."""
        model = self.get(draft.model)
        resolved = resolve(draft, model, random_seed)
        if draft.model is None and self.default_warning:
            warned = Warned(code="default_model", message=self.default_warning)
            resolved = replace(resolved, warnings=(warned, *resolved.warnings))
        return resolved


def load_catalog(
    *,
    folders: Sequence[Path],
    configured: Mapping[str, Entry],
    default_model: str | None,
    backends: Mapping[str, Accepts],
    backend_settings: Mapping[str, Mapping[str, Any]],
    host: str,
) -> Catalog:
    """Read everything; what is broken is left out and named, the rest works."""
    models: dict[str, Model] = {}
    written: dict[str, Entry] = {}
    broken: dict[str, ImagenError] = {}
    notices: list[str] = []
    for entry in [*_entries(folders, broken), *configured.values()]:
        name = entry.name
        try:
            keys = _inherit(entry, written)
            models[name] = _model(replace(entry, keys=keys), backends, backend_settings, host)
        except ImagenError as error:
            broken[name] = error
            continue
        if name in written:
            notices.append(
                f"{entry.document.where(*entry.path)} replaces the model {name!r} of {written[name].document.file}"
            )
        written[name] = replace(entry, keys=keys)
    default, warning = _default(models, configured, default_model, broken)
    return Catalog(
        models=dict(sorted(models.items())),
        default=default,
        default_warning=warning,
        broken=broken,
        notices=tuple(notices),
    )


def model_folders() -> list[Path]:
    """The bundled models, and those that other installed packages bring (entry points `imagen.models`)."""
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    found = [Path(__file__).parent]
    for point in entry_points(group="imagen.models"):
        with contextlib.suppress(ImportError, ValueError):
            spec = find_spec(point.value)
            if spec is not None:
                found += [Path(place) for place in spec.submodule_search_locations or ()]
    return found


class CatalogWatch:
    """The catalog as the files say now; a file that broke keeps its last good version."""

    def __init__(
        self,
        load: Callable[[], Catalog],
        files: Callable[[], Iterable[Path]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._files = files
        self._monotonic = monotonic
        self._seen = _fingerprint(files())
        self._looked = monotonic()
        self._catalog = load()

    def current(self) -> Catalog:
        """Read again only what changed, and only if it did."""
        now = self._monotonic()
        if now - self._looked < LOOK_S:
            return self._catalog
        self._looked = now
        seen = _fingerprint(self._files())
        if seen != self._seen:
            self._seen = seen
            self._catalog = _keep_good(self._catalog, self._load())
        return self._catalog


def _keep_good(old: Catalog, new: Catalog) -> Catalog:
    kept = {
        name: model
        for name, model in old.models.items()
        # Gone because its file broke, not because it was removed: named itself, or its whole file is.
        if name not in new.models and (name in new.broken or model.origin.rpartition(":")[0] in new.broken)
    }
    default = old.default if old.default in kept else new.default
    return replace(new, models=dict(sorted({**new.models, **kept}.items())), default=default)


def _fingerprint(files: Iterable[Path]) -> frozenset[tuple[str, int, int, int]]:
    told = set()
    for file in files:
        with contextlib.suppress(OSError):
            stat = file.stat()
            told.add((str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return frozenset(told)


def _entries(folders: Sequence[Path], broken: dict[str, ImagenError]) -> list[Entry]:
    entries = []
    for folder in folders:
        for file in sorted(folder.glob(f"*/{FILE}")):
            try:
                document = read_yaml(file)
            except BadConfig as error:
                broken[file.parent.name] = error
                continue
            entries.append(Entry(name=file.parent.name, keys=document.data, document=document))
    return entries


def _inherit(entry: Entry, written: Mapping[str, Entry]) -> Mapping[str, Any]:
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


def _model(
    entry: Entry,
    backends: Mapping[str, Accepts],
    backend_settings: Mapping[str, Mapping[str, Any]],
    host: str,
) -> Model:
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
            "slots": plain.slots or registration.slots,
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
    slots: int = 0
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
    import json

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


def _default(
    models: Mapping[str, Model],
    configured: Mapping[str, Entry],
    wanted: str | None,
    broken: dict[str, ImagenError],
) -> tuple[str, str | None]:
    """Configured, else the first enabled one in config.yaml, else the one in the box, else a mock."""
    if wanted is not None:
        if wanted not in models and wanted not in broken:
            broken["default_model"] = NotConfigured(
                f"the default model {wanted!r} does not exist{maybe(wanted, models)}",
                hint=f"models: {', '.join(sorted(models))}",
                param="default_model",
            )
        return wanted, None
    enabled = {name for name, model in models.items() if model.enabled}
    for name in configured:
        if name in enabled:
            return name, None
    for name in sorted(enabled):
        if name.startswith(IN_THE_BOX):
            return name, None
    return "mock", "no model is configured, so the mock draws; see `imagen models` and `imagen config init`"
