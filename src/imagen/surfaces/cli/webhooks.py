"""`--webhook` of the commands that draw: who is told when it has ended, also where no server runs to tell it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import RequestError
from imagen.core.webhook import Delivery, Webhook, webhook_of
from imagen.surfaces.cli.output import ahead
from imagen.surfaces.cli.where import server

if TYPE_CHECKING:
    from imagen.door import Door

FIRST_S = 15.0  # for the first try, which takes ten at most
LOOK_S = 0.1

webhook_option = click.option(
    "--webhook", metavar="URL", help="An address that is told when it has ended, signed, and until it heard it."
)


def asked(url: str | None) -> Webhook | None:
    """The webhook of a command line."""
    return None if url is None else webhook_of(url)


@asynccontextmanager
async def delivering(app: "Door", webhook: Webhook | None) -> AsyncIterator[None]:
    """While inside, this process tells webhooks too: perhaps nobody else does."""
    from imagen.app import App

    if webhook is None or not isinstance(app, App):  # another server tells what was submitted to it
        yield
        return
    from imagen.surfaces.webhooks import courier

    async with courier.delivering(app):
        yield


async def say(webhook: Webhook | None, look: Callable[[], Awaitable[Delivery | None]]) -> None:
    """Wait for the first try, and say what came of it."""
    if webhook is None:
        return
    until = time.monotonic() + FIRST_S
    told = await look()
    # A series has none before somebody saw that its last cell ended.
    while (told is None or (told.state == "waiting" and told.said is None)) and time.monotonic() < until:
        await asyncio.sleep(LOOK_S)
        told = await look()
    if told is not None and told.state == "delivered":
        click.echo(f"told {webhook.origin}", err=True)
    elif told is not None and told.state == "failed":
        click.echo(f"could not tell {webhook.origin}: {told.said}", err=True)
    else:
        why = (told.said if told is not None else None) or "no answer"
        who = "the server" if server() else "`imagen serve` or `imagen worker`"
        click.echo(f"could not tell {webhook.origin} yet: {why}; {who} tries on", err=True)


async def all_again(app: "Door") -> list[str]:
    """Begin anew with everything that was given up."""
    from imagen.app import App

    if not isinstance(app, App):
        raise RequestError(
            "--failed is for the owner of a database", hint="run it on the server, or name the jobs", param="failed"
        )
    return await app.outbox.all_again()


def facts(told: Mapping[str, Any] | None) -> list[tuple[str, str | None]]:
    """What `show` says of a webhook."""
    if told is None:
        return []
    tries = f", {told['tries']} tries" if told["tries"] > 1 else ""
    return [
        ("webhook", f"{told['origin']}: {told['state']}{tries}"),
        ("said", told["said"]),
        ("next try", ahead(datetime.fromisoformat(told["next_at"])) if told["next_at"] else None),
    ]
