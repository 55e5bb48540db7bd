"""The contact sheet: readable at any number of cells and in any script, and never the reason why something fails."""

import io
import time
from pathlib import Path

import pytest
from PIL import Image

from imagen.engine.comparing.lettering import Lettering
from imagen.engine.comparing.sheet import TROUBLE_GROUND, SheetCell, draw_sheet

RED, GREEN = (200, 30, 40), (20, 160, 70)


def picture(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 64)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def cell(row: int = 0, column: int = 0, **what: object) -> SheetCell:
    usual: dict[str, object] = {"label": "m", "latency_s": 1.5, "seed": 7, "size": (64, 64), "picture": picture()}
    return SheetCell(row=row, column=column, **(usual | what))  # type: ignore[arg-type]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def share(image: Image.Image, colour: tuple[int, int, int]) -> float:
    counted = image.getcolors(image.width * image.height) or []
    return sum(count for count, seen in counted if seen == colour) / (image.width * image.height)


def test_pictures_stand_in_their_columns() -> None:
    """The first is on the left, the second on the right."""
    sheet = opened(
        draw_sheet(
            "two", [""], ["a", "b"], [cell(), cell(column=1, picture=picture(GREEN, (512, 512)), size=(512, 512))]
        )
    )
    left, right = sheet.crop((0, 0, sheet.width // 2, sheet.height)), sheet.crop((sheet.width // 2, 0, *sheet.size))
    assert share(left, RED) > 0
    assert share(left, GREEN) == 0
    assert share(right, GREEN) > 0.2


@pytest.mark.parametrize("count", [36, 400])
def test_many_seeds_of_one_model_are_wrapped_too(count: int) -> None:
    """One column of many rows is no tower: viewers refuse those."""
    rows = [f"seed {number}" for number in range(count)]
    sheet = opened(draw_sheet("tall", rows, ["m"], [cell(row=n, picture=picture(size=(8, 8))) for n in range(count)]))
    assert sheet.height < 16_000
    assert sheet.height < 4 * sheet.width


def test_a_right_to_left_phrase_keeps_its_order() -> None:
    """Its words are laid out as one phrase, not one by one from the left."""
    text = Lettering(24)
    phrase = "שועל בשלג"
    assert "".join(run for _, run in text._runs(phrase)).strip() == phrase
    mixed = [run.strip() for _, run in text._runs("שועל 35 mm") if run.strip()]
    assert mixed[-1] == "שועל"


def test_small_pictures_stand_in_small_places() -> None:
    """They are not blown up, and not lost in the middle of nothing."""
    small = [cell(column=n, picture=picture(size=(320, 200)), size=(320, 200)) for n in range(3)]
    assert share(opened(draw_sheet("small", [""], ["a", "b", "c"], small)), RED) > 0.4


def test_a_failed_cell_shows_its_error() -> None:
    """Where the picture would be, there is a tinted place with words in it, different for different errors."""
    told = [
        draw_sheet("one", [""], ["a"], [cell(picture=None, error=error)])
        for error in ("the device is out of memory", "nobody answers")
    ]
    tint = tuple(bytes.fromhex(TROUBLE_GROUND[1:]))
    assert share(opened(told[0]), tint) > 0.2  # type: ignore[arg-type]
    assert told[0] != told[1]


@pytest.mark.parametrize("broken", [b"", b"no picture", picture()[:60], Path("/nowhere/at/all.png")])
def test_a_picture_that_cannot_be_read_harms_no_other(broken: bytes | Path) -> None:
    """The sheet is drawn, with the others in it."""
    sheet = opened(draw_sheet("two", [""], ["a", "b"], [cell(picture=broken), cell(column=1, picture=picture(GREEN))]))
    assert share(sheet, GREEN) > 0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 12, 36, 61, 400])
def test_any_number_of_cells_gives_a_sheet_of_sensible_size(count: int) -> None:
    """Pictures shrink before the sheet becomes unviewable, and every cell is on it."""
    small = picture(size=(8, 8))
    cells = [cell(column=number, picture=small) for number in range(count)]
    sheet = opened(draw_sheet("many", [""], [str(n) for n in range(count)], cells))
    assert sheet.width * sheet.height < 110_000_000
    assert max(sheet.size) < 20_000
    assert share(sheet, RED) * sheet.width * sheet.height == pytest.approx(64 * count, rel=0.01)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "一只狐狸在雪地里",
        "лиса в снегу",
        "ثعلب في الثلج",
        "שועל בשלג",
        "बर्फ में एक लोमड़ी",
        "🦊👨‍👩‍👧 in the snow",
        "\U000f1234\U0010ffff private",
        "a\tb\nc\u200f\u0301\u202e",
        "word" * 500,
        "many words " * 500,
    ],
)
def test_any_text_can_be_a_title_a_label_and_an_error(words: str) -> None:
    """No script, no length and no lack of a font is a crash, and text never leaves the sheet."""
    cells = [cell(label=words), cell(column=1, picture=None, error=words, note=words)]
    sheet = opened(draw_sheet(words, [words], ["a", "b"], cells))
    edge = sheet.crop((sheet.width - 8, 0, *sheet.size))
    assert len(edge.getcolors() or []) == 1


def test_a_character_that_no_font_has_becomes_a_box() -> None:
    """It takes room and ink: one can see that something stands there."""
    text = Lettering(24)
    assert text.width("\U0010fffe") > 10


def test_wrapping_loses_no_word() -> None:
    """Broken at spaces while the lines last; the last line says that there is more."""
    text = Lettering(16)
    words = "the quick brown fox jumps over the lazy dog"
    assert " ".join(text.wrap(words, 90, 99)) == words
    assert all(text.width(line) <= 90 for line in text.wrap(words, 90, 99))
    cut = text.wrap(words, 90, 2)
    assert len(cut) == 2
    assert cut[-1].endswith("…")
    assert "".join(text.wrap("x" * 300, 90, 99)) == "x" * 300


def test_a_prompt_as_long_as_a_book_costs_no_more_than_a_page() -> None:
    """Only as much of it is looked at as there may be room for, and the last line says that there is more."""
    signs = [chr(code) for code in range(0x100, 0x2000) if chr(code).isprintable()]
    text = Lettering(14)
    text.wrap("".join(signs), 300, 2)  # fonts are looked for once
    took = []
    for words in ("".join(signs[:1200]), "".join(signs) * 40):
        began = time.perf_counter()
        lines = text.wrap(words, 300, 2)
        took.append(time.perf_counter() - began)
        assert lines[-1].endswith("…")
    assert took[1] < 10 * took[0]
