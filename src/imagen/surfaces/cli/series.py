"""`imagen series`: comparisons of the past, as a list, cell by cell, or as a contact sheet."""

from typing import TYPE_CHECKING

import click

from imagen.core.errors import UnknownSeries
from imagen.core.job import Cell, Series
from imagen.surfaces.cli import options, webhooks
from imagen.surfaces.cli.destination import destination, place
from imagen.surfaces.cli.follow import run, tell_orphans
from imagen.surfaces.cli.output import MOST, SHORT, age, json_option, one_line, print_json, print_table, tell_more
from imagen.surfaces.cli.where import open_door
from imagen.surfaces.wire import series_json, series_webhook

if TYPE_CHECKING:
    from imagen.door import Door

NAMED = "DIR|ID"


@click.group(cls=options.ListingGroup)
def series() -> None:
    """List or show series, or draw the contact sheet of one."""


@series.command("list")
@click.option("--limit", type=click.IntRange(1, MOST), default=20, show_default=True, help="How many, newest first.")
@json_option
def list_(limit: int, json_output: bool) -> None:
    """The newest series."""

    async def listed() -> int:
        async with open_door() as app:
            found = await app.series_list(limit=limit)
            if json_output:
                print_json({"series": [series_json(one) for one in found]})
            elif found:
                print_table(("ID", "STATE", "CELLS", "AGE", "MODELS", "PROMPT"), [_row(one) for one in found])
                tell_more(found, limit)
            else:
                click.echo("no series; make one: imagen compare 'a red fox'", err=True)
            await tell_orphans(app)
            return 0

    run(listed())


@series.command()
@click.argument("series_id", metavar=NAMED)
@json_option
def show(series_id: str, json_output: bool) -> None:
    """Every cell of one series. DIR is what `imagen compare` wrote; ID may be the beginning or the end of an id."""

    async def shown() -> int:
        async with open_door() as app:
            one = await find(app, series_id)
            if json_output:
                print_json(series_json(one))
                return 0
            click.echo(f"series {one.id}  {one.state}  {_counts(one)}")
            for name, value in webhooks.facts(series_webhook(one)):
                if value:
                    click.echo(f"{name:<10}{value}")
            print_table(("CELL", "JOB", "STATE", "MODEL", "SEED", "TOLD"), [_cell_row(cell) for cell in one.cells])
            return 0

    run(shown())


@series.command()
@click.argument("series_id", metavar="ID")
def resend(series_id: str) -> None:
    """Send the webhook of the last ending of a series once more, with the id it had."""

    async def resent() -> int:
        from imagen.surfaces.cli.where import open_door

        async with open_door() as app:
            click.echo((await app.tell_series_again(series_id)).id)
            return 0

    run(resent())


@series.command()
@click.argument("series_id", metavar=NAMED)
@click.option("--output", "-o", metavar="FILE|DIR", default="contact-sheet.png", show_default=True, help="Where to.")
def sheet(series_id: str, output: str) -> None:
    """Draw the contact sheet of one series from the stored pictures."""
    to = destination(output)

    async def drawn() -> int:
        async with open_door() as app:
            one = await find(app, series_id)
            data = await app.series_sheet(one.id)
            kept = f"the pictures are stored, see `imagen series show {one.id}`"
            name = f"contact-sheet_{one.id[-SHORT:]}"
            click.echo(str(place(to, data, name=name, number=None, suffix=".png", kept=kept)))
            return 0

    run(drawn())


async def find(app: "Door", named: str) -> Series:
    """The series of a folder that `imagen compare` wrote to, or of a part of an id."""
    from imagen.engine.comparing.document import DOCUMENT, read
    from imagen.engine.comparing.plan import folder_of

    if (folder := folder_of(named, "series_id")) is None:
        return await app.series(named)
    document = read((folder / DOCUMENT).read_bytes(), str(folder / DOCUMENT))
    try:
        return await app.series(document.series)
    except UnknownSeries as error:
        raise UnknownSeries(
            f"the comparison in {folder} is not in this database",
            hint="it was drawn with another IMAGEN_HOME; give that one (`make demo` has demo/home), or compare anew",
            param=error.param,
        ) from error


def _row(one: Series) -> tuple[str, ...]:
    prompt = one_line(one.prompts[0]) if one.prompts else ""
    return (one.id[-SHORT:], one.state, str(len(one.cells)), age(one.created_at), ", ".join(one.models), prompt)


def _cell_row(cell: Cell) -> tuple[str, ...]:
    job = cell.job
    told = ""
    if job is not None and job.error is not None:
        told = job.error.message
    elif job is not None and job.timings:
        told = f"{sum(job.timings.get(part, 0.0) for part in ('encode', 'sample', 'decode')):.1f} s"
    name = job.id[-SHORT:] if job else ""
    state = job.state.value if job else "not yet"
    return str(cell.index), name, state, cell.model, str(cell.seed), told


def _counts(one: Series) -> str:
    return ", ".join(f"{count} {state}" for state, count in one.counts.items())
