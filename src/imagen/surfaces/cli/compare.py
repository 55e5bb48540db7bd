"""`imagen compare`: the same prompt over several models, side by side in one folder."""

import asyncio
import json
import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import ImagenError, NotConfigured, RequestError
from imagen.core.job import State
from imagen.core.request import Draft
from imagen.surfaces.cli import options, webhooks
from imagen.surfaces.cli.exits import INTERRUPTED
from imagen.surfaces.cli.follow import LOOK_S, cancelled_by_ctrl_c, not_cancelled, run, tell_orphans
from imagen.surfaces.cli.where import open_door

if TYPE_CHECKING:
    from imagen.core.job import Series
    from imagen.core.model import Model
    from imagen.core.request import Request
    from imagen.core.webhook import Delivery, Webhook
    from imagen.door import Door
    from imagen.engine.comparing.run import Comparison, Result
    from imagen.models.catalog import Catalog
    from imagen.surfaces.cli.compare_board import Board


@click.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1)
@click.option(
    "--models",
    "-m",
    "models",
    metavar="A,B,C",
    help="The models to compare; when left out, all that are ready, without those that cost money and, beside others, "
    "mocks; the default model is always in.",
)
@click.option("--seed", metavar="N", help="One seed for all; random when left out, and the same for every model.")
@click.option("--seeds", metavar="1,2,3", help="Several seeds: a row of the sheet for each.")
@click.option("--size", metavar="WxH", help="Width and height in pixels, as in 1024x768.")
@click.option("--steps", type=int, metavar="N", help="Steps of each picture.")
@click.option("--negative", metavar="TEXT", help="What should not be in the pictures.")
@click.option("--guidance", type=float, metavar="X", help="How closely to follow the prompt.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option that all these models have.")
@click.option("--output", "-o", metavar="DIR", help="The folder to write to; compare-<prompt> when left out.")
@click.option("--html", is_flag=True, help="Also write one page with all pictures in it.")
@click.option("--json", "json_output", is_flag=True, help="Print compare.json when done, and nothing else.")
@webhooks.webhook_option
@click.option("--resume", metavar="DIR|SERIES", help="Go on with a comparison: draw what is missing, redo nothing.")
@click.option("--failed", is_flag=True, help="With --resume: draw the failed cells again too.")
@click.option("--add-models", metavar="D,E", help="With --resume: add columns, with the same prompts and seeds.")
def compare(
    prompts: tuple[str, ...],
    models: str | None,
    seed: str | None,
    seeds: str | None,
    size: str | None,
    steps: int | None,
    negative: str | None,
    guidance: float | None,
    settings: tuple[str, ...],
    output: str | None,
    html: bool,
    json_output: bool,
    webhook: str | None,
    resume: str | None,
    failed: bool,
    add_models: str | None,
) -> None:
    """Draw each PROMPT with several models; write pictures, a contact sheet and compare.json.

    A model that fails leaves the others alone. What was interrupted is finished with --resume.
    """
    typed: dict[str, object] = {"--models": models, "--seed": seed, "--seeds": seeds, "--size": size, "--steps": steps}
    typed |= {"--negative": negative, "--guidance": guidance, "--set": settings or None, "--webhook": webhook}
    if resume is not None:
        _check_resume(prompts, [name for name, value in typed.items() if value is not None])
        run(
            _resume(resume, output, failed=failed, add_models=options.names(add_models), html=html, as_json=json_output)
        )
    if failed or add_models is not None:
        raise RequestError(
            f"{'--failed' if failed else '--add-models'} is for a comparison that exists",
            hint="name it: imagen compare --resume DIR " + ("--failed" if failed else f"--add-models {add_models}"),
            param="resume",
        )
    if not prompts:
        raise RequestError("there is no prompt", hint='give one, as in: imagen compare "a red fox"', param="prompt")
    if models is not None and not options.names(models):
        raise RequestError("--models names no model", hint="see `imagen models` for the names", param="models")
    if len(prompts) > 1 and not any(" " in prompt for prompt in prompts):
        whole = shlex.quote(" ".join(prompts))
        click.echo(f"note: these are {len(prompts)} prompts; one is put in quotes: imagen compare {whole}", err=True)
    width, height = options.size(size)
    hook = webhooks.asked(webhook)

    async def compared() -> int:
        async with open_door() as app:
            await tell_orphans(app)
            chosen = options.names(models) or await app.usable_models()
            return await run_compare(
                app,
                prompts=prompts,
                models=chosen,
                seeds=_seeds(seed, seeds),
                width=width,
                height=height,
                steps=steps,
                negative=negative,
                guidance=guidance,
                options=_options(await app.models(), settings, chosen) if settings else None,
                output=Path(output) if output else None,
                html=html,
                as_json=json_output,
                webhook=hook,
            )

    run(compared())


