"""Take the pictures of /imagine for the documentation: a real server, a real browser, a person's steps."""

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Browser, Page
from tests.http_kit import get, post
from tests.page_kit import PHONE, Person, chromium
from tests.service_kit import House

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
MOVING = ("page-forming", "page-phone")  # taken while something is drawn
QUALITY = 88  # letters stay clean, and a picture is a tenth of a PNG

BEFORE = (
    ("dawn over paper hills", "mock", 1024, 576),
    ("a red apple", "tiny-3d", 256, 256),
    ("warm dunes", "mock-warm", 768, 512),
    ("a smiling cat face", "tiny-3d", 256, 256),
    ("cold mountains", "mock-cool", 576, 1024),
    ("a tree", "tiny-flat", 256, 256),
    ("evening ridge", "mock", 768, 768),
    ("a whale", "tiny-3d", 256, 256),
    ("fields at noon", "mock-warm", 1024, 576),
    ("a bicycle", "tiny-noto", 256, 256),
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, House(folder=Path(folder)) as house, chromium() as browser:
        url = house.serve().url
        for seed, (prompt, model, width, height) in enumerate(BEFORE, 5):
            asked: dict[str, Any] = {"prompt": prompt, "model": model, "width": width, "height": height, "seed": seed}
            if model.startswith("mock"):
                asked["options"] = {"slow": 0}
            post(f"{url}/v1/jobs", asked, {"Prefer": "wait=30"})
        series = _series(url)
        with _tab(browser, url, WIDE) as tab:
            _draws(tab)
            _keep(tab, "page-forming")
            tab.locator(".easel[data-state=completed] .layer.final.in").wait_for()
            _keep(tab, "page-drawn")
            _goes(tab, f"/imagine/series/{series}", ".cell-of .layer.final.in")
            _keep(tab, "page-compare")
            _goes(tab, f"/imagine/series/{series}/vote", ".side-of img.in")
            _keep(tab, "page-vote")
        with _tab(browser, url, WIDE | {"color_scheme": "dark"}) as tab:
            _goes(tab, "/imagine/gallery", ".print img.in")
            _keep(tab, "page-dark")
        with _tab(browser, url, PHONE) as tab:
            _draws(tab)
            _keep(tab, "page-phone")


def _series(url: str) -> str:
    asked = {"prompts": ["a red apple", "a whale"], "models": ["tiny-3d", "tiny-flat", "tiny-noto"], "seed": 3}
    series: str = post(f"{url}/v1/series", asked)["id"]
    while get(f"{url}/v1/series/{series}")["state"] == "running":
        time.sleep(0.2)
    return series


@contextmanager
def _tab(browser: Browser, url: str, like: dict[str, Any]) -> Iterator[Page]:
    person = Person(browser, url, **like)
    yield person.opens()
    person.context.close()


def _goes(tab: Page, path: str, until: str) -> None:
    tab.goto("/".join(tab.url.split("/", 3)[:3]) + path)
    tab.locator(until).first.wait_for()


def _draws(tab: Page) -> None:
    tab.locator("[data-panel=model]").click()
    tab.locator("#model-mock").click()
    tab.locator("[data-panel=more]").click()
    tab.get_by_role("spinbutton", name="slow").fill("5")
    tab.keyboard.press("Escape")
    tab.get_by_label("What would you like to see?").fill("evening over the hills")
    tab.get_by_label("What would you like to see?").press("Enter")
    tab.locator(".easel .said", has_text=re.compile(r"step (9|1\d) of")).wait_for()


def _keep(tab: Page, name: str) -> None:
    if name not in MOVING:
        tab.wait_for_timeout(700)  # until nothing moves
    path = FOLDER / f"{name}.jpg"
    tab.screenshot(path=path, type="jpeg", quality=QUALITY)
    print(path)


if __name__ == "__main__":
    main()
