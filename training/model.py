"""The network: a noisy picture, a time, words and a style in; its guess of the clean picture out.

    words  ─ table ─ 2 blocks ─┬────────────── 16 tokens ─┐
                               └─ mean ─┐                 │
    time, style ────────────────────────┴─ condition ─ 5 blocks (80 tokens)
                                                          │
    picture ─ 4-px patches ─ convolutions ─ 2×2 merged ─ 64 tokens ─ split ─ + ─ convolutions ─ patches ─ smoothed

Patches of 8 pixels and no convolution learned far too slowly for a processor; this learns shapes within minutes.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - everybody writes it so
from torch import Tensor, nn

from training.words import LENGTH, PAD

TIMES = 128  # sines and cosines that tell the time
TABLE_SCALE = 11.3  # √128: the rows of the table have length one, the network likes elements of size one


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large the network is."""

    size: int = 64
    patch: int = 4
    width: int = 256
    channels: int = 96
    blocks: int = 5
    text_blocks: int = 2
    before: int = 1
    after: int = 3
    fine: int = 12
    styles: int = 3


class Norm(nn.Module):
    """Root mean square norm with a gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        # Not F.rms_norm, which cannot be exported; compiled, both are as fast.
        even = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6).to(x.dtype)
        return even * self.gain.to(x.dtype)


class Block(nn.Module):
    """Attention and a squared-relu layer; the condition scales, shifts and gates both."""

    def __init__(self, width: int, conditioned: bool) -> None:
        super().__init__()
        self.heads = width // 64
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.grow = nn.Linear(width, 4 * width, bias=False)
        self.shrink = nn.Linear(4 * width, width, bias=False)
        self.norm_q, self.norm_k = Norm(64), Norm(64)
        self.own = nn.Parameter(torch.zeros(6, width)) if conditioned else None
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.shrink.weight)

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor | None = None) -> Tensor:
        if self.own is None or condition is None:
            x = x + self._attend(self.norm1(x), mask)
            return x + self._think(self.norm2(x))
        scale1, shift1, gate1, scale2, shift2, gate2 = (condition + self.own.to(condition.dtype)).chunk(6, 1)
        x = x + gate1 * self._attend(self.norm1(x) * (1 + scale1) + shift1, mask)
        return x + gate2 * self._think(self.norm2(x) * (1 + scale2) + shift2)

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        count, length, width = x.shape
        q, k, v = self.qkv(x).view(count, length, 3, self.heads, 64).permute(2, 0, 3, 1, 4).unbind(0)
        # Written out: for 80 tokens on a processor, torch's own attention is several times slower backwards.
        y = (self.norm_q(q) @ self.norm_k(k).transpose(2, 3) / 8 + mask).softmax(-1).to(v.dtype) @ v
        out: Tensor = self.mix(y.transpose(1, 2).reshape(count, length, width))
        return out

    def _think(self, x: Tensor) -> Tensor:
        out: Tensor = self.shrink(F.relu(self.grow(x)).square())
        return out


class Convolutions(nn.Module):
    """Two 3×3 convolutions beside the straight way, scaled and shifted by the condition."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.tell = nn.Linear(width, 2 * channels)
        for weight in (self.second.weight, self.second.bias, self.tell.weight, self.tell.bias):
            assert weight is not None
            nn.init.zeros_(weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.tell(condition)[:, :, None, None].chunk(2, 1)
        y = self.first(F.silu(_even(x) * (1 + scale) + shift))
        out: Tensor = x + self.second(F.silu(y))
        return out


class Painter(nn.Module):
    """The whole network. `known` are the word pieces that get a learned part besides their row of the table."""

    table: Tensor
    place: Tensor

    def __init__(self, shape: Shape, table: Tensor, known: Tensor) -> None:
        super().__init__()
        self.shape = shape
        width, channels, patch = shape.width, shape.channels, shape.patch
        self.register_buffer("table", table * TABLE_SCALE, persistent=False)
        place = torch.zeros(len(table), dtype=torch.long)
        place[known] = torch.arange(1, len(known) + 1)
        self.register_buffer("place", place, persistent=False)
        # Without known pieces there is no learned part: so it ships, folded into the table.
        self.learned = nn.Embedding(len(known) + 1, table.shape[1], padding_idx=0) if len(known) else None
        self.word_in = nn.Linear(table.shape[1], width)
        self.word_place = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.text_blocks = nn.ModuleList(Block(width, conditioned=False) for _ in range(shape.text_blocks))
        self.text_norm = Norm(width)
        self.text_mean = nn.Linear(width, width)
        self.style = nn.Embedding(shape.styles, width)
        self.time = nn.Sequential(nn.Linear(TIMES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(width, 6 * width)
        self.stem = nn.Linear(3 * patch * patch, channels)
        self.before = nn.ModuleList(Convolutions(channels, width) for _ in range(shape.before))
        self.merge = nn.Linear(4 * channels, width)
        self.token_place = nn.Parameter(torch.randn((shape.size // patch // 2) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, conditioned=True) for _ in range(shape.blocks))
        self.norm = Norm(width)
        self.split = nn.Linear(width, 4 * channels)
        self.after = nn.ModuleList(Convolutions(channels, width) for _ in range(shape.after))
        self.out = nn.Linear(channels, 3 * patch * patch)
        self.fine = nn.Linear(channels, shape.fine * patch * patch)
        self.smooth = nn.Conv2d(shape.fine + 3, 3, 3, padding=1)
        self._start()

    def _start(self) -> None:
        zero = (self.condition.weight, self.condition.bias, self.out.weight, self.out.bias)
        if self.learned is not None:
            nn.init.zeros_(self.learned.weight)
        for weight in (*zero, self.style.weight, self.smooth.weight, self.smooth.bias):
            assert weight is not None
            nn.init.zeros_(weight)
        with torch.no_grad():  # both gates open
            self.condition.bias.view(6, -1)[[2, 5]] = 1

    def forward(self, noisy: Tensor, time: Tensor, words: Tensor, style: Tensor, plain: Tensor | None = None) -> Tensor:
        """Guess the clean picture; where `plain` is 1, word pieces are read from the table alone."""
        tokens, mean, mask = self.read(words, plain)
        return self.paint(noisy, time, tokens, mean, mask, style)

    def read(self, words: Tensor, plain: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Words to tokens, their mean, and what attention adds for each: nothing, or so little that it is not seen."""
        there = words != PAD
        rows = self.table[words]
        if self.learned is not None:
            learned = self.learned(self.place[words])
            rows = rows + (learned if plain is None else learned * (1 - plain)[:, None, None])
        x = self.word_in(rows) + self.word_place
        mask = torch.where(there, 0.0, -1e4).to(x.dtype)[:, None, None]
        for block in self.text_blocks:
            x = block(x, mask)
        x = self.text_norm(x)
        weight = there[..., None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1).clamp_min(1)
        return x, self.text_mean(mean), mask

    def paint(self, noisy: Tensor, time: Tensor, tokens: Tensor, mean: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """Guess the clean picture from words already read."""
        count, grid = noisy.shape[0], self.shape.size // self.shape.patch
        told = F.silu(self.time(_waves(time)) + mean + self.style(style))
        condition = self.condition(told).view(count, 6, -1)
        x = self.stem(_patches(noisy, self.shape.patch)).permute(0, 3, 1, 2)
        for convolutions in self.before:
            x = convolutions(x, told)
        y = self.merge(_patches(x, 2).flatten(1, 2)) + self.token_place
        y = torch.cat([tokens, y.to(tokens.dtype)], 1)
        mask = F.pad(mask, (0, grid * grid // 4))
        for block in self.blocks:
            y = block(y, mask, condition)
        y = self.split(self.norm(y[:, LENGTH:])).view(count, grid // 2, grid // 2, -1)
        x = x + _unpatch(y, 2).to(x.dtype)
        for convolutions in self.after:
            x = convolutions(x, told)
        x = _even(x).permute(0, 2, 3, 1)
        rough = _unpatch(self.out(x), self.shape.patch)
        fine = _unpatch(self.fine(x), self.shape.patch)
        clean: Tensor = rough + self.smooth(torch.cat([rough, F.silu(fine)], 1))
        return clean.float()


def folded(net: Painter) -> Painter:
    """The same network with what it learned about word pieces added to its table."""
    if net.learned is None:
        return net
    with torch.no_grad():
        table = (net.table + net.learned(net.place)) / TABLE_SCALE
    same = Painter(net.shape, table, torch.zeros(0, dtype=torch.long))
    same.load_state_dict({name: value for name, value in net.state_dict().items() if name != "learned.weight"})
    return same.eval()


def _even(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6).to(x.dtype)


def _waves(time: Tensor) -> Tensor:
    steps = torch.arange(TIMES // 2, device=time.device) / (TIMES // 2)
    angle = time[:, None] * 1000 * torch.exp(-math.log(1e4) * steps)
    return torch.cat([angle.cos(), angle.sin()], 1)


def _patches(x: Tensor, patch: int) -> Tensor:
    """Channels first to a grid of patches, channels last; each patch is written channel, row, column for pictures."""
    count, channels, height, width = x.shape
    x = x.view(count, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(count, height // patch, width // patch, -1)


def _unpatch(x: Tensor, patch: int) -> Tensor:
    """A grid of patches back to channels first."""
    count, height, width, _ = x.shape
    x = x.view(count, height, width, -1, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(count, -1, height * patch, width * patch)
