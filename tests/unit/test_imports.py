"""Quick commands load little; what each may not load is said here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"sqlalchemy", "alembic", "pydantic", "rich", "numpy", "PIL", "yaml", "obstore", "asyncio"}

PROBE = """
import sys
from imagen.surfaces.cli.main import main
sys.argv = ["imagen", *sys.argv[1:]]
try:
    main()
finally:
    import json
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def loaded(home: Path, *arguments: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        env={**os.environ, "IMAGEN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(ran.stderr.splitlines()[-1]))


def test_help_loads_no_command(tmp_path: Path) -> None:
    """The list of commands is a table."""
    found = loaded(tmp_path, "--help")
    assert not found & HEAVY
    edge = {"imagen.surfaces.cli.main", "imagen.surfaces.cli.exits"}
    assert not {name for name in found if name.startswith("imagen.surfaces.cli.")} - edge


@pytest.mark.parametrize("broken", [False, True], ids=["fine", "broken"])
def test_models_with_a_warm_cache_reads_no_model(tmp_path: Path, broken: bool) -> None:
    """Neither the files nor what reads them, also when one of the files is broken."""
    if broken:
        (tmp_path / "config.yaml").write_text("a: [\n")
    assert "yaml" in loaded(tmp_path, "models")
    assert not loaded(tmp_path, "models") & (HEAVY | {"importlib.metadata", "imagen.models.catalog"})


def test_importing_the_package_loads_nothing() -> None:
    """`import imagen` costs nothing until a name is used."""
    code = "import imagen, sys; print([name for name in sys.modules if name.startswith('imagen.')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
