"""Pictures that were drawn, at /imagine: looked at, drawn again, deleted elsewhere, and found when a server is back."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.http_kit import get, post
from tests.page_kit import AWAY, Person
from tests.service_kit import House, free_port

pytestmark = pytest.mark.needs_browser

GONE = "status of 410"  # Chromium's own line about a picture that was deleted
SEED = "dialog.viewer dl div:has-text('Seed') dd"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("pictures")) as house:
        house.serve()
        yield house


@pytest.fixture
def person(browser: Browser, house: House) -> Iterator[Person]:
    person = Person(browser, house.processes[0].url)
    yield person
    person.context.close()
    assert [fault for fault in person.faults if GONE not in fault] == []


def drawn(url: str, prompt: str, **more: Any) -> dict[str, Any]:
    asked = {"prompt": prompt, "model": "tiny-3d", "width": 64, "height": 64, "steps": 2, **more}
    job: dict[str, Any] = post(f"{url}/v1/jobs", asked, {"Prefer": "wait=30"})
    assert job["state"] == "completed"
    return job


def deleted(url: str, job: dict[str, Any]) -> None:
    with urlopen(Request(f"{url}/v1/images/{job['images'][0]['id']}", method="DELETE"), timeout=10) as answer:
        assert answer.status < 300


def found(tab: Page, words: str, count: int = 1) -> None:
    with tab.expect_response(lambda answer: "q=" in answer.url):
        tab.get_by_label("Find pictures by their words").fill(words)
    expect(tab.locator(".print")).to_have_count(count)


def looked_at(tab: Page, words: str) -> None:
    found(tab, words)
    tab.locator(".print").click()
    tab.locator("dialog.viewer .prompt").wait_for()


def test_back_closes_the_picture(person: Person) -> None:
    """Back leads out of the picture and leaves the view under it as it was; once more leads to the view before."""
    drawn(person.url, "a kite")
    tab = person.opens()
    tab.get_by_role("link", name="Gallery").click()
    looked_at(tab, "a kite")
    tab.go_back()
    expect(tab.locator("dialog.viewer")).to_have_count(0)
    expect(tab.get_by_label("Find pictures by their words")).to_have_value("a kite")
    tab.locator(".print").click()
    tab.keyboard.press("Escape")
    expect(tab.locator("dialog.viewer")).to_have_count(0)
    tab.get_by_role("link", name="Draw").click()
    expect(tab.get_by_label("What would you like to see?")).to_be_visible()
    tab.go_back()
    expect(tab.get_by_label("Find pictures by their words")).to_have_value("a kite")  # its address says so
    expect(tab.locator(".print")).to_have_count(1)


def test_reproduce_shows_the_new_picture_and_no_other(person: Person) -> None:
    """From the gallery, with another picture on the stage; a comparison keeps the picture it was made with."""
    series = post(f"{person.url}/v1/series", {"prompt": "a robot", "models": ["tiny-3d", "tiny-flat"], "seed": 5})
    url = f"{person.url}/v1/series/{series['id']}"
    give_up = time.monotonic() + 30
    while (before := get(url))["state"] != "completed":
        assert time.monotonic() < give_up
        time.sleep(0.1)
    banana = drawn(person.url, "a banana")
    tab = person.opens()
    tab.locator(f".easel[data-job='{banana['id']}']").wait_for()
    tab.goto(f"{person.url}/imagine/series/{series['id']}")
    tab.get_by_label("Look at it: Tiny, 3D").click()
    tab.get_by_role("button", name="Reproduce").click()
    expect(tab.get_by_text("The same picture, pixel by pixel")).to_be_visible()
    expect(tab.locator(".toast")).to_have_count(1)  # and no longer that it is drawn
    expect(tab.locator("dialog.viewer")).to_have_count(1)  # said where it was asked
    tab.get_by_role("button", name="Look at it", exact=True).click()
    tab.locator(f".easel[data-state=completed]:not([data-job='{banana['id']}'])").wait_for()
    again = tab.locator(".easel[data-state=completed]").get_attribute("data-job")
    assert get(f"{person.url}/v1/jobs/{again}")["retry_of"] == before["cells"][0]["job"]["id"]
    assert get(url) == before


def test_a_picture_that_was_deleted_elsewhere(person: Person) -> None:
    """It is said to be deleted where it was shown, and where it is opened; nothing looks as if it were coming."""
    job = drawn(person.url, "a short-lived thing")
    other = drawn(person.url, "what stays")
    tab = person.opens()
    tab.get_by_role("link", name="Gallery").click()
    found(tab, "a short-lived thing")
    deleted(person.url, job)
    tab.locator(".print").click()
    expect(tab.get_by_text("This picture was deleted")).to_be_visible()
    tab.keyboard.press("Escape")
    tab.get_by_role("link", name="Draw").click()
    tab.locator(f".easel[data-job='{other['id']}'] .layer.final").wait_for()
    deleted(person.url, other)
    tab.reload()
    expect(tab.get_by_role("button", name="what stays")).to_have_count(0)
    expect(tab.locator(f".easel[data-job='{other['id']}'] .frame.lost")).to_have_count(1)


def test_many_that_wait_hide_nothing(person: Person) -> None:
    """Fifty jobs of somebody else: some of them are in the strip, the pictures too; thumbnails go with their jobs."""
    picture = drawn(person.url, "mine and here")
    tab = person.opens()
    first = post(f"{person.url}/v1/jobs", {"prompt": "holds the line [slow:60]", "model": "mock"})["id"]
    jobs = [post(f"{person.url}/v1/jobs", {"prompt": f"waits {n}", "model": "mock"})["id"] for n in range(50)]
    mine = tab.locator(".thumb[aria-label^='mine and here']")
    try:
        expect(tab.locator(".thumb[data-state=queued]")).to_have_count(7)
        expect(mine).to_have_count(1)
    finally:
        for job in [*jobs, first]:
            post(f"{person.url}/v1/jobs/{job}/cancel", {})
    expect(tab.locator(".thumb:not([data-state=completed])")).to_have_count(0)
    mine.click()
    tab.locator(f".easel[data-job='{picture['id']}'] .layer.final").wait_for()


def test_a_picture_that_comes_takes_nothing_away(person: Person) -> None:
    """While somebody walks through the gallery with the keyboard, a new picture comes; the walk goes on."""
    for number in range(3):
        drawn(person.url, f"walk {number}")
    tab = person.opens("/imagine/gallery")
    found(tab, "walk", 3)
    tab.locator(".print").first.focus()
    tab.keyboard.press("ArrowRight")
    here = tab.locator(".print:focus")
    expect(here).to_have_attribute("aria-label", "walk 1")
    drawn(person.url, "walk 3")
    expect(tab.locator(".print")).to_have_count(4)
    expect(here).to_have_attribute("aria-label", "walk 1")
    tab.keyboard.press("ArrowRight")
    expect(here).to_have_attribute("aria-label", "walk 0")


def test_zoom_and_move(person: Person) -> None:
    """A click zooms, the pointer moves what is zoomed, many small turns of a wheel are one step."""
    drawn(person.url, "from near", width=256, height=256)
    tab = person.opens("/imagine/gallery")
    looked_at(tab, "from near")
    pane, image = tab.locator("dialog.viewer .pane"), tab.locator("dialog.viewer .full")
    image.click()
    expect(pane).to_have_class("pane zoomed")
    box = pane.bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    before = pane.evaluate("pane => [pane.scrollLeft, pane.scrollTop]")
    tab.mouse.move(*middle)
    tab.mouse.down()
    tab.mouse.move(middle[0] - 80, middle[1] - 60, steps=4)
    tab.mouse.up()
    expect(pane).to_have_class("pane zoomed")  # moving is no click
    after = pane.evaluate("pane => [pane.scrollLeft, pane.scrollTop]")
    assert [round(new - old) for new, old in zip(after, before, strict=True)] == [80, 60]
    for _ in range(10):
        tab.mouse.wheel(0, -6.5)
    expect(image).to_have_css("--zoom", "3")
    tab.keyboard.press("0")
    expect(pane).to_have_class("pane")


def test_the_gallery_comes_back_with_the_server(browser: Browser, tmp_path: Path) -> None:
    """Opened while the server is away it says so, and fills when it is back."""
    port = free_port()
    with House(folder=tmp_path) as house:
        server = house.serve(port=port)
        drawn(server.url, "still here")
        person = Person(browser, server.url)
        tab = person.opens()
        server.kill()
        tab.get_by_role("link", name="Gallery").click()
        expect(tab.get_by_text("The pictures cannot be loaded now")).to_be_visible()
        house.serve(port=port)
        expect(tab.locator(".print")).to_have_count(1)
        expect(tab.get_by_text("The pictures cannot be loaded now")).to_be_hidden()
        person.context.close()
        assert [fault for fault in person.faults if not AWAY.search(fault)] == []


def test_copies_that_are_as_large_as_they_are_shown(person: Person) -> None:
    """The gallery asks for the larger copy of a wide picture, and of no other; the time of four is said to be that."""
    for shape, (width, height) in (("wide", (640, 320)), ("square", (640, 640)), ("tall", (320, 640))):
        drawn(person.url, f"sharp {shape}", model="mock", width=width, height=height, options={"slow": 0})
    tab = person.opens("/imagine/gallery")
    found(tab, "sharp", 3)
    expect(tab.locator(".print img.in")).to_have_count(3)
    assert {url.split("=")[1] for url in person.asked if "?w=" in url} == {"512", "320", "160"}
    drawn(person.url, "four at once", n=4)
    found(tab, "four at once", 4)
    tab.locator(".print").first.click()
    expect(tab.locator("dialog.viewer dl div", has_text="Took")).to_contain_text("s for all 4 (")
