"""What a server says of itself and of its models, for /openapi.json."""

from typing import Any, Literal

from pydantic import Field

from imagen.surfaces.http.shapes import ErrorBody, Said


class Key(Said):
    """Who asks."""

    name: str
    admin: bool


class AboutLimits(Said):
    """How much one request may ask for; null: as much as it likes."""

    prompt_chars: int | None
    pixels: int | None
    side: int | None
    steps: int | None
    n: int | None
    queued: int | None
    series_cells: int | None
    wait_s: float


class About(Said):
    """What a server says of itself."""

    version: str
    key: Key
    limits: AboutLimits
    queue: dict[str, int] = Field(description="model: how many jobs wait for it or are being drawn")


class ModelDefaults(Said):
    """What a request that leaves a field out gets."""

    width: int
    height: int
    steps: int
    guidance: float | None
    negative: str
    n: int


class ModelLimits(Said):
    """What sizes and counts a model accepts."""

    min: int
    max: int
    multiple_of: int
    sizes: list[list[int]]
    steps: list[int]
    n: int


class ModelOption(Said):
    """One setting of the model's own."""

    type: str
    range: list[float] | None
    choices: list[Any]
    default: Any
    help: str


class ModelFile(Said):
    """One weight file that a model needs; what is not known of it is left out."""

    path: str
    folder: str | None = None
    hub: str | None = None
    size: int | None = None
    sha256: str | None = None
    licence: str | None = None


class ModelLine(Said):
    """One model that can be asked for."""

    name: str
    title: str
    backend: str
    licence: str
    source: str
    device: str
    default: bool = Field(description="whether a request that names no model gets this one")
    enabled: bool
    available: bool = Field(description="whether its cheap check passes now")
    error: ErrorBody | None
    loaded: bool = Field(description="whether some worker holds it ready")
    defaults: ModelDefaults
    limits: ModelLimits
    options: dict[str, ModelOption]
    ignores: list[str]
    vram_mib: int | None
    notes: str
    paid: bool = Field(description="whether each picture costs its owner money")
    slots: int = Field(description="how many jobs its device draws at once")
    workflow: str | None
    files: list[ModelFile]


class NamedModel(Said):
    """One name that can be asked for, in the shape of OpenAI's list."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    alias_of: str | None = Field(None, description="the model that this name means")


class ModelList(Said):
    """Every model there is; `object` and `data` are the same in the shape of OpenAI's list, with the aliases."""

    models: list[ModelLine]
    object: Literal["list"]
    data: list[NamedModel]
