"""Copies of pictures where an agent wants them: only below the folders that the owner of this machine named."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagen.core.errors import Forbidden, ImagenError, NotConfigured, RequestError, Unwritable
from imagen.surfaces.cli.destination import destination, other_format, place

MAGIC = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"RIFF", ".webp"))
HOW = "start it with `imagen mcp --folder DIR`, or take the `path` that the answer names"
_UNDRAWN = re.compile(r"; nothing was drawn$")  # of places that are looked at before a drawing; here one is done


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A copy, and why it is called otherwise than was asked."""

    path: str
    differs: str | None = None


def folders_of(named: Sequence[str], working: Path) -> tuple[Path, ...]:
    """The folders that were named, else where the program was started; its root or home is nobody's choice.

    One that is not there yet is made by the first copy. One that never could be is refused now.
    """
    if named:
        for name in named:
            with _said_of("--folder"):
                destination(f"{name}/")
        return tuple(Path(name).expanduser().resolve() for name in named)
    here = working.resolve()
    return () if here in (Path(here.anchor), Path.home().resolve()) else (here,)


def save(wanted: str, folders: Sequence[Path], data: bytes, name: str, kept: str) -> Saved:
    """Copy it, never over a file that exists."""
    if not folders:
        raise NotConfigured("no folder was named to save to", hint=HOW, param="save_to")
    try:
        typed = Path(wanted).expanduser()
        target = typed if typed.is_absolute() else folders[0] / typed
        # Links are followed first: one that leads outside is outside.
        inside = any(target.resolve().is_relative_to(folder) for folder in folders)
    except (ValueError, RuntimeError, OSError) as exc:  # a NUL, a home nobody has, links in a ring
        raise RequestError(
            f"{wanted!r:.80} is not the name of a file",
            hint="name a file or a folder with plain characters, as in fox.png",
            param="save_to",
        ) from exc
    if not inside:
        raise Forbidden(
            f"{wanted} is outside the folders this may write to",
            hint=f"save below {', '.join(map(str, folders))}, or {HOW}",
            param="save_to",
        )
    suffix = next((ending for magic, ending in MAGIC if data.startswith(magic)), ".png")
    with _said_of("save_to"):
        if not wanted.endswith("/"):
            target.parent.mkdir(parents=True, exist_ok=True)
        to = destination(f"{target}/" if wanted.endswith("/") else str(target))
        # Pixels are never encoded again, so a name that promises another format gets the one there is.
        ending = suffix if other_format(to, suffix) else to.suffix or suffix
        path = place(to, data, name=name, number=None, suffix=ending, kept=kept)
    return Saved(path=str(path), differs=_differs(path, to.stem, to.suffix, ending))


def _differs(path: Path, stem: str | None, asked: str, ending: str) -> str | None:
    if stem is None:
        return None
    told = [f"the picture is a {ending.removeprefix('.').upper()}"] if ending != asked else []
    if path.name != f"{stem}{ending}":
        told.append(f"{stem}{ending} was there already")
    return " and ".join(told) or None


@contextmanager
def _said_of(param: str) -> Iterator[None]:
    """The errors of `-o`, in the words of who asked here."""
    try:
        yield
    except ImagenError as error:
        raise type(error)(
            _UNDRAWN.sub("", error.message),
            hint=error.hint.replace(" with -o", f" with {param}").replace("-o ", f"{param} "),
            param=param,
            detail=error.detail,
        ) from error
    except OSError as exc:
        raise Unwritable(
            f"cannot make the folder {exc.filename}: {(exc.strerror or str(exc)).lower()}",
            hint=f"name a folder with {param} that can be made and written to",
            param=param,
        ) from exc
