"""What is kept of a training: everything to go on with (last.pt), and the averaged weights alone (weights.pt)."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.model import Painter, Shape

LAST, WEIGHTS = "last.pt", "weights.pt"


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    half = path.with_suffix(".half")
    torch.save(content, half)
    os.replace(half, path)


def read(path: Path) -> dict[str, Any]:
    """Read a file that `write` wrote."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def averaged(net: Painter, known: torch.Tensor, samples: int) -> dict[str, Any]:
    """A network as a small file: half precision, its shape, and which word pieces it learned."""
    weights = {name: value.half() for name, value in net.state_dict().items()}
    return {"shape": asdict(net.shape), "known": known, "samples": samples, "weights": weights}


def open_weights(path: Path, data: Path) -> Painter:
    """The network of a weights.pt, ready to draw."""
    content = read(path)
    net = Painter(Shape(**content["shape"]), torch.from_numpy(np.load(data / "table.npy")).float(), content["known"])
    net.load_state_dict({name: value.float() for name, value in content["weights"].items()})
    return net.eval()


def warm(net: Painter, known: torch.Tensor, content: dict[str, Any]) -> list[str]:
    """Take from other weights whatever fits by name and size; say what did not."""
    own = net.state_dict()
    given = {name: value.float() for name, value in content["weights"].items()}
    if "known" in content:  # captions have changed since: each word piece keeps its row
        rows = {int(piece): row for row, piece in enumerate(content["known"], 1)}
        learned = torch.zeros_like(own["learned.weight"])
        for row, piece in enumerate(known.tolist(), 1):
            if piece in rows:
                learned[row] = given["learned.weight"][rows[piece]]
        given["learned.weight"] = learned
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    net.load_state_dict({**own, **fitting})
    return sorted(own.keys() - fitting.keys())
