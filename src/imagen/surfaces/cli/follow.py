"""Following a job from a command: each event to a line or a picture, what it waits for, and Ctrl-C."""

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import click

from imagen.core import events
from imagen.core.errors import DatabaseAway, ImagenError, ServerAway
from imagen.core.job import Job, State
from imagen.surfaces.cli.exits import INTERRUPTED, TERMINATED
from imagen.surfaces.cli.output import SHORT
from imagen.surfaces.cli.where import command
from imagen.surfaces.wire import PreviewForm, event_json

if TYPE_CHECKING:
    from imagen.door import Door

SOON_S = 0.3  # what is taken up within this time waited for nothing
LOOK_S = 1.0  # how often a waiting command asks who is in its way
FEW = 3  # comparisons that are named

# Whoever made the hint did not know the id; `ID` is what a server's `{id}` became.
_THIS = re.compile(r"`imagen jobs (show|watch|retry)(?: ID)?`")

Ended = events.Completed | events.Failed | events.Cancelled


class Voice(Protocol):
    """Says things to a person without spoiling what stands on the terminal."""

    def line(self, text: str) -> None:
        """Say something in between."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Face(Voice, Protocol):
    """What a person or a program sees of a job."""

    def on(self, event: events.Event) -> None:
        """Show what this event changes."""

    def show(self, data: bytes, width: int, height: int) -> None:
        """Show a picture, where pictures can be shown."""

    @property
    def shows_pictures(self) -> bool:
        """Whether that would be seen."""


class JsonLines:
    """Events for a program: one line each on standard output, everything else on standard error."""

    shows_pictures = False

    def __init__(self, preview: PreviewForm) -> None:
        self._preview = preview

    def on(self, event: events.Event) -> None:
        click.echo(json.dumps(event_json(event, preview=self._preview)))  # echo flushes: a line is read when it is said

    def line(self, text: str) -> None:
        click.echo(text, err=True)

    def show(self, data: bytes, width: int, height: int) -> None:
        """Programs read the picture where the event says it lies."""

    def close(self) -> None:
        """Nothing to put back."""


def face(*, json_output: bool, preview: PreviewForm, pictures: bool) -> Face:
    """Lines of JSON, a live view on a terminal, or plain lines."""
    if json_output:
        return JsonLines(preview)
    from imagen.surfaces.cli.terminal import LiveView

    return LiveView(sys.stderr, previews=pictures)


async def to_the_end(app: "Door", job_id: str, shown: Face, *, previews: bool) -> Ended:
    """Show everything that happens to a job until it ended."""
    queued = asyncio.Event()
    asking = asyncio.create_task(_say_what_it_waits_for(app, job_id, queued, shown))
    try:
        async with aclosing(app.follow(job_id, previews=previews)) as stream:
            async for event in stream:
                match event:
                    case events.Queued() | events.Requeued():
                        queued.set()
                    case events.Started():
                        queued.clear()
                    case events.Image(image=image) if shown.shows_pictures:
                        with suppress(ImagenError):  # a picture that was deleted meanwhile is only not shown
                            shown.show(await app.image_bytes(image, size="cell"), image.width, image.height)
                shown.on(event)
                if isinstance(event, Ended):
                    return event
    except (ServerAway, DatabaseAway) as away:
        there, why = (" there", "") if hasattr(app, "url") else ("", f"; {away.hint}")
        hint = f"job {job_id} is kept{there}: `{command('jobs', 'watch', job_id)}` when it is back{why}"
        raise type(away)(away.message, hint=hint, detail=away.detail) from away
    finally:
        shown.close()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    raise AssertionError("a stream of events ends with the end of its job")


@asynccontextmanager
async def cancelled_by_ctrl_c(
    cancel: Callable[[], Awaitable[object]], shown: Voice, *, left: str = ""
) -> AsyncIterator[None]:
    """While inside, Ctrl-C calls `cancel` and lets the job end; pressed again, it leaves at once.

    `left` is said where that was not heard.
    """
    loop = asyncio.get_running_loop()
    asked: list[asyncio.Future[object]] = []

    def pressed() -> None:
        if asked:
            shown.close()
            if left and not (asked[0].done() and asked[0].exception() is None):
                click.echo(left, err=True)
            # Threads of a backend would hold up a normal exit; whoever sweeps next ends the job.
            os._exit(INTERRUPTED)
        asked.append(asyncio.ensure_future(cancel()))
        shown.line("cancelling; press Ctrl-C again to leave at once")

    loop.add_signal_handler(signal.SIGINT, pressed)
    try:
        yield
    except (ServerAway, DatabaseAway):
        if asked and left:
            click.echo(left, err=True)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        asked.clear()
        raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        await asyncio.gather(*asked)


def not_cancelled(app: "Door", job_id: str | None = None) -> str:
    """What is said where Ctrl-C was not heard; nothing at this machine, where whoever sweeps next sees to it."""
    url: str | None = getattr(app, "url", None)
    if url is None:
        return ""
    waits = f"job {job_id} waits there: `{command('jobs', 'cancel', job_id)}`" if job_id else "its jobs wait there"
    return f"not cancelled: {url} does not answer; {waits}"


def run(main: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a command that has to do with jobs. SIGTERM stops it politely: its job goes back to the queue."""

    async def stoppable() -> int:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await main

    try:
        sys.exit(asyncio.run(stoppable()))
    except asyncio.CancelledError:
        click.echo("stopped; what was not finished waits: see `imagen jobs list`", err=True)
        sys.exit(TERMINATED)


