"""Pictures as terminal text: kitty, iTerm2, sixel, or two pixels to a character.

The kind is told from the environment alone. Asking the terminal would be surer, but its answer may come
late (over ssh) or never, and then lands on the user's command line.
"""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["kitty", "iterm2", "sixel", "blocks", "none"]
KINDS: tuple[Kind, ...] = ("kitty", "iterm2", "sixel", "blocks", "none")

# Overrides the guess, for a terminal that can do more (or less) than its name tells.
OVERRIDE = "IMAGEN_GRAPHICS"

# One image of ours at a time; a number nobody else is likely to use.
_KITTY_ID = 1_768_780
_KITTY_CHUNK = 4096  # the protocol's limit for one escape sequence
_SIXEL_COLOURS = 255
_CUBE = (0, 95, 135, 175, 215, 255)  # the steps of the 6x6x6 cube of a 256-colour terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many cells a picture may take, and how many pixels one cell has."""

    columns: int
    rows: int
    cell: tuple[int, int] = (10, 20)

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The largest columns x rows in the shape of width x height."""
        ratio = (width / height) * (self.cell[1] / self.cell[0])
        columns = min(self.columns, round(self.rows * ratio))
        return max(1, columns), max(1, min(self.rows, round(columns / ratio)))


def graphics_of(stream: TextIO, environ: Mapping[str, str]) -> Kind:
    """What this terminal can show; "none" where escape sequences would only be litter."""
    if not is_live(stream, environ):
        return "none"
    asked = environ.get(OVERRIDE, "").lower()
    for kind in KINDS:
        if asked == kind:
            return kind
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    unicode = "utf" in (getattr(stream, "encoding", None) or "").lower()
    blocks: Kind = "blocks" if unicode and "NO_COLOR" not in environ else "none"
    # A multiplexer draws its own screen: what its outer terminal can do does not reach us.
    if environ.get("TMUX") or environ.get("STY") or re.match("(screen|tmux)", term):
        return blocks
    if environ.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty") or environ.get("KONSOLE_VERSION"):
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if re.match("(foot|mlterm|contour|yaft)", term):
        return "sixel"
    return blocks


def is_live(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether this is a terminal on which a line can be written over."""
    try:
        return stream.isatty() and environ.get("TERM", "") not in ("", "dumb", "unknown")
    except ValueError:  # a closed stream
        return False


def draw(data: bytes, kind: Kind, columns: int, rows: int, cell: tuple[int, int], *, true_colour: bool) -> str:
    """Text that shows an encoded picture in columns x rows cells from the cursor on, leaving the cursor there."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    match kind:
        case "kitty":
            return _kitty(picture, columns, rows)
        case "iterm2":
            name = f"inline=1;width={columns};height={rows};preserveAspectRatio=0;doNotMoveCursor=1;size={len(data)}"
            return f"\x1b7\x1b]1337;File={name}:{base64.b64encode(data).decode()}\a\x1b8"
        case "sixel":
            return f"\x1b7{_sixel(picture.resize((columns * cell[0], rows * cell[1])))}\x1b8"
        case "blocks":
            lines = _blocks(picture.resize((columns, rows * 2), Image.Resampling.BOX), true_colour=true_colour)
            return "\r\x1b[B".join(lines) + "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "")
        case "none":
            return ""


def erase(kind: Kind) -> str:
    """Text that takes back what overwriting with blanks does not."""
    return f"\x1b_Ga=d,d=I,i={_KITTY_ID},q=2\x1b\\" if kind == "kitty" else ""


def _kitty(picture: "Image", columns: int, rows: int) -> str:
    packed = io.BytesIO()
    picture.save(packed, "PNG", compress_level=1)
    text = base64.b64encode(packed.getvalue()).decode()
    chunks = [text[start : start + _KITTY_CHUNK] for start in range(0, len(text), _KITTY_CHUNK)]
    # The same image and placement number again replaces what is shown; C=1 leaves the cursor, q=2 asks for no answer.
    keys = f"a=T,f=100,t=d,i={_KITTY_ID},p=1,c={columns},r={rows},C=1,q=2,"
    told = [
        f"\x1b_G{keys if k == 0 else ''}m={int(k < len(chunks) - 1)};{chunk}\x1b\\" for k, chunk in enumerate(chunks)
    ]
    return "".join(told)


def _blocks(picture: "Image", *, true_colour: bool) -> list[str]:
    """Rows of ▀: the upper pixel is the letter's colour, the lower one its background."""
    width, height = picture.size
    pixels = picture.tobytes()
    lines = []
    for y in range(0, height, 2):
        parts, last = [], ""
        for x in range(width):
            upper, lower = (tuple(pixels[3 * at : 3 * at + 3]) for at in (y * width + x, (y + 1) * width + x))
            colours = f"\x1b[{_colour(38, upper, true_colour)};{_colour(48, lower, true_colour)}m"
            parts.append("▀" if colours == last else colours + "▀")
            last = colours
        lines.append("".join(parts) + "\x1b[0m")
    return lines


def _colour(place: int, rgb: tuple[int, ...], true_colour: bool) -> str:
    if true_colour:
        return f"{place};2;{rgb[0]};{rgb[1]};{rgb[2]}"
    red, green, blue = (min(range(6), key=lambda step: abs(_CUBE[step] - value)) for value in rgb)
    return f"{place};5;{16 + 36 * red + 6 * green + blue}"


def _sixel(picture: "Image") -> str:
    """DEC's format: bands of six rows, in each one pass per colour, runs shortened."""
    import numpy as np

    paletted = picture.quantize(_SIXEL_COLOURS)
    width, height = paletted.size
    palette = paletted.getpalette() or []
    parts = [f'\x1bP0;1q"1;1;{width};{height}']
    for number in range(len(palette) // 3):
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * number : 3 * number + 3])
        parts.append(f"#{number};2;{red};{green};{blue}")
    indices = np.frombuffer(paletted.tobytes(), np.uint8).reshape(height, width)
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        weights = (1 << np.arange(len(band), dtype=np.uint8))[:, None]
        for number in np.unique(band):
            bits = ((band == number) * weights).sum(axis=0, dtype=np.uint8) + 63
            parts.append(f"#{number}{_shorter(bits.astype(np.uint8).tobytes().decode('ascii'))}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def _shorter(row: str) -> str:
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", row)
