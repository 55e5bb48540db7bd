"""What an agent should do next, in the words of the five verbs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagen.core.job import Job, Series, State
from imagen.surfaces.mcp.brief import shortened
from imagen.surfaces.mcp.told import CELLS
from imagen.surfaces.wire import waits_told

if TYPE_CHECKING:
    from imagen.surfaces.mcp.edge import Edge
    from imagen.surfaces.mcp.record import Record

LATER = "call `status` with this id and a `wait_s`, then `fetch`"
GOES_ON = f"not finished, and going on by itself: {LATER}"
DRY = "this was a dry run, nothing is drawn; call it again without `dry_run`"
STANDS = (
    "nobody draws those that say so in `waits_for`: call `status` with such an id, or with the id of its `series`, to "
    "have it drawn, or with `cancel` true to end it"
)


def after_job(edge: "Edge", job: Job, record: "Record", images: Sequence[Mapping[str, Any]]) -> str:
    """How a job stands and what that means; `images` are its pictures as they are told."""
    match job.state:
        case State.COMPLETED:
            return f"done{_but(record.warnings)}: {_where_all(edge, images)}"
        case State.FAILED:
            # Some failures pass: whoever reads `retryable` in the error must not read here that all is lost.
            again = "; then `generate` it again" if job.error is not None and job.error.retryable else ""
            hint = edge.trouble(job.error)["hint"] if job.error else "generate it again"
            return f"it failed, and nobody tries it again by itself: {hint}{again}{_also(record.warnings)}"
        case State.CANCELLED:
            return "somebody cancelled it; generate it again if it is still wanted"
        case State.QUEUED | State.RUNNING:
            return _before_the_end(edge, job, record)


def after_series(edge: "Edge", series: Series, cells: Sequence[Mapping[str, Any]]) -> str:
    """The same for a comparison; `cells` are those that are told."""
    warned = sum(1 for cell in cells if cell.get("warnings"))
    more = [f"{warned} of the cells have `warnings`"] if warned else []
    if (left := len(series.cells) - len(cells)) > 0:
        more.append(f"only the first {CELLS} cells are listed, and {left} are not: `counts` has them")
    if series.state == "running":
        if any(cell.job and cell.job.cancel_requested and not cell.job.state.terminal for cell in series.cells):
            return "; ".join(["its end is asked for, and comes after the steps under way: `status` tells", *more])
        return "; ".join([GOES_ON, *more])
    if lost := sum(1 for cell in series.cells if cell.job and cell.job.state is not State.COMPLETED):
        more.insert(0, f"{lost} of {len(series.cells)} have none, and say why")
    return "; ".join(["done: `sheet` shows all pictures side by side; each cell has its own" + _key(edge), *more])


def after_fetch(edge: "Edge", image: Mapping[str, Any], what: str, saved: str | None, differs: str | None) -> str:
    """Where the whole picture is, and why its name is another one than was asked for."""
    if saved is None:
        return f"the whole {what} is at {_where(edge, image)}"
    return f"the whole {what} is at `saved_to`" + (f", not where you said: {differs}" if differs else "")


def _before_the_end(edge: "Edge", job: Job, record: "Record") -> str:
    if job.cancel_requested:
        return "its end is asked for, and comes after the step it is at: `status` tells"
    if record.trouble is not None:
        told = edge.trouble(record.trouble)
        return f"the last attempt failed ({told['message']}; {told['hint']}) and it is tried again by itself: {LATER}"
    waits = waits_told(job, reader=edge.reader)
    going = f"it waits for {waits}: {LATER}" if waits else GOES_ON
    return going + _also(record.warnings)


def _where_all(edge: "Edge", images: Sequence[Mapping[str, Any]]) -> str:
    there = [image for image in images if image["state"] == "stored"]
    if not there:
        return "but its picture was deleted since; `generate` with the same request and seed draws it again"
    if len(images) == 1:
        return f"the whole picture is at {_where(edge, there[0])}"
    return f"each whole picture is at its {_where(edge, there[0])}; `fetch` with an `index` shows another one"


def _where(edge: "Edge", image: Mapping[str, Any]) -> str:
    return "`path`" if "path" in image else f"`url`{_key(edge)}"


def _key(edge: "Edge") -> str:
    if edge.keyed and edge.folders:
        return " (which wants the key; `fetch` with `save_to` brings it)"
    return " (with the key that this call had)" if edge.keyed else ""


def _but(warnings: Sequence[str]) -> str:
    return f", with a warning ({shortened('; '.join(warnings))})" if warnings else ""


def _also(warnings: Sequence[str]) -> str:
    return f". Mind: {shortened('; '.join(warnings))}" if warnings else ""
