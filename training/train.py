"""The second of two commands: train, from nothing or from where it was left.

    python -m training.train                       # goes on from .training/run/last.pt when there is one
    python -m training.train --finish 200          # the rate falls to nothing over 200,000 samples, into finished.pt
    python -m training.train --device cuda --batch 1024 --compile --data-workers 14

It writes a checkpoint every few minutes, on SIGTERM and on Ctrl-C, and sleeps while /tmp/pause-training exists.
"""

import argparse
import copy
import csv
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from training import together
from training.captions import STYLES
from training.checkpoint import LAST, WEIGHTS, averaged, read, warm, write
from training.data import Data, load
from training.drawings import Rates, drawings
from training.edits import Batch, draw, pack
from training.model import Painter, Shape
from training.sample import fixed_sheet

PAUSE = Path("/tmp/pause-training")  # whoever wants to measure something on this machine touches it
COLUMNS = ("at", "step", "samples", "samples_per_s", "loss", "rate")

MUON_RATE, ADAM_RATE = 0.01, 1.5e-3
WARM_UP = 100  # steps
AVERAGE = 0.999  # of the averaged weights, per step; about the last thousand steps count
PLAIN = 0.1  # of the samples read the table alone, so that words of no caption keep a meaning
TIME_MEAN, TIME_SPREAD = -0.8, 0.9  # more noise than not: what the thing is gets decided there


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    data: Path
    run: Path
    init: Path | None
    device: str
    batch: int
    compile: bool
    data_workers: int
    threads: int
    rate: float
    finish: float | None
    minutes: float
    save_every_s: float
    sheet_every_s: float


class Training:
    """The network, its average, its optimisers, and how far they are."""

    def __init__(self, data: Data, options: Options) -> None:
        self.data, self.options = data, options
        self.net = Painter(Shape(), data.table, data.known)
        self.step = self.samples = 0
        self.fall = (0, 0)  # between these numbers of samples the rate falls
        last = options.run / LAST
        kept = read(last) if last.exists() else None
        if kept is None and options.init is not None:
            print("new in the network:", warm(self.net, data.known, read(options.init)))
        self.net.to(options.device)
        self.average = copy.deepcopy(self.net).eval()
        self.optimisers = optimisers(self.net)
        if kept is not None:
            self._resume(kept)
        self.rates = [[group["lr"] for group in one.param_groups] for one in base_optimisers(self.optimisers)]
        self.forward: Any = torch.compile(self.net) if options.compile else self.net

    def learn(self, batch: Batch, pixels: Tensor, hues: Tensor, rate: float, stop: bool) -> tuple[Tensor, bool]:
        """One step on one batch; returns the loss, and whether this process or another wants to stop."""
        clean = draw(pixels, hues, batch)
        device, count = clean.device, len(clean)
        moment = torch.sigmoid(torch.randn(count, device=device) * TIME_SPREAD + TIME_MEAN)
        mix = moment[:, None, None, None]
        noisy = mix * clean + (1 - mix) * torch.randn_like(clean)
        plain = (torch.rand(count, device=device) < PLAIN).float()
        with torch.autocast(device.type, torch.bfloat16):
            guess = self.forward(noisy, moment, batch.words, batch.style, plain)
        loss: Tensor = ((guess.float() - clean).square().mean((1, 2, 3)) / (1 - moment).clamp_min(0.2)).mean()
        loss.backward()  # type: ignore[no-untyped-call] # torch has not typed it
        stop = together.average(self.net.parameters(), stop)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for one, rates in zip(self.optimisers, self.rates, strict=True):
            for group, full in zip(one.param_groups, rates, strict=True):
                group["lr"] = full * rate
            one.step()
            one.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += count * together.COUNT
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), 1 - keep)
        return loss.detach(), stop

    @property
    def falling(self) -> bool:
        """True from --finish until the rate has fallen to nothing, across any number of starts."""
        return self.samples < self.fall[1]

    def save(self) -> None:
        """Write the averaged weights, and all that is needed to go on."""
        run = self.options.run
        if together.RANK:
            return
        write(run / WEIGHTS, averaged(self.average, self.data.known, self.samples))
        write(
            run / LAST,
            {
                "step": self.step,
                "samples": self.samples,
                "fall": self.fall,
                "known": self.data.known,
                "net": self.net.state_dict(),
                "average": self.average.state_dict(),
                "optimisers": [one.state_dict() for one in self.optimisers],
            },
        )

    def _resume(self, kept: dict[str, Any]) -> None:
        if not torch.equal(kept["known"], self.data.known):
            raise SystemExit(f"The captions have changed: start a new --run with --init {self.options.run / WEIGHTS}.")
        self.step, self.samples, self.fall = kept["step"], kept["samples"], kept.get("fall", (0, 0))
        self.net.load_state_dict(kept["net"])
        self.average.load_state_dict(kept["average"])
        for one, state in zip(self.optimisers, kept["optimisers"], strict=True):
            one.load_state_dict(state)


