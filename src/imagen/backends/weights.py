"""Weights on the disk: where a name in a model's file leads to, what the hub's cache has, what is told of files."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from imagen.core.model import Model, ModelFile

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # ORG/NAME, as the hub calls them
CHEAP_BYTES = 64 * 2**20  # hashed in a tenth of a second; of larger files only what the hub's cache says is told

# What is not on this machine is missing, and never fetched behind somebody's back. Told to a child before it starts,
# because the hub's library reads it once.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

_SHA256 = re.compile(r"[0-9a-f]{64}")


def offline(settings: Mapping[str, Any], **more: str) -> Mapping[str, Any]:
    """The settings of a child process that loads what is here and asks nobody for the rest."""
    environment = settings.get("environment")
    if environment is not None and not isinstance(environment, Mapping):
        return settings  # refused where settings are read
    return {**settings, "environment": {**OFFLINE, **more, **(environment or {})}}


def places(said: str, model: Model) -> list[Path]:
    """Where a path may lead: from the model's own folder, or from the one that holds all models."""
    file, _, line = model.origin.rpartition(":")
    origin = Path(file if line.isdigit() else model.origin)
    models = origin.parent.parent if origin.name == "model.yaml" else origin.parent / "models"
    return list(dict.fromkeys(folder / Path(said).expanduser() for folder in (origin.parent, models)))


def cached(said: str, revision: str = "") -> Iterator[Path]:
    """What the hub's cache has of ORG/NAME; its layout is documented, and its library takes long to load."""
    if not REPOSITORY.fullmatch(said):
        return
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub"))
    folder = cache.expanduser() / f"models--{said.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    yield folder / "snapshots" / (reference.read_text().strip() if reference.is_file() else revision or "main")


def described(files: Sequence[Path], folder: Path) -> list[ModelFile]:
    """What was loaded, for the record: names, sizes, and hashes where they cost next to nothing."""
    told = []
    for file in files:
        name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
        state = file.stat()
        told.append(ModelFile(path=name, size=state.st_size, sha256=_sha256(file, state.st_mtime_ns, state.st_size)))
    return told


@lru_cache(maxsize=256)
def _sha256(file: Path, mtime_ns: int, size: int) -> str:
    blob = file.resolve().name  # in the hub's cache a file is a link to one that is named by its hash
    if file.is_symlink() and _SHA256.fullmatch(blob):
        return blob
    if size > CHEAP_BYTES:
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
