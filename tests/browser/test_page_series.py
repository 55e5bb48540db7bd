"""Compare at /imagine: choose several models, watch the cells fill, mend what failed, lay two over each other."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.http_kit import get
from tests.page_kit import PHONE, Person, apart, picture, violations
from tests.service_kit import House

pytestmark = pytest.mark.needs_browser

SLOW: dict[str, Any] = {"slow": {"type": "float", "range": [0, 3600], "default": 2.0}}
FAILS = SLOW | {"fail": {"type": "str", "default": "rejected"}}
WORKS = SLOW | {"fail": {"type": "str", "default": ""}}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("series")) as house:
        house.model("sound", title="Sound", options=WORKS)
        house.model("second", title="Second", options=WORKS, palette="cool")
        house.model("frail", title="Frail", options=FAILS)
        house.serve()
        yield house


@pytest.fixture
def person(browser: Browser, house: House) -> Iterator[Person]:
    person = Person(browser, house.processes[0].url, accept_downloads=True)
    yield person
    person.context.close()
    assert person.faults == []


def _compares(tab: Page, words: str, *titles: str) -> None:
    tab.locator("[data-panel=model]").click()
    tab.get_by_role("button", name="Compare several").click()
    for option in tab.locator(".model[aria-selected=true]").all():
        option.click()
    for title in titles:
        tab.get_by_label("Find a model").fill(title)
        tab.get_by_role("option", name=title).first.click()
    tab.keyboard.press("Escape")
    tab.get_by_label("What would you like to see?").fill(words)
    tab.get_by_role("button", name="Compare", exact=True).click()
    tab.locator(".grid table").wait_for()


def test_three_models_and_one_fails(person: Person, house: House) -> None:
    """Cells fill as they are drawn; what failed says why and is drawn again alone; a model is added."""
    tab = person.opens()
    _compares(tab, "one hill, three hands", "Sound", "Second", "Frail")
    assert "/imagine/series/" in tab.url
    first = tab.locator(".spot .frame").first
    before = picture(first)
    tab.locator(".cell-of[data-state=running] .layer.in").first.wait_for()
    tab.locator(".cell-of[data-state=failed]").wait_for()
    expect(tab.locator(".cell-of[data-state=completed] .layer.final")).to_have_count(2)
    assert apart(before, picture(first)) > 5
    expect(tab.locator(".cell-of[data-state=failed] .said")).to_contain_text("refuses this prompt")
    expect(tab.get_by_role("status").filter(has_text="2 of 3 drawn, 1 failed")).to_be_visible()
    assert violations(tab) == []

    failed = tab.locator(".cell-of[data-state=failed]")
    old = failed.get_attribute("data-job") or ""
    tab.get_by_role("button", name="Draw the failed one again").click()
    expect(failed).not_to_have_attribute("data-job", old)
    failed.wait_for()
    expect(tab.locator(".cell-of[data-state=completed]")).to_have_count(2)

    add = tab.get_by_role("button", name="Add", exact=True)
    expect(add).to_be_disabled()
    tab.get_by_label("Add a model").focus()
    tab.keyboard.press("ArrowDown")  # chooses, and draws nothing yet
    expect(add).to_be_enabled()
    tab.get_by_label("Add a model").select_option("mock-warm")
    expect(tab.locator(".cell-of")).to_have_count(3)
    add.click()
    expect(tab.locator(".cell-of[data-state=completed] .layer.final")).to_have_count(3)
    tab.reload()
    expect(tab.locator(".cell-of[data-state=completed] .layer.final")).to_have_count(3)

    tab.get_by_label("Look at it: Sound").click()
    tab.get_by_role("button", name="Delete").click()
    tab.get_by_role("button", name="Really delete?").click()
    tab.keyboard.press("Escape")
    expect(tab.locator(".frame.lost[data-words='This picture was deleted']")).to_have_count(1)
    expect(tab.get_by_role("status").filter(has_text="3 of 4 drawn, 1 failed, 1 deleted")).to_be_visible()
    assert violations(tab) == []


def test_two_pictures_one_over_the_other(person: Person) -> None:
    """The slider shows more of one or of the other; the keyboard moves it."""
    tab = person.opens()
    _compares(tab, "a valley [slow:0]", "Sound", "Second")
    expect(tab.locator(".cell-of[data-state=completed] .layer.final")).to_have_count(2)
    armed = tab.get_by_text("Now press A/B on another one")
    first, second = tab.locator(".ab").all()
    first.click()
    expect(armed).to_be_visible()
    first.hover()
    assert violations(tab) == []
    tab.keyboard.press("Escape")
    expect(armed).to_be_hidden()
    first.click()
    second.click()
    both = tab.locator(".both")
    tab.wait_for_timeout(300)
    middle = picture(both)
    assert violations(tab) == []
    tab.keyboard.press("Home")
    one = picture(both)
    tab.keyboard.press("End")
    other = picture(both)
    assert min(apart(one, other), apart(one, middle), apart(other, middle)) > 3
    tab.go_back()
    expect(both).to_have_count(0)
    expect(tab.locator(".grid table")).to_be_visible()
    tab.get_by_label("Look at it: Second").click()
    expect(tab.locator("dialog.viewer dl")).to_contain_text("Second")


def test_one_size_for_all_that_are_compared(person: Person) -> None:
    """Each its own, unless a shape is chosen that all of them draw; a negative goes to those that take one."""
    tab = person.opens("/imagine/series")
    tab.get_by_role("button", name="Compare models").click()
    tab.get_by_label("What would you like to see?").fill("alone")
    expect(tab.get_by_role("button", name="Compare", exact=True)).to_be_disabled()
    expect(tab.locator("[data-panel=model]")).to_contain_text("Tick at least two")
    tab.locator(".chips").get_by_role("button", name="Only one").click()
    expect(tab.get_by_role("button", name="Draw", exact=True)).to_be_enabled()
    tab.locator("[data-panel=model]").click()
    tab.get_by_role("button", name="Compare several").click()
    for option in tab.locator(".model[aria-selected=true]").all():
        option.click()
    for title in ("Sound", "Tiny, 3D"):
        tab.get_by_label("Find a model").fill(title)
        option = tab.get_by_role("option", name=title).first
        if option.get_attribute("aria-selected") != "true":
            option.click()
    tab.keyboard.press("Escape")
    shape = tab.locator("[data-panel=shape]")
    expect(shape).to_contain_text("Each its own")
    shape.click()
    assert violations(tab) == []
    tab.get_by_role("button", name="16:9").click()
    wide, high = (int(side) for side in re.findall(r"\d+", shape.inner_text()))
    assert abs(wide / high - 16 / 9) < 0.03
    tab.locator("[data-panel=more]").click()
    tab.get_by_label("What should not be seen").fill("people")
    tab.keyboard.press("Escape")
    tab.get_by_label("What would you like to see?").fill("wide [slow:0]")
    tab.get_by_role("button", name="Compare", exact=True).click()
    expect(tab.locator(".cell-of[data-state=completed] .layer.final").first).to_be_visible()
    cells = get(f"{person.url}/v1/series/{tab.url.rsplit('/', 1)[1]}")["cells"]
    asked = [cell["job"]["request"] for cell in cells]
    assert {(one["model"], one["width"], one["height"], one["negative"]) for one in asked} == {
        ("sound", wide, high, ""),  # it takes none, and says so
        ("tiny-3d", wide, high, "people"),
    }


def test_sheet_and_data_are_kept(person: Person) -> None:
    """Two files with names that say what they are."""
    tab = person.opens()
    _compares(tab, "to keep [slow:0]", "Sound", "Second")
    expect(tab.locator(".cell-of[data-state=completed] .layer.final")).to_have_count(2)
    with tab.expect_download() as sheet:
        tab.get_by_role("button", name="Contact sheet").click()
    assert sheet.value.suggested_filename == "to-keep-slow-0.png"
    assert sheet.value.path().read_bytes().startswith(b"\x89PNG")
    with tab.expect_download() as data:
        tab.get_by_role("button", name="Data").click()
    assert len(json.loads(data.value.path().read_bytes())["cells"]) == 2
    tab.get_by_role("link", name="Compare").click()
    expect(tab.get_by_role("link", name="to keep")).to_be_visible()
    expect(tab.get_by_role("link", name="to keep").locator(".few img")).to_have_count(2)


def test_words_without_end(person: Person) -> None:
    """Three lines of them above the pictures and two in the list; all of them after a press."""
    tab = person.opens()
    _compares(tab, "a river that goes on [slow:0] " * 60, "Sound", "Second")
    heading = tab.locator("h1")
    low = heading.bounding_box()
    tab.get_by_role("button", name="All of it").click()
    high = heading.bounding_box()
    assert low is not None
    assert high is not None
    assert low["height"] < 100 < high["height"]
    tab.get_by_role("button", name="Less of it").click()
    assert heading.bounding_box() == low
    tab.goto(f"{person.url}/imagine/series/")
    line = tab.locator(".lines li").first.bounding_box()
    assert line is not None
    assert line["height"] < 120


def test_on_a_phone(browser: Browser, person: Person) -> None:
    """The grid scrolls inside the page, the rest of a comparison is cancelled with one touch, and axe is content."""
    phone = Person(browser, person.url, **PHONE, color_scheme="dark")
    tab = phone.opens()
    _compares(tab, "small [slow:60]", "Sound", "Second")
    tab.locator(".cell-of[data-state=running]").wait_for()
    assert violations(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    tab.get_by_role("button", name="Cancel the rest").tap()
    expect(tab.locator(".cell-of[data-state=cancelled]")).to_have_count(2)
    phone.context.close()
    assert phone.faults == []


def test_a_comparison_that_is_not_there(person: Person) -> None:
    """A person is shown the way to those that are."""
    tab = person.opens("/imagine/series/01J")
    expect(tab.get_by_role("heading", name="There is no such comparison")).to_be_visible()
    tab.get_by_role("link", name="See all comparisons").click()
    expect(tab.get_by_role("button", name="Compare models")).to_be_visible()
    person.faults = [fault for fault in person.faults if "status of 404" not in fault]  # Chromium's own line
