"""`python -m imagen.testing.comfyui`: the fake ComfyUI as a process of its own, which a test may kill."""

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from imagen.testing.comfyui import Fake


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until somebody ends it; the first line printed is the address."""
    parser = argparse.ArgumentParser(prog="python -m imagen.testing.comfyui", description="A fake ComfyUI, for tests.")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--version", default="0.33.0", help="what it is; it has only what that version had")
    parser.add_argument("--preview-method", default="none", help="of prompts that ask for none of their own")
    parser.add_argument("--record", type=Path, help="append what becomes of each prompt to this file")
    for name in ("step", "load", "encode", "decode"):
        parser.add_argument(f"--{name}-s", type=float, default=0.0, help=f"seconds for each {name}")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args(arguments)))


async def _serve(options: argparse.Namespace) -> None:
    given = vars(options)
    port = given.pop("port")
    async with Fake(**given).serving(port) as url:
        print(url, flush=True)
        await asyncio.Event().wait()