async def tell_orphans(app: "Door") -> None:
    """What earlier runs left behind, and the command that finishes it."""
    left = await app.orphans()
    alone = [job.id[-SHORT:] for job in left if job.series is None]
    if len(alone) == 1:
        watch = command("jobs", "watch", alone[0])
        click.echo(f"1 job waits from an earlier run: draw it with `{watch}`, and -o FILE to have it there", err=True)
    elif alone:
        listing, watch = command("jobs", "list", "--state", "queued"), command("jobs", "watch", alone[0])
        click.echo(f"{len(alone)} jobs wait from earlier runs: see `{listing}`, draw one with `{watch}`", err=True)
    for series_id, waiting in Counter(job.series for job in left if job.series is not None).most_common(FEW):
        folder = (await app.series(series_id)).settings.get("folder")
        place = shlex.quote(os.path.relpath(folder)) if isinstance(folder, str) else series_id[-SHORT:]
        number = "1 picture of a comparison waits" if waiting == 1 else f"{waiting} pictures of a comparison wait"
        click.echo(f"{number}: draw what is missing with `{command('compare', '--resume', place)}`", err=True)


def say_end(end: Ended, job: Job) -> int:
    """Say on standard error how it ended, unless it ended well; returns the exit code."""
    match end:
        case events.Completed():
            return 0
        case events.Cancelled(by=by, step=step):
            at = f" at step {step}" if step else ""
            click.echo(f"cancelled by {by}{at}: job {job.id}", err=True)
            _say_kept(end, job)
            return INTERRUPTED
        case events.Failed(error=error):
            hint = _THIS.sub(lambda found: f"`{command('jobs', found[1], job.id)}`", error.hint)
            click.echo(f"error: {error.message}\n  hint: {hint}", err=True)
            _say_kept(end, job)
            return error.exit_code


def _say_kept(end: events.Failed | events.Cancelled, job: Job) -> None:
    if end.images:
        click.echo(f"{len(end.images)} of {job.request.n or 1} pictures were finished before and are kept", err=True)


async def _say_what_it_waits_for(app: "Door", job_id: str, queued: asyncio.Event, shown: Face) -> None:
    said = None
    while True:
        await queued.wait()
        await asyncio.sleep(SOON_S)
        job = await app.job(job_id)
        if job.state is State.QUEUED and job.waits_for and job.waits_for != said:
            said = job.waits_for
            shown.line(f"waiting for {said}")
        await asyncio.sleep(LOOK_S)
