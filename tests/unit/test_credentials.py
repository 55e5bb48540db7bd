"""The profile files of the AWS tools, and what comes before and after them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imagen.core.errors import BadConfig, NotConfigured
from imagen.store.credentials import READ_AGAIN, how, profile

KEYS = "[default]\naws_access_key_id = AKIA1\naws_secret_access_key = s/+=%1\n[work]\naws_access_key_id = AKIA2\n"
KEYS += "aws_secret_access_key = s2\naws_session_token = t2\n"
CONFIG = "[default]\nregion = eu-central-1\n[profile work]\nregion = eu-west-1\n[profile role]\nrole_arn = arn:aws:x\n"

Home = Callable[..., dict[str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An environment with these variables, whose home has both files."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(KEYS)
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    return lambda **more: {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true", **more}


def test_the_default_profile_is_taken_unless_another_is_named(home: Home) -> None:
    """By the settings, else by AWS_PROFILE; its keys go with its region."""
    for name, environ, key, token, region in (
        (None, home(), "AKIA1", None, "eu-central-1"),
        ("work", home(), "AKIA2", "t2", "eu-west-1"),
        (None, home(AWS_PROFILE="work"), "AKIA2", "t2", "eu-west-1"),
        ("default", home(AWS_PROFILE="work"), "AKIA1", None, "eu-central-1"),
    ):
        found = profile(name, environ)
        assert found.provider is not None
        told = found.provider()
        assert (told["access_key_id"], told["token"], found.region) == (key, token, region)


def test_a_changed_file_is_read_again(home: Home, tmp_path: Path) -> None:
    """The keys are good for some minutes only, as far as whoever uses them knows."""
    found = profile(None, home())
    assert found.provider is not None
    first = found.provider()
    (tmp_path / ".aws" / "credentials").write_text(KEYS.replace("AKIA1", "AKIA9"))
    second = found.provider()
    assert (first["access_key_id"], second["access_key_id"]) == ("AKIA1", "AKIA9")
    assert (second["expires_at"] - first["expires_at"]) < READ_AGAIN


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"])
def test_the_environment_comes_before_the_files(home: Home, variable: str) -> None:
    """Unless the settings name a profile: then that was meant."""
    assert profile(None, home(**{variable: "told"})).provider is None
    assert profile("work", home(**{variable: "told"})).provider is not None


def test_without_files_the_role_of_the_machine_is_left(tmp_path: Path) -> None:
    """Where there is none either, that is said at once."""
    nothing = {"HOME": str(tmp_path)}
    role = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2"}
    off = {"AWS_EC2_METADATA_DISABLED": "true"}
    assert profile(None, nothing).provider is None
    assert profile(None, nothing | off | role).provider is None
    with pytest.raises(NotConfigured, match="no keys") as missing:
        profile(None, nothing | off)
    assert "AWS_ACCESS_KEY_ID" in missing.value.hint


def test_a_profile_that_cannot_be_used_says_why(home: Home, tmp_path: Path) -> None:
    """It is not there, has no keys of its own, or its file is broken; no key is repeated."""
    with pytest.raises(NotConfigured, match="there is no profile 'home'"):
        profile("home", home())
    with pytest.raises(NotConfigured, match="has no keys of its own, only role_arn"):
        profile("role", home())
    (tmp_path / ".aws" / "credentials").write_text("aws_secret_access_key = s2\n")
    with pytest.raises(BadConfig, match="credentials: MissingSectionHeaderError") as broken:
        profile(None, home())
    assert "s2" not in broken.value.message


def test_a_hint_names_the_file_that_was_given() -> None:
    """Who has another than the usual one looks in vain into that."""
    assert "~/.aws/credentials" in how({})
    assert "AWS_SHARED_CREDENTIALS_FILE" in how({"AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/keys"})
