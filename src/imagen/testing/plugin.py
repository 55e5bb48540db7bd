"""A pytest plugin, active wherever this package is installed: the `imagen_home` fixture."""

import os
from pathlib import Path

import pytest

# Without this a failing claim would say only "AssertionError", because the kit is not a test file.
pytest.register_assert_rewrite("imagen.testing.contract")


@pytest.fixture
def imagen_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of its own: no settings, models or jobs of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("IMAGEN_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "imagen-home"
    home.mkdir()
    monkeypatch.setenv("IMAGEN_HOME", str(home))
    return home
