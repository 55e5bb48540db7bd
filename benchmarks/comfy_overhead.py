"""Jobs in a row on one ComfyUI: through imagen, everything stored and recorded, over a bare client that keeps nothing.

Both send the same graph, in small blocks by turns, so that the server's moods hit both alike. The bare client has one
connection and one websocket: submit, wait for the end, history, picture. The server is the one of IMAGEN_COMFYUI_URL;
without one, a fake one that sleeps.
"""

import argparse
import asyncio
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.comfy_kit import Bare, bare

import imagen
from imagen.backends.comfyui.run import Run
from imagen.backends.comfyui.server import Server
from imagen.config import load_settings
from imagen.core.request import drafted

BUDGET = 1.01
BLOCKS, BLOCK = 10, 5
MODEL, SIZE = "flux1-schnell", 256
JOB_S = 1.0  # a job is to take about that long
CALIBRATE = (4, 24)  # steps
MOST_STEPS = 100


@dataclass(kw_only=True)
class Spent:
    """Milliseconds of each part of a job, one list for each part."""

    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Something happened now; what it ends is measured."""
        self.marks[name] = time.perf_counter()

    def part(self, name: str, since: str, until: str) -> None:
        """From one mark to another, if both are there."""
        if since in self.marks and until in self.marks:
            self.parts[name].append((self.marks[until] - self.marks[since]) * 1000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="pairs of blocks (default: %(default)s)")
    parser.add_argument("--block", type=int, default=BLOCK, help="jobs in a block (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 pairs of 3")
    parser.add_argument("--seed", type=int, default=1, help="for who goes first (default: %(default)s)")
    asked = parser.parse_args()
    blocks, block = (3, 3) if asked.quick else (asked.blocks, asked.block)
    return asyncio.run(compare(blocks, block, random.Random(asked.seed)))


async def compare(blocks: int, block: int, dice: random.Random) -> int:
    over = False
    with tempfile.TemporaryDirectory() as home:
        async with server() as (url, about):
            environment = {"IMAGEN_HOME": home, "IMAGEN_COMFYUI_URL": url}
            async with imagen.open(settings=load_settings(environ=environment)) as app, bare(url) as client:
                async with app.drawing():
                    graph, steps = await calibrated(app, client)
                    print(f"{blocks * block} jobs each in blocks of {block}: {MODEL}, {SIZE}², {steps} steps, {about}")
                    for previews in (False, True):
                        over |= await one_round(app, client, graph, steps, blocks, block, dice, previews=previews)
    return int(over)


async def one_round(
    app: imagen.App,
    client: Bare,
    graph: dict[str, Any],
    steps: int,
    blocks: int,
    block: int,
    dice: random.Random,
    *,
    previews: bool,
) -> bool:
    """Blocks by turns; says what came out, and whether the budget is missed."""
    ours, theirs, spent = [], [], Spent()
    gaps: dict[str, list[float]] = {"imagen": [], "bare": []}

    async def through_imagen(count: int) -> None:
        with watching(spent):
            taken, ids = await imagen_block(app, steps, count, spent, previews=previews)
        ours.append(taken)
        gaps["imagen"] += await idle_ms(client, ids)

    async def alone(count: int) -> None:
        taken, ids = await bare_block(client, graph, count, previews=previews)
        theirs.append(taken)
        gaps["bare"] += await idle_ms(client, ids)

    for _ in range(blocks):
        turns = [through_imagen, alone]
        dice.shuffle(turns)
        for turn in turns:
            await turn(block)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    over = ratio > BUDGET
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}; all together {sum(ours) / sum(theirs):.3f}"
    print(f"previews {'on' if previews else 'off'}: {ratio:.4f} × (median of {blocks} pairs, {spread})", end="")
    print(f"   budget {BUDGET} ×{'   over' if over else ''}")
    print(f"  a job takes {sum(theirs) / blocks / block:.3f} s alone, {sum(ours) / blocks / block:.3f} s through imagen")
    for name, values in gaps.items():
        print(f"  the server is idle between two jobs of {name:<7}{told(values)}")
    for name, values in spent.parts.items():
        print(f"  {name:<45}{told(values)}")
    return over


async def imagen_block(
    app: imagen.App, steps: int, count: int, spent: Spent, *, previews: bool
) -> tuple[float, list[str]]:
    """Submit so many jobs and wait for all; seconds, and the prompts they were."""
    begun = time.perf_counter()
    jobs = [(await app.submit(_draft(steps, previews=previews))).id for _ in range(count)]
    await asyncio.gather(*(_followed(app, job, spent, previews=previews) for job in jobs))
    return time.perf_counter() - begun, [spent.marks.pop(name) for name in list(spent.marks) if name[:4] == "was "]  # type: ignore[misc]  # see watching()


async def bare_block(
    client: Bare, graph: dict[str, Any], count: int, *, previews: bool
) -> tuple[float, list[str]]:
    """The same jobs, and nothing around them."""
    ids = []
    begun = time.perf_counter()
    for _ in range(count):
        history = await client.draw(_seeded(graph), preview_method="auto" if previews else "none")
        await client.picture(history)
        ids.append(history["prompt"][1])
    taken = time.perf_counter() - begun
    client.entries.clear()
    return taken, ids
