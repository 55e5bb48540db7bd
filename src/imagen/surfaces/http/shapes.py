"""What requests and answers look like, for the checks at the door and for /openapi.json."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from imagen.config import Limits
from imagen.core.request import MAX_SEED, PREVIEW_BOUNDS, PREVIEW_FORMATS, PREVIEW_METHODS
from imagen.surfaces.http import webhook_shapes

MAX_TEXT = 100_000  # characters, whatever `limits: prompt_chars:` says; no text encoder reads a tenth of it
MAX_SIDE = 65_535  # pixels; what one model can draw is its own limit, far below
MAX_STEPS = 100_000
MAX_PICTURES = 1_000
MAX_LIST = 200  # prompts, models or seeds of one series
MAX_CELLS = 1_000  # of one series
MAX_INDEX = 1_000_000  # of a cell: columns are added behind those that were taken away

STATES = Literal["queued", "running", "completed", "failed", "cancelled"]

# No database keeps a NUL. Python counts four more signs as blank than patterns do.
NO_NUL = r"^[^\x00]*$"
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=r"^[^\x00]*[^\s\x00\x1c-\x1f][^\x00]*$")]
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Options = Annotated[
    dict[str, Any],
    Field(
        description="the model's own settings; GET /v1/models says which there are",
        json_schema_extra={
            "propertyNames": {"pattern": NO_NUL},
            "additionalProperties": {"type": ["string", "number", "boolean", "null"], "pattern": NO_NUL},
        },
    ),
]


class Asked(BaseModel):
    """A request body: exactly these fields, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _bounds(name: str) -> Any:
    low, high = PREVIEW_BOUNDS[name]
    return Field(ge=low, le=high)


class PreviewWish(Asked):
    """How many previews, how large, made how: a `count` or a `stride`, not both."""

    method: Literal[PREVIEW_METHODS] = "auto"  # type: ignore[valid-type]  # the names live in core, once
    count: Annotated[int, _bounds("count")] | None = None
    stride: Annotated[int, _bounds("stride")] | None = None
    min_interval_ms: Annotated[int, _bounds("min_interval_ms")] | None = None
    max_size: Annotated[int, _bounds("max_size")] = 384
    format: Literal[PREVIEW_FORMATS] = "jpeg"  # type: ignore[valid-type]  # as `method`
    quality: Annotated[int, _bounds("quality")] = 80

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["count", "stride"],
                "properties": {"count": {"type": "integer"}, "stride": {"type": "integer"}},
            }
        }
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "PreviewWish":
        if self.count is not None and self.stride is not None:
            raise PydanticCustomError("both", "preview takes a count or a stride, not both")
        return self


def _kind_of_wish(value: Any) -> str | None:
    if isinstance(value, bool):
        return "flag"
    return "policy" if isinstance(value, dict | PreviewWish) else None


Wish = Annotated[
    Annotated[bool, Tag("flag")] | Annotated[PreviewWish, Tag("policy")],
    Discriminator(
        _kind_of_wish,
        custom_error_type="wish",
        custom_error_message='preview is true, false or a policy such as {"count": 6}',
    ),
]


class Drawn(Asked):
    """The fields that a job and a series share; what is left out is the model's to choose."""

    negative: Annotated[str, Field(max_length=MAX_TEXT, pattern=NO_NUL)] | None = Field(
        None, description="what should not be seen"
    )
    width: Side | None = None
    height: Side | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None
    options: Options | None = None


class NewJob(Drawn):
    """A request for one job."""

    prompt: Prompt
    model: ModelName | None = Field(None, description="a name of GET /v1/models; absent: the default model")
    seed: Seed | None = Field(None, description="absent: a random one; picture k uses seed + k")
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = Field(None, description="how many pictures")
    preview: Wish | None = Field(None, description="absent: drawn while somebody watches; false: never; or a policy")
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(0, description="above 0 for admin keys only")
    webhook: webhook_shapes.OfJob | None = Field(None, description="told when the job has ended, however it ends")

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "a red fox", "model": "mock", "seed": 7}]})


class NewSeries(Drawn):
    """A request for every prompt with every model and every seed: `prompt` or `prompts`, `seed` or `seeds`."""

    prompt: Prompt | None = None
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_LIST)] | None = None
    models: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_LIST)] | None = Field(
        None, description="absent: every model that is ready to draw"
    )
    seed: Seed | None = None
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_LIST)] | None = Field(
        None, description="absent: one random seed that all models share"
    )
    webhook: webhook_shapes.OfSeries | None = Field(None, description="told when every job of it has ended")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompts": ["a red fox"], "models": ["mock", "mock-warm"], "seeds": [1, 2]}],
            "allOf": [
                {
                    "oneOf": [
                        {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
                        {"required": ["prompts"], "properties": {"prompts": {"type": "array"}}},
                    ]
                },
                {
                    "not": {
                        "required": ["seed", "seeds"],
                        "properties": {"seed": {"type": "integer"}, "seeds": {"type": "array"}},
                    }
                },
            ],
        }
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> "NewSeries":
        if (self.prompt is None) == (self.prompts is None):
            raise PydanticCustomError("one", "give `prompt` or `prompts`, one of both")
        if self.seed is not None and self.seeds is not None:
            raise PydanticCustomError("both", "give `seed` or `seeds`, not both")
        return self


