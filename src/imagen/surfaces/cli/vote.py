"""`imagen vote`: two pictures side by side, one key, and the names only afterwards."""

import io
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from imagen.core.errors import UnknownSeries, Unsupported
from imagen.core.vote import Ballot, Choice, Vote
from imagen.surfaces.cli.follow import run
from imagen.surfaces.cli.graphics import Kind, Room, draw, erase, graphics_of
from imagen.surfaces.cli.keyboard import Key, keys
from imagen.surfaces.cli.output import columns as width_of
from imagen.surfaces.cli.output import cut, one_line, print_json
from imagen.surfaces.cli.ratings import print_ratings
from imagen.surfaces.cli.series import find
from imagen.surfaces.cli.terminal import size_of
from imagen.surfaces.cli.where import open_door
from imagen.surfaces.wire_votes import ratings_json, vote_json

if TYPE_CHECKING:
    from imagen.door import Door

KEYS: Mapping[str, Choice] = {
    **{"1": Choice.LEFT, "\x1b[D": Choice.LEFT, "\x1bOD": Choice.LEFT},
    **{"2": Choice.RIGHT, "\x1b[C": Choice.RIGHT, "\x1bOC": Choice.RIGHT},
    **{"t": Choice.TIE, "=": Choice.TIE, "s": Choice.SKIP},
}
QUIT = ("q", "\x1b", "\x04", "")
OPEN = "o"
ASK = "1 left better · 2 right better · t tie · s skip · o open · q quit"
GAP = 0.04  # between the two, of their height: enough to see two pictures and not one
TALLEST = 720  # pixels of what a terminal is sent; more is not seen there
PROMPT_ROWS = 3
NUMBER = 12  # columns, as in `1/12  `
WORDS_ROWS = 4  # of the terminal, for what is said around the pictures, with a prompt of one row


@click.command()
@click.argument("series_id", metavar="[DIR|SERIES]", required=False)
@click.option("--again", is_flag=True, help="Begin another round when every pair has been voted on.")
@click.option("--open", "open_", is_flag=True, help="Open each pair in the program that shows pictures here.")
@click.option("--json", "json_output", is_flag=True, help="Print one JSON document: these votes, and the ratings.")
def vote(series_id: str | None, again: bool, open_: bool, json_output: bool) -> None:
    """Compare the pictures of SERIES two by two, without knowing which model drew which.

    SERIES may be the folder that `imagen compare` wrote to, or a part of the series' id; without it, it is the newest.

    Keys: 1 the left one is better, 2 the right one, t a tie, s skip, o open the pictures, q quit. Where standard input
    is no terminal, each line is a key. The names are told after each vote; each pair comes once until all were seen.
    What was skipped comes back when you vote on SERIES again.
    """

    async def voted() -> int:
        async with open_door() as app:
            series = await _series(app, series_id)
            with tempfile.TemporaryDirectory(prefix="imagen-vote-") as folder, keys() as key:
                table = Table(stream=sys.stderr, folder=Path(folder), opens=open_)
                cast, ballot = await _vote(app, series, again, table, key)
            ratings = await app.ratings(series_id=series)
            if json_output:
                standing = {"round": ballot.round, "done": ballot.done, "total": ballot.total}
                votes = [vote_json(one) for one in cast]
                print_json({"series": series, **standing, "votes": votes, "ratings": ratings_json(ratings)})
            elif ratings.votes:
                print_ratings(ratings)
            return 0

    run(voted())


async def _series(app: "Door", named: str | None) -> str:
    if named is not None:
        return (await find(app, named)).id
    newest = await app.series_list(limit=1)
    if not newest:
        raise UnknownSeries("there is no series to vote on yet", hint="make one: imagen compare 'a red fox'")
    return newest[0].id


