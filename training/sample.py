"""Draw from a network: the sampler, and the sheet of prompts that never change.

python -m training.sample .training/run/weights.pt --style flat --out sheet.png
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.captions import STYLES
from training.fixed import PROMPTS, SEED, sheet
from training.model import Painter
from training.words import Words

STEPS, GUIDANCE = 24, 3.0
UNGUIDED = 0.9  # after this time only details change, and guidance would burn them in


@torch.inference_mode()
def sample(
    net: Painter,
    words: Tensor,
    style: Tensor,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = SEED,
    after_step: Callable[[], object] = lambda: None,
) -> Tensor:
    """Pictures for rows of word numbers, from -1 to 1. The noise is drawn on the processor: one seed, one picture."""
    device, size = words.device, net.shape.size
    x = torch.randn(len(words), 3, size, size, generator=torch.Generator().manual_seed(seed)).to(device)
    both = torch.cat([words, torch.zeros_like(words)]), torch.cat([style, style])
    times = torch.linspace(0, 1, steps + 1).tolist()
    for now, then in pairwise(times):
        time = torch.full((2 * len(words),), now, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            asked, silent = net(torch.cat([x, x]), time, *both).float().chunk(2)
        clean = asked if now >= UNGUIDED else silent + guidance * (asked - silent)
        x = x + (then - now) / (1 - now) * (clean.clamp(-1.05, 1.05) - x)
        after_step()
    return x.clamp(-1, 1)


def fixed_sheet(
    net: Painter,
    words: Words,
    style: str,
    prompts: Sequence[str] = PROMPTS,
    seed: int = SEED,
    guidance: float = GUIDANCE,
    after_step: Callable[[], object] = lambda: None,
) -> Image.Image:
    """The fixed prompts, not picked: one seed, one try."""
    device = next(net.parameters()).device
    rows = torch.tensor([words.encode(prompt) for prompt in prompts], device=device)
    styles = torch.full((len(prompts),), STYLES.index(style), device=device)
    drawn = sample(net, rows, styles, seed=seed, guidance=guidance, after_step=after_step).cpu()
    pixels = ((drawn.permute(0, 2, 3, 1).numpy() * 0.5 + 0.5) * 255 + 0.5).astype(np.uint8)
    return sheet([Image.fromarray(one) for one in pixels], tuple(prompts))


def main() -> None:
    from training.checkpoint import open_weights  # the checkpoint knows the network's shape, and draws sheets itself

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".training/data-64"))
    parser.add_argument("--style", choices=STYLES, default=STYLES[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--prompt", action="append", help="instead of the fixed ones; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = open_weights(options.weights, options.data)
    words = Words.load(options.data / "vocab.txt")
    prompts = options.prompt or PROMPTS
    fixed_sheet(net, words, options.style, prompts, options.seed, options.guidance).save(options.out)


if __name__ == "__main__":
    main()
