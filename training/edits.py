"""Drawings as tensors: tint, place, flip and lay pictures on paper, a whole batch at once, on any device."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - everybody writes it so

from training.drawings import BACKGROUNDS, Drawing
from training.words import Words

REACH = 60.0  # degrees around the main hue that take part in a tint; a green leaf stays green
TINTABLE = 0.5  # the share of a picture that must have its main hue
COLOURED = 0.25  # a weaker colour counts as gray


class Batch(NamedTuple):
    """Drawings packed into tensors. Layers lie one after the other; `owner` says to which drawing each belongs."""

    words: torch.Tensor
    style: torch.Tensor
    paper: torch.Tensor
    owner: torch.Tensor
    order: torch.Tensor
    picture: torch.Tensor
    place: torch.Tensor  # scale, x, y, flip as 1 or -1
    tint: torch.Tensor  # hue, strength, brightness, lift, and 1 where there is a tint

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device."""
        return Batch(*(one.to(device, non_blocking=True) for one in self))


def pack(drawings: Sequence[Drawing], words: Words) -> Batch:
    """Bring drawings into tensors."""
    layers = [(i, k, layer) for i, one in enumerate(drawings) for k, layer in enumerate(one.layers)]
    tints = [
        (one.hue, one.strength, one.brightness, one.lift, 1.0) if (one := at.tint) else (0.0,) * 5 for *_, at in layers
    ]
    return Batch(
        words=torch.tensor([words.encode(one.caption) for one in drawings]),
        style=torch.tensor([one.style for one in drawings]),
        paper=torch.tensor([BACKGROUNDS[one.background] for one in drawings], dtype=torch.float32),
        owner=torch.tensor([i for i, _, _ in layers]),
        order=torch.tensor([k for _, k, _ in layers]),
        picture=torch.tensor([at.picture for *_, at in layers]),
        place=torch.tensor([(at.scale, at.x, at.y, -1.0 if at.flipped else 1.0) for *_, at in layers]),
        tint=torch.tensor(tints),
    )


def draw(pictures: torch.Tensor, hues: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The drawings themselves, from -1 to 1; `pictures` are bytes, N × 4 × size × size, premultiplied."""
    layers = pictures[batch.picture].float() / 255
    chosen = batch.tint[:, 4] > 0
    if chosen.any():
        layers[chosen] = tinted(layers[chosen], hues[batch.picture[chosen]], batch.tint[chosen])
    layers = _placed(layers, batch.place)
    size = layers.shape[-1]
    paper = batch.paper[:, :, None, None].expand(-1, 3, size, size).clone()
    for depth in range(int(batch.order.max()) + 1):
        here = batch.order == depth
        owner, over = batch.owner[here], layers[here]
        paper[owner] = over[:, :3] + (1 - over[:, 3:]) * paper[owner]
    return paper.clamp(0, 1) * 2 - 1


def tinted(layers: torch.Tensor, own: torch.Tensor, tint: torch.Tensor) -> torch.Tensor:
    """Turn the main hue of each picture into its tint; other hues and grays stay."""
    alpha = layers[:, 3:]
    hue, strength, brightness = _hsv((layers[:, :3] / alpha.clamp_min(1e-3)).clamp(0, 1))
    wanted, factor, shade, lift = (tint[:, i, None, None] for i in range(4))
    away = (hue - own[:, None, None] + 180) % 360 - 180
    share = ((REACH + 20 - away.abs()) / 20).clamp(0, 1) * (strength / COLOURED).clamp(0, 1)
    hue = hue + share * (wanted - own[:, None, None])
    strength = strength * (1 + share * (factor - 1))
    brightness = (brightness * (1 + share * (shade - 1)) + share * lift).clamp(0, 1)
    return torch.cat([_rgb(hue % 360, strength, brightness) * alpha, alpha], 1)


def main_hue(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The main hue of each picture in degrees, and the share of the picture that has it."""
    layers = pictures.float() / 255
    alpha = layers[:, 3]
    hue, strength, brightness = _hsv((layers[:, :3] / alpha[:, None].clamp_min(1e-3)).clamp(0, 1))
    weight = alpha * strength * brightness
    angle = torch.deg2rad(hue)
    own = torch.rad2deg(torch.atan2((weight * angle.sin()).sum((1, 2)), (weight * angle.cos()).sum((1, 2)))) % 360
    away = ((hue - own[:, None, None] + 180) % 360 - 180).abs()
    near = alpha * (away < REACH) * (strength > COLOURED)
    return own, near.sum((1, 2)) / alpha.sum((1, 2)).clamp_min(1)


def _placed(layers: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    flipped = place[:, 3] < 0
    layers[flipped] = layers[flipped].flip(-1)
    moved = place[:, 0] < 1
    if moved.any():
        # Halved first, so that a small copy is smooth; every smaller scale in use is near a half.
        half = F.avg_pool2d(layers[moved], 2)
        scale, x, y = (place[moved, i] for i in range(3))
        none = torch.zeros_like(scale)
        rows = [torch.stack([1 / scale, none, -x / scale], 1), torch.stack([none, 1 / scale, -y / scale], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), [len(scale), 4, *layers.shape[-2:]], align_corners=False)
        layers[moved] = F.grid_sample(half, grid, align_corners=False)
    return layers


def _hsv(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    high, low = rgb.amax(1), rgb.amin(1)
    spread = high - low
    red, green, blue = rgb.unbind(1)
    safe = spread.clamp_min(1e-6)
    hue = torch.where(
        high == red,
        ((green - blue) / safe) % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return hue * 60, spread / high.clamp_min(1e-6), high


def _rgb(hue: torch.Tensor, strength: torch.Tensor, brightness: torch.Tensor) -> torch.Tensor:
    # Each channel is the brightness, less what its distance from the hue takes away.
    def channel(offset: float) -> torch.Tensor:
        k = (offset + hue / 60) % 6
        return brightness - brightness * strength * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], 1)
