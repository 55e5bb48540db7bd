"""Model: a named thing you can ask for. It is data; the backend it names does the drawing."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# Of a record: what says where and whether a model is drawn, and nothing about its pictures; and the files, each of
# which is told with its own sum, as it was when it was drawn with.
NO_PART_OF_IT = frozenset({"origin", "device", "slots", "paid", "off", "files"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What sizes and counts a model accepts."""

    min: int = 16  # shortest side, in pixels
    max: int = 4096  # longest side, in pixels
    multiple_of: int = 1  # of both sides
    sizes: tuple[tuple[int, int], ...] = ()  # when given, only these (width, height) pairs
    steps: tuple[int, int] = (1, 1000)  # fewest and most
    n: int = 16  # most pictures of one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting of the model's own."""

    type: str = "str"  # str | int | float | bool
    range: tuple[float, float] | None = None  # lowest and highest, both allowed
    choices: tuple[Any, ...] = ()  # when given, only these
    default: Any = None
    help: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One weight file a model needs."""

    path: str  # its name, below the folder
    folder: str = ""  # where the engine looks for this kind of file
    hub: str = ""  # where it can be fetched from
    size: int | None = None  # in bytes
    sha256: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a draft that leaves a field out gets."""

    width: int = 1024
    height: int = 1024
    steps: int = 20
    guidance: float | None = None
    negative: str = ""
    n: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the catalog. A job carries the whole of it, so later edits never change the job."""

    name: str
    backend: str  # who draws it
    title: str = ""  # what people call it
    enabled: bool = True  # a disabled model is listed, and refuses
    paid: bool = False  # each picture costs money; never chosen for anybody who did not name it
    off: str = ""  # why it is not enabled, where that is not its own `enabled: false`
    device: str  # what draws one thing at a time, for instance cpu@laptop
    slots: int = 1  # how many jobs that device draws at once
    licence: str = ""  # of the weights
    source: str = ""  # where it comes from, for people
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Option] = field(default_factory=dict)
    files: tuple[ModelFile, ...] = ()
    ignores: tuple[str, ...] = ()  # request fields that change nothing for this model
    preview: Mapping[str, Any] | bool | None = None  # how its previews are made, unless a request says otherwise
    workflow: str | None = None  # the template its engine fills in: a model's name, or a file
    template: str = ""  # the digest of that template; a job carries this, and the graph is kept once
    graph: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)  # the template itself
    vram_mib: int | None = None  # what it needs to draw at its defaults
    notes: str = ""  # what somebody choosing a model should know
    keys: Mapping[str, Any] = field(default_factory=dict)  # what its backend declared, and its template's slots
    origin: str = ""  # the file it came from

    def as_dict(self) -> dict[str, Any]:
        """The record a job carries: everything but the graph, which is kept once under its digest."""
        return {key: value for key, value in asdict(replace(self, graph=None)).items() if key != "graph"}

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Model":
        """Read a carried record, ignoring fields a later version may have added."""
        known = {key: shape[key] for key in cls.__dataclass_fields__ if key in shape}
        limits = {k: v for k, v in known.get("limits", {}).items() if k in Limits.__dataclass_fields__}
        for name in ("sizes", "steps"):
            if name in limits:
                limits[name] = _tuples(limits[name])
        known["limits"] = Limits(**limits)
        known["defaults"] = Defaults(**known.get("defaults", {}))
        known["options"] = {
            name: Option(**(item | {"range": _tuples(item.get("range")), "choices": tuple(item.get("choices") or ())}))
            for name, item in known.get("options", {}).items()
        }
        known["files"] = tuple(ModelFile(**item) for item in known.get("files", ()))
        known["ignores"] = tuple(known.get("ignores", ()))
        return cls(**known)

    def digest(self) -> str:
        """A short name for exactly this record, so that two runs can be told to be of one model."""
        told = {key: value for key, value in self.as_dict().items() if key not in NO_PART_OF_IT}
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
