"""`imagen models`: what can be asked for. The list is read from a cache and printed without loading the rest."""

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import ImagenError
from imagen.surfaces.cli.output import byte_size, json_option, print_json, print_table
from imagen.surfaces.cli.where import address, check_where, open_away, server

if TYPE_CHECKING:
    from imagen.config import Settings
    from imagen.core.errors import Check
    from imagen.core.model import Model, ModelFile, Option
    from imagen.engine.states import ModelState
    from imagen.models.catalog import Catalog

INDENT = 10

# name -> module, attribute, help. The help stands here so that `imagen models` need not load them.
MORE = {
    "add": ("models_add", "add", "Make a model out of a workflow file of your own."),
    "pull": (
        "models_pull",
        "pull",
        "Fetch the weights of NAME, or of every model, to where its engine looks for them.",
    ),
    "remove": ("models_remove", "remove", "Take the model NAME out of your models folder."),
}


class Models(click.Group):
    """A group that loads what is not about looking only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *MORE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MORE:
            return super().get_command(ctx, cmd_name)
        module, attribute, _ = MORE[cmd_name]
        command: click.Command = getattr(import_module(f"imagen.surfaces.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            own = [(name, command.get_short_help_str(limit=60)) for name, command in self.commands.items()]
            formatter.write_dl([*own, *((name, help_) for name, (_, _, help_) in MORE.items())])


@click.group(cls=Models, invoke_without_command=True)
@json_option
@click.pass_context
def models(ctx: click.Context, json_output: bool) -> None:
    """List, show, check, add, fetch or remove models."""
    if ctx.invoked_subcommand in MORE:
        check_where(ctx, f"models {ctx.invoked_subcommand}")
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, json_output=json_output)
    elif json_output:
        ctx.default_map = {name: {"json_output": True} for name in ("list", "show", "check", *MORE)}


@models.command("list")
@json_option
def list_(json_output: bool = False) -> None:
    """Every model, the default one marked with a star."""
    told = _listed()
    for problem in told["problems"]:
        say_problem(ImagenError.from_dict(problem))
    for notice in told["notices"]:
        click.echo(f"note: {notice}", err=True)
    if json_output:
        print_json({key: value for key, value in told.items() if key != "rows"})
        return
    print_table(("NAME", "TITLE", "BACKEND", "LICENCE", "NOTE"), told["rows"])
    if told["default_warning"]:
        click.echo(f"note: {told['default_warning']}", err=True)


@models.command()
@click.argument("name")
@json_option
def show(name: str, json_output: bool) -> None:
    """Everything about one model: its defaults, limits and options."""
    catalog = _catalog_away() if server() else read_catalog(name)[0]
    # One that is switched off can be looked at, only not asked for.
    model = catalog.models.get(name) or catalog.get(name)
    if json_output:
        print_json(_shape(model, catalog))
        return
    for title, value in _facts(model, catalog):
        click.echo(f"{title:<{INDENT}}{value}")
    for title, value in _slots(model):
        click.echo(f"{title:<{INDENT}}{value}")
    if model.options:
        click.echo("options   --set NAME=VALUE")
        for option_name, option in model.options.items():
            click.echo(_wrapped(f"{option_name}: {_option(option)}", "  "))
    if model.notes:
        click.echo(_wrapped(model.notes, "notes"))


@models.command()
@click.argument("name", required=False)
@json_option
def check(name: str | None, json_output: bool) -> None:
    """Ask the backend of each model, or of NAME, what would go wrong now.

    Exit code 3 means that NAME would fail.
    """
    told = _checked_away(name) if server() else _checked(name)
    if server() and not all(check.ok for _, checks in told for check in checks):
        # Its errors and hints are for whoever stands at that machine.
        click.echo(
            f"note: what fails, fails at {address()[0]}; the hints are for its owner, to be followed there", err=True
        )
    if json_output:
        print_json({"models": [_verdict(model, checks) for model, checks in told]})
    elif name:
        for line in _told_one(told[0][1]):
            click.echo(line)
    else:
        _tell_all(told)
    if name and not all(check.ok for _, checks in told for check in checks):
        sys.exit(3)


def _checked(name: str | None) -> "list[tuple[Model, list[Check]]]":
    import asyncio

    catalog, settings = read_catalog(name)
    wanted = [catalog.get(name)] if name else [model for model in catalog.models.values() if model.enabled]

    async def asked() -> "list[list[Check]]":
        from contextlib import aclosing

        from imagen.engine.backends import Backends
        from imagen.engine.doctor import check_models

        async with aclosing(Backends(settings)) as backends:
            return await check_models(wanted, backends.of)

    return list(zip(wanted, asyncio.run(asked()), strict=True))


def _checked_away(name: str | None) -> "list[tuple[Model, list[Check]]]":
    """A server says of each model whether it is ready, and the first thing that is not."""
    from imagen.core.errors import Check

    catalog, told = _asked_away()
    wanted = {catalog.get(name).name} if name else {model.name for model in catalog.models.values() if model.enabled}
    return [
        (one.model, [Check(name=f"{one.model.name}: ready", error=one.error)])
        for one in told
        if one.model.name in wanted
    ]


def _told_one(checks: "Sequence[Check]") -> Iterator[str]:
    """One line a check, as `imagen doctor` has them; what the model is called was asked, so it is not repeated."""
    for check in checks:
        what = check.name.partition(": ")[2] or check.name
        if check.error is None:
            yield f"ok    {what}" + (f": {check.note}" if check.note else "")
        else:
            yield f"FAIL  {what}: {check.error.message}"
            yield f"      hint: {check.error.hint}"


def _tell_all(told: "Sequence[tuple[Model, Sequence[Check]]]") -> None:
    """A row each; what several of them have in common, such as a server that is away, is said once below."""
    errors = [[check.error for check in checks if check.error is not None] for _, checks in told]
    messages = [tuple(error.message for error in own) for own in errors]
    numbers: dict[tuple[str, ...], int] = {}
    for key in messages:
        if key and messages.count(key) > 1:
            numbers.setdefault(key, len(numbers) + 1)
    rows = [
        (model.name, "fails" if key else "ok", f"[{numbers[key]}]" if key in numbers else "; ".join(key))
        for (model, _), key in zip(told, messages, strict=True)
    ]
    print_table(("NAME", "CHECK", "WHY"), rows)
    for key, number in numbers.items():
        for error in errors[messages.index(key)]:
            click.echo(f"[{number}] {error.message}\n    hint: {error.hint}", err=True)
    if any(key and key not in numbers for key in messages):
        click.echo("note: `imagen models check NAME` says more about one of them", err=True)


def read_catalog(name: str | None = None) -> tuple["Catalog", "Settings"]:
    """The models without the cache; what is wrong with their files goes to standard error.

    What keeps the model NAME from being there is raised, and told only so.
    """
    from imagen.config import load_settings
    from imagen.engine.wiring import catalog_of

    settings = load_settings()
    catalog = catalog_of(settings)
    missing = catalog.broken.get(name) or _unread(settings) if name and name not in catalog.models else None
    for problem in catalog.problems:
        if problem is not missing:
            say_problem(problem)
    if missing is not None:
        raise missing
    return catalog, settings


def _unread(settings: "Settings") -> ImagenError | None:
    """What is wrong with config.yaml as a whole: whatever stands in it, nobody has read it."""
    file = str(settings.config_file)
    wrong = (problem for problem in settings.problems if file in problem.message)
    return None if settings.document.data else next(wrong, None)


def say_problem(problem: ImagenError) -> None:
    """Something is wrong, and the command goes on with the rest."""
    click.echo(f"warning: {problem.message}\n  hint: {problem.hint}", err=True)


def _listed() -> dict[str, Any]:
    if server():
        return _listing(_catalog_away())
    from imagen.config import folders_of
    from imagen.models.cache import cached

    file = folders_of(None, os.environ)["cache_folder"] / "models.json"
    told: dict[str, Any] = cached(file, os.environ, _sources, _listing_here)
    return told


def _catalog_away() -> "Catalog":
    return _asked_away()[0]


def _asked_away() -> "tuple[Catalog, list[ModelState]]":
    import asyncio

    async def asked() -> "tuple[Catalog, list[ModelState]]":
        async with open_away() as away:
            told = await away.model_states()
            return away.catalog_of(told), told

    return asyncio.run(asked())


def _sources() -> list[Path]:
    from imagen.config import load_settings
    from imagen.engine.wiring import model_files

    return list(model_files(load_settings()))


def _listing_here() -> dict[str, Any]:
    from imagen.config import load_settings
    from imagen.engine.wiring import catalog_of

    return _listing(catalog_of(load_settings()))


def _listing(catalog: "Catalog") -> dict[str, Any]:
    return {
        "models": [_shape(model, catalog) for model in catalog.models.values()],
        "default": catalog.default,
        "default_warning": catalog.default_warning,
        "problems": [problem.as_dict() for problem in catalog.problems],
        "notices": list(catalog.notices),
        "rows": [_row(model, catalog) for model in catalog.models.values()],
    }


def _shape(model: "Model", catalog: "Catalog") -> dict[str, Any]:
    """As JSON; a backend's key may be a token, so secrets are starred."""
    from imagen.config import masked

    shape = model.as_dict()
    return {**shape, "keys": masked("", shape["keys"]), "default": model.name == catalog.default}


