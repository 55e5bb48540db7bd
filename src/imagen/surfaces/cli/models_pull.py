"""`imagen models pull`: the weights of a model, fetched to where its engine looks for them."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import RequestError
from imagen.surfaces.cli.output import byte_size, json_option, print_json, print_table

if TYPE_CHECKING:
    from imagen.core.model import Model
    from imagen.engine.weights.pull import Folders, Item, Plan

SHOW_S = 0.2  # between two looks at how far it is
CLEAR = "\r\x1b[K"

STATES = {"there": "there", "other": "another size", "missing": "missing"}


@click.command()
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched, how large it is and where it would go.")
@click.option(
    "--to", metavar="DIR", type=click.Path(path_type=Path), help="Below this folder, whatever the engine says."
)
@click.option("--file", "files", metavar="PATH", multiple=True, help="Only this file of the model. Can be repeated.")
@click.option("--yes", is_flag=True, help="Do not ask before fetching.")
@json_option
def pull(
    name: str | None, dry_run: bool, to: Path | None, files: tuple[str, ...], yes: bool, json_output: bool
) -> None:
    """Fetch the weights of NAME, or of every model, to where its engine looks for them.

    What is there already is left alone. An interrupted fetch goes on where it stopped; every file is checked before it
    gets its name. A file whose authors want their licence accepted needs a token: HF_TOKEN, or `hf auth login`.
    """
    from imagen.engine.weights.pull import World, fetch, planned

    models, folders = asyncio.run(_asked(name, to.expanduser().absolute() if to else None))
    plan = planned(models, folders, only=files, world=World())
    if not plan.items:
        click.echo(f"note: {name or 'no model'} names no files to fetch one by one", err=True)
        if name and not files:
            asyncio.run(_weights_there(name))
    if dry_run:
        _tell(plan, folders, json_output)
        return
    plan.check()
    if plan.missing and not yes:
        _tell(plan, folders, json_output=False, err=True)
        _ask(plan)
    fetched = fetch(plan, _Progress() if sys.stderr.isatty() else _silent, _done)
    if json_output:
        print_json({"fetched": [item.as_dict() for item in fetched], "dry_run": False})
        return
    for item in fetched:
        click.echo(item.place)
    for note in plan.notes:
        click.echo(f"note: {note}", err=True)
    _others(plan)
    if not fetched and plan.items:
        click.echo(_nothing(plan), err=True)


async def _asked(name: str | None, to: Path | None) -> "tuple[list[Model], Mapping[str, Folders | None]]":
    from imagen.engine.backends import Backends
    from imagen.engine.weights.pull import folders_of
    from imagen.surfaces.cli.models import read_catalog

    catalog, settings = read_catalog()
    models = [catalog.get(name)] if name else [model for model in catalog.models.values() if model.enabled]
    async with aclosing(Backends(settings)) as backends:
        return models, await folders_of(models, backends.of, to)


async def _weights_there(name: str) -> None:
    """Raise when a model's weights are a whole repository that is not here; how to get that is in the hint."""
    from imagen.core.errors import MissingFile
    from imagen.engine.backends import Backends
    from imagen.engine.doctor import check_models
    from imagen.surfaces.cli.models import read_catalog

    catalog, settings = read_catalog()
    async with aclosing(Backends(settings)) as backends:
        (checks,) = await check_models([catalog.get(name)], backends.of)
    for check in checks:
        if isinstance(check.error, MissingFile):  # what else is in the way is no matter of fetching
            raise check.error


