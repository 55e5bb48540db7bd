"""Parts that take turns on the card and wait in pinned memory, which is copied faster, and while others compute.

accelerate, which moves them for diffusers, copies a part to the card and back again. Weights do not change while
drawing, so nothing has to come back: the numbers that were left behind are the same.
"""

from collections.abc import Callable
from typing import Any

Pin = Callable[[Any], Any]


def pinned_parts(pipe: Any, pin: Pin | None = None) -> None:
    """Have every part of a pipeline wait in pinned memory; before accelerate is told to move them."""
    import torch

    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to = Waiting(part, pin or torch.Tensor.pin_memory).to


class Waiting:
    """One part, and its numbers where they wait. What is put into the part later, a LoRA, moves as it always did."""

    def __init__(self, part: Any, pin: Pin) -> None:
        import torch

        self._part = part
        self._plain = part.to
        self._kept = {}
        for tensor in (*part.parameters(), *part.buffers()):
            if type(tensor) in (torch.Tensor, torch.nn.Parameter):  # packed ones are more than their numbers
                tensor.data = pin(tensor.data)
                self._kept[tensor] = tensor.data

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """In the place of the part's own `to`."""
        import torch

        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # as the part's own does
        if dtype is not None or device is None:
            return self._plain(*args, **kwargs)
        home = device.type == "cpu"
        for tensor, kept in self._kept.items():
            if kept.dtype == tensor.dtype and kept.shape == tensor.shape:
                tensor.data = kept if home else kept.to(device, non_blocking=True)
        return self._plain(*args, **kwargs)
