"""A browser allows six connections to a server, for all its tabs together."""

from pathlib import Path

import pytest
from tests.browser_kit import chromium
from tests.service_kit import House
from tests.tabs_kit import watch


@pytest.mark.needs_browser
def test_twelve_jobs_in_three_tabs_do_not_stall(tmp_path: Path) -> None:
    """Each tab needs one stream, sees every end and every picture form, and can still ask for other things."""
    with House(folder=tmp_path) as house, chromium() as browser:
        seen = watch(house, browser, slow_s=1.0)
    assert seen.faults == []
    assert all(tab["kinds"]["preview"] > 0 for tab in seen.tabs)
