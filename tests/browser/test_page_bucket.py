"""The page with its pictures in a bucket, read from there by signed addresses."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.page_kit import Person
from tests.s3_kit import S3
from tests.service_kit import House

pytestmark = [pytest.mark.needs_browser, pytest.mark.needs_s3]

SHOWN = "image => image.complete && image.naturalWidth > 0"
REFUSED = "the server responded with a status of 401"  # Chromium's own line about a key that is asked for


@pytest.mark.parametrize("keys", [False, True], ids=["open", "keys"])
def test_pictures_come_from_the_store_itself(
    browser: Browser, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch, keys: bool
) -> None:
    """Drawn, shown and kept in the gallery, as an image and, where there are keys, by a script; no policy is broken."""
    for name, value in S3.keys.items():
        monkeypatch.setenv(name, value)
    with House(folder=tmp_path) as house:
        (house.home / "config.yaml").write_text(s3.settings(s3.new_place(), reads="presigned"))
        secret = house.run("keys", "add", "me").stdout.split()[-1] if keys else None
        person = Person(browser, house.serve().url)
        tab = person.opens()
        if secret:
            tab.get_by_role("textbox", name="Key").fill(secret)
            tab.get_by_role("button", name="Go on").click()
            expect(tab.get_by_role("dialog")).to_have_count(0)  # till then all keys are for its field
        tab.get_by_label("What would you like to see?").fill("a bucket by the sea [slow:1]")
        tab.keyboard.press("Enter")
        _shown(tab, ".easel[data-state=completed] .layer.final")
        tab.goto(f"{person.url}/imagine/gallery")
        _shown(tab, "main img")
        there = [url for url in person.asked if url.startswith(f"{s3.endpoint}/")]
        assert any("X-Amz-Signature=" in url for url in there)
        person.context.close()
        expected = (f"asked somebody else: {s3.endpoint}/", REFUSED)
        assert [fault for fault in person.faults if not any(one in fault for one in expected)] == []


def _shown(tab: Page, where: str) -> None:
    image = tab.locator(where).first
    image.wait_for()
    tab.wait_for_function(SHOWN, arg=image.element_handle())
