"""Settings: where each comes from, what wins, and what is said about a wrong one."""

from dataclasses import replace
from pathlib import Path

import pytest

from imagen.config import load_settings, masked
from imagen.config.keys import GROUPS, KEYS, LIMITS


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each value says where it came from."""
    seen = []
    file = tmp_path / "config.yaml"
    for text, environ, flags in (
        ("", {}, {}),
        ("storage: local\ndefault_model: of-file\n", {}, {}),
        ("default_model: of-file\n", {"IMAGEN_DEFAULT_MODEL": "of-environment"}, {}),
        ("default_model: of-file\n", {"IMAGEN_DEFAULT_MODEL": "of-environment"}, {"default_model": "of-flag"}),
    ):
        file.write_text(text)
        settings = load_settings(home=tmp_path, environ=environ, flags=flags)
        seen.append((settings.default_model, settings.provenance["default_model"]))
    assert seen == [
        (None, "default"),
        ("of-file", f"{file}:2"),
        ("of-environment", "environment IMAGEN_DEFAULT_MODEL"),
        ("of-flag", "flag --default-model"),
    ]


def test_an_empty_variable_sets_nothing(tmp_path: Path) -> None:
    """`IMAGEN_DEFAULT_MODEL= imagen …` is how a shell takes a setting away."""
    assert load_settings(home=tmp_path, environ={"IMAGEN_DEFAULT_MODEL": ""}).default_model is None


def test_imagen_home_puts_everything_under_one_folder(tmp_path: Path) -> None:
    """No file of ours lies elsewhere."""
    settings = load_settings(environ={"IMAGEN_HOME": str(tmp_path)})
    places = (
        settings.config_file,
        settings.models_folder,
        settings.database_file,
        settings.images_folder,
        settings.logs_folder,
        settings.cache_folder,
    )
    assert all(place.is_relative_to(tmp_path) for place in places)


def test_without_a_home_the_platform_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings, data and cache each go where the platform keeps such things."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    settings = load_settings(environ={})
    assert settings.config_file.name == "config.yaml"
    assert len({settings.config_file.parent, settings.data_folder, settings.cache_folder}) == 3


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("storage: local\nstroage: local\n", 2, "did you mean 'storage'"),
        ("\ndefault_model: [mock]\n", 2, "is text"),
        ("database: mysql://x\n", 1, "mysql"),
        ("preview: {count: 900}\n", 1, "from 1 to 64"),
        ("models: mock\n", 1, "has to be a mapping"),
        ("backends:\n  mock: yes\n", 2, "has to be a mapping"),
        ("models:\n  mock: [1]\n", 2, "has to be a mapping"),
        ("a: [\n", 2, "not YAML"),
    ],
)
def test_a_wrong_setting_is_a_problem_with_file_and_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    """It is named, and the rest stays usable."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    (problem,) = load_settings(home=tmp_path, environ={}).problems
    assert problem.message.startswith(f"{file}:{line}:")
    assert word in problem.message
    assert problem.hint
    assert problem.exit_code == 3


def test_a_wrong_key_leaves_the_others_alone(tmp_path: Path) -> None:
    """One typing mistake does not take the default model away."""
    (tmp_path / "config.yaml").write_text("databse: sqlite\ndefault_model: mock-warm\n")
    settings = load_settings(home=tmp_path, environ={})
    assert len(settings.problems) == 1
    assert settings.default_model == "mock-warm"


def test_the_environment_sets_a_key_of_a_backend(tmp_path: Path) -> None:
    """IMAGEN_COMFYUI_URL is `url` of comfyui, and wins over the file."""
    (tmp_path / "config.yaml").write_text("backends:\n  comfyui: {url: http://of-file, token: t}\n")
    settings = load_settings(home=tmp_path, environ={"IMAGEN_COMFYUI_URL": "http://of-environment"})
    assert settings.backend("comfyui") == {"url": "http://of-environment", "token": "t"}
    assert settings.backend("other") == {}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("token", "hunter2", "***"),
        ("api_key", "hunter2", "***"),
        ("database", "postgresql://me:hunter2@host/db", "postgresql://me:***@host/db"),
        ("database", "postgresql://me:hun/ter@2@host/db", "postgresql://me:***@host/db"),
        ("database", "postgresql:///db?host=/run&password=hunter2", "postgresql:///db?host=/run&password=***"),
        ("database", "me:hunter2@host", "me:***@host"),
        ("", "postgresql+psycopg://me:hunter2@host/db", "postgresql+psycopg://me:***@host/db"),
        ("url", "http://host/?token=hunter2&size=3", "http://host/?token=***&size=3"),
        ("url", "http://host:8188/a@b", "http://host:8188/a@b"),
        (
            "backends",
            {"x": {"password": "hunter2", "url": "http://host"}},
            {"x": {"password": "***", "url": "http://host"}},
        ),
        ("default_model", "mock", "mock"),
    ],
)
def test_secrets_are_starred(name: str, value: object, shown: object) -> None:
    """Wherever they stand in a value."""
    assert masked(name, value) == shown


