"""The contact sheet: pictures side by side on a light table, each with its name and what it took."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path

from PIL import Image, ImageDraw

from imagen.core.errors import MissingFile
from imagen.engine.comparing.lettering import Lettering
from imagen.previews.decode import Unreadable, decode
from imagen.previews.encode import encode_png

GROUND, INK, QUIET, LINE = "#f7f6f3", "#1f1f22", "#75737a", "#e4e2dc"
TROUBLE_GROUND, TROUBLE_INK = "#f6e7e1", "#8f3b1d"

CELL_PX = 512  # the largest a picture is shown
SMALL_PX = 224  # below that a caption has no room, unless there are very many
SMALLEST_PX = 96
SHEET_PX = 3600  # how wide a sheet gets before its pictures shrink
MAX_PIXELS = 40_000_000  # 120 MB while drawing; our own reader takes up to 67 million
MAX_HEIGHT_PX = 16_000  # taller ones are not opened by many viewers
MAX_CELLS = 1_000  # at the smallest size, beyond which nobody looks; the title says how many were left out
LOST = "the picture is not there any more"
THREADS = 2  # decoding lets go of the interpreter; more threads only cost memory

Picture = bytes | Path | Callable[[], bytes] | None  # a function is called when the picture's turn comes


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetCell:
    """One picture, or why there is none."""

    row: int
    column: int
    label: str
    latency_s: float | None = None
    seed: int | None = None
    size: tuple[int, int] | None = None
    picture: Picture = None
    error: str | None = None
    note: str = ""


def draw_sheet(title: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[SheetCell]) -> bytes:
    """The sheet as PNG. `rows` are headings, which may be empty; one row of many cells is wrapped like text."""
    if len(cells) > MAX_CELLS:
        rows, columns = rows[: max(1, MAX_CELLS // max(1, len(columns)))], columns[:MAX_CELLS]
        kept = [cell for cell in cells if cell.row < len(rows) and cell.column < len(columns)]
        title, cells = f"The first {len(kept)} of {len(cells)}: {title}", kept
    wide, high = len(columns), len(rows)
    if wide == 1 and high > 4:
        # One model and many seeds or prompts: a strip nobody can look at, so it is laid out like one long row.
        cells = [replace(cell, row=0, column=cell.row, note=_told(rows[cell.row], cell)) for cell in cells]
        wide, high, rows = high, 1, [""]
    if high == 1 and not rows[0] and wide > 4:
        count, wide = wide, _wrapped(wide)
        cells = [replace(cell, row=cell.column // wide, column=cell.column % wide) for cell in cells]
        high = ceil(count / wide)
        rows = [""] * high
    plan = _Plan.of(title, rows, wide, cells)
    sheet = Image.new("RGB", (plan.width, plan.height), GROUND)
    canvas = ImageDraw.Draw(sheet)
    top = plan.margin
    for line in plan.title:
        plan.title_text.draw(canvas, plan.margin, top, line, INK)
        top += plan.title_text.line_height
    with ThreadPoolExecutor(THREADS) as pool:
        shown = list(pool.map(lambda cell: _picture(cell, plan), cells))
    for cell, picture in zip(cells, shown, strict=True):
        _draw_cell(sheet, canvas, plan, cell, picture)
    for row, heading in enumerate(rows):
        for number, line in enumerate(plan.heading_text.wrap(heading, plan.inner, 2)):
            y = plan.tops[row] - plan.heading_height + number * plan.heading_text.line_height
            plan.heading_text.draw(canvas, plan.margin, y, line, INK)
    return encode_png(sheet.tobytes(), sheet.width, sheet.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Where everything goes."""

    cell: int
    box: int  # height of the place for a picture
    gap: int
    margin: int
    width: int
    height: int
    inner: int
    tops: tuple[int, ...]
    title: tuple[str, ...]
    heading_height: int
    title_text: Lettering
    heading_text: Lettering
    label_text: Lettering
    small_text: Lettering
    trouble_text: Lettering

    @classmethod
    def of(cls, title: str, rows: Sequence[str], wide: int, cells: Sequence[SheetCell]) -> "_Plan":
        ratios = [cell.size[1] / cell.size[0] for cell in cells if cell.size and min(cell.size) > 0]
        ratio = min(max(ratios, default=1.0), 1.5)
        widest = max((cell.size[0] for cell in cells if cell.size), default=CELL_PX)
        # Small pictures get small places: they are never blown up, and never stand lost in a large one.
        cell = min(CELL_PX, max(SMALL_PX, widest), max(SMALLEST_PX, SHEET_PX // max(wide, 1)))
        while cell > SMALLEST_PX:
            height = len(rows) * (cell * (ratio + 0.2) + 60)  # 60: headings and captions, which shrink less
            if height <= MAX_HEIGHT_PX and height * wide * cell * 1.07 <= MAX_PIXELS:
                break
            cell = max(SMALLEST_PX, round(cell * 0.9))
        gap = max(12, cell // 16)
        margin = max(24, cell // 11)
        label = Lettering(max(12, cell // 23), bold=True)
        small = Lettering(max(10, cell // 29))
        # A sheet of one small picture is still wide enough to say what it shows.
        inner = max(wide * cell + (wide - 1) * gap, min(CELL_PX, 3 * cell))
        headline = Lettering(max(18, min(44, inner // 34)), bold=True)
        heading = Lettering(max(14, cell // 22), bold=True)
        lines = headline.wrap(title, inner, 3)
        heading_lines = max((len(heading.wrap(row, inner, 2)) for row in rows), default=0)
        heading_height = heading_lines * heading.line_height + (gap // 2 if heading_lines else 0)
        small_lines = max((len(_facts(cell_, small, cell)) for cell_ in cells), default=1)
        box = max(48, round(cell * ratio))
        caption = gap // 2 + label.line_height + small_lines * small.line_height
        first = margin + len(lines) * headline.line_height + gap
        pitch = heading_height + box + caption + gap
        return cls(
            cell=cell,
            box=box,
            gap=gap,
            margin=margin,
            width=inner + 2 * margin,
            height=first + pitch * len(rows) - gap + margin,
            inner=inner,
            tops=tuple(first + row * pitch + heading_height for row in range(len(rows))),
            title=tuple(lines),
            heading_height=heading_height,
            title_text=headline,
            heading_text=heading,
            label_text=label,
            small_text=small,
            trouble_text=Lettering(max(10, cell // 25)),
        )


def _told(heading: str, cell: SheetCell) -> str:
    """The cell's note with its row's heading, unless the facts say the same."""
    return " · ".join(part for part in (heading if heading != f"seed {cell.seed}" else "", cell.note) if part)


def _wrapped(count: int) -> int:
    """How many columns for one long row: a little wider than high, with the fewest empty places at the end."""
    ideal = sqrt(count * 1.4)
    candidates = range(max(3, round(ideal * 0.8), ceil(count / 60)), max(4, ceil(ideal * 1.25), ceil(count / 60)) + 1)
    return min(candidates, key=lambda wide: (-count % wide, abs(wide - ideal)))


def _picture(cell: SheetCell, plan: _Plan) -> Image.Image | str:
    if cell.picture is None:
        return cell.error or cell.note or "no picture"
    try:
        source = cell.picture() if callable(cell.picture) else cell.picture
        return decode(source, fit=(plan.cell, plan.box))
    except (FileNotFoundError, MissingFile):
        return cell.error or LOST
    except OSError as exc:
        return cell.error or f"the picture cannot be read: {exc.strerror}"
    except Unreadable as exc:
        return cell.error or f"the picture cannot be shown: {exc}"


def _draw_cell(
    sheet: Image.Image, canvas: ImageDraw.ImageDraw, plan: _Plan, cell: SheetCell, picture: Image.Image | str
) -> None:
    left = plan.margin + cell.column * (plan.cell + plan.gap)
    top = plan.tops[cell.row]
    if isinstance(picture, str):
        _draw_trouble(canvas, plan, left, top, picture)
    else:
        # Pictures stand on one line, so that captions keep their rhythm under pictures of any shape.
        at = (left + (plan.cell - picture.width) // 2, top + plan.box - picture.height)
        sheet.paste(picture, at, picture if picture.mode == "RGBA" else None)
        canvas.rectangle((at[0] - 1, at[1] - 1, at[0] + picture.width, at[1] + picture.height), outline=LINE)
    y = top + plan.box + plan.gap // 2
    trouble = isinstance(picture, str) and cell.error is not None
    label = plan.label_text.fit(cell.label, plan.cell)
    plan.label_text.draw(canvas, left, y, label, TROUBLE_INK if trouble else INK)
    y += plan.label_text.line_height
    for line in _facts(cell, plan.small_text, plan.cell):
        plan.small_text.draw(canvas, left, y, line, QUIET)
        y += plan.small_text.line_height


def _draw_trouble(canvas: ImageDraw.ImageDraw, plan: _Plan, left: int, top: int, message: str) -> None:
    canvas.rounded_rectangle(
        (left, top, left + plan.cell - 1, top + plan.box - 1), radius=max(4, plan.cell // 40), fill=TROUBLE_GROUND
    )
    inset = plan.cell // 12
    most = max(1, (plan.box - 2 * inset) // plan.trouble_text.line_height)
    lines = plan.trouble_text.wrap(message, plan.cell - 2 * inset, most)
    y = top + (plan.box - len(lines) * plan.trouble_text.line_height) // 2
    for line in lines:
        plan.trouble_text.draw(canvas, left + inset, y, line, TROUBLE_INK)
        y += plan.trouble_text.line_height


def _facts(cell: SheetCell, text: Lettering, width: int) -> list[str]:
    """Latency first; then as many facts to a line as fit."""
    facts = []
    if cell.latency_s is not None:
        facts.append(_seconds(cell.latency_s))
    if cell.seed is not None:
        facts.append(f"seed {cell.seed}")
    if cell.size is not None:
        facts.append(f"{cell.size[0]}×{cell.size[1]}")
    if cell.note:
        facts.append(cell.note)
    lines: list[str] = []
    for fact in facts:
        longer = f"{lines[-1]} · {fact}" if lines else fact
        if lines and text.width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(text.fit(fact, width))
    return lines


def _seconds(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
