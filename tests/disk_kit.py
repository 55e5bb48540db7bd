"""A disk of one's own that is soon full, in memory; only root can make one: see `s3_kit.may_mount`."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Disk:
    """Mounted at a folder that is there."""

    def __init__(self, folder: Path, room_mib: int) -> None:
        self.folder = folder
        _mount("-t", "tmpfs", "-o", f"size={room_mib}m,mode=755", "imagen-disk", str(folder))

    def grow(self, room_mib: int) -> None:
        """A larger one, with all that is on it."""
        _mount("-o", f"remount,size={room_mib}m", str(self.folder))

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)


@contextmanager
def small_disk(folder: Path, room_mib: int) -> Iterator[Disk]:
    """A disk for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    disk = Disk(folder, room_mib)
    try:
        yield disk
    finally:
        disk.close()


def _mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True)