async def _vote(app: "Door", series: str, again: bool, table: "Table", key: Key) -> tuple[list[Vote], Ballot]:
    """Pair after pair until the round is over or the voter has enough."""
    ballot = await app.ballot(series)
    if not ballot.total:
        raise Unsupported(
            "this series has no two finished pictures to compare",
            hint=f"two models have to have drawn the same: see `imagen series show {series}`",
        )
    cast: list[Vote] = []
    if not ballot.waiting and not again:
        table.say(f"every pair was shown ({ballot.total}); once more: imagen vote {series} --again")
        return cast, ballot
    now = ballot.round
    while (pair := ballot.pair) is not None and ballot.round == now and (ballot.waiting or again):
        of = ballot.total if again else ballot.done + ballot.waiting
        sides = [(await app.blind_picture(series, side.id)).data for side in (pair.left, pair.right)]
        table.lay(f"{ballot.done + 1}/{of}  {table.cut(one_line(pair.prompt))}", sides)
        choice = await _asked(table, key)
        if choice is None:
            table.say("stopped; the rest waits for you")
            return cast, ballot
        one, _ = await app.vote(series, round=ballot.round, left=pair.left.id, right=pair.right.id, choice=choice)
        cast.append(one)
        if choice is Choice.SKIP:
            table.say("skipped")  # without the names: it comes back
        else:
            table.say(f"{_WORDS[choice]}: left was {one.left.model}, right was {one.right.model}")
        ballot = await app.ballot(series)
    if skipped := sum(one.choice is Choice.SKIP for one in cast):
        back = f"; what was skipped comes back: imagen vote {series}" if ballot.waiting else ""
        table.say(f"{len(cast) - skipped} voted, {skipped} skipped{back}")
    elif ballot.round > now:
        table.say("the one pair is done" if ballot.total == 1 else f"all {ballot.total} pairs are done")
    return cast, ballot


_WORDS = {
    Choice.LEFT: "left is better",
    Choice.RIGHT: "right is better",
    Choice.TIE: "a tie",
}


async def _asked(table: "Table", key: Key) -> Choice | None:
    """The choice of the next key that means one; None to stop."""
    table.say(ASK)
    while True:
        pressed = await key()
        if pressed in QUIT:
            return None
        if pressed == OPEN:
            table.open()
        elif pressed in KEYS:
            return KEYS[pressed]
        else:
            table.say(f"no such key; {ASK}")


@dataclass(kw_only=True)
class Table:
    """Where two pictures lie side by side: on the terminal, or as files that tell nothing."""

    stream: TextIO
    folder: Path
    opens: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    launch: Callable[[str], Any] = click.launch

    def lay(self, title: str, pictures: list[bytes]) -> None:
        """Show a pair in place of the last one."""
        for path, data in zip(self._paths(), pictures, strict=True):
            path.write_bytes(data)
        self.say(title)
        kind = graphics_of(self.stream, self.environ)
        if kind == "none" or not self._draw(kind, pictures, title):
            for name, path in zip(("left", "right"), self._paths(), strict=True):
                self.say(f"  {name}: {path}")
        if self.opens:
            self.open()

    def open(self) -> None:
        """Hand both to whatever shows pictures on this machine."""
        for path in self._paths():
            if self.launch(str(path)):
                self.say(f"nothing here opens pictures; look at {path}")

    def cut(self, text: str) -> str:
        """As much of a prompt as leaves room for the pictures, and for the number before it."""
        return cut(text, PROMPT_ROWS * size_of(self.stream)[0] - NUMBER)

    def say(self, text: str) -> None:
        """One line for the voter."""
        click.echo("".join(letter if letter.isprintable() else " " for letter in text), file=self.stream)

    def _paths(self) -> tuple[Path, Path]:
        return self.folder / "left.png", self.folder / "right.png"

    def _draw(self, kind: Kind, pictures: list[bytes], title: str) -> bool:
        data, width, height = side_by_side(pictures)
        columns, lines, cell = size_of(self.stream)
        words = WORDS_ROWS + (width_of(title) - 1) // columns
        wide, high = Room(columns=columns - 1, rows=max(lines - words, 1), cell=cell).fit(width, height)
        true_colour = self.environ.get("COLORTERM", "") in ("truecolor", "24bit")
        try:
            picture = draw(data, kind, wide, high, cell, true_colour=true_colour)
        except (OSError, ValueError):
            return False
        # Room is made by scrolling, then filled; the cursor ends below.
        self.stream.write(f"{erase(kind)}{chr(10) * high}\r\x1b[{high}A{picture}\r\x1b[{high}B")
        self.stream.flush()
        return True


def side_by_side(pictures: list[bytes]) -> tuple[bytes, int, int]:
    """One PNG of two pictures of one height, with its size."""
    from PIL import Image

    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
    height = min(TALLEST, max(one.height for one in opened))
    scaled = [one.resize((max(1, round(one.width * height / one.height)), height)) for one in opened]
    gap = max(1, round(height * GAP))
    both = Image.new("RGB", (scaled[0].width + gap + scaled[1].width, height))
    both.paste(scaled[0], (0, 0))
    both.paste(scaled[1], (scaled[0].width + gap, 0))
    packed = io.BytesIO()
    both.save(packed, "PNG", compress_level=1)
    return packed.getvalue(), both.width, both.height
