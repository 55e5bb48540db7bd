"""`imagen jobs`: what was asked, what became of it, and how to go on with it."""

import json
from typing import TYPE_CHECKING, Any, cast

import click

from imagen.core.errors import ImagenError, RequestError, UnknownImage
from imagen.core.job import Job, State, StoredImage
from imagen.core.request import Request
from imagen.surfaces.cli import options, webhooks
from imagen.surfaces.cli.destination import Destination, destination
from imagen.surfaces.cli.exits import INTERRUPTED
from imagen.surfaces.cli.follow import face, run, say_end, tell_orphans, to_the_end
from imagen.surfaces.cli.generate import hand_over
from imagen.surfaces.cli.output import MOST, SHORT, age, json_option, one_line, print_json, print_table, tell_more
from imagen.surfaces.cli.where import open_door, server
from imagen.surfaces.wire import PreviewForm, job_json, job_webhook

if TYPE_CHECKING:
    from imagen.door import Door


@click.group(cls=options.ListingGroup)
def jobs() -> None:
    """List, show, watch, cancel or retry jobs, or delete their pictures."""


@jobs.command("list")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only jobs in this state.")
@click.option("--model", "-m", metavar="NAME", help="Only jobs of this model.")
@click.option("--limit", type=click.IntRange(1, MOST), default=20, show_default=True, help="How many, newest first.")
@json_option
def list_(state: str | None, model: str | None, limit: int, json_output: bool) -> None:
    """The newest jobs."""

    async def listed() -> int:
        async with open_door() as app:
            found = await app.jobs(state=state, model=model, limit=limit)
            if json_output:
                print_json({"jobs": [job_json(job) for job in found]})
                return 0
            if found:
                print_table(("ID", "STATE", "MODEL", "AGE", "PROMPT"), [_row(job) for job in found])
                tell_more(found, limit)
            elif state or model:
                click.echo("no job is like that; all of them: imagen jobs list", err=True)
            else:
                click.echo("no jobs; draw something: imagen generate 'a red fox'", err=True)
            await tell_orphans(app)
            return 0

    run(listed())


@jobs.command()
@click.argument("job_id", metavar="ID")
@json_option
def show(job_id: str, json_output: bool) -> None:
    """Everything about one job. ID may be the beginning or the end of an id."""

    async def shown() -> int:
        async with open_door() as app:
            job = await app.job(job_id)
            if json_output:
                print_json(job_json(job))
            else:
                for name, value in await _facts(app, job):
                    click.echo(f"{name:<10}{value}")
            return 0

    run(shown())


@jobs.command(cls=options.PreviewCommand)
@click.argument("job_id", metavar="ID")
@click.option("--output", "-o", metavar="FILE|DIR", help="Copy the picture here; never over an existing file.")
@options.preview_options
@click.option("--json", "json_output", is_flag=True, help="Print the job's events as JSON lines, the end last.")
def watch(job_id: str, output: str | None, preview: str | None, no_preview: bool, json_output: bool) -> None:
    """Follow a job to its end, and draw it here when no worker does. Ctrl-C only stops the watching."""
    policy = options.asked_policy(preview, no_preview)
    pictures = policy is not None if json_output else policy is None or not policy.off
    copy_to = destination(output) if output is not None else None

    async def watched() -> int:
        async with open_door() as app:
            job = await app.job(job_id)
            if copy_to is not None and not isinstance(job.request, Request):
                raise RequestError(
                    f"what job {job.id} draws is not decided before somebody draws it",
                    hint="watch it without --output; the path of the picture is printed then",
                    param="output",
                )
            form = cast(PreviewForm, preview or "ref")
            return await _watch(app, job, form, pictures, json_output=json_output, output=copy_to)

    try:
        run(watched())
    except KeyboardInterrupt:
        click.echo(f"stopped watching; go on with `imagen jobs watch {job_id}`", err=True)
        raise SystemExit(INTERRUPTED) from None


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@json_option
def cancel(job_ids: tuple[str, ...], json_output: bool) -> None:
    """Cancel jobs that have not ended. A job that ended stays as it is."""

    async def cancelled() -> int:
        async with open_door() as app:
            before = [await app.job(job_id) for job_id in job_ids]
            after = [await app.cancel(job.id) for job in before]
            # What a dead worker left running has nobody to cancel it; burying the worker does.
            await app.sweep()
            after = [await app.job(job.id) for job in after]
            if json_output:
                print_json({"jobs": [job_json(job) for job in after]})
                return 0
            for was, job in zip(before, after, strict=True):
                click.echo(f"{job.id} {_cancelled(was, job)}")
            return 0

    run(cancelled())


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--watch", "and_watch", is_flag=True, help="Follow it, and draw it here when no worker does.")
@click.option("--json", "json_output", is_flag=True, help="Print JSON: the new job, or with --watch its events.")
def retry(job_id: str, and_watch: bool, json_output: bool) -> None:
    """Ask again for exactly what a job asked for, in a new job."""

    async def retried() -> int:
        async with open_door() as app:
            job = await app.retry(job_id)
            if and_watch:
                return await _watch(app, job, "ref", not json_output, json_output=json_output)
            if json_output:
                print_json(job_json(job))
            else:
                click.echo(job.id)
                how = "follow it with `{}`" if server() else "draw it with `{}`, where no worker does"
                click.echo(how.format(f"imagen jobs watch {job.id}"), err=True)
            return 0

    run(retried())


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--picture", type=click.IntRange(1), metavar="K", help="Only this one, counted from 1 as in `jobs show`.")
@json_option
def delete(job_ids: tuple[str, ...], picture: int | None, json_output: bool) -> None:
    """Delete the pictures of jobs that ended, for ever. The jobs stay, with what was asked."""

    async def deleted() -> int:
        async with open_door() as app:
            before = [await app.job(job_id) for job_id in job_ids]
            for job in before:
                if picture is None:
                    await app.delete_job(job.id)
                else:
                    await app.delete_image(_picture(job, picture).id)
            after = [await app.job(job.id) for job in before]
            if json_output:
                print_json({"jobs": [job_json(job) for job in after]})
                return 0
            for was, job in zip(before, after, strict=True):
                count = _stored(was) - _stored(job)
                left = f", {_stored(job)} left" if _stored(job) else ""
                click.echo(f"{job.id} {count} picture{'s' * (count != 1)} deleted{left}")
            return 0

    run(deleted())


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1)
@click.option("--failed", is_flag=True, help="All that were given up, of jobs and of series, in this database.")
@json_option
def resend(job_ids: tuple[str, ...], failed: bool, json_output: bool) -> None:
    """Send the webhooks of jobs that ended once more, with the ids they had."""
    if failed == bool(job_ids):
        raise RequestError("there is nothing to send", hint="name jobs, or give --failed, one of both", param="ID")

    async def resent() -> int:
        async with open_door() as app:
            ids = await webhooks.all_again(app) if failed else [(await app.tell_again(name)).id for name in job_ids]
            if json_output:
                print_json({"resent": ids})
            else:
                click.echo("\n".join(ids) if ids else "nothing was given up", err=not ids)
            return 0

    run(resent())


