"""All checks there are, run on request: the errors of later, found early."""

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import imagen
from imagen.backends.base import Backend
from imagen.config import Settings
from imagen.core.errors import BadConfig, Check, DiskFull, ImagenError, SetupError, TimedOut, Unwritable
from imagen.core.model import Model
from imagen.engine.states import CHECK_S, checked
from imagen.models.catalog import Catalog
from imagen.reading import maybe
from imagen.store import presence

LOOK_S, LISTEN_S = 0.5, presence.HEARTBEAT_S + 1.0  # for a worker to count up
ROOM_MIB = 256  # a few dozen pictures of 1024 px and the database's own log

# Returns what there is to say, or raises what is wrong.
Look = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check, and whether anything would fail if it does not pass."""

    check: Check
    needed: bool = True

    @property
    def ok(self) -> bool:
        return self.check.ok or not self.needed


async def diagnose(
    settings: Settings,
    catalog: Catalog,
    backend_for: Callable[[Model], Backend],
    *,
    model: str | None = None,
    looks: Mapping[str, Look],
) -> list[Finding]:
    """Settings, model files, folders, `looks`, then every enabled model, or the one that is named."""
    wanted = catalog.get(model) if model is not None else None
    checks = [*_files(settings, catalog), *_folders(settings)]
    for name, look in looks.items():
        try:
            checks.append(Check.passed(name, await look()))
        except ImagenError as error:
            checks.append(Check.failed(name, error))
    findings = [Finding(check=check) for check in checks]
    models = [wanted] if wanted else [one for one in catalog.models.values() if one.enabled]
    for one, told in zip(models, await check_models(models, backend_for), strict=True):
        needed = one is wanted or one.name == catalog.default
        findings += [Finding(check=check, needed=needed) for check in told]
    return findings


def check_daemons(workers: Iterable[Mapping[str, Any]], *, version: str, changed_at: datetime) -> None:
    """Raise when a server or worker still runs what was installed before.

    `workers` are the rows of those alive, `changed_at` is when the files of this package last changed.
    """
    old = []
    for worker in workers:
        here = worker["host"] == presence.host()
        if worker["solo"]:
            continue  # a command that ends by itself
        if worker["version"] != version:
            old.append((worker, here, f"is imagen {worker['version']}, installed is {version}"))
        elif here and worker["started_at"] < changed_at:
            old.append((worker, here, "runs what was there before the files of imagen changed"))
    if not old:
        return
    worker, here, why = old[0]
    host = worker["host"].partition(":")[0]
    more = f", and {len(old) - 1} more" if len(old) > 1 else ""
    raise SetupError(f"process {worker['pid']} on {host} {why}{more}", hint=_restart(worker["pid"], host, here))


async def heard_of(
    workers: Sequence[Mapping[str, Any]],
    look: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> set[str]:
    """Which of these workers count up while one looks, by their ids: those on other machines cannot be seen else."""
    known = {worker["id"]: worker["beat"] for worker in workers}
    heard: set[str] = {worker["id"] for worker in workers if worker["host"] == presence.host()}
    for _ in range(round(LISTEN_S / LOOK_S)):
        if heard >= known.keys():
            break
        await sleep(LOOK_S)
        heard |= {worker["id"] for worker in await look() if worker["beat"] != known.get(worker["id"])}
    return heard


def package_changed_at() -> datetime:
    """When this package was installed, or one of its files edited."""
    files = list(Path(imagen.__file__).parent.rglob("*.py"))
    try:
        # Some installers link files with the times of their cache; what they note about it is new.
        noted = distribution("imagen-platform").locate_file("")
        files += Path(str(noted)).glob("imagen_platform-*.dist-info/RECORD")
    except PackageNotFoundError:
        pass
    return datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC)


async def check_models(
    models: Sequence[Model], backend_for: Callable[[Model], Backend], *, limit_s: float = CHECK_S
) -> list[list[Check]]:
    """What each model's backend says about it, all asked at once; each check is named `model: what`."""
    return await asyncio.gather(*(_check(model, backend_for, limit_s) for model in models))


async def _check(model: Model, backend_for: Callable[[Model], Backend], limit_s: float) -> list[Check]:
    late = TimedOut(
        f"the backend {model.backend!r} did not answer within {limit_s:g} s",
        hint="see whether it is running and not busy, then try again",
    )
    told = await checked(model, backend_for, late, limit_s=limit_s)
    if isinstance(told, ImagenError):
        return [Check.failed(model.name, told)]
    return [Check(name=f"{model.name}: {check.name}", error=check.error, note=check.note) for check in told]


