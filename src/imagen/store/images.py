"""Where pictures lie: a folder or a bucket, one code path. Written whole, then recorded."""

import asyncio
import os
import re
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from imagen.core.errors import DiskFull, MissingFile, MissingPicture, SetupError, Unwritable
from imagen.core.ids import new_id
from imagen.store.bucket import GONE, Bucket
from imagen.store.objects import library

THUMBNAIL = "thumbnail"
CELL = "cell"
# The small copies beside every picture, and the longest edge of each: what a list and one cell of a sheet show.
COPIES = {THUMBNAIL: 320, CELL: 512}

CHUNK = 256 * 2**10  # bytes read at a time: what one slow reader costs in memory
FAR_CHUNK = 2**20  # out of a bucket each costs a request, and most pictures are one or two of these
PART = 8 * 2**20  # of an upload in parts: what is larger is sent so, and what breaks off is sent again from there
PARTS_AT_ONCE = 4
FULL_S = 120.0  # for somebody to make room in a folder; as long as a bucket is given by default
LOOK_S = 15.0  # for how long a bucket that took a picture is said to take pictures
LOOKS_AT_ONCE = 16  # questions after single files that are under way together
LISTED = 1000  # files of one page of a listing
PROBE = "probe-"
TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "json": "application/json"}

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

    def __init__(self, storage: str, folder: Path, **bucket: Any) -> None:
        self._bucket = None if storage == "local" else Bucket(storage, **bucket)
        self._folder = folder if self._bucket is None else None
        self._store: Any = None
        self._signing: Any = None  # the same bucket at the address that others see
        # Whether pictures can be stored, as far as one knows. A folder is taken at its word; a bucket shows it first,
        # because a worker with a wrong key would draw a whole queue for nothing.
        self.proven = self._bucket is None
        self._looked_at = float("-inf")
        self._weight = 1  # bytes of the largest that could not be stored since: a full disk takes smaller ones

    @property
    def place(self) -> str:
        """Where it is, in words for its owner."""
        return str(self._folder) if self._bucket is None else self._bucket.url

    @property
    def patience_s(self) -> float:
        """How long a finished picture waits for a place that is away. A folder is never away, but it may be full."""
        return self._bucket.patience_s if self._bucket else FULL_S

    def path_of(self, image_id: str, extension: str, at: datetime) -> str:
        """Folders by month keep a folder of many years listable."""
        return f"{at:%Y/%m}/{image_id}.{extension}"

    def url_of(self, path: str) -> str:
        """Where a person or a program finds it."""
        if self._bucket is not None:
            return f"{self._bucket.url}/{path}"
        assert self._folder is not None
        return (self._folder / path).absolute().as_uri()

    def file_of(self, path: str) -> Path | None:
        """The local file, where storage is local."""
        return self._folder / path if self._folder else None

    @property
    def signed_origin(self) -> str | None:
        """The site of signed addresses; None where reads go through us."""
        return self._bucket.public_origin if self._bucket and self._bucket.presigned else None

    async def signed_url(self, path: str) -> tuple[str, int] | None:
        """An address that anybody may read it at, and for how many seconds; None where reads go through us."""
        if self._bucket is None or not self._bucket.presigned:
            return None
        from obstore import sign_async

        if self._signing is None:
            self._signing = await asyncio.to_thread(self._bucket.open, public=True)
        seconds = self._bucket.presign_s
        try:
            return await sign_async(self._signing, "GET", path, timedelta(seconds=seconds)), seconds
        except Exception as exc:
            raise self._explain(exc, f"cannot sign an address for the picture {path}") from exc

    async def put(self, path: str, data: bytes) -> None:
        """Store it whole: no reader ever sees half a picture."""
        try:
            store = await self._opened()
            # A folder has no place for the type; a bucket says it to browsers.
            told = {"attributes": {"Content-Type": _type_of(path)}} if self._bucket else {}
            await store.put_async(path, data, chunk_size=PART, max_concurrency=PARTS_AT_ONCE, **told)
        except Exception as exc:
            self.proven, self._weight = False, max(self._weight, len(data))
            raise self._explain(exc, f"cannot store the picture {path}") from exc
        if len(data) >= self._weight:
            self.proven, self._weight = True, 1

    async def get(self, path: str) -> bytes:
        """Read it whole."""
        try:
            found = await (await self._opened()).get_async(path)
            return bytes(await found.bytes_async())
        except Exception as exc:
            raise self._explain(exc, f"cannot read the picture {path}") from exc

    def read(self, path: str) -> bytes:
        """Read it whole, for work that is in a thread already."""
        try:
            return bytes(self._open().get(path).bytes())
        except Exception as exc:
            raise self._explain(exc, f"cannot read the picture {path}") from exc

    async def size_of(self, path: str) -> int:
        """How many bytes it has; MissingPicture when it is not there."""
        size = await self._size(path)
        if size is None:
            raise MissingPicture(f"the picture {path} is not there", hint=GONE)
        return size

    async def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """How many bytes each of these has; None for one that is not there."""
        turn = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def look(path: str) -> int | None:
            async with turn:
                return await self._size(path)

        return await asyncio.gather(*map(look, paths))

    async def chunks(self, path: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes from `start` to just before `end`, a little at a time.

        Nothing stays open between two chunks, so that a slow reader holds no file and no connection.
        """
        end = await self.size_of(path) if end is None else end
        while start < end:
            stop = min(start + (FAR_CHUNK if self._bucket else CHUNK), end)
            data = await self._range(path, start, stop)
            yield data
            start = stop

    async def delete(self, path: str) -> None:
        """Remove it; it may be gone already."""
        await self.delete_all([path])

    async def delete_all(self, paths: Iterable[str]) -> None:
        """Remove them, in this order; any of them may be gone already."""
        paths = list(paths)
        if self._bucket is not None and self._bucket.scheme == "s3":
            await self._delete(paths)  # a thousand in one request, and it does not mind what is gone
            return
        for path in paths:
            if self._folder and HALF_WRITTEN.search(path):
                await asyncio.to_thread((self._folder / path).unlink, missing_ok=True)
            else:
                await self._delete([path])

    async def listed(self) -> AsyncGenerator[Sequence[Listed]]:
        """Everything that lies in the image store, a page at a time, in no order."""
        try:
            async for page in (await self._opened()).list(chunk_size=LISTED):
                yield [Listed(path=one["path"], size=one["size"], modified=one["last_modified"]) for one in page]
        except Exception as exc:
            raise self._explain(exc, "cannot list the pictures") from exc
        if half := await asyncio.to_thread(self._half_written):
            yield half

    async def writable(self, *, quick: bool = False) -> datetime:
        """Raise what would keep a picture from being stored; else the time on the clock of the place.

        As many bytes are tried as could not be stored before; `quick`, for who waits for the answer, tries one.
        """
        probe, data = f"{PROBE}{new_id()}", b"?" if quick else os.urandom(self._weight)
        try:
            store = (
                await asyncio.to_thread(self._bucket.open, quick=True)
                if self._bucket and quick
                else await self._opened()
            )
            await store.put_async(probe, data)
            at: datetime = (await store.head_async(probe))["last_modified"]
            await store.delete_async(probe)
        except Exception as exc:
            raise self._explain(exc, "no picture can be stored") from exc
        if not quick:
            self.proven, self._weight = True, 1
        return at

    async def ready(self) -> None:
        """As `writable`, for who asks every few seconds: each look at a bucket is three requests that are paid for."""
        now = time.monotonic()
        if self._bucket is None or not self.proven or now - self._looked_at > LOOK_S:
            await self.writable(quick=True)
            self._looked_at = now

    async def _size(self, path: str) -> int | None:
        try:
            return int((await (await self._opened()).head_async(path))["size"])
        except FileNotFoundError:
            return None
        except Exception as exc:
            raise self._explain(exc, f"cannot read the picture {path}") from exc

    async def _range(self, path: str, start: int, end: int) -> bytes:
        try:
            data = bytes(await (await self._opened()).get_range_async(path, start=start, end=end))
        except Exception as exc:
            raise self._explain(exc, f"cannot read the picture {path}") from exc
        if len(data) != end - start:
            raise MissingFile(
                f"the picture {path} is cut off at {start + len(data)} bytes", hint="it was changed outside imagen"
            )
        return data

    async def _delete(self, paths: Sequence[str]) -> None:
        try:
            await (await self._opened()).delete_async(paths)
        except FileNotFoundError:
            pass
        except Exception as exc:
            raise self._explain(exc, f"cannot delete the picture {paths[0]}") from exc

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

    async def _opened(self) -> Any:
        return self._store or await asyncio.to_thread(self._open)

    def _open(self) -> Any:
        if self._store is None and self._bucket is not None:
            self._store = self._bucket.open()
        elif self._store is None:
            assert self._folder is not None
            try:
                self._store = library().LocalStore(self._folder, mkdir=True)
            except Exception as exc:
                raise self._explain(exc, f"cannot use the image folder {self._folder}") from exc
        return self._store

    def _explain(self, exc: Exception, what: str) -> SetupError:
        return self._bucket.explain(exc, what) if self._bucket else _explain(exc, what)


def side_path(path: str, kind: str) -> str:
    """The small copies and the sidecar beside a picture: `2026/01/ID.png` -> `2026/01/ID.thumbnail.webp`."""
    stem = path.rsplit(".", 1)[0]
    return f"{stem}.json" if kind == "sidecar" else f"{stem}.{kind}.webp"


def files_of(path: str) -> list[str]:
    """A picture and all that lies beside it."""
    return [path, *(side_path(path, kind) for kind in (*COPIES, "sidecar"))]


def _type_of(path: str) -> str:
    return TYPES.get(path.rpartition(".")[2], "application/octet-stream")


def _explain(exc: Exception, what: str) -> SetupError:
    if isinstance(exc, SetupError):
        return exc
    said = str(exc)
    if isinstance(exc, FileNotFoundError):
        return MissingPicture(f"{what}: it is not there", hint=GONE)
    if "os error 28" in said or "os error 27" in said or "No space left" in said:
        return DiskFull(f"{what}: the disk is full", hint="free some space; pictures stored before this one are safe")
    if isinstance(exc, PermissionError) or "os error 13" in said or "os error 30" in said or "denied" in said:
        return Unwritable(f"{what}: permission denied", hint="make the folder writable, or set IMAGEN_HOME to another")
    return SetupError(
        f"{what}: {said.splitlines()[0] if said else type(exc).__name__}",
        hint="see that the images folder lies on a disk that works",
    )
