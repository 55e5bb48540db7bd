"""Blind votes at /imagine: no name before the vote, the keyboard is enough, and ratings say how sure they are."""

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from tests.http_kit import get, post
from tests.page_kit import PHONE, Person, violations
from tests.service_kit import House

pytestmark = pytest.mark.needs_browser

MODELS = ["mock-warm", "mock-cool", "mock"]
NAMES = re.compile("Mock|mock")


def _drawn(url: str) -> str:
    asked = {"prompt": "a lighthouse [slow:0]", "models": MODELS, "seed": 7, "width": 256, "height": 256}
    series: str = post(f"{url}/v1/series", asked)["id"]
    give_up = time.monotonic() + 30
    while get(f"{url}/v1/series/{series}")["state"] != "completed":
        assert time.monotonic() < give_up
        time.sleep(0.1)
    return series


def test_vote_on_every_pair_and_read_the_ratings(browser: Browser, tmp_path: Path) -> None:
    """Three pairs with three keys; the names come after each vote; then the ratings, and as a table to keep."""
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url)
        series = _drawn(person.url)
        tab = person.opens(f"/imagine/series/{series}")
        tab.get_by_role("link", name="Vote blind").click()
        for number, key in enumerate(("1", "2", "t"), 1):
            expect(tab.get_by_text(f"Pair {number} of 3")).to_be_visible()
            expect(tab.locator(".side-of img.in")).to_have_count(2)
            assert not NAMES.search(tab.locator("main").inner_html())
            if number == 1:
                assert violations(tab) == []
                tab.get_by_role("button", name="Look closely at the right one").click()
                expect(tab.locator("dialog .full")).to_be_visible()
                tab.keyboard.press("ArrowLeft")
                tab.keyboard.press("1")  # no vote: nobody sees for what
                expect(tab.locator("dialog .tag")).to_have_text("left")
                assert not NAMES.search(tab.locator("dialog").inner_html())
                assert violations(tab) == []
                tab.keyboard.press("Escape")
            tab.keyboard.press(key)
            expect(tab.locator(".who").first).to_have_text(NAMES)
            if number == 1:
                assert violations(tab) == []
            if key == "t":
                expect(tab.get_by_role("status").filter(has_text="Equal")).to_be_visible()
            tab.keyboard.press("Enter")
        expect(tab.get_by_text("Every pair is voted on", exact=True)).to_be_visible()
        expect(tab.get_by_text("Keys: 1 left")).to_be_hidden()
        tab.reload()  # the round is over until another one is asked for
        expect(tab.get_by_text("You have voted on every pair")).to_be_visible()
        tab.get_by_role("button", name="Another round").click()
        for number in range(1, 4):
            expect(tab.get_by_text(f"Pair {number} of 3")).to_be_visible()
            expect(tab.locator(".side-of img.in")).to_have_count(2)
            tab.keyboard.press("s")
        expect(tab.get_by_text("Every pair is voted on or skipped")).to_be_visible()
        told = get(f"{person.url}/v1/ratings")
        assert (told["votes"], told["ties"]) == (3, 1)
        tab.get_by_role("link", name="Ratings").click()
        expect(tab.locator(".groups tbody tr")).to_have_count(3)
        expect(tab.get_by_role("status").filter(has_text="3 votes, 1 of them equal")).to_be_visible()
        assert violations(tab) == []
        with tab.expect_download() as table:
            tab.get_by_role("button", name="As a table (CSV)").click()
        assert len(table.value.path().read_text().splitlines()) == 4
        person.context.close()
        assert person.faults == []


def test_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    """Both pictures beside each other; a touch is a vote."""
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url, **PHONE, color_scheme="dark")
        series = _drawn(person.url)
        tab = person.opens(f"/imagine/series/{series}/vote")
        expect(tab.locator(".side-of img.in")).to_have_count(2)
        assert violations(tab) == []
        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        tab.get_by_role("button", name="The left one is better").tap()
        expect(tab.locator(".side-of.better .who")).to_have_text(NAMES)
        tab.get_by_role("button", name="Next pair").tap()
        expect(tab.get_by_text("Pair 2 of 3")).to_be_visible()
        person.context.close()
        assert person.faults == []
