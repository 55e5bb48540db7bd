"""Settings whose value lies in a file: IMAGEN_DATABASE_FILE names one that holds what IMAGEN_DATABASE would say.

That is how containers are given secrets: a file, not a variable, which every child process would inherit and every
look at the container would show.
"""

from collections.abc import Mapping
from pathlib import Path

from imagen.config.keys import FROM_ENVIRONMENT, GROUPS
from imagen.core.errors import BadConfig, ImagenError

SUFFIX = "_FILE"


def read_files(environ: Mapping[str, str], prefix: str) -> tuple[dict[str, str], list[ImagenError]]:
    """The environment with such files read, and what is wrong with them. The variable itself goes first."""
    known = {*FROM_ENVIRONMENT, *(f"{group}_{key}" for group, keys in GROUPS.items() for key in keys)}
    read, wrong = dict(environ), list[ImagenError]()
    for name in known:
        variable = prefix + name.upper()
        file = read.pop(variable + SUFFIX, None)
        if not file or read.get(variable):
            continue
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "it is no text"
            hint = "name a file that this user may read, or take the variable away"
            wrong.append(BadConfig(f"{variable}{SUFFIX}: cannot read {file}: {why}", hint=hint))
            continue
        if not value:  # a secret that was never filled in would silently mean the default
            hint = "write the value into it, or take the variable away"
            wrong.append(BadConfig(f"{variable}{SUFFIX}: {file} is empty", hint=hint))
            continue
        read[variable] = value
    return read, wrong
