"""The picture forming in a terminal, seen through a pseudo-terminal and a screen of a few lines."""

import base64
import codecs
import fcntl
import io
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from PIL import Image

from imagen.core import events
from imagen.core.errors import Crashed
from imagen.surfaces.cli.graphics import Room, draw, graphics_of
from imagen.surfaces.cli.terminal import LiveView

TRUE = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
REQUEST = {"model": "mock", "width": 60, "height": 40, "steps": 4, "seed": 7, "n": 2}


class Screen:
    """Just enough of a terminal to know which letter stands where, in which colours."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.cells = [self._blank() for _ in range(lines)]
        self.row = self.column = 0
        self.colours: tuple[str, ...] = ()

    def _blank(self):
        return [(" ", ())] * self.columns

    def feed(self, text: str) -> None:
        for code, final, letter in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|([^\x1b])", text):
            if letter == "\n":
                self.row += 1
                if self.row == self.lines:
                    self.cells = [*self.cells[1:], self._blank()]
                    self.row -= 1
            elif letter == "\r":
                self.column = 0
            elif letter:
                assert self.column < self.columns, f"writes over the edge: {text!r}"
                self.cells[self.row][self.column] = (letter, self.colours)
                self.column += 1
            elif final == "A":
                self.row = max(0, self.row - int(code or 1))
            elif final == "B":
                self.row = min(self.lines - 1, self.row + int(code or 1))
            elif final == "K":
                self.cells[self.row][self.column :] = [(" ", ())] * (self.columns - self.column)
            elif final == "J":
                self.cells[self.row][self.column :] = [(" ", ())] * (self.columns - self.column)
                self.cells[self.row + 1 :] = [self._blank() for _ in self.cells[self.row + 1 :]]
            elif final == "m":
                self.colours = () if code == "0" else (*self.colours, code)[-2:]
            else:
                assert final in "hl", f"a sequence this screen does not know: {code}{final}"

    def text(self) -> list[str]:
        return ["".join(letter for letter, _ in row).rstrip() for row in self.cells]

    def pixels(self) -> Image.Image:
        """The picture that the half blocks make."""
        rows = [[colours[-1] for letter, colours in row if letter == "▀"] for row in self.cells]
        rows = [row for row in rows if row]
        shown = Image.new("RGB", (len(rows[0]), len(rows) * 2))
        for y, row in enumerate(rows):
            for x, code in enumerate(row):
                values = [int(part) for part in code.split(";")]
                shown.putpixel((x, 2 * y), tuple(values[2:5]))
                shown.putpixel((x, 2 * y + 1), tuple(values[7:10]))
        return shown


class Fed(io.TextIOWrapper):
    """Hands on to the screen what was written, piece by piece, before the terminal's small buffer is full."""

    def __init__(self, raw: io.RawIOBase, ours: int, screen: Screen) -> None:
        super().__init__(io.BufferedWriter(raw), encoding="utf-8", newline="")
        self.ours, self.screen = ours, screen
        self.seen = self._pending = ""
        self._letters = codecs.getincrementaldecoder("utf-8")()

    def write(self, text: str) -> int:
        for start in range(0, len(text), 512):
            super().write(text[start : start + 512])
            super().flush()
            self._pass_on()
        return len(text)

    def _pass_on(self) -> None:
        with suppress(BlockingIOError):
            while part := os.read(self.ours, 65536):
                text = self._letters.decode(part)
                self.seen += text
                self._pending += text
        # Half an escape sequence waits for its other half.
        whole = re.sub(r"\x1b(\[[?\d;]*)?$", "", self._pending)
        self._pending = self._pending[len(whole) :]
        self.screen.feed(whole)


