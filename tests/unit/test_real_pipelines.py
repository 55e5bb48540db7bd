"""The whole networks that benchmarks/inprocess.py measures on a card are those of the published models."""

import pytest
from benchmarks.real_pipelines import _MAKERS


@pytest.mark.parametrize(
    ("family", "billions"), [("flux", 11.9), ("klein", 3.9), ("sd3", 2.2), ("z-image", 6.2), ("qwen", 20.4)]
)
def test_a_network_has_as_many_weights_as_the_model_it_stands_for(family: str, billions: float) -> None:
    """Built without memory for them."""
    import torch

    with torch.device("meta"):
        pipe = _MAKERS[family]()
    assert sum(one.numel() for one in pipe.transformer.parameters()) / 1e9 == pytest.approx(billions, abs=0.06)
    assert sum(one.numel() for one in pipe.vae.parameters()) > 80e6
