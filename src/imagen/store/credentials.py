"""The profile files of the AWS tools: the part of the usual chain of credentials that obstore leaves to its caller.

The environment comes first, then the profile; the role of a container or a machine is obstore's affair again.
"""

import os
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from configparser import Error as Unreadable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from imagen.core.errors import BadConfig, NotConfigured

READ_AGAIN = timedelta(minutes=5)  # how soon keys that were changed in the file are used

FILE = "AWS_SHARED_CREDENTIALS_FILE"

# Who sets one of these has chosen; the profile is asked only where nothing else was said.
CHOSEN = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")
ROLES = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
ELSEWHERE = ("sso_session", "sso_start_url", "credential_process", "role_arn")  # keys that another program fetches


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What the files say; `provider` is None where they hold no keys."""

    provider: Callable[[], dict[str, Any]] | None
    region: str | None


def profile(name: str | None, environ: Mapping[str, str] = os.environ) -> Profile:
    """The profile of this name, else of AWS_PROFILE, else `default`, which need not be there."""
    wanted = name or environ.get("AWS_PROFILE") or "default"
    found = _read(wanted, environ)
    region = found.get("region")
    if name is None and any(environ.get(variable) for variable in CHOSEN):
        return Profile(provider=None, region=region)
    if found.get("aws_access_key_id") and found.get("aws_secret_access_key"):
        return Profile(provider=lambda: _keys(wanted, environ), region=region)
    if name is None and "AWS_PROFILE" not in environ:
        _refuse_nothing(environ)
        return Profile(provider=None, region=region)
    where = " or ".join(str(file) for file in _files(environ))
    if not found:
        raise NotConfigured(
            f"there is no profile {wanted!r} in {where}", hint="see `aws configure list-profiles`, or correct the name"
        )
    how = next((key for key in ELSEWHERE if key in found), None)
    raise NotConfigured(
        f"the profile {wanted!r} has no keys of its own" + (f", only {how}" if how else ""),
        hint=f'export its keys: eval "$(aws configure export-credentials --profile {wanted} --format env)"',
    )


def _keys(name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    found = _read(name, environ)
    return {
        "access_key_id": found["aws_access_key_id"],
        "secret_access_key": found["aws_secret_access_key"],
        "token": found.get("aws_session_token"),
        "expires_at": datetime.now(UTC) + READ_AGAIN,
    }


def _read(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    keys, config = _files(environ)
    # In the one file a section is `work`, in the other `profile work`.
    return _section(config, name if name == "default" else f"profile {name}") | _section(keys, name)


def _section(file: Path, section: str) -> dict[str, str]:
    reader = ConfigParser(interpolation=None, default_section="", strict=False)
    try:
        reader.read(file, encoding="utf-8")
    except (Unreadable, UnicodeDecodeError, OSError) as exc:
        raise BadConfig(f"cannot read {file}: {type(exc).__name__}", hint="write it as the AWS tools do") from exc
    return dict(reader[section]) if reader.has_section(section) else {}


def _files(environ: Mapping[str, str]) -> tuple[Path, Path]:
    home = Path(environ.get("HOME") or Path.home()) / ".aws"
    keys, config = (environ.get(name) for name in (FILE, "AWS_CONFIG_FILE"))
    return (
        Path(keys).expanduser() if keys else home / "credentials",
        Path(config).expanduser() if config else home / "config",
    )


def _refuse_nothing(environ: Mapping[str, str]) -> None:
    # Said at once: asking a machine that has no role for its keys takes as long as a store that is away.
    off = environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    if off and not any(environ.get(variable) for variable in ROLES):
        raise NotConfigured("there are no keys for the bucket", hint=how(environ))


def how(environ: Mapping[str, str] = os.environ) -> str:
    """Where the keys belong; what is set goes first. A file is not named by its path: hints travel to callers."""
    file = "the file of AWS_SHARED_CREDENTIALS_FILE" if environ.get(FILE) else "~/.aws/credentials"
    return f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where imagen starts, or write them into {file}"
