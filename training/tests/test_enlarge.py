"""The second stage: what it starts from, what it learns from, and that its file says what the network says."""

from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from training.captions import STYLES, Concept
from training.data import Data
from training.drawings import Picture
from training.enlarge import Enlarger, Pairs, as_bytes, as_picture, batches, distance, evenly, lanczos, split, worn
from training.words import Words

SIDE = 40


def pairs(count: int = 3) -> Pairs:
    """Drawings whose small side tells what was painted over: it is one shade darker than the clean one."""
    small = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) - 0.5
    large = small.repeat_interleave(4, -1).repeat_interleave(4, -2)
    return Pairs(large=as_bytes(large), painted=as_bytes(small - 0.25))


def concepts(count: int) -> Data:
    """Pictures of so many things in every style, without pixels."""
    found = [
        Picture(
            concept=Concept(code=f"{i:04}", label=f"thing {i}", names=(), tags=(), group=7, weight=1),
            style=style,
            hue=0,
            tintable=False,
        )
        for i in range(count)
        for style in STYLES
    ]
    nothing = torch.zeros(0)
    return Data(pictures=found, pixels=nothing, hues=nothing, words=Words([]), table=nothing, known=nothing)


@torch.no_grad()
def test_a_new_network_only_enlarges_evenly() -> None:
    """So that training starts from a picture, not from noise."""
    picture = torch.rand(2, 3, 16, 24)[..., :16] * 2 - 1
    large = Enlarger()(picture)
    assert large.shape == (2, 3, 64, 64)
    assert torch.equal(large, evenly(picture))


@torch.no_grad()
def test_the_straight_way_neither_moves_nor_overshoots() -> None:
    """Made small again, an even slope is where it was."""
    slope = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    large = evenly(slope)
    assert large.min() >= -1
    assert large.max() <= 1
    again = torch.nn.functional.avg_pool2d(large, 4)
    assert torch.allclose(again[..., 1:-1], slope[..., 1:-1], atol=1e-5)


def test_wear_keeps_the_range_and_spares_some() -> None:
    """What the network is shown is always a picture, often the clean one."""
    torch.manual_seed(1)
    clean = torch.rand(64, 3, 16, 16).round() * 2 - 1
    found = worn(clean)
    assert found.abs().max() <= 1
    same = (found == clean).flatten(1).all(1)
    assert 16 < same.sum() < 48
    assert (found - clean).abs().mean() > 0.01


def test_a_crop_is_the_same_place_small_and_large() -> None:
    """Painted ones too: only their shade differs here."""
    torch.manual_seed(1)
    small, large = next(batches(pairs(), np.random.default_rng(1)))
    assert small.shape[1:] == (3, 32, 32)
    assert large.shape[1:] == (3, 128, 128)
    away = torch.nn.functional.avg_pool2d(large, 4) - small
    assert away[1::2] == pytest.approx(torch.full_like(away[1::2], 0.25), abs=0.02)
    assert away[::2].mean().abs() < 0.02


def test_the_same_seed_gives_the_same_crops() -> None:
    """So that a finding can be looked at again."""
    first: list[torch.Tensor] = []
    again: list[torch.Tensor] = []
    for found in (first, again):
        torch.manual_seed(1)
        found += [large for _, large in islice(batches(pairs(), np.random.default_rng(1)), 3)]
    assert torch.equal(torch.stack(first), torch.stack(again))


def test_what_is_measured_on_was_never_learned() -> None:
    """No drawing of the one holds a concept of the other."""
    data = concepts(40)
    learned, held = (
        {data.pictures[at.picture].concept.code for one in some for at in one.layers} for some in split(data, 200, 20)
    )
    assert learned
    assert held
    assert not learned & held


def test_an_edge_in_the_wrong_place_costs_more_than_a_shade() -> None:
    """Two pictures equally far off; the one with a false edge is the worse."""
    target = torch.zeros(1, 3, 8, 8)
    shade = torch.full_like(target, 0.1)
    striped = shade.clone()
    striped[..., ::2] *= -1
    assert distance(striped, target) > distance(shade, target)
    assert distance(target, target) == 0


def test_bytes_and_pictures_are_each_others_way_back() -> None:
    """Nothing is lost between the disk and the network."""
    pixels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(as_bytes(as_picture(pixels)), pixels)


def test_lanczos_keeps_a_flat_picture_flat() -> None:
    """What we are compared with is the real thing, four times as large."""
    found = lanczos(torch.full((1, 3, 8, 8), 0.5))
    assert found.shape == (1, 3, 32, 32)
    assert found.std() < 1e-6


def test_the_file_draws_what_the_network_draws(tmp_path: Path) -> None:
    """Small weights change a picture by less than can be seen, for any number of pictures."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from training.enlarge import export

    torch.manual_seed(1)
    net = Enlarger().eval()
    with torch.no_grad():
        for value in net.parameters():
            value.add_(torch.randn_like(value) * 0.02)
    export(net, tmp_path / "enlarge.onnx", 16)
    assert [path.name for path in tmp_path.iterdir()] == ["enlarge.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "enlarge.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        picture = torch.rand(count, 3, 16, 16) * 2 - 1
        (large,) = session.run(None, {"picture": picture.numpy()})
        with torch.inference_mode():
            right = net(picture).numpy()
        assert np.abs(large - right).mean() < 0.02 * np.abs(right - evenly(picture).numpy()).mean() + 1e-3