@contextmanager
def terminal(columns: int = 80, lines: int = 24) -> Iterator[tuple[Fed, Screen]]:
    """A pseudo-terminal to write to, and the screen that shows what arrives on its other side."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, columns * 10, lines * 20))
    screen = Screen(columns, lines)
    os.set_blocking(ours, False)
    stream = Fed(open(theirs, "wb", buffering=0), ours, screen)  # noqa: SIM115 - closed below
    try:
        yield stream, screen
    finally:
        stream.close()
        os.close(ours)


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (60, 40)) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", size, colour).save(packed, "JPEG", quality=95)
    return packed.getvalue()


def preview(colour: tuple[int, int, int], step: int = 1, size: tuple[int, int] = (60, 40)) -> events.Preview:
    return events.Preview(
        job="j", step=step, total=8, mime="image/jpeg", width=size[0], height=size[1], target_width=size[0],
        target_height=size[1], method="backend", estimate=True, data=jpeg(colour, size),
    )  # fmt: skip


def started() -> events.Started:
    return events.Started(job="j", request=REQUEST, worker="w", device="cpu@test")


def near(first, second, reach: int = 12) -> bool:
    return all(abs(a - b) <= reach for a, b in zip(first, second, strict=True))


def test_the_picture_stands_above_one_line_of_progress():
    """Half blocks show the preview's colours; under them one line says phase, step, total and time left."""
    with terminal() as (stream, screen):
        view = LiveView(stream, previews=True, environ=TRUE)
        view.on(started())
        view.on(events.Phase(job="j", phase="sampling"))
        view.on(preview((200, 60, 30)))
        view.on(events.Progress(job="j", step=3, total=8, image=0, eta_s=5.2))
        shown = screen.pixels()
        assert near(shown.getpixel((5, 5)), (200, 60, 30))
        assert shown.width / shown.height == pytest.approx(60 / 40, rel=0.1)
        last = [line for line in screen.text() if line][-1]
        assert re.fullmatch(r"drawing ━+─+ 3/8  5 s left  image 1 of 2", last)


def test_a_new_preview_replaces_the_old_one_in_place():
    """Twenty previews leave one picture, even at the bottom of the screen, and nothing of the ones before."""
    with terminal(lines=18) as (stream, screen):
        stream.write("$ earlier\n" * 17)
        view = LiveView(stream, previews=True, environ=TRUE)
        view.on(started())
        for step in range(20):
            view.on(preview((10 * step, 100, 50)))
        view.close()
        assert near(screen.pixels().getpixel((0, 0)), (190, 100, 50))
        assert len([line for line in screen.text() if "▀" in line]) == 16
        assert screen.text()[0] == "$ earlier"


def test_only_the_first_preview_clears_anything():
    """Replacing draws over: no erasing between two previews of one shape, so that nothing flickers."""
    with terminal() as (stream, _):
        view = LiveView(stream, previews=True, environ=TRUE)
        view.on(preview((1, 2, 3)))
        stream.seen = ""
        view.on(preview((200, 100, 50), step=2))
        assert "▀" in stream.seen
        assert "\x1b[J" not in stream.seen
        assert stream.seen.startswith("\x1b[?2026h")
        assert stream.seen.endswith("\x1b[?2026l")


def test_a_warning_stays_as_a_line_above_the_picture():
    """Warnings scroll up with the text, once each; escape sequences inside them do nothing."""
    with terminal(lines=30) as (stream, screen):
        view = LiveView(stream, previews=True, environ=TRUE)
        view.on(started())
        view.on(preview((9, 99, 199)))
        view.on(events.Warning(job="j", code="one", message="first \x1b[31mred"))
        view.on(preview((9, 99, 199), step=2))
        view.on(events.Warning(job="j", code="two", message="second"))
        view.on(events.Completed(job="j", images=(), timings={"sample": 1.25}))
        view.close()
        lines = [line for line in screen.text() if line]
        assert lines[:2] == ["warning: first  [31mred", "warning: second"]
        assert lines[-1] == "mock · 60x40 · 4 steps · seed 7 · 1.2 s"
        assert all("▀" in line for line in lines[2:-1])


