"""The command line says hello quickly: what it may not import on the way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Each of these costs more than the whole budget of `--help`, or most of it.
HEAVY = {
    "PIL",
    "aiohttp",
    "alembic",
    "fastapi",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "numpy",
    "obstore",
    "rich",
    "sqlalchemy",
    "textual_image",
    "torch",
}

# Runs the command as the `imagen` script would, then tells which modules it took.
PROBE = """
import json, sys
from imagen.surfaces.cli.main import main
sys.argv = ["imagen", *json.loads(sys.argv[1])]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def _imported(*arguments: str, home: Path) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(arguments)],
        env={"IMAGEN_HOME": str(home), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(run.stderr.splitlines()[-1]))


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """`imagen --help` needs no database, picture, terminal or validation library, nor an event loop."""
    found = _imported("--help", home=tmp_path)
    assert not found & (HEAVY | {"pydantic", "yaml", "asyncio"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--help"),
        ("compare", "--help"),
        ("models", "--help"),
        ("models", "add", "--help"),
        ("models", "pull", "--help"),
    ],
    ids=" ".join,
)
def test_the_help_of_a_command_imports_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Asking how a command works does not load what it works with."""
    assert not _imported(*arguments, home=tmp_path) & HEAVY


def test_models_imports_nothing_heavy_once_its_cache_is_there(tmp_path: Path) -> None:
    """The second `imagen models` reads a cache and prints plain text."""
    _imported("models", home=tmp_path)
    assert not _imported("models", home=tmp_path) & (HEAVY | {"pydantic"})


def test_a_server_needs_neither_database_nor_pictures(tmp_path: Path) -> None:
    """Work that is done elsewhere loads what asks for it, and nothing that would do it."""
    code = "import json, sys, imagen.away.client; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(run.stderr.splitlines()[-1])) & (HEAVY - {"httpx2"} | {"pydantic", "yaml"})
