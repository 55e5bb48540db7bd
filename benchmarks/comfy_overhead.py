"""Jobs in a row on one ComfyUI: through imagen, everything stored and recorded, over a bare client that keeps nothing.

Both send the same graph, in small blocks by turns, so that the server's moods hit both alike. The bare client has one
connection and one websocket: submit, wait for the end, history, picture. The server is the one of IMAGEN_COMFYUI_URL;
without one, a fake one that sleeps.
"""

import argparse
import asyncio
import copy
import itertools
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.comfy_kit import Bare, bare

import imagen
from imagen.app import App
from imagen.backends.comfyui.line import Line, Told
from imagen.backends.comfyui.server import Server
from imagen.config import load_settings
from imagen.core.request import drafted

BUDGET = 1.01
BLOCKS, BLOCK = 10, 5
MODEL, SIZE = "flux1-schnell", 256
JOB_S = 1.0  # what a job is to take, by its number of steps
TRIED = (4, 16)  # steps, to find out how long one takes
MOST_STEPS = 100
FAKE = ("--step-s", f"{1 / 36:.4f}", "--decode-s", "0.1")  # a card that draws 256² in a second

Marks = dict[str, float]


@dataclass(kw_only=True)
class Watch:
    """When what happened to each prompt of imagen's, in the order in which they were handed over."""

    prompts: dict[str, Marks] = field(default_factory=lambda: defaultdict(dict))
    completed: list[float] = field(default_factory=list)

    def parts(self) -> dict[str, list[float]]:
        """Milliseconds between two marks, for every prompt that has both."""
        found: dict[str, list[float]] = defaultdict(list)
        marks = list(self.prompts.values())
        for one, at in zip(marks, self.completed, strict=True):
            one["completed"] = at
        for name, since, until in (
            ("handed over -> first event", "handed over", "first event"),
            ("last step -> told of its end (decoding)", "last step", "end"),
            ("told of its end -> bytes of the picture", "end", "bytes"),
            ("bytes of the picture -> completed", "bytes", "completed"),
        ):
            found[name] = [(one[until] - one[since]) * 1000 for one in marks if since in one and until in one]
        pairs = itertools.pairwise(marks)
        found["completed -> the next handed over"] = [(b["handed over"] - a["completed"]) * 1000 for a, b in pairs]
        return found


@dataclass(kw_only=True)
class Side:
    """One of the two that are compared."""

    taken_s: list[float] = field(default_factory=list)
    idle_ms: list[float] = field(default_factory=list)  # of the server, between two prompts of a block


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
    with tempfile.TemporaryDirectory() as home, server() as (url, about):
        settings = load_settings(environ={"IMAGEN_HOME": home, "IMAGEN_COMFYUI_URL": url})
        async with imagen.open(settings=settings) as app, app.drawing(), bare(url) as client:
            graph, steps = await calibrated(app, client)
            print(f"{blocks * block} jobs each, in blocks of {block}: {MODEL}, {SIZE}², {steps} steps, {about}")
            for previews in (False, True):
                over |= await one_round(app, client, graph, steps, blocks, block, dice, previews=previews)
    return int(over)


