"""What several commands accept: sizes, settings of a model, and how much of a preview to show."""

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from imagen.core.errors import ImagenError, RequestError, UnknownModel
from imagen.core.request import PreviewPolicy, preview_policy

if TYPE_CHECKING:
    from imagen.models.catalog import Catalog

F = TypeVar("F", bound=Callable[..., Any])

_SIZE = re.compile(r"\s*(\d{1,6})\s*[xX×*]\s*(\d{1,6})\s*")


def model_option(command: F) -> F:
    """-m NAME, under all the names it is asked for by."""
    return click.option(
        "--model", "-m", "--backend", "-b", "model", metavar="NAME", help="Model to draw with: see `imagen models`."
    )(command)


def preview_options(command: F) -> F:
    """--preview[=ref|inline] and --no-preview."""
    for option in (
        click.option("--no-preview", is_flag=True, help="No previews, also on a terminal."),
        click.option(
            "--preview",
            type=click.Choice(["ref", "inline"]),
            metavar="[=ref|inline]",
            help="Show the picture forming; with --json as a reference or inline. The default on a terminal.",
        ),
    ):
        command = option(command)
    return command


class PreviewCommand(click.Command):
    """A command whose `--preview` may stand alone: its value is only ever written with an equals sign."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click would take the word after a bare --preview, often the prompt, for its value.
        end = args.index("--") if "--" in args else len(args)
        words = ["--preview=ref" if word == "--preview" else word for word in args[:end]]
        return super().parse_args(ctx, words + args[end:])


class ListingGroup(click.Group):
    """A group that lists when it is told nothing else: `imagen jobs --state failed`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def asked_policy(preview: str | None, no_preview: bool, stride: int | None = None) -> PreviewPolicy | None:
    """The preview wish of a command line; None when it says nothing."""
    if no_preview:
        return preview_policy(False)
    if stride is not None:
        return preview_policy({"stride": stride})
    return preview_policy(True) if preview else None


def size(text: str | None) -> tuple[int, int] | tuple[None, None]:
    """`1024x768` -> (1024, 768)."""
    if text is None:
        return None, None
    if match := _SIZE.fullmatch(text):
        return int(match[1]), int(match[2])
    raise RequestError(f"--size {text} is no size", hint="write width x height, as in --size 1024x768", param="size")


def settings(pairs: Sequence[str], catalog: "Catalog", model: str | None) -> dict[str, Any]:
    """`--set KEY=VALUE` as values: numbers and true/false where the model does not want text."""
    told: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RequestError(f"--set {pair} is no setting", hint=_as_in(catalog, model), param="options")
        told[key] = value if _wants_text(catalog, model, key) else _value(value)
    return told


def names(text: str | None) -> list[str]:
    """`a,b, c` -> [a, b, c]."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _as_in(catalog: "Catalog", model: str | None) -> str:
    try:
        has = catalog.get(model).options
    except ImagenError:
        has = {}
    return f"write KEY=VALUE; the keys are: {', '.join(sorted(has))}" if has else "write KEY=VALUE"


def _wants_text(catalog: "Catalog", model: str | None, key: str) -> bool:
    try:
        option = catalog.get(model).options.get(key)
    except UnknownModel:
        return True  # refused with its own words when the request is resolved
    return option is None or option.type == "str"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
