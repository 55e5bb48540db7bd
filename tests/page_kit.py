"""The page in the distribution's Chromium: a person's hands and eyes, and a record of all that is not in order."""

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, expect, sync_playwright

from tests.browser_kit import FLAGS, NAMES

PATIENCE_MS = 30_000.0  # for a machine that is busy with other tests
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
# What Chromium itself says when a server goes away; the page cannot keep it from saying so.
AWAY = re.compile(
    r"net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING|CONTENT_LENGTH_MISMATCH)"
)


expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for as long as the block lasts; nothing is downloaded for it."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert program is not None, "there is no Chromium here: sudo apt install chromium"
    flags = [flag for flag in FLAGS if flag.startswith(("--no-", "--disable-"))]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """One browser of somebody: its tabs, and what went wrong in them."""

    def __init__(self, browser: Browser, url: str, **like: Any) -> None:
        self.url = url
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.context: BrowserContext = browser.new_context(**like)
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.on("console", self._said)
        self.context.on("weberror", lambda error: self.faults.append(f"thrown: {error.error}"))
        self.context.on("request", self._request)

    def opens(self, path: str = "/imagine") -> Page:
        """A new tab, ready."""
        tab = self.context.new_page()
        tab.goto(self.url + path)
        tab.locator("body[data-view]").wait_for()
        return tab

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        self.asked.append(request.url)
        told = urlsplit(request.url)
        if told.scheme not in ("data", "blob") and f"{told.scheme}://{told.netloc}" != self.url:
            self.faults.append(f"asked somebody else: {request.url}")


def picture(place: Locator) -> Image.Image:
    """What somebody sees there now, small: enough to tell one state from the next."""
    with Image.open(io.BytesIO(place.screenshot(animations="allow"))) as shot:
        return shot.convert("RGB").resize((96, 96))


def apart(one: Image.Image, other: Image.Image) -> float:
    """How different two pictures look: 0 the same, 255 black against white."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


def violations(tab: Page) -> list[str]:
    """What axe-core finds wrong, each as one line."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']]}" for one in found]
