"""The network: shapes, folding, and that plain numpy says the same."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from training.model import Painter, Shape, folded
from training.numpy_net import NumpyPainter

SMALL = Shape(size=16, width=64, channels=16, blocks=2, text_blocks=1, before=1, after=1, fine=4)


def painter() -> Painter:
    """A small network with nothing at zero."""
    torch.manual_seed(0)
    net = Painter(SMALL, torch.randn(50, 128) / 11, torch.tensor([3, 7]))
    with torch.no_grad():
        for value in net.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    return net.eval()


def inputs() -> tuple[torch.Tensor, ...]:
    """Two pictures, one of them asked for without a word."""
    words = torch.zeros(2, 16, dtype=torch.long)
    words[0, :2] = torch.tensor([3, 9])
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return noise, torch.full((2,), 0.4), words, torch.ones(2, dtype=torch.long)


@torch.no_grad()
def test_what_was_learned_about_words_folds_into_the_table() -> None:
    """So the shipped network needs one table."""
    net = painter()
    assert torch.allclose(folded(net)(*inputs()), net(*inputs()), atol=1e-4)


@torch.no_grad()
def test_plain_numpy_paints_what_torch_paints(tmp_path: Path) -> None:
    """The same file, the same picture."""
    from training.export import _arrays, _half

    net = folded(painter())
    np.savez(tmp_path / "net.npz", allow_pickle=False, **_arrays(net, _half))
    noisy, moment, words, style = inputs()
    plain = NumpyPainter(tmp_path / "net.npz")
    found = plain.paint(noisy.permute(0, 2, 3, 1).numpy(), float(moment[0]), plain.read(words.numpy()), int(style[0]))
    right = net(noisy, moment, words, style).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - right).max() < 0.02 * np.abs(right).max()
