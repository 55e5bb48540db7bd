"""The command line without a new process: what `imagen …` says and how it ends."""

import io
import sys
from dataclasses import dataclass

import pytest

from imagen.surfaces.cli.main import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What came out."""

    code: int
    out: str
    err: str


def imagen(*arguments: str) -> Ran:
    """Run the console script's own function."""
    raw_out, raw_err = io.BytesIO(), io.BytesIO()
    out = io.TextIOWrapper(raw_out, encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(raw_err, encoding="utf-8", write_through=True)
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["imagen", *arguments], out, err
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    assert isinstance(end.value.code, int)
    return Ran(code=end.value.code, out=raw_out.getvalue().decode(), err=raw_err.getvalue().decode())
