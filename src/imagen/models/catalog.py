"""The catalog: every model that can be asked for, out of bundled folders, the user's folders and config.yaml."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imagen.core.device import Sharing
from imagen.core.errors import BadConfig, ImagenError, NotConfigured, RequestError, UnknownModel
from imagen.core.job import Warned
from imagen.core.model import Model
from imagen.core.request import Draft
from imagen.models import slots
from imagen.models.entry import Accepts, Entry, inherit, model_of
from imagen.models.resolve import Resolved, resolve
from imagen.reading import maybe, read_yaml

__all__ = ["Catalog", "CatalogWatch", "Entry", "Resolved", "load_catalog", "model_folders"]

FILE = "model.yaml"
DEFAULT = "default_model"
LOOK_S = 0.5  # how often files are looked at, however often somebody asks
NOT_NAMED = "it costs money, and config.yaml does not name it"
FORBIDDEN = "it costs money, and paid calls are forbidden here"
IN_THE_BOX = "tiny"  # what the names of the models that ship with their weights begin with


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All models at one moment."""

    models: Mapping[str, Model]
    default: str
    default_warning: str | None = None
    broken: Mapping[str, ImagenError] = field(default_factory=dict)  # by model name, or by file
    notices: tuple[str, ...] = ()  # what replaced what, and what is left out
    files: frozenset[Path] = frozenset()  # the templates that were read, or looked for
    sharing: Mapping[str, Sharing] = field(default_factory=dict)  # by device: how the models there share it

    @property
    def problems(self) -> tuple[ImagenError, ...]:
        return tuple(self.broken.values())

    def get(self, name: str | None) -> Model:
        """The model of this name; None means the default."""
        if name is None:
            name = self.default
            if name not in self.models and DEFAULT in self.broken:
                raise self.broken[DEFAULT]
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
                f"the model {name!r} is switched off{': ' if model.off else ''}{model.off}",
                hint=switch_on(model),
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
    paid_calls: bool = True,
    default_from: str = "",
) -> Catalog:
    """Read everything; what is broken is left out and named, the rest works. `default_from` is where that is set."""
    models: dict[str, Model] = {}
    written: dict[str, Entry] = {}
    broken: dict[str, ImagenError] = {}
    notices: list[str] = []
    files: set[Path] = set()
    for entry in [*_entries(folders, broken), *configured.values()]:
        name = entry.name
        keys: Any = entry.keys  # what stands in config.yaml may be anything
        if isinstance(keys, Mapping) and (file := slots.file_of(keys, entry.document.file)):
            files.add(file)
        try:
            whole = inherit(entry, written, backends)
            model = model_of(whole, backends, backend_settings, host, notices.append)
            models[name] = _paid(model, named=name in configured, allowed=paid_calls) if model.paid else model
        except ImagenError as error:
            broken[name] = error
            continue
        if name in written:
            notices.append(
                f"{entry.document.where(*entry.path)} replaces the model {name!r} of {written[name].document.file}"
            )
        written[name] = whole
    default, warning = _default(models, configured, default_model, default_from, broken)
    return Catalog(
        models=dict(sorted(models.items())),
        default=default,
        default_warning=warning,
        broken=broken,
        notices=tuple(notices),
        files=frozenset(files),
    )


def switch_on(model: Model) -> str:
    """What to do about a model that is switched off."""
    if model.off == FORBIDDEN:
        return "take `paid_calls: forbidden` out of config.yaml, or IMAGEN_PAID_CALLS out of the environment"
    if model.off:
        return f"name it in config.yaml: `models: {{{model.name}: {{enabled: true}}}}`"
    return f"set `enabled: true` in {model.origin}"


@functools.cache  # finding entry points reads a file of every package there is, and packages do not come while we run
def model_folders() -> tuple[Path, ...]:
    """The bundled models, and those that other installed packages bring (entry points `imagen.models`)."""
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    found = [Path(__file__).parent]
    for point in entry_points(group="imagen.models"):
        with contextlib.suppress(ImportError, ValueError):
            spec = find_spec(point.value)
            if spec is not None:
                found += [Path(place) for place in spec.submodule_search_locations or ()]
    return tuple(found)


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
        self._templates = _fingerprint(self._catalog.files)

    def current(self) -> Catalog:
        """Read again only what changed, and only if it did."""
        now = self._monotonic()
        if now - self._looked < LOOK_S:
            return self._catalog
        self._looked = now
        seen, templates = _fingerprint(self._files()), _fingerprint(self._catalog.files)
        if (seen, templates) != (self._seen, self._templates):
            self._seen = seen
            self._catalog = _keep_good(self._catalog, self._load())
            self._templates = _fingerprint(self._catalog.files)
        return self._catalog


def _paid(model: Model, *, named: bool, allowed: bool) -> Model:
    """Money is spent only on what the owner wrote into config.yaml, and never where that is forbidden."""
    why = FORBIDDEN if not allowed else "" if named else NOT_NAMED
    return replace(model, enabled=False, off=why) if why and model.enabled else model


def _keep_good(old: Catalog, new: Catalog) -> Catalog:
    """What is gone or fell back because a file broke, rather than because it was removed, stays as it was."""
    kept = {name: model for name, model in old.models.items() if _broke(model, new)}
    catalog = replace(new, models=dict(sorted({**new.models, **kept}.items())))
    if old.default in kept or any(Path(name).is_absolute() for name in new.broken):
        return replace(catalog, default=old.default, default_warning=old.default_warning, sharing=old.sharing)
    return catalog


def _broke(model: Model, new: Catalog) -> bool:
    """Its file as a whole, or itself in a file that can be read; a good entry in the same place wins."""
    if _file(model) in new.broken:
        return True
    now = new.models.get(model.name)
    return model.name in new.broken and (now is None or _file(now) != _file(model))


def _file(model: Model) -> str:
    file, _, line = model.origin.rpartition(":")
    return file if line.isdigit() else model.origin


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


def _default(
    models: Mapping[str, Model],
    configured: Mapping[str, Entry],
    wanted: str | None,
    wanted_from: str,
    broken: dict[str, ImagenError],
) -> tuple[str, str | None]:
    """Configured, else the first enabled one in config.yaml, else the one in the box, else a mock."""
    if wanted is not None:
        if wanted not in models and wanted not in broken:
            place = f"{wanted_from}: " if wanted_from else ""
            broken[DEFAULT] = NotConfigured(
                f"{place}`{DEFAULT}`: there is no model {wanted!r}{maybe(wanted, models)}",
                hint=f"models: {', '.join(sorted(models))}",
                param=DEFAULT,
            )
        return wanted, None
    enabled = {name for name, model in models.items() if model.enabled and not model.paid}
    for name in configured:
        # One that is broken is meant all the same: its error is told, and no other model is taken in its place.
        if name in enabled or (name in broken and name not in models):
            return name, None
    for name in sorted(enabled):
        if name.startswith(IN_THE_BOX):
            return name, None
    return "mock", "no model is configured, so the mock draws; see `imagen models` and `imagen config init`"
