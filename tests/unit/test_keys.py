"""`imagen keys`: make one, list them, take one away."""

import json
from pathlib import Path

import pytest
from tests.cli_kit import imagen


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path))


def test_a_key_is_shown_once(tmp_path: Path) -> None:
    """Alone on standard output; nothing that is kept holds it."""
    ran = imagen("keys", "add", "alice")
    assert ran.code == 0
    secret = ran.out.strip()
    assert secret.startswith("imagen_")
    assert len(secret) > 40
    assert "cannot be shown again" in ran.err
    assert "first key" in ran.err
    assert "first key" not in imagen("keys", "add", "bob").err
    listed = imagen("keys", "list")
    assert "alice" in listed.out
    assert secret not in listed.out + listed.err + imagen("keys", "--json").out
    assert not any(secret.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_keys_are_listed_by_name(tmp_path: Path) -> None:
    """With what each may do; `imagen keys` is `imagen keys list`."""
    assert "no keys" in imagen("keys").err
    assert json.loads(imagen("keys", "add", "root", "--admin", "--json").out)["admin"] is True
    imagen("keys", "add", "alice")
    told = json.loads(imagen("keys", "list", "--json").out)["keys"]
    assert [(key["name"], key["admin"]) for key in told] == [("alice", False), ("root", True)]
    assert all(key["created_at"].endswith("Z") for key in told)
    assert [line.split()[0] for line in imagen("keys").out.splitlines()] == ["NAME", "alice", "root"]


def test_a_key_is_taken_away(tmp_path: Path) -> None:
    """Once; taking away the last one says what that means."""
    imagen("keys", "add", "alice")
    imagen("keys", "add", "bob")
    removed = imagen("keys", "remove", "alice")
    assert (removed.code, removed.out, removed.err) == (0, "removed the key of alice\n", "")
    again = imagen("keys", "remove", "alice")
    assert again.code == 2
    assert "hint:" in again.err
    told = imagen("keys", "remove", "bob").err
    assert "last key" in told
    assert "answers everybody on it" in told
    assert "answers nobody" in told


def test_the_last_admin_does_not_go_unnoticed(tmp_path: Path) -> None:
    """Nobody has his rights afterwards; one of two is nothing to talk about."""
    for words in (("boss", "--admin"), ("chief", "--admin"), ("ann",)):
        imagen("keys", "add", *words)
    assert imagen("keys", "remove", "boss").err == ""
    told = imagen("keys", "remove", "chief", "--json")
    assert json.loads(told.out) == {"removed": "chief", "left": 1}
    assert "that was the last admin" in told.err


@pytest.mark.parametrize("name", ["local", "", "a b", "a/b", "../x", "-x", "ä", "x" * 65, "a\n"])
def test_a_name_that_cannot_be_an_owner_is_refused(name: str) -> None:
    """`local` above all: it is who works on this machine without a key."""
    ran = imagen("keys", "add", "--", name)
    assert ran.code == 2
    assert ran.out == ""
    assert "hint:" in ran.err


def test_a_name_is_given_once() -> None:
    """A second key of that name would share its jobs."""
    imagen("keys", "add", "alice")
    ran = imagen("keys", "add", "alice")
    assert ran.code == 2
    assert "already" in ran.err