async def run_compare(
    app: "Door",
    *,
    prompts: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    negative: str | None = None,
    guidance: float | None = None,
    options: Mapping[str, Any] | None = None,
    output: Path | None = None,
    html: bool = False,
    as_json: bool = False,
    webhook: "Webhook | None" = None,
) -> int:
    """Compare, and say where the sheet is. No seed means one random seed that all models share."""
    from imagen.engine.comparing.plan import begin, plan

    if not models:
        raise NotConfigured(
            "no model is ready to draw", hint="`imagen doctor` says what each one lacks", param="models"
        )
    document = plan(
        prompts,
        models,
        seeds or (secrets.randbits(32),),
        settings={
            "width": width,
            "height": height,
            "steps": steps,
            "negative": negative,
            "guidance": guidance,
            "options": options or None,
        },
        resolve=_resolver(await app.models()),
    )
    if twice := [name for name in dict.fromkeys(models) if list(models).count(name) > 1]:
        click.echo(f"{', '.join(twice)} is there once, however often it is named", err=True)
    wanted = _absolute(output) if output else _default_folder(document.prompts)
    comparison = await begin(document, wanted, app, webhook=webhook)
    if comparison.folder.path != wanted:
        told = f"{_short(wanted)} holds a comparison already (--resume goes on with it)"
        click.echo(f"{told}; writing to {_short(comparison.folder.path)}", err=True)
    return await _run(app, comparison, html=html, as_json=as_json)


async def _resume(
    target: str, output: str | None, *, failed: bool, add_models: Sequence[str], html: bool, as_json: bool
) -> int:
    from imagen.engine.comparing.plan import resume

    def folder_for(series: "Series") -> Path:
        """Where a series lies on this machine, unless another place was asked for."""
        lies = series.settings.get("folder")
        if output:
            return _absolute(Path(output))
        return Path(lies) if isinstance(lies, str) and lies else _default_folder(series.prompts)

    if output and Path(target).expanduser().exists():
        raise RequestError(
            "-o is for a series that has no folder yet", hint=f"without -o it goes on in {target}", param="output"
        )
    async with open_door() as app:
        catalog = await app.models()
        comparison = await resume(
            target,
            app,
            resolve=_resolver(catalog),
            describe=catalog.models.get,
            folder_for=folder_for,
            retry_failed=failed,
            add_models=add_models,
        )
        return await _run(app, comparison, html=html, as_json=as_json)


async def _delivery(app: "Door", result: "Result") -> "Delivery | None":
    series = result.document.series
    return (await app.series(series)).delivery if series else None