def base_optimisers(found: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """The optimisers with their full rates; a checkpoint may have been written in the middle of a fall."""
    for one in found:
        for group in one.param_groups:
            group["lr"] = MUON_RATE if isinstance(one, torch.optim.Muon) else ADAM_RATE
    return found


def optimisers(net: Painter) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest: about twice the progress of AdamW alone."""
    matrices = [value for name, value in net.named_parameters() if "blocks." in name and name.endswith("weight")]
    chosen = {id(value) for value in matrices}
    rest = [value for value in net.parameters() if id(value) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.0, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.97), weight_decay=0.0),
    ]


class Batches(IterableDataset[Batch]):
    """Random batches without end, other ones in each data worker."""

    def __init__(self, data: Data, size: int, seed: int) -> None:
        self.pictures, self.words, self.size, self.seed = data.pictures, data.words, size, seed

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        stream = drawings(self.pictures, Rates(), Random(f"{self.seed} {together.RANK} {info.id if info else 0}"))
        while True:
            yield pack(list(islice(stream, self.size)), self.words)


def train(options: Options) -> None:
    """Train until told to stop, or until the rate has fallen to nothing."""
    together.join()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)  # a new network starts alike in every process
    options.run.mkdir(parents=True, exist_ok=True)
    if not together.RANK:
        (options.run / "pid").write_text(str(os.getpid()))
    data = load(options.data)
    training = Training(data, options)
    torch.manual_seed(time.time_ns())
    pixels, hues = data.pixels.to(options.device), data.hues.to(options.device)
    batches = DataLoader(Batches(data, options.batch, training.samples), None, num_workers=options.data_workers)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopped.append(got))
    limit_s = 60 * options.minutes
    first = training.step
    if options.finish and not training.falling:
        training.fall = training.samples, training.samples + int(1000 * options.finish)
    worked_s, saved, drawn = 0.0, time.monotonic(), time.monotonic()
    losses: list[Tensor] = []
    marked_s = 0.0
    fell = training.falling
    for batch in batches:
        rested = pause()
        saved, drawn = saved + rested, drawn + rested
        begun = time.monotonic()
        rate = options.rate * min(1.0, (training.step - first + 1) / WARM_UP)
        if training.falling:
            begin, end = training.fall
            rate = options.rate * (end - training.samples) / (end - begin)
        loss_now, stop = training.learn(
            batch.to(options.device), pixels, hues, rate, bool(stopped) or worked_s > limit_s
        )
        losses.append(loss_now)
        if len(losses) == 50:
            loss = torch.stack(losses).mean().item()  # waits for the device, so the time below is true
            worked_s += time.monotonic() - begun
            speed = 50 * options.batch * together.COUNT / (worked_s - marked_s)
            if not together.RANK:
                log(options.run, training, speed, loss, rate)
            losses, marked_s = [], worked_s
        else:
            worked_s += time.monotonic() - begun
        if time.monotonic() - saved > options.save_every_s:
            training.save()
            saved = time.monotonic()
        if not together.RANK and time.monotonic() - drawn > options.sheet_every_s:
            draw_sheets(training)
            drawn = time.monotonic()
        if stop or (fell and not training.falling):
            break
    training.save()
    if fell and not training.falling and not together.RANK:
        write(options.run / "finished.pt", averaged(training.average, data.known, training.samples))
        draw_sheets(training)


def pause() -> float:
    """Sleep while somebody asks for the machine; say how long."""
    begun = time.monotonic()
    while PAUSE.exists():
        time.sleep(1)
    return time.monotonic() - begun


def log(run: Path, training: Training, speed: float, loss: float, rate: float) -> None:
    """One line of log.csv."""
    path = run / "log.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        at = time.strftime("%Y-%m-%dT%H:%M:%S")
        writer.writerow((at, training.step, training.samples, f"{speed:.1f}", f"{loss:.5f}", f"{rate:.4f}"))


def draw_sheets(training: Training) -> None:
    """The fixed prompts in each style, named by how many samples were seen."""
    for style in STYLES:
        page = fixed_sheet(training.average, training.data.words, style, after_step=pause)
        page.save(training.options.run / f"sheet-{style}-{training.samples // 1000:06d}k.png")


def main() -> None:
    scratch = Path(__file__).parent.parent / ".training"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=scratch / "data-64")
    parser.add_argument("--run", type=Path, default=scratch / "run", help="where checkpoints, log and sheets go")
    parser.add_argument("--init", type=Path, help="weights to start a new run from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--compile", action="store_true", help="a minute at the start, some tenths faster after it")
    parser.add_argument("--data-workers", type=int, default=0, help="processes that make batches; one GPU wants many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.6, help="factor of the learning rates")
    parser.add_argument("--finish", type=float, help="thousand samples over which the rate falls to nothing")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many minutes of work")
    parser.add_argument("--save-every-s", type=float, default=300)
    parser.add_argument("--sheet-every-s", type=float, default=1800)
    train(Options(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