async def _watch(
    app: "Door", job: Job, preview: PreviewForm, pictures: bool, *, json_output: bool, output: Destination | None = None
) -> int:
    shown = face(json_output=json_output, preview=preview, pictures=pictures)
    async with app.working([job.id]):
        end = await to_the_end(app, job.id, shown, previews=pictures and (json_output or shown.shows_pictures))
    code = say_end(end, job)
    await hand_over(app, job, end, output, quiet=json_output)
    return code


async def _facts(app: "Door", job: Job) -> list[tuple[str, Any]]:
    request = job.request
    told: list[tuple[str, Any]] = [
        ("job", job.id),
        ("state", job.state.value + (f", waits for {job.waits_for}" if job.waits_for else "")),
        ("model", request.model),
        ("prompt", one_line(request.prompt)),
        ("size", f"{request.width}x{request.height}" if request.width else None),
        ("steps", request.steps),
        ("seed", request.seed),
        ("n", request.n if (request.n or 1) > 1 else None),
        ("options", json.dumps(dict(request.options)) if request.options else None),
        ("device", job.device),
        ("attempt", job.attempt or None),
        ("created", f"{job.created_at.astimezone():%Y-%m-%d %H:%M:%S} ({age(job.created_at)})"),
        ("timings", ", ".join(f"{part} {seconds:.2f} s" for part, seconds in job.timings.items())),
        ("series", job.series),
        ("retry of", job.retry_of),
    ]
    if job.progress:
        told.append(("progress", f"step {job.progress.get('step')} of {job.progress.get('total')}"))
    for image in job.images:
        path = await app.image_path(image) if image.state == "stored" else None
        told.append((f"image {image.index + 1}", image.state if image.state != "stored" else path or image.url))
    told += [("warning", one_line(warned.message)) for warned in job.warnings]
    told += webhooks.facts(job_webhook(job))
    if isinstance(job.error, ImagenError):
        told += [("error", one_line(job.error.message)), ("hint", job.error.hint), ("detail", job.error.detail)]
    return [(name, value) for name, value in told if value not in (None, "")]


def _row(job: Job) -> tuple[str, ...]:
    return (
        job.id[-SHORT:],
        job.state.value,
        job.request.model or "",
        age(job.created_at),
        one_line(job.request.prompt),
    )


def _picture(job: Job, number: int) -> StoredImage:
    found = next((image for image in job.images if image.index == number - 1), None)
    if found is None:
        hint = f"see `imagen jobs show {job.id}`"
        raise UnknownImage(f"job {job.id} has no picture {number}", hint=hint, param="picture")
    return found


def _stored(job: Job) -> int:
    return sum(image.state == "stored" for image in job.images)


def _cancelled(was: Job, job: Job) -> str:
    if was.state.terminal:
        return f"had {was.state.value} already; unchanged"
    return job.state.value if job.state.terminal else "will be cancelled"
