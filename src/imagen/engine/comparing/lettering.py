"""Lettering: text in any script, drawn with the fonts there are, and never a crash for lack of a glyph."""

import subprocess
from bisect import bisect
from collections.abc import Iterator
from functools import cache, cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import bidirectional, category

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL import ImageDraw

FONTS = Path(__file__).parent / "fonts"
BOLD, PLAIN, WIDE = FONTS / "Inter-SemiBold.otf", FONTS / "Inter-Regular.otf", FONTS / "DejaVuSans.ttf"
JOINERS = "\u200c\u200d"  # said between letters and between emoji, to part or to join them
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls and line ends: nothing to see, much to go wrong
NOWHERE = "\uffff"  # no font has a glyph for it: what is drawn for it is drawn for everything that is missing
READ = 1000  # characters looked at: more than any sheet has room for, where a prompt may have 20,000
ELSEWHERE = (  # where systems without fontconfig keep fonts with many scripts
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc",
    "C:/Windows/Fonts/malgun.ttf",
    "C:/Windows/Fonts/seguisym.ttf",
)


class Lettering:
    """One size and weight of text."""

    def __init__(self, size: int, *, bold: bool = False) -> None:
        self.size = size
        self._first = [BOLD if bold else PLAIN, WIDE]

    @property
    def line_height(self) -> int:
        return round(self.size * 1.35)

    def width(self, text: str) -> float:
        """How wide the text will be."""
        return sum(self._run_width(font, run) for font, run in self._runs(text))

    def draw(self, canvas: "ImageDraw.ImageDraw", left: float, top: float, text: str, fill: str) -> None:
        """One line of text, its first baseline where it is for every font."""
        baseline = top + self.size
        for font, run in self._runs(text):
            if font is None:
                for character in run:
                    left += self._draw_missing(canvas, left, baseline, character, fill)
                continue
            canvas.text((left, baseline), run, font=font, fill=fill, anchor="ls")
            left += font.getlength(run)

    def fit(self, text: str, width: float) -> str:
        """The text, cut with … if it is wider than that."""
        text = _read(text)
        if self.width(text) <= width:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle].rstrip() + "…") <= width else (low, middle - 1)
        return text[:low].rstrip() + "…"

    def wrap(self, text: str, width: float, lines: int) -> list[str]:
        """Broken at spaces, or anywhere in a word that is wider than a line; the last line says if there was more."""
        rest = _read(" ".join(text.split()))
        told: list[str] = []
        while rest and len(told) < lines - 1:
            if self.width(rest) <= width:
                break
            here = self.fit(rest, width).removesuffix("…")
            cut = len(here) if rest[len(here) : len(here) + 1] == " " else here.rfind(" ")
            cut = cut if cut > 0 else max(1, len(here))
            told.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        return [*told, self.fit(rest, width)] if rest else told

    def _runs(self, text: str) -> Iterator[tuple[ImageFont.FreeTypeFont | None, str]]:
        """Stretches that one font can draw, from left to right; None for characters that none can."""
        runs: list[tuple[ImageFont.FreeTypeFont | None, str]] = []
        for character in text:
            if "\ufe00" <= character <= "\ufe0f":
                continue  # says which picture of a sign is meant; nothing to see by itself
            joins = character in JOINERS or category(character) in ("Mn", "Me", "Mc")
            if category(character) in INVISIBLE and not joins:
                character = " "
            current, run = runs[-1] if runs else (None, "")
            if joins and character in JOINERS and current is None:
                continue
            # A space stays with the letters before it, or the words of one font would be laid out one by one.
            stays = bool(run) and current is not None and (character == " " or joins)
            font = current if stays else self._font_for(character)
            if run and font is current:
                runs[-1] = current, run + character
            else:
                runs.append((font, character))
        yield from _visual(runs)

    def _font_for(self, character: str) -> ImageFont.FreeTypeFont | None:
        for path in self._first:
            font = _font(path, self.size)
            if font is not None and _has(path, character):
                return font
        found = _elsewhere(character)
        return _font(found, self.size) if found else None

    def _run_width(self, font: ImageFont.FreeTypeFont | None, run: str) -> float:
        return font.getlength(run) if font is not None else len(run) * self._missing_width

    @cached_property
    def _missing_width(self) -> float:
        return round(self.size * 0.9)

    def _draw_missing(
        self, canvas: "ImageDraw.ImageDraw", left: float, baseline: float, character: str, fill: str
    ) -> float:
        """A box with the character's number, so that it can at least be looked up."""
        tiny = _font(PLAIN, max(5, self.size // 3))
        code = f"{ord(character):04X}"
        width, top = self._missing_width, baseline - self.size * 0.75
        canvas.rectangle((left + 1, top, left + width - 2, baseline), outline=fill)
        if tiny is not None and self.size >= 14:
            middle = left + width / 2
            canvas.text((middle, top + self.size * 0.36), code[:-2], font=tiny, fill=fill, anchor="ms")
            canvas.text((middle, baseline - self.size * 0.06), code[-2:], font=tiny, fill=fill, anchor="ms")
        return width


def _read(text: str) -> str:
    return text if len(text) <= READ else text[:READ] + "…"


def _visual(runs: list[tuple[ImageFont.FreeTypeFont | None, str]]) -> list[tuple[ImageFont.FreeTypeFont | None, str]]:
    """Runs in the order in which they stand on the line; within one, Raqm does the same."""
    strong = [kind for _, run in runs for kind in map(bidirectional, run) if kind in ("L", "R", "AL")]
    if strong.count("L") == len(strong):
        return runs
    line = strong[0] != "L"  # the first letter decides for the whole line
    # Spaces between runs go with the line, not with the run before them.
    parts = [
        (font, part)
        for font, run in runs
        for part in (run.rstrip(" "), " " * (len(run) - len(run.rstrip(" "))))
        if part
    ]
    ways = [_way(run) for _, run in parts]
    for place, way in enumerate(ways):
        if way is None:
            after = next((later for later in ways[place + 1 :] if later is not None), None)
            ways[place] = after if place and after == ways[place - 1] else line
    ordered = list(zip(parts, ways, strict=True))
    if line:
        ordered.reverse()
    placed: list[tuple[ImageFont.FreeTypeFont | None, str]] = []
    for way, group in groupby(ordered, key=lambda item: item[1]):
        stretch = [part for part, _ in group]
        placed += stretch if way == line else reversed(stretch)
    return placed


def _way(run: str) -> bool | None:
    """True for right-to-left, None where nothing says."""
    kinds = (bidirectional(character) for character in run)
    return next((kind in ("R", "AL") for kind in kinds if kind in ("R", "AL", "L", "EN", "AN")), None)


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        # Raqm joins Arabic letters and turns right-to-left text round; where it is missing the letters stand alone.
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.RAQM)
    except OSError:
        return None  # not a font, or one of fixed pictures, as emoji often are


@cache
def _has(path: Path, character: str) -> bool:
    if character == " ":
        return True
    font = _plain(path)
    return font is not None and bytes(font.getmask(character)) != bytes(font.getmask(NOWHERE))


@cache
def _plain(path: Path) -> ImageFont.FreeTypeFont | None:
    try:
        # The plain engine: Raqm puts a dotted circle under a lone mark, which would pass for a glyph.
        return ImageFont.truetype(str(path), 24, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return None


_HELPED: list[Path] = []


@cache
def _elsewhere(character: str) -> Path | None:
    """A font of this system that has the character."""
    # A font that helped before usually helps again, and asking fontconfig costs a process.
    for path in _HELPED:
        if _has(path, character):
            return path
    for path in (*_by_fontconfig(character), *map(Path, ELSEWHERE)):
        if path.exists() and _has(path, character):
            _HELPED.append(path)
            return path
    return None


def _by_fontconfig(character: str) -> Iterator[Path]:
    """Up to four fonts that say they have it."""
    code = ord(character)
    having = (path for path, starts, ends in _fontconfig() if starts[0] <= code <= ends[bisect(starts, code) - 1])
    return islice(having, 4)


@cache
def _fontconfig() -> tuple[tuple[Path, list[int], list[int]], ...]:
    """Every font with the first and the last character of each stretch it has: asked once, for asking is a process."""
    wanted = [":scalable=true", "file", "charset"]
    try:
        told = subprocess.run(["fc-list", *wanted], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ()
    fonts = []
    for line in sorted(told.splitlines()):
        path, _, charset = line.rpartition(": :charset=")
        spans = [[int(end, 16) for end in span.split("-")] for span in charset.split(":")[0].split()]
        if path and spans:
            fonts.append((Path(path), [span[0] for span in spans], [span[-1] for span in spans]))
    # Sans before Serif before the rest, and nothing italic, to keep one voice.
    fonts.sort(key=lambda font: _oddity(str(font[0])))
    return tuple(fonts)


def _oddity(path: str) -> tuple[bool, bool, bool]:
    return "Sans" not in path, "Italic" in path or "Oblique" in path, "Bold" in path