def test_every_key_is_documented() -> None:
    """`config init` and the reference print these words."""
    assert all(help_ for keys in (KEYS, *GROUPS.values()) for _, _, help_ in keys.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database", "mysql://me:secret@host/db"),
        ("database", "postgresql://"),
        ("database", "postgresql://me:sec/ret@host:port/db"),
        ("database", "me:secret@host"),
        ("storage", "s3://me:secret@bucket"),
    ],
)
def test_an_unknown_place_is_refused_wherever_it_is_said(tmp_path: Path, name: str, value: str) -> None:
    """By the environment as by the file, and no password is repeated."""
    for environ, text in (({f"IMAGEN_{name.upper()}": value}, ""), ({}, f"{name}: {value}\n")):
        (tmp_path / "config.yaml").write_text(text)
        settings = load_settings(home=tmp_path, environ=environ)
        (problem,) = settings.problems
        assert name in problem.message.lower()
        assert "sec" not in problem.message + problem.hint
        assert getattr(settings, name) == KEYS[name][1]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_postgresql_address_is_taken_as_it_is(tmp_path: Path, scheme: str) -> None:
    """From the file or the environment; SQLAlchemy gets the name of the driver with it."""
    address = f"{scheme}://me:s%40crets@host:5432/db?sslmode=require"
    (tmp_path / "config.yaml").write_text(f"database: {address}\n")
    for environ in ({}, {"IMAGEN_DATABASE": address}):
        settings = load_settings(home=tmp_path, environ=environ)
        assert not settings.problems
        assert settings.database_url == "postgresql+psycopg://me:s%40crets@host:5432/db?sslmode=require"
        assert masked("database", settings.database) == f"{scheme}://me:***@host:5432/db?sslmode=require"
        assert "crets" not in str(masked("", settings.database_url))


def test_without_a_word_the_server_is_for_this_machine_alone(tmp_path: Path) -> None:
    """And everything it does is limited."""
    settings = load_settings(home=tmp_path, environ={})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8450)
    assert all(getattr(settings.limits, name) is not None for name in LIMITS)


