"""Settings: defaults < file < environment < flags; every value knows where it came from."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imagen.config.devices import devices_of
from imagen.config.keys import FROM_ENVIRONMENT, GROUPS, KEYS, PAID_CALLS, SYNCHRONOUS
from imagen.config.secret_files import SUFFIX, read_files
from imagen.core.device import Sharing
from imagen.core.errors import BadConfig, ImagenError, RequestError, Unwritable
from imagen.core.request import preview_policy
from imagen.reading import Document, read_yaml, spelled, valued

PREFIX = "IMAGEN_"
FILE = "config.yaml"

SECRET = ("token", "key", "password", "secret")

# To the last @, because a password may hold anything; rather too much is starred than too little.
_PASSWORD = re.compile(r"^((?:[a-z0-9+]+://)?[^:@/?]*):.*@", re.DOTALL)
# gs and az are Google's and Azure's, which obstore reaches the same way.
_BUCKET = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9!_.*'()-]+)*/?")
_IP = re.compile(r"[0-9.]+|.*:.*")
_PASSWORD_FIELD = re.compile(r"(?i)([?&][a-z_]*(?:password|secret|token)[a-z_]*=)[^&]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where `imagen serve` listens, and whom it answers."""

    host: str
    port: int
    hosts: tuple[str, ...]
    origins: tuple[str, ...]
    public_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one request, one key or all of them may ask; None = as much as they like."""

    prompt_chars: int | None
    pixels: int | None
    side: int | None
    steps: int | None
    n: int | None
    queued: int | None
    body_bytes: int
    streams: int | None
    streams_per_key: int | None
    header_s: float
    body_s: float
    series_cells: int | None
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAI:
    """How the door for programs made for OpenAI behaves."""

    aliases: Mapping[str, str | None]
    strict: bool
    on_disconnect: str
    hold_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """How a bucket is reached, and how pictures are read out of it."""

    endpoint: str | None
    region: str | None
    path_style: bool
    allow_http: bool
    profile: str | None
    reads: str
    presign_s: int
    public_endpoint: str | None
    patience_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """How receivers of webhooks know us, and which of them may be asked though they are not public."""

    secret: str | None
    allow: tuple[str, ...]
    keep_days: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings of this process."""

    config_file: Path
    models_folder: Path
    data_folder: Path
    cache_folder: Path
    database: str = "sqlite"
    synchronous: str = "normal"
    storage: str = "local"
    default_model: str | None = None
    preview: Any = None
    paid_calls: str = "allowed"
    server: Server
    limits: Limits
    openai: OpenAI
    s3: S3
    webhooks: Webhooks
    devices: Mapping[str, Sharing] = field(default_factory=dict)
    backends: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
        """The address as SQLAlchemy takes it, which wants the driver's name in it. Never shown: see `masked`."""
        if self.database == "sqlite":
            return f"sqlite:///{self.database_file}"
        return f"postgresql+psycopg://{self.database.partition('://')[2]}"

    @property
    def database_from(self) -> str:
        """Where `database` is set, in words for a hint; no path, because hints travel to callers."""
        origin = self.provenance.get("database", "")
        return origin.removeprefix("environment ") if origin.startswith("env") else "`database:` of config.yaml"

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
        # A group may have a backend's name: what it is told is no setting of the backend.
        given = {key: value for key, value in given.items() if key not in GROUPS.get(name, {})}
        return {**self.backends.get(name, {}), **given}


