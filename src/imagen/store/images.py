"""Where pictures lie: a folder or a bucket, one code path. Written whole, then recorded."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

from imagen.core.errors import DiskFull, MissingFile, SetupError, Unwritable

THUMBNAIL = "thumbnail"
CELL = "cell"


class ImageStore:
    """Puts, gets and deletes bytes by path. Names are made here, never taken from a request."""

    def __init__(self, storage: str, folder: Path) -> None:
        self._folder = folder if storage == "local" else None
        self._store: Any = None
        if self._folder is None:
            raise SetupError(
                f"the storage {storage!r} is not known", hint="use `storage: local` in config.yaml", param="storage"
            )

    def path_of(self, image_id: str, extension: str, at: datetime) -> str:
        """Folders by month keep a folder of many years listable."""
        return f"{at:%Y/%m}/{image_id}.{extension}"

    def url_of(self, path: str) -> str:
        """Where a person or a program finds it."""
        assert self._folder is not None
        return (self._folder / path).absolute().as_uri()

    def file_of(self, path: str) -> Path | None:
        """The local file, where storage is local."""
        return self._folder / path if self._folder else None

    async def put(self, path: str, data: bytes) -> None:
        """Store it whole: no reader ever sees half a picture."""
        try:
            await asyncio.to_thread(self._open().put, path, data)
        except Exception as exc:
            raise _explain(exc, f"cannot store the picture {path}") from exc

    async def get(self, path: str) -> bytes:
        """Read it whole."""
        try:
            result = await asyncio.to_thread(self._open().get, path)
            return bytes(await asyncio.to_thread(result.bytes))
        except Exception as exc:
            raise _explain(exc, f"cannot read the picture {path}") from exc

    async def delete(self, path: str) -> None:
        """Remove it; it may be gone already."""
        try:
            await asyncio.to_thread(self._open().delete, path)
        except FileNotFoundError:
            pass
        except Exception as exc:
            raise _explain(exc, f"cannot delete the picture {path}") from exc

    def _open(self) -> Any:
        if self._store is None:
            from obstore.store import LocalStore

            assert self._folder is not None
            try:
                self._store = LocalStore(self._folder, mkdir=True)
            except Exception as exc:
                raise _explain(exc, f"cannot use the image folder {self._folder}") from exc
        return self._store


def side_path(path: str, kind: str) -> str:
    """The small copies and the sidecar beside a picture: `2026/01/ID.png` -> `2026/01/ID.thumbnail.webp`."""
    stem = path.rsplit(".", 1)[0]
    return f"{stem}.json" if kind == "sidecar" else f"{stem}.{kind}.webp"


def _explain(exc: Exception, what: str) -> SetupError:
    if isinstance(exc, SetupError):
        return exc
    said = str(exc)
    if isinstance(exc, FileNotFoundError):
        return MissingFile(f"{what}: it is not there", hint="it was deleted or moved outside imagen")
    if "os error 28" in said or "os error 27" in said or "No space left" in said:
        return DiskFull(f"{what}: the disk is full", hint="free some space; pictures stored before this one are safe")
    if isinstance(exc, PermissionError) or "os error 13" in said or "os error 30" in said or "denied" in said:
        return Unwritable(f"{what}: permission denied", hint="make the folder writable, or set IMAGEN_HOME to another")
    return SetupError(f"{what}: {said.splitlines()[0] if said else type(exc).__name__}", hint="run `imagen doctor`")
