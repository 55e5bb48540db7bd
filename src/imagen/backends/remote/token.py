"""The token of a service: from the settings, a file or the environment, and sent to nobody else."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagen.core.errors import MissingFile, NotConfigured


def read_token(settings: Mapping[str, Any], *, variable: str | None) -> str:
    """The token, or nothing. `variable` is where the service's own tools expect it, else what a model names.

    The file is read each time, so that a token can be changed while we run.
    """
    if settings.get("token"):
        return _clean(str(settings["token"]), "`token`")
    if settings.get("token_file"):
        file = Path(str(settings["token_file"])).expanduser()
        try:
            return _clean(file.read_text(encoding="utf-8"), f"the file {file.name}")
        except (OSError, UnicodeDecodeError) as exc:
            raise MissingFile(
                f"the token cannot be read from the file {file.name}: {getattr(exc, 'strerror', None) or 'no text'}",
                hint="see `token_file` in config.yaml: the file holds the token and nothing else",
            ) from exc
    return _clean(os.environ.get(variable, ""), variable) if variable else ""


def remedy(token: str, *, named: str | None, usual: str) -> str:
    """What to do where a token is missing or not accepted; `named` is the variable that the model's file names."""
    if not named:
        return usual
    if not token:
        return f"{named} is not set, and the model's `token_env` names it: set it where imagen runs"
    return f"it came from {named}, which the model's `token_env` names: see what that holds"


def _clean(text: str, where: str) -> str:
    token = text.strip()
    if not token.isascii() or any(character.isspace() or not character.isprintable() for character in token):
        # It would break the header it is sent in; and the message must not repeat it.
        raise NotConfigured(f"what {where} holds is no token", hint="a token is one word of plain characters")
    return token