def _files(settings: Settings, catalog: Catalog) -> list[Check]:
    name = "settings"
    there = str(settings.config_file) if settings.config_file.exists() else "defaults; there is no config.yaml"
    checks = [Check.failed(name, problem) for problem in settings.problems] or [Check.passed(name, there)]
    mine = [problem for problem in catalog.problems if problem not in settings.problems]
    enabled = sum(model.enabled for model in catalog.models.values())
    checks += [Check.failed("model files", problem) for problem in mine] or [
        Check.passed("model files", f"{len(catalog.models)} models, {enabled} of them enabled")
    ]
    try:
        default = catalog.get(None).name
        checks.append(Check.passed("default model", catalog.default_warning or default))
    except ImagenError as error:
        if error not in catalog.problems:  # those are told above
            checks.append(Check.failed("default model", error))
    return [*checks, *_aliases(settings, catalog), *_devices(settings, catalog)]


def _devices(settings: Settings, catalog: Catalog) -> list[Check]:
    """What `devices:` says of a device where nothing is drawn, and commands that are not there."""
    there = sorted({model.device for model in catalog.models.values()})
    found: list[Check] = []
    for name, shared in settings.devices.items():
        where = settings.document.where("devices", name)
        if name not in there:
            wrong = f"{where}: {name!r} is the device of no model{maybe(name, there)}"
            found.append(Check.failed("devices", BadConfig(wrong, hint=f"devices: {', '.join(there)}")))
        for which, hook in (("before", shared.before), ("after", shared.after)):
            if isinstance(hook, tuple) and shutil.which(hook[0]) is None:
                wrong = f"{where}: the hook `{which}` runs {hook[0]}, which is not there"
                hint = "install it, or write where it is: /usr/local/bin/…"
                found.append(Check.failed("devices", BadConfig(wrong, hint=hint)))
    return found


def _aliases(settings: Settings, catalog: Catalog) -> list[Check]:
    """Names for other programs that mean nothing, or that a model has already."""
    where = "config.yaml: openai: aliases"
    found: list[Check] = []
    for alias, name in settings.openai.aliases.items():
        if name is not None and name not in catalog.models:
            hint = f"models: {', '.join(sorted(catalog.models))}"
            wrong = BadConfig(f"{where}: {alias} means {name!r}, and there is no such model", hint=hint)
        elif alias in catalog.models:
            wrong = BadConfig(f"{where}: {alias} is a model itself, so the alias does nothing", hint="take it out")
        else:
            continue
        found.append(Check.failed("aliases", wrong))
    return found


def _folders(settings: Settings) -> list[Check]:
    """Looked at, not written to: a check changes nothing."""
    checks = []
    folders = {"data folder": settings.data_folder, "images folder": settings.images_folder}
    if settings.storage != "local":
        del folders["images folder"]
    *_, fullest = folders.values()
    for name, folder in folders.items():
        if os.access(_existing(folder), os.W_OK | os.X_OK) and _existing(folder).is_dir():
            checks.append(Check.passed(name, str(folder)))
            continue
        refused = Unwritable(
            f"the {name} {folder} cannot be written to",
            hint=f"make {_existing(folder)} a folder you may write to, or set IMAGEN_HOME to another folder",
        )
        checks.append(Check.failed(name, refused))
    free_mib = shutil.disk_usage(_existing(fullest)).free // 2**20
    if free_mib < ROOM_MIB:
        full = DiskFull(
            f"only {free_mib} MiB are free in {fullest}",
            hint=f"free some space around {fullest}, or set IMAGEN_HOME to another disk",
        )
        return [*checks, Check.failed("disk", full)]
    return [*checks, Check.passed("disk", f"{free_mib / 1024:.1f} GiB free")]


def _restart(pid: int, host: str, here: bool) -> str:
    units = re.findall(r"[\w@.-]+\.service$", _read(f"/proc/{pid}/cgroup"), re.MULTILINE) if here else []
    unit = next((unit.removesuffix(".service") for unit in units if unit.startswith("imagen")), None)
    if unit:
        return f"restart it: `systemctl --user restart {unit}`"
    where = "" if here else f"on {host}, after imagen is updated there too: "
    return (
        f"{where}`systemctl --user restart imagen-server` (or imagen-worker);"
        f" one started by hand: `kill {pid}`, which gives its jobs back, and start it again"
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())
