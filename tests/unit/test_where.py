"""Where a command does its work: which server is meant, with which key, and what is never done elsewhere."""

from pathlib import Path

import click
import pytest
from tests.cli_kit import imagen

from imagen.away.server import Server
from imagen.config import load_settings, masked
from imagen.core.errors import BadConfig, NotConfigured, RequestError
from imagen.surfaces.cli.where import in_front

SERVERS = """\
servers:
  gpu: {url: "http://gpu.example:8450", key: imagen_one}
  attic: {url: "attic.lan:9000/"}
"""


def named(tmp_path: Path, server: str, *, key: str | None = None, environ: dict[str, str] | None = None) -> Server:
    (tmp_path / "config.yaml").write_text(SERVERS)
    return Server.of(server, load_settings(home=tmp_path, environ=environ or {}), key=key)


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://gpu.example:8450", "http://gpu.example:8450"),
        ("https://gpu.example/", "https://gpu.example"),
        ("https://gpu.example/pictures/v1", "https://gpu.example/pictures"),
        ("gpu.example:8450", "http://gpu.example:8450"),
        ("localhost", "http://localhost"),
        ("[::1]:8450", "http://[::1]:8450"),
        ("gpu", "http://gpu.example:8450"),
        ("attic", "http://attic.lan:9000"),
    ],
)
def test_a_server_is_an_address_or_a_name(tmp_path: Path, typed: str, url: str) -> None:
    """However much or little of the address was typed."""
    assert named(tmp_path, typed).address.url == url


def test_the_key_of_a_server(tmp_path: Path) -> None:
    """What is given goes before the environment, and that before config.yaml, where it is found by the address too."""
    environ = {"IMAGEN_KEY": "imagen_two"}
    assert named(tmp_path, "gpu").key == "imagen_one"
    assert named(tmp_path, "http://gpu.example:8450/v1").key == "imagen_one"
    assert named(tmp_path, "attic").key == ""
    assert named(tmp_path, "gpu", environ=environ).key == "imagen_two"
    assert named(tmp_path, "gpu", environ=environ, key="imagen_three").key == "imagen_three"
    assert "imagen_one" not in repr(named(tmp_path, "gpu"))


@pytest.mark.parametrize(
    "typed",
    [
        "ftp://gpu.example",
        "http://",
        "http://gpu.example:port",
        "http://me:secret@gpu.example",
        "http://gpu.example/?a=b",
        "http://gpu.example/#a",
    ],
)
def test_what_is_no_address_is_refused(tmp_path: Path, typed: str) -> None:
    """With a hint, and without a password that was in it."""
    with pytest.raises(RequestError) as refused:
        named(tmp_path, typed)
    assert "secret" not in refused.value.message + refused.value.hint


def test_an_unknown_name_is_met_with_the_known_ones(tmp_path: Path) -> None:
    """Did you mean?"""
    with pytest.raises(RequestError, match="did you mean 'gpu'") as refused:
        named(tmp_path, "gpuu")
    assert "attic" in refused.value.hint


def test_a_key_that_is_no_word_is_refused_without_repeating_it(tmp_path: Path) -> None:
    """It would break the header it is sent in."""
    with pytest.raises(NotConfigured) as refused:
        named(tmp_path, "gpu", key="two words")
    assert "two words" not in refused.value.message


def test_a_slip_under_servers_is_named_with_its_line(tmp_path: Path) -> None:
    """As everywhere in config.yaml."""
    (tmp_path / "config.yaml").write_text("servers:\n  gpu: {url: http://gpu.example, kye: x}\n")
    with pytest.raises(BadConfig, match="kye"):
        Server.of("gpu", load_settings(home=tmp_path, environ={}))


def test_the_keys_of_servers_are_starred(tmp_path: Path) -> None:
    """Where settings are shown."""
    named(tmp_path, "gpu")
    shown = str(masked("servers", load_settings(home=tmp_path, environ={}).servers))
    assert "imagen_one" not in shown
    assert "gpu.example" in shown


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["generate", "x", "--server", "u"], ["--server", "u", "generate", "x"]),
        (["generate", "--server=u", "x"], ["--server=u", "generate", "x"]),
        (["--server", "u", "generate", "x"], ["--server", "u", "generate", "x"]),
        (["generate", "--", "--server", "u"], ["generate", "--", "--server", "u"]),
    ],
)
def test_the_server_may_be_named_anywhere(typed: list[str], read: list[str]) -> None:
    """People type it last; behind `--` it is a word like any other."""
    assert in_front(typed) == read


def test_a_server_without_its_address_is_refused() -> None:
    """Nothing that follows is taken for it."""
    for typed in (["jobs", "--server"], ["--server", "--json"], ["--server", "", "jobs"], ["jobs", "--server="]):
        with pytest.raises(click.UsageError, match="wants the address"):
            in_front(typed)


@pytest.mark.parametrize(
    "verb",
    [
        "serve",
        "worker",
        "gc",
        "db upgrade",
        "keys list",
        "models add x.json",
        "models pull",
        "models remove x",
        "config",
        "skill",
    ],
)
def test_what_is_about_one_machine_is_not_done_at_another(
    verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit code 2, and where to run it."""
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path))
    ran = imagen("--server", "http://gpu.example:8450", *verb.split())
    assert ran.code == 2
    assert "http://gpu.example:8450" in ran.err
    assert "leave out --server" in ran.err
    assert ("GET /v1/webhooks/secret" in ran.err) == verb.startswith("keys")
    assert not (tmp_path / "imagen.db").exists()


def test_a_variable_that_is_set_keeps_nobody_from_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`config` is how one finds out what is set; what works on jobs or files is refused all the same."""
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path))
    monkeypatch.setenv("IMAGEN_SERVER", "http://gpu.example:8450")
    assert imagen("config", "path").code == 0
    refused = imagen("gc")
    assert refused.code == 2
    assert "unset IMAGEN_SERVER" in refused.err
