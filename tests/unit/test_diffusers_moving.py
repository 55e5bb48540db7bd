"""Parts that wait in pinned memory: nothing is copied back, and whatever else they hold moves as it always did."""

from typing import Any

import torch

from imagen.backends.diffusers.moving import Waiting


def part() -> tuple[Any, list[Any]]:
    """A part that waits, and its numbers where they do."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    module.to = Waiting(module, torch.Tensor.clone).to
    return module, [*module.parameters(), *module.buffers()]


def places(tensors: list[Any]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def test_what_comes_back_is_what_was_left_behind() -> None:
    """Whatever was on the card is let go of: parameters and buffers, by every spelling of the call."""
    for back in (lambda one: one.to("cpu"), lambda one: one.to(device=torch.device("cpu"))):
        module, tensors = part()
        waiting = places(tensors)
        for tensor in tensors:
            tensor.data = tensor.data.clone()  # a card's copy
        assert not set(places(tensors)) & set(waiting)
        assert back(module) is module
        assert places(tensors) == waiting


def test_a_part_in_another_precision_is_not_taken_back() -> None:
    """Its old numbers would be of the wrong kind."""
    module, _ = part()
    module.to(torch.bfloat16)
    module.to("cpu")
    kinds = {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()}
    assert kinds == {torch.bfloat16}


def test_what_is_added_later_moves_with_it() -> None:
    """A LoRA is put into a part that has waited before."""
    module, _ = part()
    module.add_module("lora", torch.nn.Linear(4, 4))
    added = module.lora.weight.data_ptr()
    module.to("cpu")
    assert module.lora.weight.data_ptr() == added
