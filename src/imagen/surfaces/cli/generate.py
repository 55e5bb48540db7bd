"""`imagen generate`: one prompt, drawn here or by a worker that serves the model, watched to its end."""

import os
import secrets
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from imagen.core.errors import RequestError
from imagen.core.job import Job, StoredImage
from imagen.core.request import Draft, PreviewPolicy, Request
from imagen.surfaces.cli import options, webhooks
from imagen.surfaces.cli.destination import Destination, destination, other_format, place
from imagen.surfaces.cli.follow import (
    Ended,
    Face,
    cancelled_by_ctrl_c,
    face,
    not_cancelled,
    run,
    say_end,
    tell_orphans,
    to_the_end,
)
from imagen.surfaces.cli.where import open_door
from imagen.surfaces.wire import PreviewForm

if TYPE_CHECKING:
    from imagen.core.webhook import Delivery
    from imagen.door import Door

MAX_STDIN_BYTES = 2**20  # far beyond what any model reads; the catalog names the limit in force


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Everything the command line says besides the request itself."""

    json_output: bool
    preview: PreviewForm
    policy: PreviewPolicy | None
    output: Destination | None
    settings: tuple[str, ...]


@click.command(cls=options.PreviewCommand)
@click.argument("prompt", required=False)
@options.model_option
@click.option("--n", "-n", "n", type=int, metavar="N", help="How many pictures; picture k uses seed + k.")
@click.option("--size", metavar="WxH", help="Width and height in pixels, as in 1024x768.")
@click.option("--steps", type=int, metavar="N", help="Steps of each picture.")
@click.option("--seed", type=int, metavar="N", help="The same seed draws the same picture; random when left out.")
@click.option("--negative", metavar="TEXT", help="What should not be in the picture.")
@click.option("--guidance", type=float, metavar="X", help="How closely to follow the prompt.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the model's own: see `imagen models show NAME`.",
)
@click.option("--output", "-o", metavar="FILE|DIR", help="Copy the picture here; never over an existing file.")
@options.preview_options
@click.option("--preview-stride", type=int, metavar="N", help="A preview every N steps.")
@click.option("--json", "json_output", is_flag=True, help="Print the job's events as JSON lines, the end last.")
@webhooks.webhook_option
@click.option("--series", is_flag=True, help="Compare several models: the same as `imagen compare`.")
@click.option("--models", metavar="A,B,C", help="The models to compare, with --series.")
@click.pass_context
def generate(
    ctx: click.Context,
    *,
    prompt: str | None,
    model: str | None,
    n: int | None,
    size: str | None,
    steps: int | None,
    seed: int | None,
    negative: str | None,
    guidance: float | None,
    settings: tuple[str, ...],
    output: str | None,
    preview: str | None,
    no_preview: bool,
    preview_stride: int | None,
    json_output: bool,
    webhook: str | None,
    series: bool,
    models: str | None,
) -> None:
    """Draw PROMPT and print where the picture is.

    PROMPT may be - to read it from standard input; without PROMPT it is asked for.
    """
    if series:
        _compare(
            ctx,
            prompt=_typed(prompt),
            models=models or model,
            n=n,
            seed=seed,
            size=size,
            steps=steps,
            negative=negative,
            guidance=guidance,
            settings=settings,
            output=output,
            json_output=json_output,
            webhook=webhook,
        )
        return
    if models is not None:
        raise RequestError(
            "--models is for a series",
            hint="add --series, or use `imagen compare`; one model is chosen with --model",
            param="models",
        )
    width, height = options.size(size)
    wish = Wish(
        json_output=json_output,
        preview=cast(PreviewForm, preview or "ref"),
        policy=options.asked_policy(preview, no_preview, preview_stride),
        output=destination(output) if output is not None else None,
        settings=settings,
    )
    draft = Draft(
        prompt=_typed(prompt),
        model=model,
        negative=negative,
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        guidance=guidance,
        n=n,
        webhook=webhooks.asked(webhook),
    )
    run(_generate(draft, wish))


async def _generate(draft: Draft, wish: Wish) -> int:
    async with open_door() as app:
        # Somebody who watches on a terminal asks for previews; a pipe asks for none.
        pictures = wish.policy is None or not wish.policy.off
        shown = face(json_output=wish.json_output, preview=wish.preview, pictures=pictures)
        policy = wish.policy or (PreviewPolicy() if shown.shows_pictures else None)
        chosen = options.settings(wish.settings, await app.models(), draft.model) if wish.settings else {}
        job = await app.submit(replace(draft, options=chosen, preview=policy))
        await tell_orphans(app)
        watched = shown.shows_pictures or (wish.json_output and policy is not None and not policy.off)
        async with webhooks.delivering(app, draft.webhook):
            end = await _drawn(app, job, shown, previews=watched)
            code = say_end(end, job)
            await hand_over(app, job, end, wish.output, quiet=wish.json_output)
            await webhooks.say(draft.webhook, lambda: _delivery(app, job))
        return code


async def _delivery(app: "Door", job: Job) -> "Delivery | None":
    return (await app.job(job.id)).delivery


async def _drawn(app: "Door", job: Job, shown: Face, *, previews: bool) -> Ended:
    async with (
        app.working([job.id]),
        cancelled_by_ctrl_c(lambda: app.cancel(job.id), shown, left=not_cancelled(app, job.id)),
    ):
        try:
            return await to_the_end(app, job.id, shown, previews=previews)
        except BrokenPipeError:
            # Whoever read the events is gone, and nobody else asked for this picture.
            await app.cancel(job.id)
            raise


async def hand_over(app: "Door", job: Job, end: Ended, output: Destination | None, *, quiet: bool) -> None:
    """Copy the finished pictures to where they were wanted, and print where each one is."""
    for image in end.images:
        place_of = await _where(app, image)
        if output is not None:
            assert isinstance(job.request, Request)
            place_of = await _copy(app, job.request, image, output, place_of)
        if not quiet:
            # A path is bytes; printed as text, one that is not UTF-8 would be an error.
            click.echo(os.fsencode(place_of))
        elif output is not None:
            click.echo(f"copied to {place_of}", err=True)


async def _copy(app: "Door", request: Request, image: StoredImage, output: Destination, stored: str) -> str:
    from imagen.engine.comparing.document import slug, suffix_of

    data = await app.image_bytes(image)
    suffix = Path(stored).suffix or suffix_of(data)
    copy = place(
        output,
        data,
        name=f"{slug(request.prompt)}_{request.model}_{image.seed}",
        number=image.index + 1 if request.n > 1 and output.stem is not None else None,
        suffix=suffix if other_format(output, suffix) else output.suffix or suffix,
        kept=stored,
    )
    if other_format(output, suffix):
        click.echo(
            f"warning: the picture is {suffix[1:].upper()}, so it is {copy.name}; pixels are never re-encoded", err=True
        )
    return str(copy)


async def _where(app: "Door", image: StoredImage) -> str:
    path = await app.image_path(image)
    return str(path) if path is not None else image.url


def _typed(prompt: str | None) -> str:
    """The prompt of the command line, of standard input, or of a person who is asked."""
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        return str(click.prompt("Prompt", err=True))
    # Bytes that are no text travel on as they are, so that the one check of prompts refuses them.
    read = sys.stdin.buffer.read(MAX_STDIN_BYTES).decode("utf-8", "surrogateescape").removesuffix("\n")
    if not read.strip():
        raise RequestError("there is no prompt", hint='give one, as in: imagen generate "a red fox"', param="prompt")
    return read


def _compare(ctx: click.Context, *, seed: int | None, n: int | None, prompt: str, **typed: Any) -> None:
    """The same series that `imagen compare` makes; several pictures are several seeds."""
    from imagen.surfaces.cli.compare import compare

    if n is not None and n < 1:
        raise RequestError(f"-n {n} is no number of pictures", hint="leave it out, or ask for 1 or more", param="n")
    first = secrets.randbits(32) if seed is None else seed
    seeds = ",".join(str(first + k) for k in range(n or 1))
    ctx.invoke(compare, prompts=(prompt,), seeds=seeds, **typed)
