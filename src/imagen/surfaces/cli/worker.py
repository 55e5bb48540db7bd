"""`imagen worker`: draws what others submitted, on any machine that reaches the database and the pictures."""

import click

from imagen.core.errors import RequestError
from imagen.surfaces.cli import daemon, devices, options
from imagen.surfaces.cli.daemon_log import telling
from imagen.surfaces.cli.where import check_where


@click.group(invoke_without_command=True)
@click.option("--models", "models", metavar="A,B", help="Only these models; otherwise every enabled one.")
@daemon.grace_option
@click.pass_context
def worker(ctx: click.Context, models: str | None, grace_s: float) -> None:
    """Draw the jobs that others submit, until it is stopped; or list, pause and resume devices.

    SIGTERM or Ctrl-C stops it politely: what is not finished in time goes back to the queue.
    """
    if ctx.invoked_subcommand is not None:
        return
    check_where(ctx, "worker")
    wanted = options.names(models) if models is not None else None
    if wanted == []:
        raise RequestError("--models names none", hint="leave it out to draw every enabled model", param="models")

    async def working(leaving: daemon.Leaving) -> None:
        from imagen.app import open as open_app
        from imagen.reading import some
        from imagen.surfaces import logs
        from imagen.surfaces.webhooks.courier import delivering

        log = logs.begin()
        async with open_app() as app:
            app.log = logs.lines(log)
            # A name that is not known is refused before anything is drawn, and says what is near it.
            served = (
                [app.catalog.get(name) for name in wanted]
                if wanted
                else [model for model in app.catalog.models.values() if model.enabled]
            )
            async with app.drawing(models=wanted) as drawing:
                devices = sorted({model.device for model in served})
                names = some([model.name for model in served], daemon.SHOWN) or "nothing: no model is enabled"
                places = some(devices, daemon.SHOWN) or "no device"
                logs.announce(log, f"imagen: worker draws {names} on {places} (stop with Ctrl-C)", worker=drawing.id)
                # What it draws ends here. A worker that is busy must not listen only for what ends elsewhere.
                async with telling(app, log, drawing), delivering(app, log=log, listen=False):
                    await leaving.asked.wait()
                    log.info("stopping")
                    await leaving.let_finish(drawing, log)

    daemon.run(working, grace_s=grace_s)


for command in (devices.list_, devices.pause, devices.resume):
    worker.add_command(command)