class NewCell(Asked):
    """One place in a series."""

    index: Annotated[int, Field(ge=0, le=MAX_INDEX)]
    prompt: Prompt
    model: ModelName
    seed: Seed


class NamedSeries(NewSeries):
    """A series under an id that its sender chose; sent again, it adds what is not there yet."""

    cells: Annotated[list[NewCell], Field(min_length=1, max_length=MAX_CELLS)] | None = Field(
        None, description="absent: every prompt with every model and every seed"
    )


class MoreModels(Asked):
    """Models to add to a series."""

    models: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_LIST)]

    model_config = ConfigDict(json_schema_extra={"examples": [{"models": ["mock-cool"]}]})


class Said(BaseModel):
    """An answer: it only ever gains fields."""


class ErrorBody(Said):
    """What happened, and what to do next."""

    type: str
    code: str = Field(description="the stable name that programs switch on")
    message: str
    hint: str
    param: str | None = Field(description="the field that is meant")
    retryable: bool = Field(description="whether the same request may succeed later")
    retry_after_s: float | None = None
    detail: str | None = None


class Error(Said):
    """Every refusal and every failure has this shape."""

    error: ErrorBody


class JobRequest(Said):
    """What was asked, complete; null where a row that came by SQL is not resolved yet."""

    prompt: str
    model: str | None
    negative: str | None
    width: int | None
    height: int | None
    steps: int | None
    seed: int | None
    guidance: float | None
    n: int | None
    options: dict[str, Any]


class Progress(Said):
    """How far it is."""

    phase: str | None
    step: int | None
    total: int | None
    image: int | None
    eta_s: float | None


class Picture(Said):
    """One finished picture."""

    index: int
    id: str
    url: str = Field(description="where it is fetched; add ?w=320 for a small copy")
    width: int
    height: int
    seed: int
    sha256: str
    pixels_sha256: str
    state: str


class JobWarning(Said):
    """What was asked and is not honoured as asked."""

    code: str
    message: str


class Job(Said):
    """One request and what became of it."""

    id: str
    state: STATES
    request: JobRequest
    attempt: int
    progress: Progress | None
    position: int | None
    waits_for: str | None
    images: list[Picture]
    warnings: list[JobWarning]
    error: ErrorBody | None
    timings: dict[str, Any]
    facts: dict[str, Any]
    priority: int
    device: str | None
    worker: str | None
    series: str | None
    cell: int | None
    retry_of: str | None
    webhook: webhook_shapes.WebhookState | None = Field(description="null where nobody is to be told")
    created_at: str
    started_at: str | None
    finished_at: str | None


class JobPage(Said):
    """Jobs, newest first."""

    jobs: list[Job]
    next: str | None = Field(description="give it as `before` for the next page; null on the last")


class SeriesCell(Said):
    """One place in a series and the job that fills it."""

    index: int
    prompt: str
    model: str
    seed: int
    job: Job | None


class SeriesLine(Said):
    """One series as the list shows it."""

    id: str
    state: Literal["running", "completed", "partial", "cancelled"]
    prompts: list[str]
    models: list[str]
    seeds: list[int]
    settings: dict[str, Any]
    counts: dict[str, int]
    webhook: webhook_shapes.WebhookState | None = Field(description="null where nobody is to be told")
    created_at: str


class Series(SeriesLine):
    """One series with every cell."""

    cells: list[SeriesCell]


class SeriesPage(Said):
    """Series, newest first, without their cells."""

    series: list[SeriesLine]
    next: str | None = Field(description="give it as `before` for the next page; null on the last")


def limited(document: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """The OpenAPI document with the limits of this server in it, which are lower than what can be said at all."""
    told = {
        "prompt": ("maxLength", limits.prompt_chars),
        "prompts": ("maxLength", limits.prompt_chars),
        "negative": ("maxLength", limits.prompt_chars),
        "width": ("maximum", limits.side),
        "height": ("maximum", limits.side),
        "steps": ("maximum", limits.steps),
        "n": ("maximum", limits.n),
    }
    for asked in (NewJob, NewSeries, NamedSeries):
        properties = document["components"]["schemas"][asked.__name__]["properties"]
        for name, (keyword, limit) in told.items():
            if limit is not None and name in properties:
                _lower(properties[name], keyword, limit)
    return document


def _lower(schema: dict[str, Any], keyword: str, limit: int) -> None:
    if keyword in schema:
        schema[keyword] = min(schema[keyword], limit)
    for inner in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        _lower(inner, keyword, limit)
