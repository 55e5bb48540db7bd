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
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["imagen", *arguments], out, err
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    assert isinstance(end.value.code, int)
    told = [stream.buffer.getvalue().decode() for stream in (out, err) if isinstance(stream.buffer, io.BytesIO)]
    return Ran(code=end.value.code, out=told[0], err=told[1])
