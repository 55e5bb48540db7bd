"""What the five verbs take and what they answer: the checks, and the schemas that an agent is shown."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from imagen.surfaces.http.shapes import MAX_LIST, MAX_PICTURES, MAX_STEPS, MAX_TEXT, Seed, Side

# Clients give up on a tool after five seconds, a minute or never, and none says which. So a call that says nothing
# about its patience has its answer, with the job's id in it, before the hastiest of them is gone.
WAIT_S = 3.0

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


WaitS = Annotated[
    float,
    Field(
        ge=0,
        le=86_400,
        description="seconds to wait for the end; the answer then has the id and how far it is, and the work goes on. "
        "Give no more than half of what your client allows a tool",
    ),
]
DryRun = Annotated[
    bool, Field(description="draw nothing: say what would be drawn, by what, for how long and at what cost")
]


class Asked(BaseModel):
    """Arguments: exactly these, but a number may come as text, as models like to write it."""

    model_config = ConfigDict(extra="forbid")


class Models(Asked):
    """Which models there are."""

    model: ModelName | None = Field(None, description="only this one, with everything that can be set")


class Drawn(Asked):
    """What one picture and a comparison share; what is left out is the model's to choose."""

    negative: Text | None = Field(None, description="what should not be seen")
    width: Side | None = Field(None, description="pixels")
    height: Side | None = Field(None, description="pixels")
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="how closely to follow the prompt")
    options: dict[str, Any] | None = Field(None, description="the model's own settings, as `models` names them")


class Generate(Drawn):
    """One prompt, one model."""

    prompt: Prompt
    model: ModelName | None = Field(None, description="a name that `models` gave; left out: the default model")
    seed: Seed | None = Field(None, description="left out: a random one; the same seed draws the same picture")
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = Field(None, description="how many pictures")
    wait_s: WaitS = WAIT_S
    dry_run: DryRun = False


class Status(Asked):
    """What became of it."""

    id: str | None = Field(None, description="of a job or a comparison; left out: the latest jobs")
    wait_s: WaitS = 0.0
    cancel: bool = Field(False, description="end this job, or every unfinished one of this comparison")


class Compare(Drawn):
    """Every prompt with every model and every seed."""

    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_LIST), BeforeValidator(_listed)]
    models: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_LIST), BeforeValidator(_listed)] | None = (
        Field(None, description="names that `models` gave; left out: every one that is ready and free")
    )
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_LIST), BeforeValidator(_listed)] | None = Field(
        None, description="left out: one random seed that all models share"
    )
    wait_s: WaitS = WAIT_S
    dry_run: DryRun = False


class Fetch(Asked):
    """A picture that is drawn."""

    id: str = Field(description="of a job, of a picture, or of a comparison for its contact sheet")
    index: Annotated[int, Field(ge=0)] = Field(0, description="which picture of a job with several, from 0")
    large: bool = Field(False, description="answer with a picture of up to 1,024 pixels instead of 256")


class FetchHere(Fetch):
    """The same, for somebody at this machine."""

    save_to: str | None = Field(
        None,
        description="a file or folder to copy the whole picture to, inside the folders this server was started with; "
        "a file that exists is never replaced, the copy gets a number",
    )


class Said(BaseModel):
    """An answer: it only ever gains fields, and what there is nothing to say of is left out."""


class Trouble(Said):
    """What went wrong, and what to do next."""

    code: str
    message: str
    hint: str
    param: str | None = None
    retryable: bool = False


class Picture(Said):
    """One finished picture; `path` on this machine, or the `url` of a server."""

    id: str | None = Field(None, description="a contact sheet has none")
    index: int
    width: int
    height: int
    seed: int | None = None
    state: str
    path: str | None = None
    url: str | None = None


class Progress(Said):
    """How far it is."""

    phase: str | None = None
    step: int | None = None
    total: int | None = None
    eta_s: float | None = None


class Job(Said):
    """One request and what became of it."""

    id: str
    state: str = Field(description="queued, running, completed, failed or cancelled")
    request: dict[str, Any]
    progress: Progress | None = None
    waits_for: str | None = None
    images: list[Picture]
    warnings: list[str] | None = Field(None, description="what was asked and could not be honoured")
    error: Trouble | None = Field(None, description="why it failed; the call itself did not")
    last_error: Trouble | None = Field(None, description="why the last attempt failed; it is tried again by itself")
    draw_s: float | None = Field(None, description="what drawing took, without loading and waiting")
    cost: float | None = Field(None, description="what it cost, in the currency its model was configured with")
    series: str | None = None


