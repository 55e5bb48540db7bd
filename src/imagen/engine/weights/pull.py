"""Weights fetched to where their engine looks for them: what is missing, whether there is room, then file by file."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from imagen.backends.base import Backend, KeepsFiles
from imagen.core.errors import DiskFull, ImagenError, MissingFile, NotConfigured, RequestError, SetupError, Unwritable
from imagen.core.model import Model, ModelFile
from imagen.engine.weights import hub
from imagen.engine.weights.hub import Known

# So that the machine still works when all is fetched: logs, pictures, a page file.
MARGIN_BYTES = 2**30

# Sizes in model files may be rounded; a file that is off by more is another one, or half of it.
ROUNDED = 0.01

WEIGHTS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")

State = Literal["there", "other", "missing"]

Folders = Mapping[str, Sequence[Path]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file that models want, and where it is or would go."""

    file: ModelFile
    models: tuple[str, ...]  # those that want it
    place: Path
    state: State
    size: int | None  # of what is there, or of what would be fetched, in bytes
    exact: bool = True  # False: as the model file says, rounded
    part: int = 0  # what an earlier try has brought of it already
    known: Known | None = None
    problem: ImagenError | None = None  # why it cannot be fetched

    @property
    def missing_bytes(self) -> int:
        return max((self.size or 0) - self.part, 0) if self.state == "missing" else 0

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        shape: dict[str, Any] = {
            "path": self.file.path,
            "folder": self.file.folder,
            "hub": self.file.hub,
            "licence": self.file.licence,
            "models": list(self.models),
            "place": str(self.place),
            "state": self.state,
            "size": self.size,
            "exact": self.exact,
            "part": self.part,
        }
        return shape | ({"error": self.problem.as_dict()} if self.problem else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One file system, and what would be written to it."""

    path: Path
    wanted: int
    free: int

    @property
    def enough(self) -> bool:
        return self.wanted == 0 or self.wanted + MARGIN_BYTES <= self.free


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every file that is wanted, each once."""

    items: tuple[Item, ...]
    rooms: tuple[Room, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.state == "missing")

    @property
    def missing_bytes(self) -> int:
        return sum(item.missing_bytes for item in self.items)

    def check(self) -> None:
        """Raise what would go wrong, before anything is fetched."""
        for item in self.missing:
            if item.problem is not None:
                raise item.problem
        for room in self.rooms:
            if not room.enough:
                raise DiskFull(
                    f"{_size(room.wanted)} are to be fetched to {room.path}, and {_size(room.free)} are free there",
                    hint=f"make room ({_size(MARGIN_BYTES)} more than the files), fetch one model or one --file at a "
                    "time, or name another disk with --to",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the plan has to know of the outside; tests bring their own."""

    ask: Callable[[str], Known] = hub.ask
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    writable: Callable[[Path], bool] = lambda path: os.access(path, os.W_OK | os.X_OK)


async def folders_of(
    models: Iterable[Model], backend_for: Callable[[Model], Backend], to: Path | None
) -> Mapping[str, Folders | None]:
    """Where each model's engine looks for its files; None for one that keeps none of its own."""
    found: dict[str, Folders | None] = {}
    for model in models:
        if not model.files:
            found[model.name] = None
        elif to is not None:
            found[model.name] = {file.folder: (to / file.folder,) for file in model.files}
        else:
            backend = backend_for(model)
            found[model.name] = await backend.folders(model) if isinstance(backend, KeepsFiles) else None
    return found


def planned(
    models: Sequence[Model], folders: Mapping[str, Folders | None], *, only: Sequence[str] = (), world: World
) -> Plan:
    """Look at every file of these models; the hub is asked only about those that are missing."""
    files = {model.name: _used(model) for model in models}
    names = {file.path for own in files.values() for file in own}
    if unknown := set(only) - names:
        raise RequestError(
            f"no file {min(unknown)!r} is wanted", hint=f"the files are: {', '.join(sorted(names))}", param="file"
        )
    notes = [note for model in models for note in _unlisted(model)]
    wanted: dict[tuple[str, str], tuple[ModelFile, Folders, list[str]]] = {}
    for model in models:
        places = folders[model.name]
        for file in files[model.name] if places is not None else ():
            if not only or file.path in only:
                wanted.setdefault((file.folder, file.path), (file, places or {}, []))[2].append(model.name)
    items = [_looked(file, places, tuple(names), world) for file, places, names in wanted.values()]
    items = [_asked(item, world, notes) if item.state == "missing" else item for item in items]
    return Plan(items=tuple(items), rooms=tuple(_rooms(items, world)), notes=tuple(dict.fromkeys(notes)))


def fetch(plan: Plan, progress: Callable[[Item, int], None], done: Callable[[Item], None]) -> list[Item]:
    """Fetch what is missing, one file after the other; what was fetched before an error stays."""
    plan.check()
    fetched = []
    try:
        for item in plan.missing:
            known = item.known
            if known is None or item.place.exists():
                continue  # somebody else was quicker
            hub.fetch(item.file.hub, known, item.place, partial(progress, item), sha256=item.file.sha256)
            size = item.place.stat().st_size
            fetched.append(replace(item, state="there", size=size, exact=True, part=0))
            done(fetched[-1])
    finally:
        hub.close()
    return fetched


def _used(model: Model) -> list[ModelFile]:
    """Its files, without those of the model it goes on from that its own keys replaced by others."""
    if model.graph is None:
        return list(model.files)
    named = set(_texts([model.graph, model.keys, [option.default for option in model.options.values()]]))
    return [file for file in model.files if file.path in named]


def _unlisted(model: Model) -> list[str]:
    """What its keys name, and no entry of `files` says where to get."""
    listed = {file.path for file in model.files}
    named = [text for text in _texts(model.keys) if text.endswith(WEIGHTS) and text not in listed]
    return [f"{name} of {model.name} is not among its `files`: where to get it is not known" for name in named]


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            yield from _texts(list(value.values()))
        case list() | tuple():
            for item in value:
                yield from _texts(item)
        case _:
            pass


def _looked(file: ModelFile, folders: Folders, models: tuple[str, ...], world: World) -> Item:
    """Is it in any of the folders of its kind?"""
    _inside(file)
    paths = folders.get(file.folder, ())
    if not paths:
        raise MissingFile(
            f"the engine has no folder {file.folder!r} for {file.path}",
            hint=f"it has: {', '.join(sorted(folders))}; correct `folder:` of the model's files",
            param="files",
        )
    for path in paths:
        place = path / file.path
        if place.is_file():
            size = place.stat().st_size
            rounded = file.size is not None and abs(size - file.size) > file.size * ROUNDED
            return Item(file=file, models=models, place=place, state="other" if rounded else "there", size=size)
    writable = [path for path in paths if world.writable(_existing(path))]
    problem = None
    if not writable:
        problem = Unwritable(
            f"{paths[0]} cannot be written to",
            hint="give yourself the right to write there, or name another folder with --to",
        )
    place = (writable or list(paths))[0] / file.path
    return Item(file=file, models=models, place=place, state="missing", size=file.size, exact=False, problem=problem)


def _asked(item: Item, world: World, notes: list[str]) -> Item:
    """What the hub says of a missing file; where it cannot be asked, the model file's own words."""
    file = item.file
    if not file.hub:
        problem = NotConfigured(
            f"no place is known to fetch {file.path} from",
            hint=f"put it into {item.place.parent} by hand, or add `hub:` to the model's file",
        )
        return replace(item, problem=item.problem or problem)
    try:
        known = world.ask(file.hub)
    except ImagenError as error:
        notes.append(error.message)
        return replace(item, problem=item.problem or error)
    if file.sha256 and known.sha256 and file.sha256 != known.sha256:
        return replace(item, problem=item.problem or _other(file, known.sha256))
    part = hub.part_of(item.place, known)
    return replace(
        item,
        known=known,
        size=known.size if known.size is not None else item.size,
        exact=known.size is not None,
        part=part.stat().st_size if part.is_file() else 0,
    )


def _inside(file: ModelFile) -> None:
    """Model files come from others: none may name a place outside the folder of its kind."""
    for name, what in ((file.path, "path"), (file.folder, "folder")):
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or parts[0] == "/" or "\\" in name or "\0" in name or ":" in parts[0]:
            raise SetupError(
                f"`{what}: {name}` of a model's file does not stay inside its folder",
                hint="write the name of a file below the folder, such as `path: ae.safetensors` and `folder: vae`",
                param="files",
            )


def _rooms(items: Iterable[Item], world: World) -> Iterable[Room]:
    """Free space is a matter of the file system, not of the folder."""
    wanted: dict[int, tuple[Path, int]] = {}
    for item in items:
        if item.state == "missing":
            near = _existing(item.place.parent)
            path, so_far = wanted.get(near.stat().st_dev, (near, 0))
            wanted[near.stat().st_dev] = path, so_far + item.missing_bytes
    return [Room(path=path, wanted=size, free=world.free(path)) for path, size in wanted.values()]


def _other(file: ModelFile, digest: str) -> SetupError:
    return SetupError(
        f"{file.hub} is not the file that the model wants: its sha256 is {digest}, not {file.sha256}",
        hint="the hub may have a new version; correct `sha256:` of the model's file once you trust it",
    )


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
