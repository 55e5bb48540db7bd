"""What drawing in this process's kind of engine costs over diffusers alone: speed, previews, memory, switches.

On a processor the pipelines are tiny ones with random weights. `--real` builds the whole networks, with random weights
too, on a card: speed does not depend on what the weights are. Text encoders are one layer deep, as they are no part of
what is compared.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from imagen.backends.base import Prepares
from imagen.core.model import Model
from imagen.core.request import Draft, PreviewPolicy, Request
from imagen.core.signals import Output, Preview, Signal, Step
from imagen.previews import factors
from imagen.previews.encode import encode_preview
from imagen.previews.latents import layout_of, project
from imagen.previews.policy import interval_ms, wanted_steps
from imagen.testing.signals import Nobody

FAMILIES = ("flux", "klein", "sd3", "z-image", "qwen")
ROUNDS = 30
LINEAR_MS, OVERHEAD = 1.0, 1.01
SIZE, LARGE = 512, 1024
RESAMPLED = 2000  # of the rounds, for the range that a median has
MIB = 2**20
SPARE_S = 20.0  # for a spare process to have its imports done

LATENTS = {
    "flux, z-image, qwen": ((1, 4096, 64), factors.FLUX),
    "klein": ((1, 4096, 128), factors.FLUX2),
    "sd3": ((1, 16, 128, 128), factors.SD3),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is done (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one family, few rounds")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only this one; may be given again")
    parser.add_argument("--device", default="cpu", help="what draws: cpu, cuda:0, mps (default: %(default)s)")
    parser.add_argument("--real", action="store_true", help="whole networks; on a card with enough memory")
    parser.add_argument("--size", type=int, help=f"of the pictures, in pixels (default: {SIZE}, with --real {LARGE})")
    parser.add_argument("--switches", action="store_true", help="measure the switches for speed too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    told = parser.parse_args()
    if told.one:
        print(json.dumps(measured(told)))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1" if told.device == "cpu" else "8")
    over = linear()
    families = told.family or (("flux",) if told.quick else FAMILIES)
    rounds = min(told.rounds, 5) if told.quick else told.rounds
    print(
        f"\njobs on {told.device}, {'whole networks' if told.real else 'tiny networks'}, {rounds} rounds in any order"
    )
    print(
        "family   size steps  diffusers it/s  ours it/s   ours / diffusers, wall and processor        same   peak MiB"
    )
    each = {family: _apart(family, rounds, told) for family in families}
    for family, one in each.items():
        peak = f"{one['plain_mib']:,} / {one['ours_mib']:,}"
        print(
            f"{family:8} {one['size']:4} {one['steps']:5} {one['plain_its']:15.2f} {one['ours_its']:10.2f}"
            f"   {_range(one['ours']):20} {_range(one['ours_cpu']):20} {'yes' if one['same'] else 'NO':>4}   {peak}"
        )
        over |= not one["same"]
    print(f"\nwith previews / without, at the default policy; budget {OVERHEAD:g} x for flux at {LARGE} px")
    print("family   frames   ms each   ours, wall           ours, processor      counted")
    for family, one in each.items():
        print(
            f"{family:8} {one['frames']:6.1f} {one['frame_ms']:9.2f}   {_range(one['watched']):20} "
            f"{_range(one['watched_cpu']):20} {one['share']:.2%}"
        )
    for family, one in each.items():
        for name, what in one["switches"].items():
            print(f"switch {family:8} {name:24} {what}")
    large = each.get("flux")
    if not told.real:
        processes(told)
    return int(over or (large is not None and large["size"] >= LARGE and large["share"] > OVERHEAD - 1))


def linear() -> bool:
    """One preview of a picture of 1024 pixels: its map, and the JPEG; the time of the processor it takes."""
    print(f"a linear preview at {LARGE} px             ms of the processor, budget {LINEAR_MS:g}")
    over = False
    for name, (shape, known) in LATENTS.items():
        latents = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        layout = layout_of(shape, known.channels, LARGE, LARGE)
        assert layout is not None
        mapped, coded = [], []
        for _ in range(200):
            begun = time.process_time()
            data, width, height = project(latents, layout, known, PreviewPolicy().max_size)
            mapped.append(time.process_time() - begun)
            _encoded(data, width, height)
            coded.append(time.process_time() - begun)
        took = median(coded) * 1000
        over |= took > LINEAR_MS
        print(f"  {name:22} {width}x{height}   map {median(mapped) * 1000:.2f}, with its JPEG {took:.2f}")
    return over


@dataclass(slots=True)
class Watcher:
    """Wants previews as the runner does, and encodes them as it does; what it is told is what a backend says."""

    policy: PreviewPolicy
    steps: int
    frames: int = 0
    spent_ms: float = 0.0
    last_s: float = float("-inf")
    pictures: list[Output] = field(default_factory=list)

    @property
    def max_size(self) -> int:
        return self.policy.max_size

    def wants(self, step: int, total: int) -> bool:
        due = (time.monotonic() - self.last_s) * 1000 >= interval_ms(self.policy)
        return due and step in wanted_steps(self.policy, total)

    def __call__(self, signal: Signal) -> None:
        if isinstance(signal, Preview):
            self.last_s = time.monotonic()
            begun = time.perf_counter()
            _encoded(signal.data, signal.width, signal.height)
            self.frames += 1
            self.spent_ms += signal.decode_ms + (time.perf_counter() - begun) * 1000
        elif isinstance(signal, Output):
            self.pictures.append(signal)

    def listening(self) -> None:
        """Always."""


def measured(told: argparse.Namespace) -> dict[str, Any]:
    """One family, in this process: plain, ours, and ours watched, by turns in any order."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    (family,) = told.family
    size = told.size or (LARGE if told.real or family == "flux" else SIZE)
    with tempfile.TemporaryDirectory() as home:
        model, request = _asked(Path(home), family, size, told)
        loaded = _loaded(model, family, told)
        ways = _ways(loaded, model, request, Path(home))
        for way in ways.values():
            way()  # what is done once: maps, kernels, allocations
        peaks = {name: _peak(told.device, way) for name, way in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        last: dict[str, Any] = {}
        frames, spent = [], []
        dice = random.Random(7)
        for _ in range(told.rounds):
            for name in dice.sample(list(ways), len(ways)):
                begun, used = time.perf_counter(), time.process_time()
                last[name] = ways[name]()
                _settled(told.device)
                times[name].append(time.perf_counter() - begun)
                cpu[name].append(time.process_time() - used)
            frames.append(last["watched"].frames)
            spent.append(last["watched"].spent_ms)
        steps = request.steps
        return {
            "size": size,
            "steps": steps,
            "plain_its": steps / median(times["plain"]),
            "ours_its": steps / median(times["ours"]),
            "ours": _ratio(times["ours"], times["plain"]),
            "ours_cpu": _ratio(cpu["ours"], cpu["plain"]),
            "watched": _ratio(times["watched"], times["ours"]),
            "watched_cpu": _ratio(cpu["watched"], cpu["ours"]),
            "frames": median(frames),
            "frame_ms": sum(spent) / max(1, sum(frames)),
            "share": median(one / 1000 / all_ for one, all_ in zip(spent, times["watched"], strict=True)),
            "same": _bytes(last["plain"]) == _bytes(last["ours"]) == _bytes(last["watched"]),
            "plain_mib": peaks["plain"],
            "ours_mib": peaks["watched"],
            "switches": _switches(loaded, model, request, Path(home), told) if told.switches else {},
        }


def processes(told: argparse.Namespace) -> None:
    """From asking to the first step, through the child process: cold, warm, and after another model."""
    with tempfile.TemporaryDirectory() as home:
        asked = [_asked(Path(home), family, 64, told) for family in ("flux", "z-image")]
        spared = asyncio.run(_first_steps(asked, {"ready": True}))
        alone = asyncio.run(_first_steps(asked, {"ready": False}))
    print("\nseconds from asking to the first step, in a child process with a tiny network")
    print("                    first job    the same model    another model")
    for name, (first, again, other) in (("a spare ready", spared), ("no spare", alone)):
        print(f"  {name:16} {first:10.2f} {again:17.2f} {other:16.2f}")


async def _first_steps(asked: Sequence[tuple[Model, Request]], settings: Mapping[str, Any]) -> list[float]:
    from imagen.backends import diffusers

    (flux, one), (z_image, other) = asked
    backend = diffusers.registration.create(settings)
    if isinstance(backend, Prepares):
        backend.prepare()
    took = []
    try:
        for model, request in ((flux, one), (flux, one), (z_image, other)):
            if settings["ready"]:
                await asyncio.sleep(SPARE_S)
            begun = time.perf_counter()
            async with aclosing(backend.generate(request, model, Nobody())) as signals:
                async for signal in signals:
                    if isinstance(signal, Step):
                        took.append(time.perf_counter() - begun)
                        break
    finally:
        await backend.aclose()
    return took


def _ways(loaded: Any, model: Model, request: Request, kept: Path) -> Mapping[str, Callable[[], Any]]:
    import torch

    from imagen.backends.diffusers.calling import arguments
    from imagen.backends.diffusers.drawing import Drawing
    from imagen.backends.diffusers.showing import Showing

    bare = _bare(loaded.pipe)
    showing = Showing(loaded.pipe, model, loaded.device, kept)
    projecting = ThreadPoolExecutor(1)

    def plain() -> Any:
        generators = [torch.Generator("cpu").manual_seed(request.seed)]
        return bare(**arguments(type(bare).__call__, request, model, generators)[0]).images

    def ours(policy: PreviewPolicy) -> Watcher:
        watcher = Watcher(policy, request.steps)
        loaded.prompts.clear()  # kept ones are no merit here
        Drawing(loaded, request, model, watcher, showing=showing, projecting=projecting, say=watcher, load_s=0.0).draw()
        return watcher

    return {
        "plain": plain,
        "ours": lambda: ours(PreviewPolicy(method="off")),
        "watched": lambda: ours(PreviewPolicy()),
    }


def _switches(loaded: Any, model: Model, request: Request, kept: Path, told: argparse.Namespace) -> dict[str, str]:
    """With a switch over without it, by turns: the denoiser alone in twenty steps, whole jobs, and what is moved."""
    from benchmarks.switches import compared, moved, overlapped

    rounds = min(told.rounds, 10)
    beside = overlapped(loaded, model, request, kept, rounds)
    bare = _bare(loaded.pipe)
    return beside | compared(bare, request, told.device, rounds) | moved(bare, request, told.device, rounds)


def _bare(pipe: Any) -> Any:
    """The same parts in a pipeline that nobody has touched."""
    import inspect

    taken = inspect.signature(type(pipe).__init__).parameters
    more = {name: value for name, value in pipe.config.items() if name in taken and name not in pipe.components}
    bare = type(pipe)(**pipe.components, **more)
    bare.set_progress_bar_config(disable=True)
    return bare


def _asked(home: Path, family: str, size: int, told: argparse.Namespace) -> tuple[Model, Request]:
    import tests.inprocess_kit as kit

    from imagen.backends import diffusers
    from imagen.models.catalog import load_catalog

    keys: dict[str, Any] = {"limits": {"max": 2048, "multiple_of": 16}, "runs_on": told.device}
    name = kit.model(home, family, **keys)
    catalog = load_catalog(
        folders=[home],
        configured={},
        default_model=name,
        backends={"diffusers": diffusers.registration},
        backend_settings={},
        host="here",
    )
    draft = Draft(prompt="a red fox sits on a white bench in the snow", seed=7, width=size, height=size)
    return catalog.get(name), catalog.resolve(draft, lambda: 7).request


def _loaded(model: Model, family: str, told: argparse.Namespace) -> Any:
    from imagen.backends.diffusers import loading
    from imagen.backends.diffusers.presets import Preset

    if not told.real:
        return loading.load(model, {})
    from benchmarks.real_pipelines import built

    loading._quiet()
    pipe = built(family, told.device)
    pipe.set_progress_bar_config(disable=True)
    return loading.Loaded(pipe=pipe, preset=Preset(dtype="bfloat16"), device=told.device, parts=[], files=[])


def _apart(family: str, rounds: int, told: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own, so that one's memory is not the next one's."""
    command = [sys.executable, __file__, "--one", "--family", family, "--rounds", str(rounds), "--device", told.device]
    command += [f"--size={told.size}"] if told.size else []
    command += [flag for flag, on in (("--real", told.real), ("--switches", told.switches)) if on]
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{family}:\n{done.stderr[-3000:]}")
    told_back: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told_back


def _peak(device: str, way: Callable[[], Any]) -> int:
    """Of the card while it draws; on a processor, of this process so far, its largest."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        way()
        return int(torch.cuda.max_memory_allocated(device)) // MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _settled(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def _bytes(drawn: Any) -> bytes:
    if isinstance(drawn, Watcher):
        return drawn.pictures[0].data
    return bytes((np.asarray(drawn[0]) * 255).round().astype(np.uint8).tobytes())


def _encoded(data: bytes, width: int, height: int) -> None:
    usual = PreviewPolicy()
    encode_preview(
        data,
        "image/x-raw-rgb",
        width,
        height,
        max_size=usual.max_size,
        format=usual.format,
        quality=usual.quality,
    )


def _ratio(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """The median of the rounds, and where 95 % of the medians of rounds drawn again lie."""
    ratios = np.array(these) / np.array(those)
    again = np.random.default_rng(1).choice(ratios, (RESAMPLED, len(ratios)))
    low, high = np.percentile(np.median(again, axis=1), [2.5, 97.5])
    return [float(np.median(ratios)), float(low), float(high)]


def _range(ratio: Sequence[float]) -> str:
    return "{:.3f} ({:.3f}-{:.3f})".format(*ratio)


if __name__ == "__main__":
    sys.exit(main())