def _row(model: "Model", catalog: "Catalog") -> list[str]:
    star = " *" if model.name == catalog.default else ""
    note = model.notes.partition(". ")[0] if model.enabled else "switched off"
    if model.paid:
        note = f"{note}, costs money" if note else "costs money"
    return [f"{model.name}{star}", model.title, model.backend, model.licence, note]


def _facts(model: "Model", catalog: "Catalog") -> list[tuple[str, str]]:
    defaults, limits = model.defaults, model.limits
    sizes = ", ".join(f"{w}x{h}" for w, h in limits.sizes)
    sides = f"sides from {limits.min} to {limits.max}"
    if limits.multiple_of > 1:
        sides += f" in multiples of {limits.multiple_of}"
    guidance = f", guidance {defaults.guidance:g}" if defaults.guidance is not None else ""
    state = ["default"] * (model.name == catalog.default) + ["switched off"] * (not model.enabled)
    facts = [
        ("model", model.name + (f" ({', '.join(state)})" if state else "")),
        ("title", model.title),
        ("backend", model.backend),
        ("device", f"{model.device}, draws {model.slots} at once"),
        ("licence", model.licence),
        ("source", model.source),
        ("defaults", f"{defaults.width}x{defaults.height}, {defaults.steps} steps{guidance}, {defaults.n} at once"),
        ("limits", f"{sizes or sides}; steps {limits.steps[0]} to {limits.steps[1]}; up to {limits.n} pictures"),
        ("memory", f"{model.vram_mib} MiB on the device" if model.vram_mib else ""),
        ("costs", "money, each picture" if model.paid else ""),
        ("workflow", model.workflow or ""),
        ("ignores", ", ".join(model.ignores)),
        *(("file", _file(file)) for file in model.files),
        ("from", model.origin),
    ]
    return [(title, value) for title, value in facts if value]


