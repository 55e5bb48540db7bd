"""Settings: defaults < file < environment < flags; every value knows where it came from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagen.core.errors import BadConfig, ImagenError, RequestError, Unwritable
from imagen.core.request import preview_policy
from imagen.reading import Document, read_yaml

PREFIX = "IMAGEN_"
FILE = "config.yaml"

# Every key of config.yaml: its type in words, its default, and what it is for. `config init` and the docs print this.
KEYS: Mapping[str, tuple[str, Any, str]] = {
    "database": ("text", "sqlite", "where jobs are remembered: `sqlite` is one file in the data folder"),
    "storage": ("text", "local", "where pictures lie: `local` is a folder beside the database"),
    "default_model": ("text", None, "the model of a request that names none"),
    "preview": ("policy", None, "how previews are made unless a request or a model says otherwise"),
    "backends": ("mapping", {}, "settings for every model of a backend: `name: {key: value}`"),
    "models": ("mapping", {}, "your models: `name: {backend: …}`, or a bundled name with the keys to change"),
}
FROM_ENVIRONMENT = ("database", "storage", "default_model")
PLACES = {"database": "sqlite", "storage": "local"}  # where things can be kept in this version
SECRET = ("token", "key", "password", "secret")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings of this process."""

    config_file: Path
    models_folder: Path
    data_folder: Path
    cache_folder: Path
    database: str = "sqlite"
    storage: str = "local"
    default_model: str | None = None
    preview: Any = None
    backends: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    document: Document
    provenance: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[ImagenError, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def database_file(self) -> Path:
        return self.data_folder / "imagen.db"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.database_file}" if self.database == "sqlite" else self.database

    @property
    def images_folder(self) -> Path:
        return self.data_folder / "images"

    @property
    def logs_folder(self) -> Path:
        return self.data_folder / "logs"

    def backend(self, name: str) -> dict[str, Any]:
        """The settings of one backend; IMAGEN_COMFYUI_URL sets `url` of comfyui."""
        prefix = f"{PREFIX}{name.upper().replace('-', '_')}_"
        given = {key[len(prefix) :].lower(): value for key, value in self.environ.items() if key.startswith(prefix)}
        return {**self.backends.get(name, {}), **given}


def load_settings(
    *,
    home: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read everything. What is wrong stands in `problems`; the rest is usable."""
    environ = os.environ if environ is None else environ
    folders: dict[str, Any] = dict(folders_of(home, environ))
    provenance = dict.fromkeys(KEYS, "default")
    values: dict[str, Any] = {name: default for name, (_, default, _) in KEYS.items()}
    problems: list[ImagenError] = []
    document = Document(file=folders["config_file"])
    try:
        if folders["config_file"].exists():
            document = read_yaml(folders["config_file"])
    except BadConfig as error:
        problems.append(error)
    except OSError as exc:
        hint = "make the folder readable for you, or set IMAGEN_HOME to another"
        problems.append(Unwritable(f"cannot read {folders['config_file']}: {exc.strerror}", hint=hint))
    for name, value in document.data.items():
        try:
            document.known([name], KEYS)
            _check(document, name, value)
        except BadConfig as error:
            problems.append(error)
            continue
        if value is not None:
            values[name] = value
            provenance[name] = document.where(name)
    for name in FROM_ENVIRONMENT:
        if environ.get(PREFIX + name.upper()):
            variable, value = PREFIX + name.upper(), environ[PREFIX + name.upper()]
            if name in PLACES and value != PLACES[name]:
                hint = f"unset it, or set it to {PLACES[name]}"
                problems.append(BadConfig(f"{variable}: the {name} {masked(name, value)!r} is not known", hint=hint))
                continue
            values[name] = value
            provenance[name] = f"environment {variable}"
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = value
            provenance[name] = f"flag --{name.replace('_', '-')}"
    return Settings(
        **folders,
        **values,
        document=document,
        provenance=provenance,
        problems=tuple(problems),
        environ={key: value for key, value in environ.items() if key.startswith(PREFIX)},
    )


def folders_of(home: Path | None, environ: Mapping[str, str]) -> dict[str, Path]:
    """One folder for everything when IMAGEN_HOME says so, the platform's folders otherwise."""
    if home is None and environ.get("IMAGEN_HOME"):
        home = Path(environ["IMAGEN_HOME"])
    if home is not None:
        home = home.expanduser().absolute()
        config, data, cache = home, home, home / "cache"
    else:
        from platformdirs import user_cache_path, user_config_path, user_data_path

        config, data, cache = user_config_path("imagen"), user_data_path("imagen"), user_cache_path("imagen")
    return {
        "config_file": config / FILE,
        "models_folder": config / "models",
        "data_folder": data,
        "cache_folder": cache,
    }


def masked(name: str, value: Any) -> Any:
    """A value as it may be shown: secrets, and passwords inside addresses, are starred."""
    if isinstance(value, Mapping):
        return {key: masked(key, item) for key, item in value.items()}
    if isinstance(value, str):
        if any(word in name.lower() for word in SECRET):
            return "***"
        scheme, found, rest = value.partition("://")
        if found and "@" in rest.split("/")[0]:
            user, _, host = rest.rpartition("@")
            return f"{scheme}://{user.split(':')[0]}:***@{host}"
    return value


def _check(document: Document, name: str, value: Any) -> None:
    if value is None:
        return
    match KEYS[name][0]:
        case "text":
            if not isinstance(value, str):
                raise document.wrong(f"`{name}` is text, not {value!r}", name, hint="put it in quotes")
            if name in PLACES and value != PLACES[name]:
                raise document.wrong(
                    f"the {name} {masked(name, value)!r} is not known", name, hint=f"use `{name}: {PLACES[name]}`"
                )
        case "policy":
            try:
                preview_policy(value)
            except RequestError as error:
                raise document.wrong(error.message, name, hint=error.hint) from error
        case _:
            if not isinstance(value, Mapping):
                raise document.wrong(f"`{name}` is a mapping", name, hint=f"write under it lines of `{KEYS[name][2]}`")
            for key, item in value.items():
                if not isinstance(item, Mapping):
                    raise document.wrong(f"`{name}.{key}` is a mapping", name, key, hint="write `key: value` lines")
