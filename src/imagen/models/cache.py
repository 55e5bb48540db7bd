"""What was read once and has not changed since: lets `imagen models` answer without parsing a single file."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1  # of what callers keep here; a file with another number is made anew

Seen = list[list[Any]]


def cached(
    file: Path, environ: Mapping[str, str], sources: Callable[[], Iterable[Path]], make: Callable[[], Any]
) -> Any:
    """The value `make` gave, as JSON, for as long as no source, no setting and no installed package changed."""
    asked = _asked(environ)
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        kept = json.loads(file.read_bytes())
        if kept["asked"] == asked and _seen(place for place, *_ in kept["seen"]) == kept["seen"]:
            return kept["value"]
    # Looked at before they are read: what changes in between is then read again, not missed.
    seen = _seen([str(source) for source in sources()] + _programs())
    value = make()
    _keep(file, {"asked": asked, "seen": seen, "value": value})
    return value


def _asked(environ: Mapping[str, str]) -> str:
    """Everything besides files that decides what the models are; hashed, because there may be a password in it."""
    from hashlib import sha256

    settings = sorted((name, value) for name, value in environ.items() if name.startswith("IMAGEN_"))
    told = (SCHEMA, sys.version, sys.prefix, os.uname().nodename, settings)
    return sha256(repr(told).encode("utf-8", "surrogateescape")).hexdigest()


def _programs() -> list[str]:
    """The folders of installed packages, which change with every installation, and the code that reads models."""
    packages = [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
    models = Path(__file__).parent
    config = (models.parent / "config").glob("*.py")
    readers = [*models.glob("*.py"), *config, models.parent / "reading.py", models.parent / "surfaces/cli/models.py"]
    return packages + [str(file) for file in sorted(readers)]


def _seen(places: Iterable[str]) -> Seen:
    found: Seen = []
    for place in places:
        try:
            stat = os.stat(place)
        except OSError:
            found.append([place])
        else:
            found.append([place, stat.st_mtime_ns, stat.st_size, stat.st_ino])
    return found


def _keep(file: Path, kept: Mapping[str, Any]) -> None:
    """Write it whole or not at all. A cache that cannot be written only costs time."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(kept), encoding="utf-8")
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