def _file(file: "ModelFile") -> str:
    size = f", {byte_size(file.size)}" if file.size else ""
    return f"{file.folder}/{file.path}{size}".removeprefix("/") + (f" ({file.licence})" if file.licence else "")


def _slots(model: "Model") -> Iterator[tuple[str, str]]:
    """What fills the slots of its workflow: the model's own keys, an option, or the request."""
    from imagen.core.template import Template

    if model.graph is None:
        return
    slots = sorted(Template(model.graph).slots)
    own = [name for name in slots if name in model.keys and name not in model.options]
    asked = [name for name in slots if name not in model.keys and name not in model.options]
    for name in own:
        yield "slot", f"{name}: {model.keys[name]}"
    for who, names in (("an option", [name for name in slots if name in model.options]), ("the request", asked)):
        if names:
            yield "slots", f"{', '.join(names)}: {who}"


def _option(option: "Option") -> str:
    if option.choices:
        can = "one of " + ", ".join(map(str, option.choices))
    elif option.range:
        can = f"{option.type}, {option.range[0]:g} to {option.range[1]:g}"
    else:
        can = {"str": "text", "bool": "true or false"}.get(option.type, option.type)
    default = "" if option.default in (None, "") else f", default {option.default}"
    return f"{can}{default}" + (f"; {option.help}" if option.help else "")


def _wrapped(text: str, title: str) -> str:
    from textwrap import fill

    gap = " " * (INDENT + 2)
    begin = f"{title:<{INDENT}}" if title.strip() else title
    return fill(text, 80, initial_indent=begin, subsequent_indent=" " * INDENT if title.strip() else gap)


def _verdict(model: "Model", checks: list[Any]) -> dict[str, Any]:
    return {
        "model": model.name,
        "ok": all(check.ok for check in checks),
        "checks": [check_json(check) for check in checks],
    }


def check_json(check: Any) -> dict[str, Any]:
    """One check as JSON."""
    shape: dict[str, Any] = {"name": check.name, "ok": check.ok, "note": check.note}
    return shape | ({"error": check.error.as_dict()} if check.error else {})
