"""Copies of pictures where an agent wants them: only below the folders that the owner of this machine named."""

from collections.abc import Sequence
from pathlib import Path

from imagen.core.errors import Forbidden, NotConfigured
from imagen.surfaces.cli.destination import destination, other_format, place

MAGIC = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"RIFF", ".webp"))
HOW = "start it with `imagen mcp --folder DIR`, or take the `path` that the answer names"


def folders_of(named: Sequence[str], working: Path) -> tuple[Path, ...]:
    """The folders that were named, else where the program was started; its root or home is nobody's choice."""
    if named:
        return tuple(Path(name).expanduser().resolve() for name in named)
    here = working.resolve()
    return () if here in (Path(here.anchor), Path.home().resolve()) else (here,)


def save(wanted: str, folders: Sequence[Path], data: bytes, name: str, kept: str) -> str:
    """Copy it, never over a file that exists; the path it got."""
    if not folders:
        raise NotConfigured("no folder was named to save to", hint=HOW, param="save_to")
    typed = Path(wanted).expanduser()
    target = typed if typed.is_absolute() else folders[0] / typed
    # Links are followed first: one that leads outside is outside.
    if not any(target.resolve().is_relative_to(folder) for folder in folders):
        raise Forbidden(
            f"{wanted} is outside the folders this may write to",
            hint=f"save below {', '.join(map(str, folders))}, or {HOW}",
            param="save_to",
        )
    suffix = next((ending for magic, ending in MAGIC if data.startswith(magic)), ".png")
    to = destination(f"{target}/" if wanted.endswith("/") else str(target))
    # Pixels are never encoded again, so a name that promises another format gets the one there is.
    ending = suffix if other_format(to, suffix) else to.suffix or suffix
    return str(place(to, data, name=name, number=None, suffix=ending, kept=kept))