def _tell(plan: "Plan", folders: "Mapping[str, Folders | None]", json_output: bool, err: bool = False) -> None:
    """Every file, where it is or goes, and the sum."""
    if json_output:
        rooms = [{"path": str(room.path), "wanted": room.wanted, "free": room.free} for room in plan.rooms]
        items = [item.as_dict() for item in plan.items]
        print_json({"files": items, "missing_bytes": plan.missing_bytes, "disks": rooms, "dry_run": True})
        return
    rows = [(item.file.path, _size(item), _state(item), item.file.licence) for item in plan.items]
    if rows:
        print_table(("FILE", "SIZE", "STATE", "LICENCE"), rows, err=err)
    for place in dict.fromkeys(str(item.place.parent) for item in plan.items):
        click.echo(f"{_kinds(plan.items, place)} in {place}", err=err)
    for note in plan.notes:
        click.echo(f"note: {note}", err=True)
    _others(plan)
    for item in plan.items:
        if item.problem is not None and item.problem.message not in plan.notes:
            click.echo(f"note: {item.problem.message}", err=True)
    for hint in dict.fromkeys(item.problem.hint for item in plan.items if item.problem):
        click.echo(f"  hint: {hint}", err=True)
    missing = len(plan.missing)
    about = "" if all(item.exact for item in plan.missing) else "about "
    free = "".join(f"; {byte_size(room.free)} are free at {room.path}" for room in plan.rooms)
    total = f"{missing} of {len(plan.items)} files to fetch, {about}{byte_size(plan.missing_bytes)}{free}"
    click.echo(total if missing else _nothing(plan), err=err)


def _nothing(plan: "Plan") -> str:
    if not plan.items:
        return "nothing to fetch"
    return f"nothing to fetch: {len(plan.items)} file{'s are' if len(plan.items) > 1 else ' is'} there"


def _ask(plan: "Plan") -> None:
    if not sys.stdin.isatty():
        raise RequestError(
            f"{byte_size(plan.missing_bytes)} would be fetched, and nobody is here to say yes",
            hint="add --yes, or look first with --dry-run",
            param="yes",
        )
    licences = dict.fromkeys(item.file.licence or "no licence named" for item in plan.missing)
    click.confirm(
        f"Fetch {byte_size(plan.missing_bytes)} under {', '.join(licences)}?", default=True, abort=True, err=True
    )


def _size(item: "Item") -> str:
    if item.size is None:
        return "?"
    return f"{'' if item.exact else '~'}{byte_size(item.size)}"


def _state(item: "Item") -> str:
    told = f"{byte_size(item.part)} of it" if item.part else STATES[item.state]
    return f"{told}, see below" if item.problem is not None else told


def _kinds(items: "Iterable[Item]", place: str) -> str:
    return ", ".join(dict.fromkeys(item.file.folder for item in items if str(item.place.parent) == place))


def _others(plan: "Plan") -> None:
    others = [item for item in plan.items if item.state == "other"]
    if others:
        click.echo(
            "note: of another size than the model's file says; left as they are, remove one to fetch it:", err=True
        )
    for item in others:
        click.echo(f"  {item.place}: {byte_size(item.size or 0)}, not {byte_size(item.file.size or 0)}", err=True)


def _done(item: "Item") -> None:
    if sys.stderr.isatty():
        click.echo(f"{CLEAR}{item.file.path}: {byte_size(item.size or 0)}, checked", err=True)


def _silent(_item: "Item", _count: int) -> None:
    """Nobody watches."""


class _Progress:
    """One line that says how far the file is, and how long it will take."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._item: Any = None
        self._shown = self._began = 0.0
        self._first = 0

    def __call__(self, item: "Item", count: int) -> None:
        now = self._clock()
        if item is not self._item:
            self._item, self._began, self._first, self._shown = item, now, max(count, item.part), 0.0
        if now - self._shown < SHOW_S:
            return
        self._shown = now
        size, seconds = item.size or 0, now - self._began
        told = f"{item.file.path}: {byte_size(count)}"
        if size:
            told += f" of {byte_size(size)}, {100 * count // size} %"
        if seconds > 1 and count > self._first:
            speed = (count - self._first) / seconds
            told += f", {byte_size(int(speed))}/s"
            if size:
                told += f", {_minutes((size - count) / speed)} left"
        click.echo(f"{CLEAR}{told}", err=True, nl=False)


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
