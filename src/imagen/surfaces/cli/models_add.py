"""`imagen models add`: a workflow of somebody's own becomes a model, checked and drawn once."""

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import RequestError, Unsupported
from imagen.core.request import Draft
from imagen.surfaces.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.backends.base import Adopted, Question, Site
    from imagen.config import Settings
    from imagen.core.errors import Check

# What a workflow without a prompt of its own is tried with.
PROMPT = "a red fox in the snow"
NONE = "none"
SHOWN = 60  # characters of a value


@click.command()
@click.argument("workflow", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", metavar="NAME", help="What the model is called; else the name of the file.")
@click.option(
    "--slot",
    "slots",
    multiple=True,
    metavar="SLOT=NODE.INPUT",
    help="Where a value stands, as in prompt=6.text; several with commas, or `none`. Can be repeated.",
)
@click.option("--url", metavar="URL", help="The ComfyUI server it is for; else the one of config.yaml.")
@click.option("--yes", is_flag=True, help="Do not ask before writing.")
@click.option("--no-draw", is_flag=True, help="Do not draw a picture with it.")
@click.option("--force", is_flag=True, help="Replace a model of this name.")
@click.option("--dry-run", is_flag=True, help="Only say what is found; write nothing.")
@json_option
def add(
    *,
    workflow: Path,
    name: str | None,
    slots: tuple[str, ...],
    url: str | None,
    yes: bool,
    no_draw: bool,
    force: bool,
    dry_run: bool,
    json_output: bool,
) -> None:
    """Make a model out of WORKFLOW, a workflow file of ComfyUI.

    It may be what the editor saves, an export for the API, or a PNG that ComfyUI made. What a request fills in (prompt,
    seed, size and so on) is found by following the graph; where two answers are as good you are asked, or name one with
    --slot. The server is asked what its nodes are, so it has to run.
    """
    from imagen.engine.adopt import check_name, name_for, read_document, write
    from imagen.surfaces.cli.follow import run
    from imagen.surfaces.cli.models import read_catalog

    document = read_document(workflow.expanduser())
    catalog, settings = read_catalog()
    called = name or name_for(workflow)
    if not dry_run:
        check_name(called, catalog, settings.models_folder, force=force)
    person = sys.stdin.isatty() and not json_output
    adopted = asyncio.run(_adopted(settings, document, _answers(slots), url, ask=person and not yes))
    told: dict[str, Any] = {"name": called, **_shape(adopted), "folder": None, "checks": [], "image": None}
    if not json_output:
        _tell(adopted)
    if dry_run:
        if json_output:
            print_json(told)
        return
    if person and not yes:
        click.confirm(f"Write {settings.models_folder / called}?", default=True, abort=True, err=True)
    title = name or workflow.stem.replace("_", " ").strip() or called
    folder = write(adopted, called, settings, title=title, origin=workflow.name, url=url)
    told["folder"] = str(folder)
    if not json_output:
        click.echo(f"wrote {folder}")
    run(_tried(settings, called, adopted, told, draw=not no_draw, json_output=json_output))


async def _adopted(
    settings: "Settings", document: Mapping[str, Any], answers: dict[str, str], url: str | None, *, ask: bool
) -> "Adopted":
    """Ask the server, and the person as long as there are questions."""
    from imagen.engine.backends import Backends

    async with aclosing(Backends(settings)) as backends:
        adopted = await backends.adopt(document, answers, url=url)
        while adopted.questions:
            question = adopted.questions[0]
            if not ask or not question.candidates:
                raise _unanswered(adopted.questions)
            answers[question.slot] = _ask(question)
            adopted = await backends.adopt(document, answers, url=url)
        return adopted


async def _tried(
    settings: "Settings", name: str, adopted: "Adopted", told: dict[str, Any], *, draw: bool, json_output: bool
) -> int:
    """Hold the new model against its server, and draw one picture with it; the exit code."""
    code = await _try(settings, name, adopted, told, draw=draw, json_output=json_output)
    if json_output:
        print_json(told)
    return code


async def _try(
    settings: "Settings", name: str, adopted: "Adopted", told: dict[str, Any], *, draw: bool, json_output: bool
) -> int:
    from imagen.engine.backends import Backends
    from imagen.engine.doctor import check_models
    from imagen.engine.wiring import catalog_of
    from imagen.surfaces.cli.models import check_json

    model = catalog_of(settings).get(name)
    async with aclosing(Backends(settings)) as backends:
        (checks,) = await check_models([model], backends.of)
    told["checks"] = [check_json(check) for check in checks]
    failed = [check for check in checks if check.error is not None]
    if failed:
        _tell_failed(name, failed)
        return 3
    if not draw:
        return 0
    from imagen.app import open as open_app

    async with open_app(settings=settings) as app:
        return await _drawn(app, name, adopted, told, json_output=json_output)


async def _drawn(app: "App", name: str, adopted: "Adopted", told: dict[str, Any], *, json_output: bool) -> int:
    from imagen.surfaces.cli.follow import cancelled_by_ctrl_c, face, say_end, to_the_end
    from imagen.surfaces.cli.generate import hand_over

    said = next((str(place.value) for place in adopted.found.get("prompt", ()) if place.value), "")
    job = await app.submit(Draft(prompt=said.strip() or PROMPT, model=name))
    shown = face(json_output=False, preview="ref", pictures=False)
    async with app.working([job.id]), cancelled_by_ctrl_c(lambda: app.cancel(job.id), shown):
        end = await to_the_end(app, job.id, shown, previews=False)
    code = say_end(end, job)
    told["image"] = next((image.url for image in end.images), None)
    await hand_over(app, job, end, None, quiet=json_output)
    return code


def _answers(slots: Iterable[str]) -> dict[str, str]:
    answers: dict[str, str] = {}
    for item in slots:
        slot, equals, place = (part.strip() for part in item.partition("="))
        if not slot or not equals or not place:
            raise RequestError(
                f"--slot {item!r} is not SLOT=NODE.INPUT", hint="write for instance --slot prompt=6.text", param="slot"
            )
        answers[slot] = f"{answers[slot]},{place}" if slot in answers else place
    return answers


def _ask(question: "Question") -> str:
    """One question to a person; several numbers with commas, or none."""
    click.echo(f"{question.slot}: {question.why}", err=True)
    for number, place in enumerate(question.candidates, 1):
        click.echo(f"  {number}  {_place(place)}  {_cut(place.value)}", err=True)
    if question.slot != "output":
        click.echo("  0  none of them", err=True)

    def chosen(answer: str) -> str:
        numbers = [part.strip() for part in answer.split(",")]
        if numbers == ["0"] and question.slot != "output":
            return NONE
        if not all(part.isdigit() and 1 <= int(part) <= len(question.candidates) for part in numbers):
            raise click.BadParameter(f"give a number from 1 to {len(question.candidates)}; several with commas")
        return ",".join(question.candidates[int(part) - 1].name for part in numbers)

    answer: str = click.prompt(f"Which is the {question.slot}", value_proc=chosen, err=True)
    return answer


def _unanswered(questions: "Sequence[Question]") -> RequestError:
    """Nobody is here to ask: every question, with what to give."""
    said = []
    for question in questions:
        places = ", ".join(f"{place.name} ({_cut(place.value)})" for place in question.candidates)
        said.append(f"{question.slot}: {question.why}" + (f": {places}" if places else ""))
    if not all(question.candidates for question in questions):
        return Unsupported(
            f"this workflow cannot be taken: {'; '.join(said)}", hint="give one with a text that becomes the prompt"
        )
    ways = [f"--slot {question.slot}={question.candidates[0].name}" for question in questions]
    return RequestError(
        f"not everything is certain: {'; '.join(said)}",
        hint=f"say which, as in {' '.join(ways)}; several with commas, or `none`",
        param="slot",
    )


def _tell(adopted: "Adopted") -> None:
    rows = []
    for slot, places in adopted.found.items():
        for number, place in enumerate(places):
            rows.append(("" if number else slot, _place(place), _cut(place.value)))
    print_table(("SLOT", "WHERE", "NOW"), rows)
    for note in adopted.notes:
        click.echo(f"note: {note}", err=True)


def _tell_failed(name: str, failed: "Sequence[Check]") -> None:
    for check in failed:
        assert check.error is not None
        what = check.name.partition(": ")[2] or check.name
        click.echo(f"FAIL  {what}: {check.error.message}\n      hint: {check.error.hint}", err=True)
    click.echo(f"note: nothing was drawn; then see `imagen models check {name}`", err=True)


def _shape(adopted: "Adopted") -> dict[str, Any]:
    found = {
        slot: [asdict(place) | {"place": place.name} for place in places] for slot, places in adopted.found.items()
    }
    return {"found": found, "keys": dict(adopted.keys), "notes": list(adopted.notes)}


def _place(place: "Site") -> str:
    title = f": {place.title}" if place.title and place.title != place.kind else ""
    return f"{place.name} ({place.kind}{title})"


def _cut(value: Any) -> str:
    if value is None:
        return ""
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
