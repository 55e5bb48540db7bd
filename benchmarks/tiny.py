"""What the model in the box costs: a whole process on one core, opening it, its previews; and whether they converge."""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import numpy as np

import imagen
from imagen.backends.onnx.network import Network
from imagen.backends.onnx.painting import Painting
from imagen.backends.onnx.words import read_words
from imagen.backends.registry import registrations
from imagen.core.request import Draft
from imagen.models.catalog import load_catalog, model_folders

ROUNDS = 30
PROCESS_S, OPEN_S, OVERHEAD = 2.0, 0.3, 1.01
PROMPTS = ("a red apple", "a happy robot", "a blue car", "penguin", "two apples", "an owl on a black background")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is done (default: %(default)s)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        whole = whole_process(home, rounds)
    opened = [opening() for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as home:
        ratio, counted = asyncio.run(overhead(home, rounds))
    falls, steps = convergence()
    print(f"imagen generate, a process on one core   {statistics.median(whole):5.2f} s   budget {PROCESS_S:g} s")
    print(f"import onnxruntime and open the network  {statistics.median(opened):5.2f} s   budget {OPEN_S:g} s")
    print(f"a job with previews over one without     {ratio:6.3f} x  budget {OVERHEAD:g} x; counted {counted:.2%}")
    print(f"steps after which the guess is nearer to the picture  {falls} of {steps}")
    over = statistics.median(whole) > PROCESS_S or statistics.median(opened) > OPEN_S or ratio > OVERHEAD
    return int(over or falls < steps)


def whole_process(home: str, rounds: int) -> list[float]:
    """From the command to the path of the picture; the first one, which makes the database, does not count."""
    command = [str(Path(sys.executable).with_name("imagen")), "generate", "a red apple", "-m", "tiny-3d"]
    core = {min(os.sched_getaffinity(0))} if hasattr(os, "sched_setaffinity") else None
    took = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        subprocess.run(
            command,
            env={**os.environ, "IMAGEN_HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, core)) if core else None,
        )
        took.append(time.perf_counter() - begun)
    return took[1:]


def opening() -> float:
    """In a process that has only numpy, as `imagen generate` has when it comes to it."""
    code = (
        "import sys, time, numpy; begun = time.perf_counter(); import onnxruntime as o; s = o.SessionOptions();"
        "s.intra_op_num_threads = 1; o.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider']);"
        "print(time.perf_counter() - begun)"
    )
    box = Path(imagen.__file__).parent / "models/tiny/paint.onnx"
    return float(subprocess.run([sys.executable, "-c", code, box], capture_output=True, text=True, check=True).stdout)


async def overhead(home: str, rounds: int) -> tuple[float, float]:
    """The same picture with previews and without, by turns; and what the previews themselves took of it."""
    ratios, shares = [], []
    async with imagen.open(home=home) as app:
        await _drawn(app, False, 0)  # opens the network
        for number in range(rounds):
            bare, _ = await _drawn(app, False, number)
            shown, cost_ms = await _drawn(app, {}, number)
            ratios.append(shown / bare)
            shares.append(cost_ms / 1000 / shown)
    return statistics.median(ratios), statistics.median(shares)


async def _drawn(app: imagen.App, preview: dict[str, int] | bool, seed: int) -> tuple[float, float]:
    """Seconds spent on the picture, and milliseconds on its previews."""
    async with aclosing(app.generate("a red apple", model="tiny-3d", seed=seed, preview=preview)) as events:
        async for event in events:
            if isinstance(event, imagen.Completed):
                spent = sum(event.timings.get(part, 0.0) for part in ("encode", "sample", "decode"))
                return spent, float((event.preview_cost or {}).get("ms", 0.0))
    raise SystemExit("the picture was not completed")


def convergence() -> tuple[int, int]:
    """Over several prompts: after how many steps the guess of the clean picture is nearer to the finished one."""

    catalog = load_catalog(
        folders=model_folders()[:1],
        configured={},
        default_model=None,
        backends=registrations(),
        backend_settings={},
        host="here",
    )
    model = catalog.get("tiny-3d")
    network = Network(model, 1)
    words = read_words(Path(imagen.__file__).parent / "models" / model.keys["words"])
    falls = steps = 0
    for seed, prompt in enumerate(PROMPTS):
        request = catalog.resolve(Draft(prompt=prompt, model=model.name, seed=seed), lambda: 0).request
        rows = [words.encode(text, network.length) for text in (request.prompt, request.negative)]
        painting = Painting(network, model, request, rows)
        guesses = []
        for _ in range(request.steps):
            painting.step()
            guesses.append(painting.clean)
        away = [float(np.square(guess - guesses[-1]).mean()) for guess in guesses]
        falls += sum(then < now for now, then in pairwise(away))
        steps += len(away) - 1
    return falls, steps


if __name__ == "__main__":
    sys.exit(main())
