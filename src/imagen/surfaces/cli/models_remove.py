"""`imagen models remove`: take away a model of one's own; its weights and its pictures stay."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagen.core.errors import RequestError, UnknownModel
from imagen.surfaces.cli.output import json_option, print_json

if TYPE_CHECKING:
    from imagen.models.catalog import Catalog


@click.command()
@click.argument("name")
@json_option
def remove(name: str, json_output: bool) -> None:
    """Take the model NAME out of your models folder. Its weights, jobs and pictures stay.

    Jobs that wait for it are still drawn: each carries the model as it was when it was asked for.
    """
    from imagen.models.catalog import FILE
    from imagen.surfaces.cli.models import read_catalog

    catalog, settings = read_catalog()
    folder = settings.models_folder / name
    own = folder.parent == settings.models_folder and (folder / FILE).is_file()
    if name in settings.models:
        raise RequestError(
            f"{settings.document.where('models', name)} has an entry for {name!r}, which is yours to edit",
            hint=f"remove `{name}:` under `models:` there" + (", then run this again for its folder" if own else ""),
            param="name",
        )
    if not own:
        raise _not_yours(name, catalog, settings.models_folder)
    users = sorted(other.name for other in catalog.models.values() if other.workflow == name and other.name != name)
    if users:
        raise RequestError(
            f"{', '.join(users)} {'goes' if len(users) == 1 else 'go'} on from {name!r}",
            hint=f"remove or change first what says `workflow: {name}`",
            param="name",
        )
    removed, left = _take(folder)
    if json_output:
        print_json({"removed": [str(path) for path in removed], "left": [str(path) for path in left]})
    for path in removed if not json_output else ():
        click.echo(f"removed {path}")
    if left:
        click.echo(f"note: {folder} stays, because it holds more: {', '.join(path.name for path in left)}", err=True)
    back = read_catalog()[0].models.get(name)
    if back is not None:
        click.echo(f"note: {name!r} is now the model of {back.origin} again", err=True)


def _take(folder: Path) -> tuple[list[Path], list[Path]]:
    """A link to a folder elsewhere is only unlinked; what is no file of a model is somebody's own and stays."""
    from imagen.models import catalog, slots

    if folder.is_symlink():
        folder.unlink()
        return [folder], []
    removed = [folder / name for name in (catalog.FILE, slots.FILE) if (folder / name).is_file()]
    for path in removed:
        path.unlink()
    left = sorted(folder.iterdir())
    if not left:
        os.rmdir(folder)
        removed.append(folder)
    return removed, left


def _not_yours(name: str, catalog: "Catalog", folder: Path) -> RequestError:
    from imagen.models.catalog import FILE

    if name in catalog.models:
        return RequestError(
            f"{name!r} comes with imagen ({catalog.models[name].origin})",
            hint=f"to hide it, write `{name}: {{enabled: false}}` under `models:` of config.yaml",
            param="name",
        )
    yours = sorted(path.parent.name for path in folder.glob(f"*/{FILE}"))
    return UnknownModel(
        f"there is no model {name!r} in {folder}",
        hint=f"yours are: {', '.join(yours)}" if yours else "that folder holds no models",
        param="name",
    )
