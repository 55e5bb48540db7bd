"""`imagen mcp`: the door for agents, on standard input and output."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import click

from imagen.surfaces.cli.exits import INTERRUPTED, TERMINATED
from imagen.surfaces.cli.where import open_away, server


@click.command()
@click.option(
    "--folder",
    "folders",
    multiple=True,
    metavar="DIR",
    help="A folder that `fetch` may save pictures to, made by the first one; several are possible.  [default: where it "
    "is started]",
)
def mcp(folders: tuple[str, ...]) -> None:
    """Speak the Model Context Protocol, for agents, on standard input and output.

    It draws what its agent submits, unless a worker does. `imagen serve` offers the same under /mcp.
    """
    from imagen.surfaces.mcp.library import loaded

    loaded()
    if sys.stdin.isatty():
        click.echo("this speaks to programs: see docs/howto/connect/mcp.md; Ctrl-C ends it", err=True)
    asyncio.run(_serve(folders))


async def _serve(named: tuple[str, ...]) -> None:
    from imagen.app import open as open_app
    from imagen.config import load_settings
    from imagen.surfaces.mcp.saving import folders_of
    from imagen.surfaces.mcp.stdio import agent, agent_away, converse

    folders = folders_of(named, Path.cwd())  # before anything is opened: one that cannot be is refused
    told: list[int] = []
    asked = asyncio.Event()

    def leave(number: int) -> None:
        told.append(number)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, leave, number)
    async with AsyncExitStack() as stack:
        if server() is None:
            app = await stack.enter_async_context(open_app())
            tools = await stack.enter_async_context(agent(app, folders))
        else:
            tools = await agent_away(await stack.enter_async_context(open_away()), folders, load_settings().limits)
        talking = asyncio.create_task(converse(tools))
        stopping = asyncio.create_task(asked.wait())
        await asyncio.wait({talking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if talking.done():
            talking.result()
    if told:
        # Everything is given back and closed. A thread still reads standard input and would hold up a normal exit
        # until the other side writes something.
        os._exit(INTERRUPTED if told[0] == signal.SIGINT else TERMINATED)
