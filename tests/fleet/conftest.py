"""What every test of the fleet needs."""

import time
from collections.abc import Callable
from typing import Any

import pytest

LONGEST_S = 150.0  # a lease, the sweep after it, and all that patience of the parts; on a machine that is busy besides


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Waits for a condition to hold, and gives back what it came to."""

    def wait(condition: Callable[[], Any]) -> Any:
        give_up = time.monotonic() + LONGEST_S
        while not (value := condition()):
            assert time.monotonic() < give_up, "it did not happen"
            time.sleep(0.05)
        return value

    return wait
