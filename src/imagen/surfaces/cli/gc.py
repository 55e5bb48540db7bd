"""`imagen gc`: what nobody needs any more, first told, then removed."""

import re
from typing import TYPE_CHECKING

import click

from imagen.core.errors import RequestError
from imagen.surfaces.cli.follow import run
from imagen.surfaces.cli.output import byte_size, json_option, print_json, print_table

if TYPE_CHECKING:
    from imagen.engine.pictures.gc import Found, GcReport

NAMED = 10  # names that are shown of one kind; --json has more
UNITS_S = {"h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}

KINDS = (
    ("strays", "files that no job knows"),
    ("deleted", "files of deleted pictures"),
    ("old", "pictures of old jobs"),
)
SEEN = (
    ("missing", "recorded pictures that are not there"),
    ("foreign", "files that are not of this database and stay"),
)


@click.command()
@click.option("--yes", is_flag=True, help="Delete it. Without this nothing is changed.")
@click.option(
    "--older-than", metavar="AGE", help="Also the pictures of jobs that ended longer ago, such as 30d, 12h or 8w."
)
@click.option(
    "--forget",
    metavar="AGE",
    help="Also the jobs themselves that ended longer ago, with their pictures and events; not a comparison that "
    "somebody voted on.",
)
@json_option
def gc(yes: bool, older_than: str | None, forget: str | None, json_output: bool) -> None:
    """Say what could be deleted to make room, or delete it.

    That is: files that no job knows, what a crash left of deleted pictures, and small things in the database.
    Copies made with -o are never touched.
    """
    asked = {"older_than": older_than, "forget": forget}
    ages = {f"{name}_s": age_s(text, name) for name, text in asked.items() if text is not None}

    async def swept() -> int:
        from imagen.app import open as open_app

        async with open_app() as app:
            report = await app.gc(dry_run=not yes, **ages)
            if json_output:
                print_json(report.as_dict())
            else:
                options = (f"--{name.replace('_', '-')} {text}" for name, text in asked.items() if text is not None)
                _tell(report, " ".join(("imagen gc", *options, "--yes")))
            return 0

    run(swept())


def age_s(text: str, param: str) -> float:
    """`30d` -> seconds."""
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*([hdw])\s*", text)
    if match is None:
        raise RequestError(
            f"--{param.replace('_', '-')} {text} is no age",
            hint="write a number and h, d or w, such as 30d",
            param=param,
        )
    return int(match[1]) * UNITS_S[match[2]]


def _tell(report: "GcReport", command: str) -> None:
    for kind, what in SEEN:
        found: Found = getattr(report, kind)
        if found.count:
            click.echo(f"note: {what} ({found.count}):", err=True)
            _names(found)
    if report.empty:
        click.echo("nothing to remove", err=True)
        return
    rows = []
    for kind, what in KINDS:
        found = getattr(report, kind)
        if found.count:
            rows.append((str(found.count), what, byte_size(found.size)))
            if report.dry_run:
                click.echo(f"{what}:", err=True)
                _names(found)
    if report.jobs:
        rows.append((str(report.jobs), "old jobs, with all that is recorded of them", ""))
    if report.keys:
        rows.append((str(report.keys), "idempotency keys of deleted jobs", ""))
    if report.stale:
        rows.append((str(report.stale), "rows of previews and watchers", ""))
    print_table(("COUNT", "WHAT", "SIZE"), rows)
    size = byte_size(report.size)
    if report.dry_run:
        click.echo(f"nothing is removed yet; `{command}` removes it and frees {size}", err=True)
    else:
        click.echo(f"removed; {size} are free again", err=True)


def _names(found: "Found") -> None:
    for name in found.names[:NAMED]:
        click.echo(f"  {name}", err=True)
    if found.count > NAMED:
        click.echo(f"  and {found.count - NAMED} more", err=True)
