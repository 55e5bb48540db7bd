"""`imagen`: the commands there are, each loaded when it is asked for, and the one place where errors end."""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from imagen.core.errors import DiskFull, ImagenError, RequestError, Unwritable
from imagen.surfaces.cli.exits import BROKEN_PIPE, INTERRUPTED

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

# name -> module, attribute, help. The help stands here so that `imagen --help` need not load the commands.
COMMANDS = {
    "generate": ("generate", "generate", "Draw PROMPT and print where the picture is."),
    "compare": (
        "compare",
        "compare",
        "Draw each PROMPT with several models; write pictures, a contact sheet and compare.json.",
    ),
    "models": ("models", "models", "List, show, check, add, fetch or remove models."),
    "jobs": ("jobs", "jobs", "List, show, watch, cancel or retry jobs, or delete their pictures."),
    "series": ("series", "series", "List or show series, or draw the contact sheet of one."),
    "vote": ("vote", "vote", "Compare the pictures of SERIES two by two, without knowing which model drew which."),
    "ratings": ("ratings", "ratings", "Say how good each model is by the votes, and how sure that is."),
    "reproduce": ("reproduce", "reproduce", "Draw FILE again, a PNG or the JSON beside it, and compare the pixels."),
    "serve": ("serve", "serve", "Serve the HTTP API, and draw what is submitted to it."),
    "worker": (
        "worker",
        "worker",
        "Draw the jobs that others submit, until it is stopped; or list, pause and resume devices.",
    ),
    "mcp": ("mcp", "mcp", "Speak the Model Context Protocol, for agents, on standard input and output."),
    "skill": ("skill", "skill", "Put the skill that teaches agents these commands where they look."),
    "keys": ("keys", "keys", "Make, list or remove the keys with which others may use this server."),
    "gc": ("gc", "gc", "Say what could be deleted to make room, or delete it."),
    "config": ("config", "config", "Show, check or start the settings."),
    "db": ("db", "db", "Bring the database to the version of this program."),
    "doctor": ("doctor", "doctor", "Say what would go wrong, before it does."),
}


class Commands(click.Group):
    """A group that imports a command only to run it or to show its own help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(word.startswith("--server") for word in args):
            from imagen.surfaces.cli.where import in_front

            args = in_front(args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"imagen.surfaces.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imagen-platform", message="imagen %(version)s")
@click.option(
    "--server",
    metavar="URL|NAME",
    envvar="IMAGEN_SERVER",
    help="Do it at another imagen server: its address, or its name in config.yaml.",
)
@click.pass_context
def cli(ctx: click.Context, server: str | None) -> None:
    """One door to every image model: draw, watch the picture form, compare.

    Begin with: imagen generate "a red fox"
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    elif server:
        from imagen.surfaces.cli.where import check_where

        check_where(ctx, ctx.invoked_subcommand)


def main() -> NoReturn:
    """Run the command line; the console script."""
    arguments = sys.argv[1:]
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us, as in `imagen models >&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # it stays open as long as the program
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character is no failure
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    if code == BROKEN_PIPE:
        # What is still buffered has no reader; the interpreter would complain about it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """The exit code. Nothing else in the command line catches broadly."""
    try:
        if "_IMAGEN_COMPLETE" in os.environ:
            cli.main(list(arguments), prog_name="imagen")  # a shell that asks what may follow
        with cli.make_context("imagen", list(arguments)) as ctx:
            cli.invoke(ctx)
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (KeyboardInterrupt, EOFError, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except click.exceptions.NoArgsIsHelpError as half:
        click.echo(half.message, err=True)
        return half.exit_code
    except click.ClickException as wrong:
        return _tell(_usage(wrong), arguments)
    except ImagenError as error:
        return _tell(error, arguments)
    except Exception as bug:
        if isinstance(bug, OSError) and bug.errno in NO_ROOM:
            place = f" {bug.filename}" if bug.filename else ": where the output goes is full"
            return _tell(DiskFull(f"no room left to write{place}", hint="free some space and try again"), arguments)
        if isinstance(bug, PermissionError):
            return _tell(
                Unwritable(
                    f"not allowed: {bug.filename}", hint="change its rights, or set IMAGEN_HOME to another folder"
                ),
                arguments,
            )
        return _tell(_unexpected(bug, arguments), arguments)


def _tell(error: ImagenError, arguments: Sequence[str]) -> int:
    click.echo(f"error: {error.message}\n  hint: {error.hint}", err=True)
    if "--json" in arguments[: arguments.index("--") if "--" in arguments else None]:
        import json

        click.echo(json.dumps({"error": error.as_dict()}))
    return error.exit_code


def _usage(wrong: click.ClickException) -> RequestError:
    """What click has to say, in the form of all other errors."""
    ctx = getattr(wrong, "ctx", None)
    hint = f"see `{ctx.command_path if ctx else 'imagen'} --help`"
    near: list[str] | None = getattr(wrong, "possibilities", None)
    if near:
        hint = f"did you mean {' or '.join(near)}? {hint}"
    elif isinstance(wrong, click.NoSuchCommand) and " " in wrong.command_name:
        hint = "to draw it, write `imagen generate` before it"
    elif (
        ctx and wrong.message.startswith("Got unexpected extra") and any(p.name == "prompt" for p in ctx.command.params)
    ):
        hint = f"put the prompt in quotes; {hint}"
    message = wrong.message if near or not isinstance(wrong, click.UsageError) else wrong.format_message()
    if isinstance(wrong, click.BadParameter | click.FileError):
        message = wrong.format_message()
    if ctx and wrong.message.startswith("Got unexpected extra") and ctx.command.name == "reproduce":
        message = "one FILE at a time"
    message = " ".join(message.split()).removesuffix(".")
    param: Any = getattr(wrong, "param", None)
    return RequestError(message[:1].lower() + message[1:], hint=hint, param=param.name if param else None)


def _unexpected(bug: Exception, arguments: Sequence[str]) -> ImagenError:
    """A mistake of ours: one line for the person, the whole of it in a file."""
    from imagen.surfaces.cli.crash import write_report

    said = " ".join(str(bug).split())
    return ImagenError(
        f"unexpected {type(bug).__name__}{': ' if said else ''}{said[:200]}",
        hint=f"this is a mistake in imagen, not yours; the details are in {write_report(bug, arguments)}",
    )
