"""Several processes that train one network: each makes its own batches, and gradients are averaged after each.

Started by `torchrun --nproc-per-node 2 -m training.train`; a process alone does without all of it.
"""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import distributed

COUNT = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))


def join() -> None:
    """Meet the others. Whoever pauses is waited for."""
    if COUNT > 1:
        distributed.init_process_group("gloo", timeout=timedelta(days=7))


def average(parameters: Iterable[torch.Tensor], stop: bool) -> bool:
    """Average gradients in place; True when one of the processes wants to stop, so that all stop at the same step."""
    if COUNT == 1:
        return stop
    gradients = [one.grad for one in parameters if one.grad is not None]
    flat = torch.cat([one.flatten() for one in gradients] + [torch.tensor([float(stop)])])
    distributed.all_reduce(flat)
    torch._foreach_copy_(
        gradients,
        [
            part.view_as(one)
            for one, part in zip(gradients, flat.split([g.numel() for g in gradients] + [1]), strict=False)
        ],
    )
    torch._foreach_div_(gradients, COUNT)
    return bool(flat[-1] > 0)