async def _run(app: "Door", comparison: "Comparison", *, html: bool, as_json: bool) -> int:
    from imagen.surfaces.cli.compare_board import Board

    folder = comparison.folder.path
    board = Board(sys.stderr, comparison.document, comparison.kept)
    board.line(f"{_described(comparison)} → {_short(folder)}")
    asking = asyncio.create_task(_say_what_it_waits_for(app, comparison, board))
    try:
        async with (
            cancelled_by_ctrl_c(comparison.cancel, board, left=not_cancelled(app)),
            webhooks.delivering(app, comparison.webhook),
        ):
            result = await comparison.run(board.tell, html=html)
            await webhooks.say(comparison.webhook, lambda: _delivery(app, result))
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        board.close()
    if as_json:
        click.echo(json.dumps(result.document.as_dict(), ensure_ascii=True, indent=2))
    else:
        # A path is bytes; printed as text, one that is not UTF-8 would be an error.
        click.echo(os.fsencode(result.sheet))
    if result.page:
        click.echo(f"page: {_short(result.page)}", err=True)
    again = f"imagen compare --resume {shlex.quote(str(_short(folder)))}"
    if result.cancelled:
        click.echo(f"cancelled; go on with: {again}", err=True)
        return INTERRUPTED
    if result.document.succeeded:
        if len(comparison.kept) == len(result.document.cells):
            click.echo("nothing was missing", err=True)
        return 0
    cells = result.document.cells
    left = sum(cell.state is not State.COMPLETED or cell.error is not None for cell in cells)
    ended = f"{left} of {_plural(len(cells), 'cell')} ended without a picture"
    click.echo(f"{ended}; try again with: {again} --failed", err=True)
    return 1


async def _say_what_it_waits_for(app: "Door", comparison: "Comparison", board: "Board") -> None:
    """Once for each reason: a device that is paused, somebody else's job, nobody who draws the model."""
    from imagen.surfaces.cli.output import SHORT

    said: set[str] = set()
    while True:
        await asyncio.sleep(LOOK_S)
        own = {entry.job[-SHORT:] for entry in comparison.document.cells if entry.job}
        for job_id in board.waiting(comparison.document):
            with suppress(ImagenError):  # whoever follows the cells says it better
                job = await app.job(job_id)
                why = job.waits_for if job.state is State.QUEUED else None
                if why and why not in said and not any(name in why for name in own):
                    said.add(why)
                    board.line(f"waiting for {why}")


def _described(comparison: "Comparison") -> str:
    document = comparison.document
    seeds = document.seeds
    counts = [(len(document.models), "model"), (len(document.prompts), "prompt"), (len(seeds), "seed")]
    grid = " × ".join(_plural(count, noun) for count, noun in counts if count > 1 or noun == "model")
    return f"{grid}, seed {seeds[0]}" if len(seeds) == 1 else grid


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _check_resume(prompts: Sequence[str], typed: Sequence[str]) -> None:
    if prompts or typed:
        raise RequestError(
            f"--resume goes on with what was asked, so {typed[0] if typed else 'a prompt'} has no place beside it",
            hint="for other columns use --add-models; for anything else begin a new comparison",
            param="resume",
        )


def _seeds(one: str | None, several: str | None) -> list[int]:
    if one is not None and several is not None:
        raise RequestError("--seed and --seeds together", hint="use one of them", param="seed")
    name, words = ("--seed", [one]) if one is not None else ("--seeds", options.names(several))
    try:
        seeds = [int(word) for word in words]
    except ValueError as exc:
        raise RequestError(
            f"{name} {one or several} is no {'whole number' if one else 'list of whole numbers'}",
            hint="write --seed 7 or --seeds 1,2,3",
            param="seed",
        ) from exc
    if several is not None and not seeds:
        raise RequestError("--seeds names no seed", hint="write --seeds 1,2,3", param="seed")
    return seeds


def _options(catalog: "Catalog", pairs: Sequence[str], models: Sequence[str]) -> dict[str, Any]:
    """--set, read as the first model that has such an option reads it."""
    told: dict[str, Any] = {}
    for pair in pairs:
        key = pair.partition("=")[0]
        knows = (name for name in models if name in catalog.models and key in catalog.models[name].options)
        told |= options.settings([pair], catalog, next(knows, models[0] if models else None))
    return told


def _resolver(catalog: "Catalog") -> Any:
    def resolve(draft: Draft) -> "tuple[Request, Model]":
        resolved = catalog.resolve(draft, lambda: secrets.randbits(32))
        return resolved.request, resolved.model

    return resolve


def _default_folder(prompts: Sequence[str]) -> Path:
    from imagen.engine.comparing.document import slug

    return Path.cwd() / f"compare-{slug(prompts[0] if prompts else '')}"


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


def _short(path: Path) -> Path:
    """As somebody in this folder would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path != here and path.is_relative_to(here) else path
