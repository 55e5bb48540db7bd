"""`imagen keys`: who may use this server from elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from imagen.core.errors import RequestError
from imagen.core.job import LOCAL
from imagen.surfaces.cli.output import age, json_option, print_json, print_table

if TYPE_CHECKING:
    from imagen.app import App

T = TypeVar("T")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def keys(ctx: click.Context, json_output: bool) -> None:
    """Make, list or remove the keys with which others may use this server.

    As long as there is none, a server answers its own machine only, and everybody there without a key.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, json_output=json_output)
    elif json_output:
        ctx.default_map = {name: {"json_output": True} for name in ("add", "list", "remove")}


@keys.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="It sees and may change what all others made.")
@json_option
def add(name: str, admin: bool, json_output: bool) -> None:
    """Make a key and print it. It is shown this once: only its hash is kept.

    NAME is whose jobs they are. Who gets a key of the same name later gets the jobs too.
    """
    first, secret = _ask(lambda app: _added(app, name, admin))
    if json_output:
        print_json({"name": name, "admin": admin, "key": secret})
    else:
        click.echo(secret)
    click.echo("note: keep it now, it cannot be shown again; send it as `Authorization: Bearer KEY`", err=True)
    if first:
        click.echo("note: this is the first key; from now on every request needs one, also from this machine", err=True)


@keys.command("list")
@json_option
def list_(json_output: bool = False) -> None:
    """Every key, by name; never the key itself."""
    found = _ask(lambda app: app.keys())
    if json_output:
        from imagen.surfaces.wire import moment

        told = [{"name": key.name, "admin": key.admin, "created_at": moment(key.created_at)} for key in found]
        print_json({"keys": told})
        return
    if not found:
        click.echo("note: there are no keys; the server answers everybody on this machine, and nobody else", err=True)
        return
    rows = [(key.name, "admin" if key.admin else "own jobs", age(key.created_at)) for key in found]
    print_table(("NAME", "MAY SEE", "MADE"), rows)


@keys.command()
@click.argument("name")
@json_option
def remove(name: str, json_output: bool) -> None:
    """Take a key away; a running server notices within seconds. The jobs made with it stay."""

    async def removed(app: "App") -> tuple[int, bool]:
        admins = {key.name for key in await app.keys() if key.admin}
        await app.remove_key(name)
        return len(await app.keys()), admins == {name}

    left, last_admin = _ask(removed)
    if json_output:
        print_json({"removed": name, "left": left})
    else:
        click.echo(f"removed the key of {name}")
    if left and last_admin:
        click.echo(
            "note: that was the last admin; nobody sees what all others made, reads /metrics or pauses a device "
            "through a server until there is another: `imagen keys add NAME --admin`",
            err=True,
        )
    if not left:
        click.echo(
            "note: that was the last key; a server of this machine only now answers everybody on it, "
            "and one that others can reach answers nobody until there is a key again",
            err=True,
        )


@keys.command("webhook-secret")
@click.argument("name", required=False)
@json_option
def webhook_secret(name: str | None, json_output: bool) -> None:
    """Print the secret that signs the webhooks of a key, for whoever receives them.

    Without NAME it is that of jobs which needed no key.
    """

    async def secret(app: "App") -> str:
        if name is not None and name not in {LOCAL, *(key.name for key in await app.keys())}:
            raise RequestError(f"there is no key named {name!r}", hint="see `imagen keys list`", param="name")
        return (await app.outbox.secrets(name or LOCAL))[0]

    found = _ask(secret)
    if json_output:
        print_json({"name": name or LOCAL, "secret": found})
    else:
        click.echo(found)


async def _added(app: "App", name: str, admin: bool) -> tuple[bool, str]:
    first = not await app.keys()
    return first, await app.add_key(name, admin=admin)


def _ask(question: Callable[["App"], Awaitable[T]]) -> T:
    async def asked() -> T:
        from imagen.app import open as open_app

        async with open_app() as app:
            return await question(app)

    return asyncio.run(asked())
