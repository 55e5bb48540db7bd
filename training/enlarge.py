"""The second stage: a small network that draws a picture of 64 pixels four times as large, with crisp edges.

    python -m training.enlarge .training/run/weights.pt                 # pairs, training, figures, sheets, enlarge.onnx
    python -m training.enlarge .training/run/weights.pt --kept          # the same on the pairs that are there
    python -m training.enlarge .training/run/weights.pt --device cuda

It learns from pairs: a drawing of the art at 256 pixels, and the same at 64. Half of the small ones are clean or a
little worn. The other half the painter has painted over: noise was laid on the clean drawing, the painter took it off
again, and its own faults (ragged edges, a grid of its patches, grain) lie beside what should have been there.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - everybody writes it so
from PIL import Image
from torch import Tensor, nn

from training.captions import STYLES
from training.checkpoint import open_weights
from training.data import Data, load
from training.drawings import Drawing, Rates, drawings
from training.edits import draw, pack
from training.export import OPSET, SHIPPED, packed
from training.fetch import PACKAGES, fetch
from training.model import Painter
from training.prepare import SCRATCH, draw_all
from training.sample import GUIDANCE, PROMPTS, SEED, STEPS, UNGUIDED, sample

TIMES = 4  # as large
PATCH = 8  # the painter's faults repeat after so many pixels: two of its patches, merged
CROP = 32  # pixels of a small picture that one step looks at; a multiple of PATCH

PAIRS, HELD = 4000, 160
HELD_OUT = 20  # every so many concepts, one is only ever measured on
BEGIN = (0.45, 0.92)  # the time from which the painter paints over a drawing; the earlier, the more it makes up
RATES = Rates(silent=0.0, background=0.25)  # a silent painter would paint another thing; paper is easy, and often bad

BATCH, RATE = 16, 2e-3
EDGES = 1.0  # weight of the differences between neighbours beside the differences from the target

Bytes = npt.NDArray[np.uint8]


class Block(nn.Module):
    """Two 3×3 convolutions beside the straight way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = _silent(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


class Enlarger(nn.Module):
    """Adds to the evenly enlarged picture what its edges lack. A new one adds nothing.

    Most of the work is done at half the size: a block there costs a quarter and sees twice as far.
    """

    def __init__(self, channels: int = 32, wide: int = 80, blocks: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.phase = nn.Parameter(torch.zeros(channels, 1, PATCH, PATCH))
        self.before = Block(channels)
        self.narrow = nn.Conv2d(channels, wide, 2, 2)
        self.blocks = nn.Sequential(*(Block(wide) for _ in range(blocks)))
        self.widen = _silent(nn.Conv2d(wide, 4 * channels, 1))
        self.after = Block(channels)
        self.out = _silent(nn.Conv2d(channels, 3 * TIMES * TIMES, 3, padding=1))

    def forward(self, picture: Tensor) -> Tensor:
        """From count × 3 × side × side, -1 to 1, to four times the side; a side is a multiple of eight."""
        side = picture.shape[-1]
        x = self.stem(picture - 1)  # so that what lies outside is white, as most paper is
        tiles = x.reshape(-1, x.shape[1], side // PATCH, PATCH, side // PATCH, PATCH)
        tiles = tiles + self.phase.unsqueeze(3)
        x = self.before(F.relu(tiles.reshape(-1, x.shape[1], side, side)))
        x = self.after(x + F.pixel_shuffle(self.widen(self.blocks(F.relu(self.narrow(x)))), 2))
        return evenly(picture) + F.pixel_shuffle(self.out(x), TIMES)


def evenly(picture: Tensor) -> Tensor:
    """The straight way: every picture element fades into the next."""
    return F.interpolate(picture, scale_factor=TIMES, mode="bilinear", align_corners=False)


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Drawings at 256 pixels, and at 64 as the painter painted over them; bytes, channels first, on disk."""

    large: Bytes
    painted: Bytes

    @classmethod
    def open(cls, folder: Path, name: str) -> "Pairs":
        """Those that `make_pairs` wrote under a name."""
        large, painted = (np.load(folder / f"{name}-{which}.npy", mmap_mode="r") for which in ("large", "painted"))
        return cls(large=large, painted=painted)


def make_pairs(net: Painter, data: Data, art: Bytes, folder: Path, device: str) -> None:
    """Draw at random: large as they should be, small as the painter paints over them; some are only measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    learned, held = split(data)
    noise = torch.Generator().manual_seed(SEED)
    large = torch.from_numpy(art).permute(0, 3, 1, 2)
    rng = Random(SEED)
    net = net.to(device)
    for name, chosen in (("learned", learned), ("held", held)):
        shape = (len(chosen), 3, large.shape[-1], large.shape[-1])
        big = np.lib.format.open_memmap(folder / f"{name}-large.npy", "w+", np.uint8, shape)
        painted = np.lib.format.open_memmap(
            folder / f"{name}-painted.npy", "w+", np.uint8, (*shape[:2], net.shape.size, net.shape.size)
        )
        for start in range(0, len(chosen), BATCH):
            batch = pack(chosen[start : start + BATCH], data.words)
            here = slice(start, start + len(batch.words))
            big[here] = as_bytes(draw(large, data.hues, batch))
            clean = draw(data.pixels, data.hues, batch)
            over = paint_over(net, clean, batch.words, batch.style, rng.uniform(*BEGIN), noise)
            painted[here] = as_bytes(over)


def split(data: Data, pairs: int = PAIRS, held: int = HELD) -> tuple[list[Drawing], list[Drawing]]:
    """Random drawings to learn from, and others of concepts that the first do not hold."""
    codes = sorted({one.concept.code for one in data.pictures})[::HELD_OUT]
    apart = {i for i, one in enumerate(data.pictures) if one.concept.code in codes}

    def some(wanted: bool, count: int) -> list[Drawing]:
        stream = drawings(data.pictures, RATES, Random(f"{SEED} {wanted}"))
        return list(islice((one for one in stream if _only(one, apart) is wanted), count))

    return some(False, pairs), some(True, held)


def _only(drawing: Drawing, apart: set[int]) -> bool | None:
    """True when all of a drawing lies apart, False when nothing does."""
    there = {layer.picture in apart for layer in drawing.layers}
    return there.pop() if len(there) == 1 else None


@torch.inference_mode()
def paint_over(
    net: Painter, clean: Tensor, words: Tensor, style: Tensor, begin: float, noise: torch.Generator
) -> Tensor:
    """Lay noise on clean pictures, and let the painter take it off as it does when it draws, in fewer steps.

    The last step is the sampler's own last step: its grain is what people see.
    """
    device = next(net.parameters()).device
    x = begin * clean + (1 - begin) * torch.randn(clean.shape, generator=noise)
    x, words, style = x.to(device), words.to(device), style.to(device)
    both = torch.cat([words, torch.zeros_like(words)]), torch.cat([style, style])
    last = 1 - 1 / STEPS
    for now, then in pairwise((begin, (begin + last) / 2, last, 1.0)):
        with torch.autocast(device.type, torch.bfloat16):
            if now >= UNGUIDED:
                guess = net(x, torch.full((len(x),), now, device=device), words, style).float()
            else:
                moment = torch.full((2 * len(x),), now, device=device)
                asked, silent = net(torch.cat([x, x]), moment, *both).float().chunk(2)
                guess = silent + GUIDANCE * (asked - silent)
        x = x + (then - now) / (1 - now) * (guess.clamp(-1.05, 1.05) - x)
    return x.clamp(-1, 1).cpu()


def worn(pictures: Tensor) -> Tensor:
    """Half of the pictures as they are, half a little blurred and grainy."""
    count = len(pictures)
    blur, grain = torch.rand(2, count, 1, 1, 1, device=pictures.device)
    touched = (torch.rand(count, 1, 1, 1, device=pictures.device) < 0.5).float()
    smooth = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mixed = pictures + 0.7 * blur * (smooth - pictures) + 0.06 * grain * torch.randn_like(pictures)
    found: Tensor = (pictures + touched * (mixed - pictures)).clamp(-1, 1)
    return found


def batches(pairs: Pairs, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Random crops without end, small and large: half painted over, half to be made small from the large one."""
    side = pairs.painted.shape[-1]
    while True:
        small, large = [], []
        for k in range(BATCH):
            i = int(rng.integers(len(pairs.large)))
            if k % 2:  # the painter's patches stay where they were
                y, x = (int(at) * PATCH for at in rng.integers((side - CROP) // PATCH + 1, size=2))
                small.append(pairs.painted[i, :, y : y + CROP, x : x + CROP])
                y, x = TIMES * y, TIMES * x
            else:
                y, x = (int(at) for at in rng.integers(TIMES * (side - CROP) + 1, size=2))
            large.append(pairs.large[i, :, y : y + TIMES * CROP, x : x + TIMES * CROP])
        targets = as_picture(np.stack(large))
        clean = worn(F.avg_pool2d(targets[::2], TIMES))
        yield torch.stack([clean, as_picture(np.stack(small))], 1).flatten(0, 1), targets


def train(pairs: Pairs, steps: int, device: str) -> Enlarger:
    """A network trained for so many steps, while its rate falls to nothing."""
    torch.manual_seed(SEED)
    net = Enlarger().to(device)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.05)
    begun, losses = time.monotonic(), []
    for step, (small, large) in enumerate(islice(batches(pairs, np.random.default_rng(SEED)), steps), 1):
        small = small.to(device, memory_format=torch.channels_last)
        with torch.autocast(small.device.type, torch.bfloat16):
            guess = net(small)
        loss = distance(guess.float(), large.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch has not typed it
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rates.step()
        losses.append(loss.detach())
        if step % 250 == 0 or step == steps:
            print(
                f"{step:6} steps  loss {torch.stack(losses).mean():.4f}  {time.monotonic() - begun:.0f} s", flush=True
            )
            losses = []
    return net.eval().cpu()


def distance(guess: Tensor, target: Tensor) -> Tensor:
    """How far two pictures are apart, and how far their edges."""
    away = guess - target
    across, down = away.diff(dim=-1).abs().mean(), away.diff(dim=-2).abs().mean()
    return away.abs().mean() + EDGES * (across + down)


@torch.inference_mode()
def figures(net: Enlarger, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Over the pairs held out, for clean and for painted input: the network beside Lanczos."""
    large = as_picture(pairs.large)
    found = {}
    for name, small in (("clean", F.avg_pool2d(large, TIMES)), ("painted", as_picture(pairs.painted))):
        ours = torch.cat([net(part) for part in torch.split(small, BATCH)]).clamp(-1, 1)
        found[f"{name}, Lanczos"] = _compared(lanczos(small), large)
        found[f"{name}, network"] = _compared(ours, large)
    return found


def _compared(guess: Tensor, right: Tensor) -> dict[str, float]:
    away = (guess - right) / 2
    each = away.square().mean((1, 2, 3)).clamp_min(1e-8)
    edges = away.diff(dim=-1).abs().mean() + away.diff(dim=-2).abs().mean()
    return {"psnr": round(float((-10 * each.log10()).mean()), 2), "edges": round(255 * float(edges), 3)}


def lanczos(small: Tensor) -> Tensor:
    """What any program would do without us."""
    side = TIMES * small.shape[-1]
    method = Image.Resampling.LANCZOS
    pictures = (Image.fromarray(one.transpose(1, 2, 0)).resize((side, side), method) for one in as_bytes(small))
    return as_picture(np.stack([np.asarray(one).transpose(2, 0, 1) for one in pictures]))


@torch.inference_mode()
def look(net: Enlarger, painter: Painter, data: Data, style: str, count: int = 12, columns: int = 3) -> Image.Image:
    """What the painter draws, enlarged by Lanczos and beside it by the network: the first of the fixed prompts."""
    words = torch.tensor([data.words.encode(prompt) for prompt in PROMPTS[:count]])
    small = sample(painter, words, torch.full((count,), STYLES.index(style)), seed=SEED)
    both = np.concatenate([as_bytes(lanczos(small)), as_bytes(net(small).clamp(-1, 1))], 3).transpose(0, 2, 3, 1)
    rows = [np.concatenate(list(both[i : i + columns]), 1) for i in range(0, count, columns)]
    return Image.fromarray(np.concatenate(rows))


def export(net: Enlarger, path: Path, size: int) -> None:
    """Write the file that ships, and say how far it is from the network and how long a picture takes."""
    import onnxruntime

    whole = path.with_suffix(".full")
    picture = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(SEED)) * 2 - 1
    axes = {"picture": {0: "n"}, "large": {0: "n"}}
    torch.onnx.export(
        net, (picture,), str(whole), input_names=["picture"], output_names=["large"], dynamic_axes=axes,
        opset_version=OPSET, dynamo=False,
    )  # fmt: skip
    onnx.save(packed(onnx.load(whole)), path)
    whole.unlink()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        away = float(np.abs(session.run(None, {"picture": picture.numpy()})[0] - net(picture).numpy()).mean())
    took = []
    for _ in range(20):
        begun = time.perf_counter()
        session.run(None, {"picture": picture[:1].numpy()})
        took.append(time.perf_counter() - begun)
    megabytes, ms = path.stat().st_size / 1e6, 1000 * min(took)
    print(f"{path.name}: {megabytes:.2f} MB, off by {away:.4f} on noise, {ms:.0f} ms a picture")


def as_bytes(pictures: Tensor) -> Bytes:
    """From -1..1 to 0..255."""
    found: Bytes = ((pictures * 0.5 + 0.5) * 255 + 0.5).clamp(0, 255).to(torch.uint8).numpy()
    return found


def as_picture(pixels: Bytes) -> Tensor:
    """From 0..255 to -1..1."""
    return torch.from_numpy(np.asarray(pixels, np.float32)) / 127.5 - 1


def large_art(scratch: Path, data: Path, size: int) -> Bytes:
    """The same pictures as the painter's, larger; drawn when they are not there, read from disk as they are needed."""
    folder = scratch / f"data-{size}"
    about = folder / "pictures.json"
    if not about.exists() or about.read_bytes() != (data / "pictures.json").read_bytes():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = (*STYLES, "captions")
        draw_all(
            {one.folder: fetch(one, scratch / "packages") for one in PACKAGES if one.folder in wanted}, folder, size
        )
    # Copied where written, which nobody does: torch warns about an array that cannot be.
    art: Bytes = np.load(folder / "pictures.npy", mmap_mode="c")
    return art


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the painter whose pictures are to be enlarged")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="where everything lies (default: .training)")
    parser.add_argument("--out", type=Path, default=SHIPPED / "enlarge.onnx")
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kept", action="store_true", help="train on the pairs that are there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.scratch / "enlarge"
    small = options.scratch / "data-64"
    data = load(small)
    painter = open_weights(options.weights, small)
    size = painter.shape.size
    if not options.kept:
        make_pairs(painter, data, large_art(options.scratch, small, TIMES * size), folder, options.device)
    net = train(Pairs.open(folder, "learned"), options.steps, options.device)
    for name, found in figures(net, Pairs.open(folder, "held")).items():
        print(f"{name:17}", json.dumps(found))
    export(net, options.out, size)
    painter = painter.cpu()
    for style in STYLES:
        look(net, painter, data, style).save(folder / f"look-{style}.png")


if __name__ == "__main__":
    main()