def test_a_picture_of_another_shape_takes_the_place_of_the_last():
    """Going from wide to tall leaves no rest of the wide one."""
    with terminal() as (stream, screen):
        view = LiveView(stream, previews=True, environ=TRUE)
        view.on(preview((200, 0, 0), size=(90, 30)))
        view.on(preview((0, 200, 0), size=(30, 90)))
        shown = screen.pixels()
        assert shown.height == 44
        assert near(shown.getpixel((0, 0)), (0, 200, 0))


def test_a_terminal_that_is_too_small_gets_the_line_only():
    """No picture where it would fill the screen; the line never passes the edge."""
    with terminal(columns=20, lines=4) as (stream, screen):
        view = LiveView(stream, previews=True, environ=TRUE)
        view.on(preview((1, 2, 3)))
        view.on(events.Progress(job="j", step=1, total=1000, image=0, eta_s=100.0))
        view.close()
        assert "▀" not in stream.seen
        assert screen.row == 0


def test_a_preview_that_cannot_be_read_changes_nothing():
    """Bytes that are no picture are passed over."""
    with terminal() as (stream, screen):
        view = LiveView(stream, previews=True, environ=TRUE)
        view.show(b"not a picture", 60, 40)
        view.on(events.Progress(job="j", step=1, total=2, image=0))
        assert next(line for line in screen.text() if line).startswith("drawing")


@pytest.mark.parametrize(
    "end", [events.Failed(job="j", error=Crashed("x", hint="y")), events.Cancelled(job="j", by="you")]
)
def test_a_failed_job_leaves_the_picture_and_a_clean_line(end):
    """The words about the failure belong to whoever called: the view only clears its line."""
    with terminal() as (stream, screen):
        view = LiveView(stream, previews=True, environ=TRUE)
        view.on(started())
        view.on(preview((50, 50, 50)))
        view.on(end)
        view.close()
        assert "▀" in screen.text()[screen.row - 1]
        assert (screen.text()[screen.row], screen.column) == ("", 0)


def test_elsewhere_each_durable_event_is_one_plain_line_at_most():
    """A file gets words only: no colours, no picture, nothing for the ephemeral events."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    view = LiveView(stream, previews=True, environ=TRUE)
    view.on(events.Queued(job="j", position=2))
    view.on(started())
    for step in range(3):
        view.on(events.Phase(job="j", phase="sampling"))
        view.on(events.Progress(job="j", step=step, total=3))
        view.on(preview((1, 2, 3), step))
    view.on(events.Warning(job="j", code="c", message="mind the gap"))
    view.on(events.Requeued(job="j", reason="the worker went away"))
    view.on(events.Completed(job="j", images=(), timings={}))
    view.close()
    stream.seek(0)
    assert stream.read().splitlines() == [
        "drawing with mock · 60x40 · 4 steps · seed 7",
        "warning: mind the gap",
        "starting again: the worker went away",
        "done: mock · 60x40 · 4 steps · seed 7",
    ]


def test_a_terminal_that_goes_away_does_not_end_the_job():
    """Writing to a closed terminal is no error of the job."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    view = LiveView(stream, previews=True, environ=TRUE)
    stream.close()
    view.on(started())
    view.close()


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        ({}, "none"),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, "none"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2", "SSH_CONNECTION": "x"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "none"),
        ({"TERM": "xterm-256color", "IMAGEN_GRAPHICS": "sixel"}, "sixel"),
        ({"TERM": "xterm-kitty", "IMAGEN_GRAPHICS": "none"}, "none"),
    ],
)
def test_the_kind_of_graphics_is_told_by_the_environment(environ, kind):
    """The terminal's name decides, our own variable overrides it, and nothing is ever asked of the terminal."""
    with terminal() as (stream, _):
        assert graphics_of(stream, environ) == kind
        assert stream.seen == ""
    assert graphics_of(io.StringIO(), environ) == "none"


