"""What the list of workers and the queue say to a doctor: who draws, who only serves, and what nobody draws."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from imagen.core.errors import ImagenError, SetupError
from imagen.core.job import Job
from imagen.engine.doctor import LISTEN_S
from imagen.reading import some
from imagen.store.lacking import lacking

SOME = 5  # models that are named; of more only how many


def check_crew(workers: Sequence[Mapping[str, Any]], heard: Collection[str]) -> str:
    """Raise when somebody who should draw begins nothing; otherwise count those who draw.

    A server that draws nothing has a row among the workers too, so that its version is known.
    """
    drawers = [worker for worker in workers if worker["solo"] or worker["models"] or worker.get("lacks")]
    there = [worker for worker in drawers if worker["id"] in heard]
    if troubled := [worker for worker in there if worker["troubled"]]:
        why = {f"{worker['host'].partition(':')[0]} {worker['pid']}": worker["troubled"] for worker in troubled}
        raise begins_nothing(f"{len(troubled)} of {len(there)} workers, {some(sorted(why), SOME)},", why)
    servers = sum(worker["id"] in heard for worker in workers) - len(there)
    silent = len(workers) - len(there) - servers
    told = [f"{len(there)} alive"]
    told += [f"and {servers} that only serve{'s' * (servers == 1)}"] if servers else []
    return " ".join(told) + (f", {silent} not heard" if silent else "")


def check_waiting(
    left: Sequence[Job],
    busy: Mapping[str, int],
    workers: Iterable[Mapping[str, Any]],
    heard: Collection[str],
    *,
    knows: Iterable[str],
) -> str:
    """Raise when jobs wait that nobody draws: those `left`, of models that only the silent draw, or that all lack.

    `knows` are the models of the caller's own catalog. A job without a model waits for any worker.
    """
    daemons = [worker for worker in workers if not worker["solo"]]
    drawn = {model for worker in daemons if worker["id"] in heard for model in worker["models"]}
    mute = {model for worker in daemons for model in worker["models"]} - drawn
    lacked = {model for worker in daemons if worker["id"] in heard for model in worker.get("lacks") or ()} - drawn
    lost = Counter(job.request.model or "" for job in left)
    lost |= Counter({model: count for model, count in busy.items() if model in {*mute, *lacked, ""}})
    if drawn:
        del lost[""]
    if lost:
        said = [(worker["host"], worker.get("lacks")) for worker in daemons if worker["id"] in heard]
        why = {model: error for model in lost if (error := lacking(said, model)) is not None}
        known = {*knows, *mute, *lacked}
        mine = next((job.id for job in left if not job.request.model or job.request.model in known), None)
        more = f"; or draw one here: `imagen jobs watch {mine}`" if mine else ""
        raise nobody_draws(lost, more, why=why, knows=known)
    return "none that nobody draws"


def begins_nothing(who: str, troubled: Mapping[str, str]) -> ImagenError:
    """Workers that live and draw nothing; `troubled` is why, by their names."""
    hint = "their log says what to do; `imagen doctor` there looks at their store; mended, they go on by themselves"
    reasons: dict[str, list[str]] = {}
    for name, trouble in sorted(troubled.items()):
        reasons.setdefault(_bare(trouble), []).append(name)
    several = len(reasons) > 1
    told = "; ".join(why + (f" ({some(names, SOME)})" if several else "") for why, names in reasons.items())
    return SetupError(f"{who} begin nothing: no picture can be stored: {told}", hint=hint)


def nobody_draws(
    waiting: Mapping[str, int],
    more: str = "",
    *,
    knows: Collection[str],
    why: Mapping[str, ImagenError] = MappingProxyType({}),
) -> ImagenError:
    """Jobs whose model no live worker draws; `why`, by model, is what those say who know it.

    No command can name a model that nobody `knows`.
    """
    models = sorted(model for model in waiting if model)
    unknown = [model for model in models if model not in knows]
    reasons = {model: f" ({why[model].message})" for model in models if model in why}
    reasons |= {model: " (unknown model)" for model in unknown}
    counts = [f"{waiting[model]} of {model}{reasons.get(model, '')}" for model in models]
    counts += [f"{waiting['']} without a model"] if waiting.get("") else []
    message = f"jobs wait that nobody draws: {some(counts, SOME)}"
    unserved = [model for model in models if model in knows and model not in why]
    hints = []
    if unknown:
        hints.append("cancel those of an unknown model: `imagen jobs list --state queued`; the names: `imagen models`")
    hints += dict.fromkeys(why[model].hint for model in models if model in why)
    if unserved or waiting.get(""):
        those = f" --models {','.join(unserved)}" if 0 < len(unserved) <= SOME else ""
        hints.append(f"start `imagen worker{those}`, or an `imagen serve` that draws, where these models are")
    return SetupError(message, hint="; ".join(hints) + more)


def told_of(worker: Mapping[str, Any], heard: Collection[str]) -> str:
    """One worker in a line: where, since when, heard of or not, and what it draws."""
    host, began = worker["host"].partition(":")[0], worker["started_at"]
    seen = "heard now" if worker["id"] in heard else f"not heard for {LISTEN_S:.0f} s"
    draws = "; ".join(f"{len(models)} on {device}" for device, models in sorted((worker["places"] or {}).items()))
    what = "its own jobs" if worker["solo"] else f"models: {draws or 'none'}"
    told = f"{host} {worker['pid']}: imagen {worker['version']}, since {began:%Y-%m-%d %H:%M} UTC, {seen}, {what}"
    lacks = sorted(worker.get("lacks") or ())
    told += f"; cannot draw now: {some(lacks, SOME)}" if lacks else ""
    return told + (f"; begins nothing: {worker['troubled']}" if worker["troubled"] else "")


def _bare(trouble: str) -> str:
    return trouble.replace("no picture can be stored: ", "")