def test_a_limit_says_where_it_came_from(tmp_path: Path) -> None:
    """Flags win over the environment, the environment over the file; null switches a limit off."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "limits:\n  steps: 50\n  side: null\n  n: 3\n"
        "server:\n  host: 0.0.0.0\n  port: 80\n  hosts: [Draw.example]\n  origins: ['https://a.example']\n"
    )
    environ = {
        "IMAGEN_LIMITS_N": "4",
        "IMAGEN_LIMITS_PIXELS": "off",
        "IMAGEN_SERVER_PORT": "81",
        "IMAGEN_SERVER_ORIGINS": "https://b.example, http://c.example:3000",
    }
    settings = load_settings(home=tmp_path, environ=environ, flags={"server": {"port": 82, "host": None}})
    assert not settings.problems
    limits, server = settings.limits, settings.server
    assert (limits.steps, limits.side, limits.n, limits.pixels) == (50, None, 4, None)
    assert (server.host, server.port, server.hosts) == ("0.0.0.0", 82, ("draw.example",))
    assert server.origins == ("https://b.example", "http://c.example:3000")
    origins = settings.provenance
    assert origins["limits.steps"] == f"{file}:2"
    assert origins["limits.n"] == "environment IMAGEN_LIMITS_N"
    assert origins["limits.queued"] == "default"
    assert origins["server.port"] == "flag --port"
    assert origins["server.host"] == f"{file}:6"


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("limits:\n  step: 3\n", 2, "did you mean 'steps'"),
        ("limits:\n  steps: many\n", 2, "whole number from 1"),
        ("limits:\n  steps: true\n", 2, "whole number from 1"),
        ("limits:\n  n: 0\n", 2, "whole number from 1"),
        ("limits:\n  n: 2\n  body_bytes: null\n", 3, "whole number from 1"),
        ("limits: 3\n", 1, "has to be a mapping"),
        ("server: [a]\n", 1, "has to be a mapping"),
        ("server:\n  port: 70000\n", 2, "from 0 to 65,535"),
        ("server:\n  port: '80'\n", 2, "from 0 to 65,535"),
        ("server:\n  hosts: draw.example\n", 2, "list of names"),
        ("server:\n  hosts: ['http://draw.example']\n", 2, "without scheme"),
        ("server:\n  origins: ['*']\n", 2, "list of addresses"),
        ("server:\n  origins: ['https://a.example/page']\n", 2, "list of addresses"),
        ("server:\n  origins: ['null']\n", 2, "list of addresses"),
        ("server:\n  public_url: draw.example\n", 2, "is an address"),
        ("server:\n  host: [a]\n", 2, "is text"),
    ],
)
def test_a_wrong_key_of_a_group_is_a_problem_with_file_and_line(
    tmp_path: Path, text: str, line: int, word: str
) -> None:
    """It is named, and the default holds."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    settings = load_settings(home=tmp_path, environ={})
    (problem,) = settings.problems
    assert problem.message.startswith(f"{file}:{line}:")
    assert word in problem.message
    assert problem.hint
    usual = load_settings(home=tmp_path / "other", environ={})
    kept = {"n": 2} if "n: 2" in text else {}  # what stands beside it and is right
    assert (settings.limits, settings.server) == (replace(usual.limits, **kept), usual.server)


def test_a_key_that_was_put_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """Errors travel far: into logs, and over HTTP."""
    for text in ("backends: {openai: sk-secret}", "s3: sk-secret", "servers: sk-secret", "webhooks: sk-secret"):
        (tmp_path / "config.yaml").write_text(text + "\n")
        (problem,) = load_settings(home=tmp_path, environ={}).problems
        assert "has to be a mapping" in problem.message, text
        assert "sk-secret" not in f"{problem.message} {problem.hint} {problem.detail}", text


def test_a_wrong_limit_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    """There is no line to name."""
    (problem,) = load_settings(home=tmp_path, environ={"IMAGEN_LIMITS_STEPS": "-1"}).problems
    assert problem.message.startswith("environment IMAGEN_LIMITS_STEPS:")
    assert problem.exit_code == 3


def test_sqlite_can_be_told_to_wait_for_the_disk(tmp_path: Path) -> None:
    """`synchronous: full` reaches the database; anything else is refused with the words there are."""
    (tmp_path / "config.yaml").write_text("synchronous: full\n")
    assert load_settings(home=tmp_path, environ={}).synchronous == "full"
    (tmp_path / "config.yaml").write_text("synchronous: maybe\n")
    (problem,) = load_settings(home=tmp_path, environ={}).problems
    assert "maybe" in problem.message
    assert "normal or full" in problem.hint


@pytest.mark.parametrize("place", ["s3://pictures", "s3://pictures/imagen/", "gs://pictures/a/b", "az://pictures"])
def test_pictures_may_lie_in_a_bucket(tmp_path: Path, place: str) -> None:
    """How it is reached has a group of its own, from the file or from the environment."""
    (tmp_path / "config.yaml").write_text(f"storage: {place}\ns3: {{endpoint: 'https://s3.example', presign_s: 60}}\n")
    settings = load_settings(home=tmp_path, environ={"IMAGEN_S3_READS": "presigned", "IMAGEN_S3_PATH_STYLE": "false"})
    assert settings.problems == ()
    assert settings.storage == place
    told = settings.s3
    assert (told.endpoint, told.presign_s, told.reads, told.path_style) == (
        "https://s3.example",
        60,
        "presigned",
        False,
    )