@pytest.mark.parametrize("kind", ["kitty", "iterm2", "sixel"])
def test_previews_without_a_wish_for_them_are_not_drawn(kind):
    """previews=False shows the line only, whatever the terminal can do."""
    with terminal() as (stream, _):
        view = LiveView(stream, previews=False, environ=TRUE | {"IMAGEN_GRAPHICS": kind})
        view.on(preview((1, 2, 3)))
        assert not view.shows_pictures
        assert stream.seen == ""


def test_kitty_gets_the_whole_picture_in_chunks_of_one_replaceable_image():
    """The chunks join to a PNG with the right colours; the image number is always the same."""
    noisy = Image.effect_noise((300, 200), 90).convert("RGB")
    packed = io.BytesIO()
    noisy.save(packed, "PNG")
    text = draw(packed.getvalue(), "kitty", 30, 10, (10, 20), true_colour=True)
    told = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in told) == text
    assert all(len(data) <= 4096 for _, data in told)
    assert [keys[-1] for keys, _ in told] == ["1"] * (len(told) - 1) + ["0"]
    assert {"a=T", "c=30", "r=10", "C=1", "q=2", "p=1"} <= set(told[0][0].split(","))
    with Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in told)))) as sent:
        assert sent.tobytes() == noisy.tobytes()


def test_iterm2_gets_the_bytes_as_they_are():
    """No second encoding: the preview's own bytes travel."""
    data = jpeg((10, 200, 100))
    text = draw(data, "iterm2", 30, 10, (10, 20), true_colour=True)
    [sent] = re.findall(r"\x1b\]1337;File=[^:]*:([^\a]*)\a", text)
    assert base64.b64decode(sent) == data


def test_sixel_decodes_to_the_picture():
    """Read back band by band, the sixels have the picture's size and colours."""
    packed = io.BytesIO()
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    picture.paste((200, 30, 30), (5, 5, 25, 25))
    picture.save(packed, "PNG")
    text = draw(packed.getvalue(), "sixel", 5, 2, (10, 20), true_colour=True)
    shown = _from_sixel(text)
    assert shown.size == (50, 40)
    for at in [(10, 10), (40, 5), (40, 20), (40, 38)]:
        assert near(shown.getpixel(at), picture.getpixel(at), 16)


def test_256_colours_come_close():
    """A terminal without true colour gets the nearest colours of its cube."""
    text = draw(jpeg((250, 10, 100)), "blocks", 4, 2, (10, 20), true_colour=False)
    assert "\x1b[38;5;197;48;5;197m" in text


@pytest.mark.parametrize(("size", "cells"), [((100, 100), (40, 20)), ((200, 100), (60, 15)), ((100, 400), (10, 20))])
def test_a_picture_keeps_its_shape_in_cells(size, cells):
    """Cells twice as high as wide, and the room given, decide the number of columns and rows."""
    assert Room(columns=60, rows=20).fit(*size) == cells


def _from_sixel(text: str) -> Image.Image:
    """The picture that sixel text stands for."""
    [body] = re.findall(r"\x1bP0;1q(.*)\x1b\\", text)
    [(width, height)] = re.findall(r'"1;1;(\d+);(\d+)', body)
    shown = Image.new("RGB", (int(width), int(height)))
    palette: dict[int, tuple[int, ...]] = {}
    x = top = 0
    colour = 0
    for number, red, green, blue, count, run, letter in re.findall(
        r'#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~$-])', body.split(";" + height, 1)[1]
    ):  # fmt: skip
        if number:
            colour = int(number)
            if red:
                palette[colour] = tuple(round(int(value) * 2.55) for value in (red, green, blue))
        elif letter == "$":
            x = 0
        elif letter == "-":
            x, top = 0, top + 6
        else:
            length = int(count or 1)
            for bit in range(6):
                if (ord(run or letter) - 63) >> bit & 1:
                    shown.paste(palette[colour], (x, top + bit, x + length, top + bit + 1))
            x += length
    return shown