def load_settings(
    *,
    home: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read everything. What is wrong stands in `problems`; the rest is usable."""
    given = os.environ if environ is None else environ
    environ, problems = read_files(given, PREFIX)
    folders: dict[str, Any] = dict(folders_of(home, environ))
    provenance = dict.fromkeys([*KEYS, *(f"{group}.{key}" for group in GROUPS for key in GROUPS[group])], "default")
    values: dict[str, Any] = {name: default for name, (_, default, _) in KEYS.items() if name not in GROUPS}
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
            if name == "paid_calls":
                values[name] = PAID_CALLS[1]  # a slip in a switch that protects is no permission
            continue
        if value is not None and name not in GROUPS:
            values[name] = value
            provenance[name] = document.where(name)
    for name in FROM_ENVIRONMENT:
        variable, value = PREFIX + name.upper(), environ.get(PREFIX + name.upper())
        if value and (said := _place_wrong(name, value)):
            problems.append(BadConfig(f"{variable}: {said[0]}", hint=said[1]))
            if name == "paid_calls":
                values[name] = PAID_CALLS[1]
        elif value:
            values[name] = value
            provenance[name] = f"environment {variable}"
    for name, value in (flags or {}).items():
        if value is not None and name not in GROUPS:
            values[name] = value
            provenance[name] = f"flag --{name.replace('_', '-')}"
    values["devices"], wrong = devices_of(document, values["devices"])
    problems += wrong
    groups = {
        name: _group(name, document, environ, (flags or {}).get(name) or {}, provenance, problems) for name in GROUPS
    }
    problems += [*_bare(groups["s3"]), *_unnamed(groups["s3"])]
    for key, origin in provenance.items():
        variable = origin.removeprefix("environment ")
        if not given.get(variable) and given.get(variable + SUFFIX):
            provenance[key] = f"environment {variable}{SUFFIX}"
    return Settings(
        **folders,
        **values,
        server=Server(**groups["server"]),
        limits=Limits(**groups["limits"]),
        openai=OpenAI(**groups["openai"]),
        s3=S3(**groups["s3"]),
        webhooks=Webhooks(**groups["webhooks"]),
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
        value = _PASSWORD_FIELD.sub(r"\1***", value)
        if name == "database" or value.startswith("postgres"):
            return _PASSWORD.sub(r"\1:***@", value)
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
            if said := _place_wrong(name, value):
                raise document.wrong(said[0], name, hint=said[1])
        case "policy":
            try:
                preview_policy(value)
            except RequestError as error:
                raise document.wrong(error.message, name, hint=error.hint) from error
        case _:
            if not isinstance(value, Mapping):
                # What stands there is not repeated: it may be a key that was put in the wrong place.
                raise document.wrong(f"`{name}` has to be a mapping", name, hint="write `key: value` lines under it")
            if name in GROUPS:
                return
            for key, item in value.items():
                if not isinstance(item, Mapping):
                    hint = "write `key: value` lines under it"
                    raise document.wrong(f"`{name}.{key}` has to be a mapping", name, key, hint=hint)


def _place_wrong(name: str, value: str) -> tuple[str, str] | None:
    """What is wrong with the place where something is kept, and a hint. No password is repeated."""
    if name == "storage" and value != "local" and not _BUCKET.fullmatch(value):
        told = f"the storage {masked(name, value)!r} is not known"
        return told, "use `storage: local`, or a bucket: `storage: s3://bucket/folder`; keys do not stand in it"
    if name == "paid_calls" and value not in PAID_CALLS:
        return f"`paid_calls` cannot be {value!r}", f"it is {' or '.join(PAID_CALLS)}"
    if name == "synchronous" and value not in SYNCHRONOUS:
        return f"`synchronous` cannot be {value!r}", f"it is {' or '.join(SYNCHRONOUS)}"
    if name == "database" and value != "sqlite":
        scheme, _, rest = value.partition("://")
        if scheme not in ("postgresql", "postgres") or not rest:
            told = f"the database {masked(name, value)!r} is not known"
            return told, "use `sqlite`, or an address such as postgresql://user:password@host/database"
        try:
            _ = urlsplit(value).port
        except ValueError:
            told = f"the database {masked(name, value)!r} is not an address"
            return told, "write a port in digits, and signs such as @ : / # of a password as %40 %3A %2F %23"
    return None


def _bare(s3: Mapping[str, Any]) -> Iterator[BadConfig]:
    """Addresses of the bucket without TLS, which somebody must have allowed."""
    for key in ("endpoint", "public_endpoint"):
        if not s3["allow_http"] and (s3[key] or "").lower().startswith("http:"):
            yield BadConfig(
                f"`s3.{key}` has no TLS: whoever is on the way sees the pictures, and may change them",
                hint="write https://, or on a network you trust `s3: {allow_http: true}`",
            )


def _unnamed(s3: Mapping[str, Any]) -> Iterator[BadConfig]:
    """Addresses that a bucket's name cannot be put before: that makes a host, and numbers are none."""
    for key in ("endpoint", "public_endpoint"):
        if not s3["path_style"] and _IP.fullmatch(host := urlsplit(s3[key] or "").hostname or ""):
            yield BadConfig(
                f"`s3.path_style` is false, and the name of a bucket cannot stand before {host} of `s3.{key}`",
                hint="leave `path_style` true, or write a name for the host",
            )


def _group(
    name: str,
    document: Document,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    provenance: dict[str, str],
    problems: list[ImagenError],
) -> dict[str, Any]:
    """The values of `server` or `limits`; a wrong one is a problem, and its default holds."""
    keys = GROUPS[name]
    values = {key: default for key, (_, default, _) in keys.items()}
    written = document.data.get(name)
    for key, value in written.items() if isinstance(written, Mapping) else ():
        try:
            document.known([key], keys, name)
            values[key] = valued(keys[key][0], keys[key][1], value)
            provenance[f"{name}.{key}"] = document.where(name, key)
        except BadConfig as error:
            problems.append(error)
        except ValueError as wrong:
            problems.append(document.wrong(f"`{name}.{key}` {wrong}", name, key, hint=f"what it is: {keys[key][2]}"))
    for key in keys:
        variable = f"{PREFIX}{name}_{key}".upper()
        for value, origin in ((environ.get(variable), f"environment {variable}"), (flags.get(key), f"flag --{key}")):
            if value not in (None, ""):
                try:
                    values[key] = valued(keys[key][0], keys[key][1], spelled(keys[key][0], value))
                    provenance[f"{name}.{key}"] = origin
                except ValueError as wrong:
                    problems.append(BadConfig(f"{origin}: `{name}.{key}` {wrong}", hint=f"what it is: {keys[key][2]}"))
    return values
