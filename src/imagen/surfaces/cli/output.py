"""What commands print: tables that fit, ages and sizes for people, and one JSON document for programs."""

import json
import math
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

SHORT = 8  # the last characters of an id, enough to name a job
MOST = 1000  # jobs or series of one list
WIDTH = 80  # where the terminal does not say
NARROWEST = 40  # a terminal that says less breaks the lines itself
NARROW = 12  # a column is not cut below this as long as a wider one can give way
GAP = 2
AGES = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (86_400 * 60, 86_400, "d"))

json_option = click.option("--json", "json_output", is_flag=True, help="Print one JSON document.")


def print_json(value: Any) -> None:
    """The one JSON document of a command."""
    click.echo(json.dumps(value, indent=2))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool = False) -> None:
    """Columns under titles, as wide as the terminal; what does not fit ends in … In a pipe nothing is cut."""
    for line in table(titles, rows, width=_terminal_width() if sys.stdout.isatty() else sys.maxsize):
        click.echo(line, err=err)


def tell_more(found: Sequence[object], limit: int) -> None:
    """Say that a list may have ended before its end."""
    if len(found) == limit:
        more = f"; see more with `--limit {min(10 * limit, MOST)}`" if limit < MOST else ""
        click.echo(f"the newest {limit}{more}", err=True)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> list[str]:
    """The lines of a table that is at most `width` columns wide."""
    lines = [[one_line(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(map(columns, column)) for column in zip(*lines, strict=True)]
    while sum(widths) + GAP * (len(widths) - 1) > width and max(widths) > 1:
        # The first column holds what the next command is told, so it gives way last.
        others = [index for index in range(1, len(widths)) if widths[index] > NARROW] or range(len(widths))
        widths[max(others, key=widths.__getitem__)] -= 1
    return [
        (" " * GAP).join(_pad(cut(cell, size), size) for cell, size in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def one_line(text: str) -> str:
    """Without line breaks and escape sequences, which a table could not hold."""
    if text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def columns(text: str) -> int:
    """How wide a terminal draws this: wide characters take two columns, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(letter) for letter in text)


def cut(text: str, size: int) -> str:
    """The text, or as much of it as fits with a … behind it."""
    if columns(text) <= size:
        return text
    kept, used = [], 1
    for letter in text:
        used += _columns_of(letter)
        if used > size:
            break
        kept.append(letter)
    return "".join(kept).rstrip() + "…"


def age(then: datetime | None, now: datetime | None = None) -> str:
    """`3 min ago`, or the day once that says more."""
    if then is None:
        return ""
    seconds = int(((now or datetime.now(UTC)) - then).total_seconds())
    if seconds < 1:
        return "now"
    for below, unit_s, name in AGES:
        if seconds < below:
            return f"{seconds // unit_s} {name} ago"
    return then.date().isoformat()


def ahead(then: datetime, now: datetime | None = None) -> str:
    """`in 3 min`; `now` when it is due."""
    seconds = math.ceil((then - (now or datetime.now(UTC))).total_seconds())
    if seconds < 1:
        return "now"
    for below, unit_s, name in AGES:
        if seconds < below:
            return f"in {seconds // unit_s} {name}"
    return then.date().isoformat()


def byte_size(count: int) -> str:
    """`512 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _columns_of(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _pad(text: str, size: int) -> str:
    return text + " " * (size - columns(text))


def _terminal_width() -> int:
    return max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST)
