"""`imagen db upgrade`: the one thing that ever has to be done to the database by hand."""

import asyncio

import click


@click.group()
def db() -> None:
    """Bring the database to the version of this program."""


@db.command()
def upgrade() -> None:
    """Move the tables on after a new imagen was installed; keeps everything."""
    from imagen.config import load_settings
    from imagen.engine.wiring import upgrade_database

    click.echo(asyncio.run(upgrade_database(load_settings())))
