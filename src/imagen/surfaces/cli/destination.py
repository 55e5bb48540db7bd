"""Where `-o` puts copies: looked at before anything is drawn, and never over an existing file."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import click

from imagen.core.errors import DiskFull, ImagenError, RequestError, Unwritable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # what file systems without hard links answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A folder, and the name that pictures get in it; no name means one made from the prompt."""

    folder: Path
    stem: str | None = None
    suffix: str = ""


def destination(typed: str) -> Destination:
    """Read FILE or DIR as typed and refuse now what would be refused after the drawing."""
    if typed in ("", "-"):
        raise RequestError(
            f"-o {typed!r} is no file",
            hint="name a file or a folder, as in -o fox.png; without -o the path of the stored picture is printed",
            param="output",
        )
    path = Path(typed).expanduser()
    mode = _mode(path)
    if typed.endswith(("/", os.sep)) or (mode is not None and stat.S_ISDIR(mode)):
        _probe(_nearest_folder(path))
        return Destination(folder=path)
    if mode is not None and not stat.S_ISREG(mode):
        raise Unwritable(
            f"{path} is not a file that a picture could stand in",
            hint="name a new file or a folder, as in -o fox.png",
            param="output",
        )
    parent = _mode(path.parent)
    if parent is None or not stat.S_ISDIR(parent):
        _nearest_folder(path.parent)  # a folder cannot be made below a file
        raise Unwritable(
            f"there is no folder {path.parent} to write {path.name} to",
            hint=f"make it first: mkdir -p '{path.parent}'",
            param="output",
        )
    _probe(path.parent)
    _mode(path.with_name(f"{path.stem}-99-99{path.suffix or '.png'}"))  # a name too long is told here, with its cause
    return Destination(folder=path.parent, stem=path.stem, suffix=path.suffix)


def place(to: Destination, data: bytes, *, name: str, number: int | None, suffix: str, kept: str) -> Path:
    """Copy one picture, whole or not at all, under the first free name; `kept` is where the original stays."""
    stem = (to.stem or name) + (f"-{number}" if number is not None else "")
    try:
        to.folder.mkdir(parents=True, exist_ok=True)
        path = _write(data, to.folder, stem, suffix)
    except OSError as error:
        raise _refusal(error, to.folder, f"the picture is kept: {kept}") from error
    if to.stem is not None and path.stem != stem:
        click.echo(f"{stem}{suffix} exists; written to {path.name}", err=True)
    return path


def other_format(to: Destination, suffix: str) -> bool:
    """True when the name asks for a format that the picture does not have; pixels are never re-encoded."""
    return bool(to.suffix) and _format(to.suffix) != _format(suffix)


def _write(data: bytes, folder: Path, stem: str, suffix: str) -> Path:
    part = folder / f".imagen-{secrets.token_hex(6)}.part"
    try:
        with part.open("xb") as file:
            file.write(data)
        return next(path for path in _names(folder, stem, suffix) if _claimed(part, path))
    finally:
        part.unlink(missing_ok=True)


def _names(folder: Path, stem: str, suffix: str) -> Iterator[Path]:
    yield folder / f"{stem}{suffix}"
    yield from (folder / f"{stem}-{number}{suffix}" for number in count(2))


def _claimed(part: Path, path: Path) -> bool:
    """Give the finished file its name, unless somebody has it: of two programs at once only one gets it."""
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
    return True


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refusal(error, path, "nothing was drawn") from error


def _nearest_folder(path: Path) -> Path:
    for folder in (path, *path.absolute().parents):
        mode = _mode(folder)
        if mode is not None:
            if stat.S_ISDIR(mode):
                return folder
            raise Unwritable(
                f"{folder} is a file, so {path} cannot be a folder",
                hint="name another folder, or that file without what follows it",
                param="output",
            )
    return Path(path.anchor)


def _probe(folder: Path) -> None:
    """Permission bits tell less than an attempt: read-only mounts, full disks and quotas show only then."""
    path = folder / f".imagen-{secrets.token_hex(6)}.part"
    try:
        path.open("xb").close()
        path.unlink()
    except OSError as error:
        raise _refusal(error, folder, "nothing was drawn") from error


def _refusal(error: OSError, place: Path, state: str) -> ImagenError:
    if error.errno in NO_ROOM:
        return DiskFull(
            f"no room left in {place}; {state}",
            hint="make room there, or name another place with -o",
            param="output",
            detail=error.strerror,
        )
    return Unwritable(
        f"cannot write to {place}: {(error.strerror or str(error)).lower()}; {state}",
        hint="name a place with -o that you may write to",
        param="output",
        detail=error.strerror,
    )


def _format(suffix: str) -> str:
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix.lower(), suffix.lower())