async def one_round(
    app: App,
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
    sides = {"imagen": Side(), "bare": Side()}
    parts: dict[str, list[float]] = defaultdict(list)
    for _ in range(blocks):
        for name in dice.sample(sorted(sides), 2):
            begun = time.perf_counter()
            if name == "imagen":
                with watching() as watch:
                    await through_imagen(app, steps, block, watch, previews=previews)
                ids = list(watch.prompts)
            else:
                ids = await alone(client, graph, block, previews=previews)
            sides[name].taken_s.append(time.perf_counter() - begun)
            sides[name].idle_ms += await idle(client, ids)
            if name == "imagen":
                for part, values in watch.parts().items():
                    parts[part] += values
    ours, theirs = (sides[name].taken_s for name in ("imagen", "bare"))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    over = ratio > BUDGET
    print(
        f"previews {'on' if previews else 'off'}: {ratio:.4f} ×   (median of {blocks} pairs, {min(ratios):.3f} to "
        f"{max(ratios):.3f}; in all {sum(ours) / sum(theirs):.4f})   budget {BUDGET} ×{'   over' if over else ''}"
    )
    jobs = blocks * block
    print(f"  a job takes {sum(theirs) / jobs:.3f} s alone, {sum(ours) / jobs:.3f} s through imagen")
    for name, side in sides.items():
        print(f"  {f'the server between two jobs: {name}':<44}{told(side.idle_ms)}")
    for part, values in parts.items():
        print(f"  {part:<44}{told(values)}", flush=True)
    return over


async def through_imagen(app: App, steps: int, count: int, watch: Watch, *, previews: bool) -> None:
    """So many jobs at once, to the last one's end."""

    async def follow(job_id: str) -> None:
        async for event in app.follow(job_id, previews=previews):
            assert not isinstance(event, imagen.Failed), event
            if isinstance(event, imagen.Completed):
                watch.completed.append(time.perf_counter())

    jobs = [await app.submit(drafted("a red fox", draft(steps, previews=previews))) for _ in range(count)]
    await asyncio.gather(*(follow(job.id) for job in jobs))


async def alone(client: Bare, graph: dict[str, Any], count: int, *, previews: bool) -> list[str]:
    """The same jobs with nothing around them; the prompts they were."""
    ids = []
    for _ in range(count):
        seeded = copy.deepcopy(graph)
        for node in seeded.values():
            if "seed" in node["inputs"]:
                node["inputs"]["seed"] = random.randrange(2**32)
        history = await client.draw(seeded, preview_method="auto" if previews else "none")
        assert await client.picture(history)
        ids.append(history["prompt"][1])
    client.entries.clear()
    return ids


async def idle(client: Bare, ids: list[str]) -> list[float]:
    """Milliseconds that the server had nothing to do between one prompt and the next, by its own clock."""
    times = []
    for prompt_id in ids:
        entry = (await client.http.get(f"/history/{prompt_id}")).json()[prompt_id]
        times.append({kind: data["timestamp"] for kind, data in entry["status"]["messages"]})
    pairs = itertools.pairwise(times)
    return [after["execution_start"] - before["execution_success"] for before, after in pairs]


async def calibrated(app: App, client: Bare) -> tuple[dict[str, Any], int]:
    """The graph that imagen sends, and how many steps make a job of about a second."""
    with watching() as watch:
        await through_imagen(app, TRIED[0], 1, watch, previews=False)
    (prompt_id,) = watch.prompts
    graph = (await client.http.get(f"/history/{prompt_id}")).json()[prompt_id]["prompt"][2]
    (sampler,) = (node["inputs"] for node in graph.values() if "steps" in node["inputs"])
    sampler.pop("imagen", None)
    took = []
    for steps in TRIED:
        sampler["steps"] = steps
        begun = time.perf_counter()
        await alone(client, graph, 3, previews=False)
        took.append((time.perf_counter() - begun) / 3)
    step_s = max(1e-4, (took[1] - took[0]) / (TRIED[1] - TRIED[0]))
    steps = max(1, min(MOST_STEPS, round((JOB_S - took[0]) / step_s) + TRIED[0]))
    sampler["steps"] = steps
    return graph, steps


def draft(steps: int, *, previews: bool) -> dict[str, Any]:
    """What a job asks for."""
    asked = {"model": MODEL, "width": SIZE, "height": SIZE, "steps": steps, "seed": random.randrange(2**32)}
    return asked | {"preview": previews}


@contextmanager
def watching() -> Iterator[Watch]:
    """Note when the backend hands a prompt over, hears of it and has its picture."""
    watch = Watch()
    submit, view, listen = Server.submit, Server.view, Line.listen

    async def submitted(self: Server, body: Any) -> Any:
        watch.prompts[body["prompt_id"]]["handed over"] = time.perf_counter()
        return await submit(self, body)

    async def viewed(self: Server, image: Any) -> Any:
        data = await view(self, image)
        waiting = next(marks for marks in watch.prompts.values() if "end" in marks and "bytes" not in marks)
        waiting["bytes"] = time.perf_counter()
        return data

    def listened(self: Line, prompt_id: str, hear: Any) -> Any:
        def heard(message: Any) -> None:
            marks, now = watch.prompts[prompt_id], time.perf_counter()
            if isinstance(message, Told):
                marks.setdefault("first event", now)
                if message.type == "progress":
                    marks["last step"] = now
                elif message.type == "executing" and message.data.get("node") is None:
                    marks["end"] = now
            hear(message)

        return listen(self, prompt_id, heard)

    Server.submit, Server.view, Line.listen = submitted, viewed, listened  # type: ignore[method-assign]
    try:
        yield watch
    finally:
        Server.submit, Server.view, Line.listen = submit, view, listen  # type: ignore[method-assign]


@contextmanager
def server() -> Iterator[tuple[str, str]]:
    """The real one, or a fake in a process of its own."""
    if real := os.environ.get("IMAGEN_COMFYUI_URL"):
        yield real, f"the server at {real}"
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "imagen.testing.comfyui", "--port", str(port), *FAKE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            yield url, "a fake server that sleeps"
        finally:
            process.kill()


def told(values: list[float]) -> str:
    """Where most are, and the worst."""
    if not values:
        return "-"
    ordered = sorted(values)
    return (
        f"p50 {statistics.median(ordered):7.1f} ms  p90 {ordered[int(len(ordered) * 0.9)]:7.1f} ms"
        f"  worst {ordered[-1]:7.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
