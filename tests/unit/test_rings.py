"""The run tells what it skipped, and refuses to skip when told to."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SKIPPING = """
import pytest

def test_passes():
    assert True

def test_is_skipped():
    pytest.skip("no such thing here; get it with: sudo apt install thing")
"""


def _run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of its own under our conftest, so that its skips are not ours."""
    (folder / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (folder / "test_one.py").write_text(SKIPPING)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={folder}", str(folder)]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_skipped_test_is_named_with_its_remedy(tmp_path: Path) -> None:
    """Somebody who reads only the end of the output learns what was not tested, and how to test it."""
    run = _run(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped 1: no such thing here; get it with: sudo apt install thing" in run.stdout
    assert "test_one.py::test_is_skipped" in run.stdout


def test_a_skipped_test_fails_the_run_where_skipping_is_forbidden(tmp_path: Path) -> None:
    """IMAGEN_NO_SKIP=1 turns a run with skips red although every test that ran passed."""
    run = _run(tmp_path, IMAGEN_NO_SKIP="1")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "forbids skipping" in run.stdout
