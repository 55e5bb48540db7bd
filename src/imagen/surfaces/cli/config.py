"""`imagen config`: the settings in force, where each came from, and a sample to start from."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import Unwritable
from imagen.surfaces.cli.models import read_catalog
from imagen.surfaces.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from imagen.config import Settings

BROKEN = 3


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def config(ctx: click.Context, json_output: bool) -> None:
    """Show, check or start the settings."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, json_output=json_output)
    elif json_output:
        ctx.default_map = {name: {"json_output": True} for name in ("show", "check")}


@config.command()
@json_option
def show(json_output: bool = False) -> None:
    """Each setting in force, and where it came from. Secrets are starred."""
    catalog, settings = read_catalog()
    found = list(_effective(settings, {model.backend for model in catalog.models.values()}))
    if json_output:
        print_json(
            {
                "settings": {name: {"value": value, "from": origin} for name, value, origin in found},
                "problems": [problem.as_dict() for problem in catalog.problems],
            }
        )
    else:
        print_table(("SETTING", "VALUE", "FROM"), [(name, _text(value), origin) for name, value, origin in found])


@config.command()
def path() -> None:
    """Print where config.yaml is looked for."""
    from imagen.config import folders_of

    click.echo(os.fsencode(folders_of(None, os.environ)["config_file"]))


@config.command()
@json_option
def check(json_output: bool) -> None:
    """Read config.yaml and all model files; exit code 3 when one of them is wrong."""
    from imagen.config import load_settings
    from imagen.engine.wiring import backends_refused, catalog_of

    settings = load_settings()
    catalog = catalog_of(settings)
    problems = [*catalog.problems, *backends_refused(settings)]
    if json_output:
        told = [problem.as_dict() for problem in problems]
        print_json({"ok": not told, "file": str(settings.config_file), "problems": told})
    for problem in problems:
        click.echo(f"error: {problem.message}\n  hint: {problem.hint}", err=True)
    if problems:
        sys.exit(BROKEN)
    if not json_output:
        there = "is fine" if settings.config_file.exists() else "does not exist, so the defaults hold"
        click.echo(f"{settings.config_file} {there}; {len(catalog.models)} models")


@config.command()
@click.option("--write", is_flag=True, help="Write it to where config.yaml is looked for; never over an existing file.")
def init(write: bool) -> None:
    """Print a complete sample of config.yaml: every setting and every model."""
    from imagen.surfaces.cli.config_sample import sample

    catalog, settings = read_catalog()
    text = sample(catalog)
    if not write:
        click.echo(text, nl=False)
        return
    file = settings.config_file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Readable by its owner only, because tokens will be written into it.
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError as exc:
        raise Unwritable(
            f"{file} exists already and stays as it is",
            hint="edit it, or see the sample with `imagen config init` and copy what you need",
        ) from exc
    except OSError as exc:
        raise Unwritable(
            f"{file} cannot be written: {exc.strerror}",
            hint="make its folder writable, or set IMAGEN_HOME to another folder",
        ) from exc
    click.echo(os.fsencode(file))


def _effective(settings: "Settings", backends: set[str]) -> Iterator[tuple[str, Any, str]]:
    """(name, value, where from), mappings one level deeper because each of their keys has its own origin."""
    from imagen.config import PREFIX, masked
    from imagen.config.keys import GROUPS, KEYS

    for name in KEYS:
        value, origin = getattr(settings, name), settings.provenance[name]
        if name in GROUPS:
            for key in GROUPS[name]:
                yield f"{name}.{key}", masked(key, getattr(value, key)), settings.provenance[f"{name}.{key}"]
        elif name == "backends":
            for backend in sorted({*value, *backends}):
                for key, item in settings.backend(backend).items():
                    variable = f"{PREFIX}{backend}_{key}".upper().replace("-", "_")
                    where = settings.document.where("backends", backend, key)
                    told = f"environment {variable}" if variable in settings.environ else where
                    yield f"backends.{backend}.{key}", masked(key, item), told
        elif name in ("models", "devices"):
            for key in value:
                yield f"{name}.{key}", masked("", settings.document.data[name][key]), settings.document.where(name, key)
        else:
            yield name, masked(name, value), origin
    home = "environment IMAGEN_HOME" if settings.environ.get("IMAGEN_HOME") else "default"
    for name in ("config_file", "models_folder", "data_folder", "cache_folder"):
        yield name, str(getattr(settings, name)), home


def _text(value: Any) -> str:
    import json

    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