class JobLine(Said):
    """One job of a list."""

    id: str
    state: str
    model: str | None = None
    prompt: str
    series: str | None = Field(None, description="the comparison it belongs to")
    waits_for: str | None = None
    created_at: str | None = None


class SeriesCell(Said):
    """One picture of a comparison."""

    model: str
    prompt: str
    seed: int
    job: str | None = None
    state: str
    image: Picture | None = None
    warnings: list[str] | None = None
    draw_s: float | None = None
    error: Trouble | None = None
    last_error: Trouble | None = None


class Series(Said):
    """A comparison."""

    id: str
    state: str = Field(description="running, completed, partial or cancelled")
    counts: dict[str, int]
    cells: list[SeriesCell]
    cells_left_out: int | None = Field(None, description="how many more there are; `counts` and `sheet` have them all")
    sheet: Picture | None = Field(None, description="all pictures on one page, once they have ended")


class Seen(Said):
    """What the latest finished jobs of this model took; medians."""

    jobs: int
    like_this: bool = Field(description="whether they had the same size, steps and number of pictures")
    draw_s: float | None = None
    load_s: float | None = Field(None, description="where the model had to be loaded first")
    vram_peak_mib: int | None = None
    cost: float | None = None


class Forecast(Said):
    """What a request would come to."""

    model: str
    available: bool
    error: Trouble | None = Field(None, description="why it is not available")
    request: dict[str, Any] = Field(description="complete: what was left out is filled in")
    warnings: list[str]
    paid: bool = Field(description="whether it costs money")
    seen: Seen | None = Field(None, description="absent: this model never drew here")
    vram_mib: int | None = Field(None, description="what its description says it needs")
    waiting: int = Field(description="jobs for this model that wait or are drawn already")


class Model(Said):
    """One model that can be asked for."""

    name: str
    title: str
    default: bool
    available: bool
    loaded: bool
    paid: bool
    why: Trouble | None = Field(None, description="why it is not available")
    size: str | None = Field(None, description="its own")
    steps: int | None = Field(None, description="its own")
    notes: str | None = Field(None, description="what it is for, and what not")
    details: dict[str, Any] | None = Field(None, description="limits, options and notes, where one model was asked for")


class ModelsSaid(Said):
    """All models, those that are ready first."""

    models: list[Model]
    next: str


class GenerateSaid(Said):
    """A job; or with dry_run what it would be."""

    job: Job | None = None
    forecast: Forecast | None = None
    next: str = Field(description="what to do now")


class StatusSaid(Said):
    """A job, a comparison, or the latest jobs."""

    job: Job | None = None
    series: Series | None = None
    jobs: list[JobLine] | None = None
    next: str = Field(description="what to do now")


class CompareSaid(Said):
    """A comparison; or with dry_run what it would be."""

    series: Series | None = None
    forecasts: list[Forecast] | None = None
    pictures: int | None = Field(None, description="how many it would be")
    total_s: float | None = Field(None, description="all of them one after another; absent where a model never drew")
    next: str = Field(description="what to do now")


class FetchSaid(Said):
    """Where the picture is."""

    image: Picture | None = None
    job: Job | None = Field(None, description="instead of the picture, where there is none (yet)")
    warnings: list[str] | None = Field(None, description="what was asked and could not be honoured")
    saved_to: str | None = None
    next: str = Field(description="what to do now")


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema, without the words that only say again what a name says: agents carry it in every session."""
    shape: dict[str, Any] = _plain(kind.model_json_schema())
    return shape


def bare(value: Any) -> Any:
    """Without what is null, at every depth."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if item is not None}
    return [bare(item) for item in value] if isinstance(value, list) else value


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    told = {
        key: {name: _plain(item) for name, item in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    if "properties" in told:
        told.pop("description", None)  # of the whole; the tool has one
    # What may be left out need not be said to be possibly null as well, and some clients read no `anyOf`.
    some = [one for one in told.get("anyOf", ()) if one != {"type": "null"}]
    if len(some) == 1:
        del told["anyOf"]
        told = some[0] | told
    return told
