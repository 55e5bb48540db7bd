"""Where a command does its work: at this machine, or at the server that `--server` or IMAGEN_SERVER names."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from imagen.core.errors import RequestError

if TYPE_CHECKING:
    from imagen.away.client import Away
    from imagen.door import Door

FLAG = "--server"
VARIABLE = "IMAGEN_SERVER"

# What is about one machine, and is said there. `config` and `skill` stay open where only the variable is set:
# it is among the settings that they are about.
ONLY_HERE = ("serve", "worker", "keys", "gc", "db", "models add", "models pull", "models remove")
ELSEWHERE = {"keys": "; what signs your webhooks there, its GET /v1/webhooks/secret tells your key"}
IN_PART = ("worker",)  # groups some of whose verbs are for one machine: they look themselves
ASKED_FOR_HERE = ("config", "skill")


def server() -> str | None:
    """The server that was named."""
    ctx = click.get_current_context(silent=True)
    named: str | None = ctx.find_root().params.get("server") if ctx is not None else None
    return named or None


def open_door() -> "AbstractAsyncContextManager[Door]":
    """The app of this machine, or the server that was named."""
    if server() is not None:
        return open_away()
    from imagen.app import open as open_app

    return open_app()


def open_away(*, patient: bool = True) -> "AbstractAsyncContextManager[Away]":
    """The server that was named; not `patient`: asked once, however it is."""
    from imagen.away.client import open_away
    from imagen.config import load_settings

    named = server()
    assert named is not None
    return open_away(named, load_settings(), say=lambda line: click.echo(line, err=True), patient=patient)


def address() -> tuple[str, str | None]:
    """Of the server that was named: where it is, and the key it is asked with."""
    from imagen.away.server import Server
    from imagen.config import load_settings

    named = Server.of(server() or "", load_settings())
    return named.address.url, named.key or None


def check_where(ctx: click.Context, verb: str) -> None:
    """Refuse a verb that is about one machine where another one was named."""
    named = server()
    if named is None or (ctx.parent is None and verb in IN_PART):
        return
    typed = ctx.find_root().get_parameter_source("server") is ParameterSource.COMMANDLINE
    if verb in ONLY_HERE or (typed and verb in ASKED_FOR_HERE):
        how = f"leave out {FLAG}" if typed else f"unset {VARIABLE}"
        raise RequestError(
            f"`imagen {verb}` is about the machine it runs on, and cannot be done at {named}",
            hint=f"run it there; to run it here, {how}" + ELSEWHERE.get(verb, ""),
            param="server",
        )


def command(*words: str) -> str:
    """What somebody types to have this done at the server that was named."""
    ctx = click.get_current_context(silent=True)
    typed = ctx is not None and ctx.find_root().get_parameter_source("server") is ParameterSource.COMMANDLINE
    return " ".join(["imagen", *([FLAG, server() or ""] if typed else []), *words])


def in_front(words: Sequence[str]) -> list[str]:
    """A command line whose `--server URL` may stand anywhere before `--`, with it in front."""
    end = words.index("--") if "--" in words else len(words)
    front: list[str] = []
    rest: list[str] = []
    before = iter(words[:end])
    for word in before:
        if word == FLAG:
            value = next(before, "")
            if not value.strip() or value.startswith("-"):
                raise _nowhere()
            front += [FLAG, value]
        elif word.startswith(f"{FLAG}="):
            if not word.partition("=")[2].strip():
                raise _nowhere()
            front.append(word)
        else:
            rest.append(word)
    return [*front, *rest, *words[end:]]


def _nowhere() -> click.UsageError:
    return click.UsageError(f"{FLAG} wants the address of a server, as in {FLAG} http://gpu.example:8450")
