"""`imagen ratings`: how good models are by the votes, with an interval for each."""

from typing import TYPE_CHECKING

import click

from imagen.surfaces.cli import options
from imagen.surfaces.cli.follow import run
from imagen.surfaces.cli.output import json_option, print_json, print_table
from imagen.surfaces.cli.where import open_door
from imagen.surfaces.wire_votes import ratings_csv, ratings_json

if TYPE_CHECKING:
    from imagen.engine.voting.ratings import Ratings


@click.command()
@click.option("--series", "series_id", metavar="ID", help="Only votes on this series.")
@click.option("--models", metavar="A,B,C", help="Only votes between these models.")
@click.option("--prompt", "q", metavar="TEXT", help="Only votes on prompts that hold TEXT.")
@click.option("--voter", metavar="NAME", help="Only votes of this caller: the name of a key, or `local`.")
@click.option("--csv", "csv_output", is_flag=True, help="Print one line of CSV for each model.")
@json_option
def ratings(
    series_id: str | None, models: str | None, q: str | None, voter: str | None, csv_output: bool, json_output: bool
) -> None:
    """Say how good each model is by the votes, and how sure that is.

    1000 is the mean of each group, 400 points more are odds of ten to one. Models that no votes connect are in
    different groups: nothing is known about which of them is better.
    """
    if csv_output and json_output:
        raise click.UsageError("--csv and --json cannot be used together")

    async def rated() -> int:
        async with open_door() as app:
            names = None if models is None else options.names(models)
            found = await app.ratings(series_id=series_id, models=names, q=q, voter=voter)
            if json_output:
                print_json(ratings_json(found))
            elif csv_output:
                click.echo(ratings_csv(found), nl=False)
            elif found.votes:
                print_ratings(found)
            elif any(told is not None for told in (series_id, names, q, voter)):
                click.echo("no votes match; without these options: imagen ratings", err=True)
            else:
                click.echo("no votes yet; compare some pictures: imagen vote SERIES", err=True)
            return 0

    run(rated())


def print_ratings(found: "Ratings") -> None:
    """A table for each group of models that can be compared."""
    for number, group in enumerate(found.groups, 1):
        if len(found.groups) > 1:
            click.echo(f"{'' if number == 1 else chr(10)}group {number}: not comparable with the others")
        rows = [
            (
                one.model,
                f"{one.best}" if one.best == one.worst else f"{one.best} to {one.worst}",
                f"{one.rating:.0f}",
                f"{one.low:.0f} to {one.high:.0f}",
                str(one.votes),
                f"{one.wins}/{one.losses}/{one.ties}",
                str(one.prompts),
            )
            for one in group.models
        ]
        print_table(
            ("MODEL", "PLACE", "RATING", f"{found.confidence:.0%} SURE", "VOTES", "WON/LOST/TIED", "PROMPTS"), rows
        )
