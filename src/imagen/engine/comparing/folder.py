"""The folder of a comparison: taken by one program at a time, written whole or not at all, never over others' files."""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Self

from imagen.core.errors import Conflict, DiskFull, SetupError, Unwritable
from imagen.engine.comparing.document import DOCUMENT, MAX_DOCUMENT_BYTES, SHEET

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)  # file systems without hard links
PART = ".imagen-compare-*.part"  # what a file is called until it is whole


class Folder:
    """A folder that is ours while this is open. Closing it, or dying, lets it go."""

    def __init__(self, path: Path, lock: int, *, made: bool) -> None:
        self.path = path
        self.sheet = SHEET
        self._lock = lock
        self._made = made

    @classmethod
    def claim(cls, wanted: Path, document: Callable[[str], bytes]) -> Self:
        """Take `wanted`, or the next free `wanted-2`, for a new comparison, and put its compare.json there.

        `document` is asked for the text once the name of the sheet is known. A folder with somebody
        else's compare.json is left as it is; so is a folder in which another program is at work.
        """
        for path in _numbered(wanted.parent, wanted.name or "compare", ""):
            made = _make(path)
            if os.path.lexists(path / DOCUMENT):
                continue
            try:
                folder = cls(path, _locked(path), made=made)
            except Conflict:
                continue
            try:
                folder.sheet = folder.free_name(SHEET)
                if folder._add(DOCUMENT, document(folder.sheet)):
                    return folder
            except OSError as error:
                folder.abandon()
                raise explain(error, path, "nothing was drawn") from error
            folder.close()
        raise AssertionError("numbers do not end")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take the folder of an existing comparison, to go on with it."""
        folder = cls(path, _locked(path), made=False)
        try:
            folder._part(b"").unlink()
        except OSError as error:
            folder.close()
            raise explain(error, path, "nothing was changed") from error
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another program take it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def abandon(self) -> None:
        """Undo `claim`: nothing was drawn, so nothing stays."""
        with contextlib.suppress(OSError):
            (self.path / DOCUMENT).unlink(missing_ok=True)
            if self._made:
                self.path.rmdir()
        self.close()

    def tidy(self) -> None:
        """Remove what a killed program left half-written; nobody else can be writing here now."""
        for part in self.path.glob(PART):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def document(self) -> bytes:
        """The bytes of compare.json."""
        try:
            with (self.path / DOCUMENT).open("rb") as file:
                return file.read(MAX_DOCUMENT_BYTES + 1)
        except OSError as error:
            raise explain(error, self.path / DOCUMENT, "nothing was changed", verb="read") from error

    def has(self, name: str) -> bool:
        """True when the file is there."""
        return (self.path / name).is_file()

    def holds(self, name: str, sha256: str | None) -> bool:
        """Whether the picture of this name is there and whole: a cut-off copy is not the picture."""
        try:
            data = (self.path / name).read_bytes()
        except OSError:
            return False
        return sha256 is None or hashlib.sha256(data).hexdigest() == sha256

    def free_name(self, name: str) -> str:
        """`name`, or the first numbered form of it that nobody uses."""
        stem, dot, suffix = name.rpartition(".")
        return next(path.name for path in _numbered(self.path, stem, dot + suffix) if not os.path.lexists(path))

    def replace(self, name: str, data: bytes) -> None:
        """Write one of our own files anew: a reader sees the old one or the new one, also after a power cut."""
        try:
            self._part(data).replace(self.path / name)
            os.fsync(self._lock)
        except OSError as error:
            raise explain(error, self.path, f"{name} is as it was before") from error

    def add(self, stem: str, suffix: str, data: bytes) -> str:
        """Write a picture under the first free name; the same picture that is there already stays untouched."""
        digest = hashlib.sha256(data).digest()
        for path in _numbered(self.path, stem, suffix):
            try:
                if _same(path, data, digest) or self._add(path.name, data):
                    return path.name
            except OSError as error:
                kept = "the pictures before it are safe, and this one is kept in the image store"
                raise explain(error, self.path, kept) from error
        raise AssertionError("numbers do not end")

    def _add(self, name: str, data: bytes) -> bool:
        """Give whole data a name, unless somebody has it: of two programs at once only one gets it."""
        path = self.path / name
        part = self._part(data)
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            try:
                path.open("xb").close()
            except FileExistsError:
                return False
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return True

    def _part(self, data: bytes) -> Path:
        part = self.path / PART.replace("*", secrets.token_hex(6))
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        return part


def explain(error: OSError, place: Path, state: str, *, verb: str = "write to") -> SetupError:
    """What the operating system said, as one of our errors."""
    why = (error.strerror or str(error)).lower()
    if error.errno in NO_ROOM:
        return DiskFull(
            f"no room left in {place}; {state}",
            hint=f"free some space, then go on with: imagen compare --resume '{place}'",
            param="output",
            detail=why,
        )
    return Unwritable(
        f"cannot {verb} {place}: {why}; {state}",
        hint="make it writable, or name another folder with -o",
        param="output",
        detail=why,
    )


def _make(path: Path) -> bool:
    """Make the folder; False when it was there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError as error:
        if path.is_dir():
            return False
        blocked = next((parent for parent in (path, *path.parents) if os.path.lexists(parent)), path)
        raise Unwritable(
            f"{blocked} is not a folder",
            hint="name another folder with -o; the pictures, the sheet and compare.json go into it",
            param="output",
        ) from error
    except OSError as error:
        raise explain(error, path, "nothing was drawn") from error
    return True


def _locked(path: Path) -> int:
    """Lock the folder itself: no lock file stays behind, and a killed program holds nothing."""
    import fcntl

    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise explain(error, path, "nothing was changed", verb="open") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Conflict(
            f"another imagen compare is at work in {path}",
            hint="wait for its end; `imagen jobs list` shows how far it is",
            param="resume",
        ) from error
    except OSError:
        pass  # some network file systems cannot lock a folder; every write here is safe without it
    return lock


def _same(path: Path, data: bytes, digest: bytes) -> bool:
    if not path.is_file() or path.stat().st_size != len(data):
        return False
    return hashlib.sha256(path.read_bytes()).digest() == digest


def _numbered(folder: Path, stem: str, suffix: str) -> Iterator[Path]:
    yield folder / f"{stem}{suffix}"
    yield from (folder / f"{stem}-{number}{suffix}" for number in count(2))
