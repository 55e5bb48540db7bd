"""What every test of the page needs: a browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from tests.page_kit import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file; each person in it has a context of their own."""
    with chromium() as browser:
        yield browser