@pytest.mark.parametrize(
    "place", ["s3:/pictures", "s3://", "s3://key:secret@pictures", "ftp://pictures", "/srv/pictures"]
)
def test_a_bucket_has_an_address_without_keys(tmp_path: Path, place: str) -> None:
    """Anything else is refused, and no secret is repeated."""
    (problem,) = load_settings(home=tmp_path, environ={"IMAGEN_STORAGE": place}).problems
    assert "s3://bucket/folder" in problem.hint
    assert "secret" not in problem.message


@pytest.mark.parametrize("key", ["endpoint", "public_endpoint"])
def test_a_bucket_without_tls_must_be_allowed(tmp_path: Path, key: str) -> None:
    """Pictures and signed addresses would be open to whoever is on the way."""
    told = {f"IMAGEN_S3_{key.upper()}": "http://10.0.0.7:9000"}
    (problem,) = load_settings(home=tmp_path, environ=told).problems
    assert f"`s3.{key}` has no TLS" in problem.message
    assert load_settings(home=tmp_path, environ=told | {"IMAGEN_S3_ALLOW_HTTP": "true"}).problems == ()


@pytest.mark.parametrize("key", ["endpoint", "public_endpoint"])
@pytest.mark.parametrize("host", ["10.0.0.7", "[fd00::7]"])
def test_a_bucket_has_no_name_before_a_number(tmp_path: Path, key: str, host: str) -> None:
    """The library that asks the bucket would not say so: it breaks."""
    told = {f"IMAGEN_S3_{key.upper()}": f"https://{host}:9000", "IMAGEN_S3_PATH_STYLE": "false"}
    (problem,) = load_settings(home=tmp_path, environ=told).problems
    assert f"cannot stand before {host.strip('[]')} of `s3.{key}`" in problem.message
    named = told | {f"IMAGEN_S3_{key.upper()}": "https://10.example:9000"}
    for fine in (named, told | {"IMAGEN_S3_PATH_STYLE": "true"}):
        assert load_settings(home=tmp_path, environ=fine).problems == ()


def test_a_setting_may_lie_in_a_file(tmp_path: Path) -> None:
    """As containers are given secrets; without its last line break, and said of it is where it came from."""
    (tmp_path / "database").write_text("postgresql://me:word@host/db\n")
    (tmp_path / "port").write_text("9000\n")
    environ = {
        f"IMAGEN_{name}_FILE": str(tmp_path / name.split("_")[-1].lower()) for name in ("DATABASE", "SERVER_PORT")
    }
    settings = load_settings(home=tmp_path, environ=environ)
    assert settings.problems == ()
    assert (settings.database, settings.server.port) == ("postgresql://me:word@host/db", 9000)
    assert settings.provenance["database"] == "environment IMAGEN_DATABASE_FILE"
    assert settings.provenance["server.port"] == "environment IMAGEN_SERVER_PORT_FILE"
    again = load_settings(home=tmp_path, environ=settings.environ)  # as a catalog does whose files changed
    assert (again.database, again.problems) == (settings.database, ())


def test_a_variable_goes_before_its_file(tmp_path: Path) -> None:
    """Whoever types one wants that one; the file is not even looked for."""
    environ = {"IMAGEN_STORAGE": "s3://here", "IMAGEN_STORAGE_FILE": str(tmp_path / "missing")}
    settings = load_settings(home=tmp_path, environ=environ)
    assert (settings.storage, settings.problems) == ("s3://here", ())
    assert settings.provenance["storage"] == "environment IMAGEN_STORAGE"


@pytest.mark.parametrize("content", [b"", b" \n"], ids=["no bytes", "a line break"])
def test_an_empty_file_is_not_the_default(tmp_path: Path, content: bytes) -> None:
    """A secret that was never filled in: SQLite instead would be a queue that nobody else sees."""
    file = tmp_path / "database"
    file.write_bytes(content)
    (problem,) = load_settings(home=tmp_path, environ={"IMAGEN_DATABASE_FILE": str(file)}).problems
    assert problem.message == f"IMAGEN_DATABASE_FILE: {file} is empty"
    assert problem.hint


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no text"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Going on with SQLite would hide that a secret was not mounted."""
    file = tmp_path / "database"
    if content is not None:
        file.write_bytes(content)
    (problem,) = load_settings(home=tmp_path, environ={"IMAGEN_DATABASE_FILE": str(file)}).problems
    assert problem.message.startswith(f"IMAGEN_DATABASE_FILE: cannot read {file}")
    assert problem.hint
