"""Settings, installed backends and model files put together: the catalog of this process."""

import asyncio
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from imagen.backends.base import Registration
from imagen.backends.registry import registration, registrations
from imagen.config import Settings, load_settings, masked
from imagen.core.errors import BadConfig, ImagenError, NotConfigured
from imagen.core.model import Model
from imagen.models import slots
from imagen.models.catalog import FILE, Catalog, CatalogWatch, Entry, load_catalog, model_folders


def catalog_of(settings: Settings) -> Catalog:
    """Read all models once."""
    backends = registrations()
    catalog = load_catalog(
        folders=[*model_folders(), settings.models_folder],
        configured={
            name: Entry(name=name, keys=keys, document=settings.document, path=("models", name))
            for name, keys in settings.models.items()
        },
        default_model=settings.default_model,
        default_from=settings.provenance["default_model"],
        backends=backends,
        backend_settings={name: settings.backend(name) for name in backends},
        host=platform.node() or "localhost",
        paid_calls=settings.paid_calls != "forbidden",
    )
    catalog = replace(catalog, sharing=settings.devices)
    wrong = [*settings.problems, *_backends_wrong(settings, backends)]
    if wrong:
        file = str(settings.config_file)
        problems: dict[str, ImagenError] = {file: wrong[0], **catalog.broken}
        problems |= {f"{file} {number}": error for number, error in enumerate(wrong[1:], 2)}
        catalog = replace(catalog, broken=problems)
    return catalog


def _backends_wrong(settings: Settings, backends: Mapping[str, Registration]) -> Iterator[BadConfig]:
    """What `backends:` says that nobody would ever read."""
    document = settings.document
    for name, said in settings.backends.items():
        try:
            document.known([name], backends, "backends")
            if backends[name].settings:
                document.known(said, backends[name].settings, "backends", name)
        except BadConfig as error:
            yield error


def backends_refused(settings: Settings) -> Iterator[ImagenError]:
    """What backends say of their own settings when they are made; that loads them, so only who asks for it hears it."""
    known = registrations()
    for name in settings.backends:
        if name not in known:
            continue  # said already
        try:
            known[name].create(settings.backend(name))
        except ImagenError as error:
            yield error


def refuse_paid(settings: Settings, model: Model) -> None:
    """Raise if drawing this model costs money, by what its backend says now and not by what a job carries."""
    said = registration(model.backend).paid
    keys = {key: value for key, value in model.keys.items() if value not in (None, "")}
    if said({**settings.backend(model.backend), **keys}) if callable(said) else said:
        raise NotConfigured(
            f"the model {model.name} costs money, and paid calls are forbidden here",
            hint="take `paid_calls: forbidden` out of config.yaml, or IMAGEN_PAID_CALLS out of the environment",
            param="paid_calls",
        )


def watched_catalog(settings: Settings) -> CatalogWatch:
    """The same, kept current while files change; a file that breaks keeps its last good version."""

    def load() -> Catalog:
        fresh = load_settings(home=_home(settings), environ=settings.environ)
        return catalog_of(fresh)

    return CatalogWatch(load, lambda: model_files(settings))


def make_database_apart(settings: Settings) -> None:
    """Make a new SQLite file in a process of its own: what is loaded for it would stay in this one for ever.

    To be called before there are threads. Whatever goes wrong shows again, with words, when the database is opened.
    """
    if not hasattr(os, "fork") or settings.database != "sqlite" or settings.database_file.exists():
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        asyncio.run(_make_database(settings))
    except BaseException:
        os._exit(1)
    os._exit(0)


async def _make_database(settings: Settings) -> None:
    from imagen.store.db import Database

    db = Database(settings.database_url, given_in=settings.database_from)
    await db.open()
    await db.close()


async def upgrade_database(settings: Settings) -> str:
    """Bring the database to the version of this program; says what was done."""
    from imagen.store.db import Database

    db = Database(settings.database_url, given_in=settings.database_from)
    try:
        before, after = await db.upgrade()
    finally:
        await db.close()
    moved = f"version {before or 'none'} -> {after}" if before != after else f"already at version {after}"
    where = settings.database_file if settings.database == "sqlite" else masked("database", settings.database)
    return f"{where}: {moved}"


def model_files(settings: Settings) -> Iterable[Path]:
    """Every file that says something about models, and the folders in which one may appear."""
    yield settings.config_file
    for folder in [*model_folders(), settings.models_folder]:
        yield folder
        for inner in sorted(folder.glob("*/")):
            yield inner
            yield from (inner / FILE, inner / slots.FILE)


def _home(settings: Settings) -> Path | None:
    """The one folder of everything, if there is one."""
    return settings.data_folder if settings.config_file.parent == settings.data_folder else None
