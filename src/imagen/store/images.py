"""Where pictures lie: a folder or a bucket, one code path. Written whole, then recorded."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imagen.core.errors import DiskFull, MissingFile, SetupError, Unwritable
from imagen.core.ids import new_id

THUMBNAIL = "thumbnail"
CELL = "cell"
# The small copies beside every picture, and the longest edge of each: what a list and one cell of a sheet show.
COPIES = {THUMBNAIL: 320, CELL: 512}

CHUNK = 256 * 2**10  # bytes read at a time: what one slow reader costs in memory
LISTED = 1000  # files of one page of a listing
PROBE = "probe-"

# What obstore (0.12) leaves of a picture whose writing was killed. It neither lists such a file nor deletes it.
HALF_WRITTEN = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One file of the image store, whether a row knows it or not."""

    path: str
    size: int
    modified: datetime


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
        return await asyncio.to_thread(self.read, path)

    def read(self, path: str) -> bytes:
        """Read it whole, for work that is in a thread already."""
        try:
            return bytes(self._open().get(path).bytes())
        except Exception as exc:
            raise _explain(exc, f"cannot read the picture {path}") from exc

    async def size_of(self, path: str) -> int:
        """How many bytes it has; MissingFile when it is not there."""
        size = await asyncio.to_thread(self._size, path)
        if size is None:
            raise MissingFile(f"the picture {path} is not there", hint="it was deleted or moved outside imagen")
        return size

    async def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """How many bytes each of these has; None for one that is not there."""
        return await asyncio.to_thread(lambda: [self._size(path) for path in paths])

    async def chunks(self, path: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes from `start` to just before `end`, a little at a time.

        Nothing stays open between two chunks, so that a slow reader holds no file and no connection.
        """
        end = await self.size_of(path) if end is None else end
        while start < end:
            stop = min(start + CHUNK, end)
            data = await asyncio.to_thread(self._range, path, start, stop)
            yield data
            start = stop

    async def delete(self, path: str) -> None:
        """Remove it; it may be gone already."""
        await self.delete_all([path])

    async def delete_all(self, paths: Iterable[str]) -> None:
        """Remove them, in this order; any of them may be gone already."""
        await asyncio.to_thread(self._delete, list(paths))

    async def listed(self) -> AsyncGenerator[Sequence[Listed]]:
        """Everything that lies in the image store, a page at a time, in no order."""
        try:
            pages = await asyncio.to_thread(lambda: iter(self._open().list(chunk_size=LISTED)))
            while page := await asyncio.to_thread(next, pages, None):
                yield [Listed(path=one["path"], size=one["size"], modified=one["last_modified"]) for one in page]
        except Exception as exc:
            raise _explain(exc, "cannot list the pictures") from exc
        if half := await asyncio.to_thread(self._half_written):
            yield half

    async def writable(self) -> None:
        """Raise what would keep a picture from being stored."""
        probe = f"{PROBE}{new_id()}"
        try:
            await self.put(probe, b"imagen")
            await self.delete(probe)
        except SetupError as error:
            said = error.message.rpartition(": ")[2]
            raise type(error)(f"no picture can be stored: {said}", hint=error.hint) from error

    def _size(self, path: str) -> int | None:
        try:
            return int(self._open().head(path)["size"])
        except FileNotFoundError:
            return None
        except Exception as exc:
            raise _explain(exc, f"cannot read the picture {path}") from exc

    def _range(self, path: str, start: int, end: int) -> bytes:
        try:
            data = bytes(self._open().get_range(path, start=start, end=end))
        except Exception as exc:
            raise _explain(exc, f"cannot read the picture {path}") from exc
        if len(data) != end - start:
            raise MissingFile(
                f"the picture {path} is cut off at {start + len(data)} bytes", hint="it was changed outside imagen"
            )
        return data

    def _delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            try:
                if self._folder and HALF_WRITTEN.search(path):
                    (self._folder / path).unlink(missing_ok=True)
                else:
                    self._open().delete(path)
            except FileNotFoundError:
                pass
            except Exception as exc:
                raise _explain(exc, f"cannot delete the picture {path}") from exc

    def _half_written(self) -> list[Listed]:
        found = []
        for file in self._folder.rglob("*#*") if self._folder else ():
            with suppress(FileNotFoundError):  # its writer has just finished
                if HALF_WRITTEN.search(file.name) and file.is_file():
                    told = file.stat()
                    path = file.relative_to(self._folder or file).as_posix()
                    modified = datetime.fromtimestamp(told.st_mtime, UTC)
                    found.append(Listed(path=path, size=told.st_size, modified=modified))
        return found

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


def files_of(path: str) -> list[str]:
    """A picture and all that lies beside it."""
    return [path, *(side_path(path, kind) for kind in (*COPIES, "sidecar"))]


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
