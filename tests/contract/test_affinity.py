"""Which model is drawn next, on a clock of its own: the same traces as `benchmarks/affinity.py`, shorter."""

from pathlib import Path

import pytest
from benchmarks import affinity


@pytest.mark.parametrize("trace", affinity.traces(120, seed=1), ids=lambda trace: trace.name)
async def test_models_change_rarely_and_nobody_pays_for_it(trace: affinity.Trace, tmp_path: Path) -> None:
    """At most a fifth of the changes of first come, first served, and nobody waits a minute longer than there."""
    ours = await affinity.play(trace, f"sqlite:///{tmp_path / 'imagen.db'}", tmp_path / "images")
    theirs = affinity.first_come(trace)
    assert ours.switches <= theirs.switches * affinity.BUDGET_SWITCHES
    assert max(a - b for a, b in zip(ours.starts, theirs.starts, strict=True)) <= affinity.BUDGET_LATER_S
