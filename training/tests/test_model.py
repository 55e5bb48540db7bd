"""The network: shapes, folding, and that the exported file says the same."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from training.export import export, near
from training.model import Painter, Shape, folded

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
def test_the_exported_file_paints_what_torch_paints(tmp_path: Path) -> None:
    """Bytes for weights, a folded table, another program: the same picture, but for rounding."""
    onnxruntime = pytest.importorskip("onnxruntime")
    net = painter()
    export(net, tmp_path / "net.onnx", inputs())
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    names = ("noisy", "time", "words", "style")
    found = session.run(None, {name: one.numpy() for name, one in zip(names, inputs(), strict=True)})[0]
    right = net(*inputs()).numpy()
    assert np.abs(found - right).max() < 0.05 * np.abs(right).max()


def test_words_near_those_of_captions_are_understood() -> None:
    """What the table holds close together is drawn alike."""
    table = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert near(["cat", "feline", "tax"], {"cat"}, table) == {"cat", "feline"}
