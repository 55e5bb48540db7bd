"""The file that holds what an unexpected error would otherwise have thrown at the person."""

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def write_report(bug: BaseException, arguments: Sequence[str]) -> str:
    """Write the traceback into the logs folder and say where; into the temporary folder if that one refuses."""
    now = datetime.now(UTC)
    text = "\n".join(
        (
            f"{now:%Y-%m-%d %H:%M:%S} UTC, imagen {version('imagen-platform')}, Python {sys.version.split()[0]}",
            f"arguments: {list(arguments)}",
            "",
            "".join(traceback.format_exception(bug)),
        )
    )
    name = f"error-{now:%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for folder in (_logs, lambda: Path(tempfile.gettempdir())):
        try:
            place = folder() / name
            place.parent.mkdir(parents=True, exist_ok=True)
            # Not followed if somebody else put a link there, and read by nobody else: arguments may be private.
            file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as log:
                log.write(text)
            return str(place)
        except Exception:  # the report must not fail because of what it reports
            continue
    return "no file, because none could be written"


def _logs() -> Path:
    from imagen.config import load_settings

    return load_settings().logs_folder
