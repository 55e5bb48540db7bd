"""What compare.json says: one value per cell, enough to finish the comparison from its folder alone."""

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from imagen.core.errors import RequestError
from imagen.core.job import Cell, Job, Series, State
from imagen.core.model import Model, ModelFile
from imagen.core.request import Request

SCHEMA = 1
DOCUMENT, SHEET, PAGE = "compare.json", "contact-sheet.png", "compare.html"
MAX_DOCUMENT_BYTES = 64 * 2**20  # thousands of cells; a larger file is not one of ours
MAX_CELLS = 10_000
DELETED = "the picture was deleted"
DRAWING = ("encode", "sample", "decode")  # what the latency counts; loading and queueing stand apart

Describe = Callable[[str], Model | None]

# A name of slug, model, seed and number stays below the 255 bytes that file systems allow.
_SLUG = (48, 100)  # characters, bytes
_MODEL = (48, 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Width and height in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The size the request asked for, and the size the picture has."""

    asked: Dimensions | None = None
    got: Dimensions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One cell: what was asked of which model, and what came of it."""

    index: int
    model: str
    backend: str = ""
    workflow: str | None = None
    files: tuple[Mapping[str, Any], ...] = ()
    licence: str = ""
    prompt: str
    seed: int
    size: Sizes = Sizes()
    steps: int | None = None
    state: State = State.QUEUED
    timings: Mapping[str, float] = field(default_factory=dict)
    vram_peak_mib: int | None = None
    vram_method: str | None = None  # how that was measured, and of what
    cost: Any = None
    file: str | None = None
    sha256: str | None = None
    error: Mapping[str, Any] | None = None
    job: str | None = None
    image: str | None = None  # the picture's id in the store
    deleted: bool = False  # it was there, and somebody deleted it: it is not drawn again

    @property
    def place(self) -> tuple[str, str, int]:
        """What makes it this cell and no other, whatever number it has in a folder or a store."""
        return self.model, self.prompt, self.seed

    @property
    def latency_s(self) -> float | None:
        """Encode + sample + decode of a finished picture."""
        if self.state is not State.COMPLETED or not any(name in self.timings for name in DRAWING):
            return None
        return sum(self.timings.get(name, 0.0) for name in DRAWING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What all cells share, as it was typed; empty means "as the model likes it"."""

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    negative: str | None = None
    guidance: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Asked":
        """The part of a series' settings that its requests are made of."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__ if settings.get(name) is not None})

    def given(self) -> dict[str, Any]:
        """Only what was said."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A comparison as its folder tells it."""

    schema: int = SCHEMA
    series: str
    prompts: tuple[str, ...]
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Asked = Asked()
    sheet: str = SHEET
    page: str | None = None
    cells: tuple[Entry, ...] = ()

    def with_entry(self, entry: Entry) -> "Document":
        """The same comparison with one cell told anew."""
        cells = tuple(entry if cell.index == entry.index else cell for cell in self.cells)
        return replace(self, cells=cells)

    @property
    def state(self) -> str:
        """running until every cell ended; then completed, partial or cancelled."""
        states = {cell.state for cell in self.cells}
        if any(not state.terminal for state in states):
            return "running"
        if states == {State.COMPLETED}:
            return "completed"
        return "partial" if State.FAILED in states else "cancelled"

    @property
    def succeeded(self) -> bool:
        """Whether every cell has what was asked for."""
        return all(cell.state is State.COMPLETED and cell.error is None for cell in self.cells)

    def as_dict(self) -> dict[str, Any]:
        """The shape of compare.json."""
        shape = asdict(self)
        del shape["cells"]
        shape["settings"] = self.settings.given()
        cells = [asdict(cell) | {"latency_s": cell.latency_s} for cell in self.cells]
        return shape | {"state": self.state, "cells": cells}

    def as_bytes(self) -> bytes:
        """The text of compare.json."""
        return (json.dumps(self.as_dict(), ensure_ascii=False, indent=2) + "\n").encode()


def entry_of(cell: Cell, request: Request | None, model: Model | None) -> Entry:
    """A cell before its job has run; a model that nobody knows any more is only its name."""
    known = {} if model is None else drawn_from(model)
    asked = Dimensions(width=request.width, height=request.height) if request else None
    return Entry(
        index=cell.index,
        model=cell.model,
        prompt=cell.prompt,
        seed=cell.seed,
        size=Sizes(asked=asked),
        steps=request.steps if request else None,
        **known,
    )


def told(entry: Entry, job: Job, file: str | None) -> Entry:
    """The cell as its job left it."""
    image = job.images[0] if job.images else None
    got = Dimensions(width=image.width, height=image.height) if image else None
    asked = entry.size.asked
    if isinstance(job.request, Request):
        asked = Dimensions(width=job.request.width, height=job.request.height)
    return replace(
        entry,
        job=job.id,
        state=job.state,
        steps=job.request.steps if job.request.steps is not None else entry.steps,
        size=Sizes(asked=asked, got=got),
        timings=dict(job.timings),
        vram_peak_mib=job.facts.get("vram_peak_mib"),
        vram_method=job.facts.get("vram_method"),
        cost=job.facts.get("cost"),
        file=file,
        sha256=image.sha256 if image else None,
        error=job.error.as_dict() if job.error else None,
        image=image.id if image else None,
        deleted=image is not None and image.state == "deleted",
    )


def remembered(series: Series, describe: Describe) -> Document:
    """A series as the store remembers it: no file of a folder has a name in it."""
    begun = Document(
        series=series.id,
        prompts=series.prompts,
        models=series.models,
        seeds=series.seeds,
        settings=Asked.of(series.settings),
    )
    return joined(begun, series, describe)


def joined(document: Document, series: Series, describe: Describe) -> Document:
    """The comparison with the cells that only the store knows: columns somebody added elsewhere."""
    places = {entry.place for entry in document.cells}
    numbers = {entry.index for entry in document.cells}
    entries = list(document.cells)
    for cell in series.cells:
        if (cell.model, cell.prompt, cell.seed) in places:
            continue
        index = cell.index if cell.index not in numbers else max(numbers) + 1
        entry = entry_of(replace(cell, index=index), None, describe(cell.model))
        numbers.add(index)
        entries.append(told(entry, cell.job, None) if cell.job else entry)
    models = tuple(dict.fromkeys((*document.models, *(entry.model for entry in entries))))
    return replace(document, models=models, cells=tuple(entries))


def drawn_from(model: Model) -> dict[str, Any]:
    """What a model is made of, for others to read: no folder of this machine is in it."""
    return {
        "backend": model.backend,
        "workflow": _no_folder(model.workflow),
        "files": tuple(_file(file) for file in model.files),
        "licence": model.licence,
    }


def stem_of(document: Document, entry: Entry) -> str:
    """The name of a cell's picture without its ending: slug, model, and what else tells it from its siblings."""
    parts = [slug(entry.prompt), _plain(entry.model, *_MODEL, keep="._-") or "model"]
    if len(document.seeds) > 1:
        parts.append(str(entry.seed))
    if len(document.prompts) > 1:
        parts.append(str(document.prompts.index(entry.prompt) + 1) if entry.prompt in document.prompts else "0")
    return "_".join(parts)


def slug(text: str) -> str:
    """A short file name that still tells the prompt, in any script; never empty, never hidden, never a path."""
    return _plain(text.lower(), *_SLUG) or "picture"


def suffix_of(data: bytes) -> str:
    """The ending of a picture's name: it keeps the format it was drawn in."""
    if data.startswith(b"\xff\xd8"):
        return ".jpg"
    return ".webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ".png"


def read(data: bytes, where: str) -> Document:
    """Read compare.json, whoever wrote it last."""
    try:
        shape = json.loads(data) if len(data) <= MAX_DOCUMENT_BYTES else None
    except (ValueError, RecursionError) as exc:
        line = f" from line {exc.lineno} on" if isinstance(exc, json.JSONDecodeError) else ""
        raise _damaged(where, f"it is not JSON{line}") from exc
    if not isinstance(shape, dict):
        raise _damaged(where, "it holds no comparison")
    schema = shape.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise RequestError(
            f"{where} was written by a newer imagen (schema {schema}, this one reads {SCHEMA})",
            hint="update imagen, then resume again",
            param="resume",
        )
    # Only a resumed comparison needs a validator.
    from pydantic import TypeAdapter, ValidationError

    try:
        document = TypeAdapter(Document).validate_python(shape)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        raise _damaged(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from exc
    if wrong := _wrong(document):
        raise _damaged(where, wrong)
    return document


def plain_name(name: str) -> bool:
    """True for a name that stays in its folder and is not hidden."""
    return (
        name == PurePosixPath(name).name == PureWindowsPath(name).name
        and not name.startswith(".")
        and name.isprintable()
        and len(name.encode("utf-8", "replace")) <= 255
    )


def _wrong(document: Document) -> str | None:
    """What makes a well-formed document useless or unsafe; its names become paths."""
    names = [document.sheet, document.page, *(cell.file for cell in document.cells)]
    if bad := next((name for name in names if name is not None and not plain_name(name)), None):
        return f"{bad!r} is not the name of a file in this folder"
    if not document.series or not document.cells:
        return "it names no series or no cells"
    if len(document.cells) > MAX_CELLS:
        return f"it has more than {MAX_CELLS} cells"
    indexes = [cell.index for cell in document.cells]
    if len(set(indexes)) != len(indexes):
        return "two cells have the same index"
    return None


def _damaged(where: str, why: str) -> RequestError:
    return RequestError(
        f"{where} cannot be read: {why[:200]}",
        hint="the pictures beside it are safe; if this machine drew them, find the series with `imagen series list` "
        "and resume it by its id with another folder: imagen compare --resume SERIES -o DIR",
        param="resume",
    )


def _file(file: ModelFile) -> dict[str, Any]:
    said = {key: value for key, value in asdict(file).items() if value not in ("", None)}
    return said | {"path": _no_folder(file.path)} | ({"folder": _no_folder(file.folder)} if file.folder else {})


def _no_folder(path: str | None) -> str | None:
    """Where things lie on one machine is nobody else's business, so an absolute path keeps only its name."""
    if path is None:
        return None
    pure = PureWindowsPath(path) if PureWindowsPath(path).drive else PurePosixPath(path)
    return pure.name if pure.is_absolute() or path.startswith("~") else path


def _plain(text: str, characters: int, octets: int, keep: str = "") -> str:
    """Letters, their marks and digits of any script; everything else becomes a single hyphen."""
    letters = (letter if _belongs(letter) or letter in keep else " " for letter in unicodedata.normalize("NFC", text))
    words = "-".join("".join(_shorten(letters, characters * 4)).split())[:characters]
    return words.encode("utf-8", "ignore")[:octets].decode("utf-8", "ignore").strip("-._")


def _belongs(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN"


def _shorten(letters: Iterable[str], most: int) -> Iterable[str]:
    """Prompts may be 100 kB; a name needs only the beginning."""
    return (letter for letter, _ in zip(letters, range(most), strict=False))
