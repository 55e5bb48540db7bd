"""Small ONNX networks, made by hand, whose every answer can be worked out on paper."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def save(
    path: Path, nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], *constants: onnx.TensorProto
) -> Path:
    """Write a network with one output, `out`, of any shape."""
    graph = helper.make_graph(
        list(nodes), "made by hand", list(inputs), [helper.make_tensor_value_info("out", FLOAT, None)], list(constants)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def tensor(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def painter(path: Path, *, side: int = 8, names: Sequence[str] = ("noisy", "time", "words", "shade")) -> Path:
    """Guesses a plain picture whose brightness is its first word's number, 1000 for white; plus a tenth of `shade`."""
    noisy, time, words, shade = names
    nodes = [
        helper.make_node("Gather", [words, "first"], ["word"], axis=1),
        helper.make_node("Cast", ["word"], ["number"], to=FLOAT),
        helper.make_node("Div", ["number", "thousand"], ["bright"]),
        helper.make_node("Cast", [shade], ["wide"], to=FLOAT),
        helper.make_node("Div", ["wide", "ten"], ["more"]),
        helper.make_node("Add", ["bright", "more"], ["flat"]),
        helper.make_node("Reshape", ["flat", "ones"], ["small"]),
        helper.make_node("Mul", [noisy, "nothing"], ["black"]),
        helper.make_node("Reshape", [time, "ones"], ["when"]),
        helper.make_node("Mul", ["when", "nothing"], ["still"]),
        helper.make_node("Sum", ["black", "small", "still"], ["out"]),
    ]
    constants = [
        helper.make_tensor("first", INT, [], [0]),
        helper.make_tensor("thousand", FLOAT, [], [1000.0]),
        helper.make_tensor("ten", FLOAT, [], [10.0]),
        helper.make_tensor("nothing", FLOAT, [], [0.0]),
        helper.make_tensor("ones", INT, [4], [-1, 1, 1, 1]),
    ]
    inputs = [
        tensor(noisy, FLOAT, "n", 3, side, side),
        tensor(time, FLOAT, "n"),
        tensor(words, INT, "n", 4),
        tensor(shade, INT, "n"),
    ]
    return save(path, nodes, inputs, *constants)


def back_to(path: Path, value: float, *, side: int = 4, channels: int = 2) -> Path:
    """Says the velocity noise - picture, of a plain picture of this value, in a space of its own; noise is at time 1.

    With now = time x noise + (1 - time) x picture, that is (now - picture) / time.
    """
    nodes = [
        helper.make_node("Reshape", ["timestep", "ones"], ["when"]),
        helper.make_node("Sub", ["sample", "value"], ["away"]),
        helper.make_node("Div", ["away", "when"], ["out"]),
        helper.make_node("Cast", ["input_ids"], ["unread"], to=FLOAT),
    ]
    constants = [helper.make_tensor("ones", INT, [4], [-1, 1, 1, 1]), helper.make_tensor("value", FLOAT, [], [value])]
    inputs = [
        tensor("sample", FLOAT, "n", channels, side, side),
        tensor("timestep", FLOAT, "n"),
        tensor("input_ids", INT, "n", 4),
    ]
    return save(path, nodes, inputs, *constants)


def decoder(path: Path, *, side: int = 4, channels: int = 2, times: int = 4) -> Path:
    """Takes the first channel for all three colours, each value for a square of `times` pixels."""
    nodes = [
        helper.make_node("Gather", ["latent", "which"], ["grey"], axis=1),
        helper.make_node("Resize", ["grey", "", "scales"], ["out"], mode="nearest"),
    ]
    constants = [
        helper.make_tensor("which", INT, [3], [0, 0, 0]),
        helper.make_tensor("scales", FLOAT, [4], np.array([1, 1, times, times], np.float32)),
    ]
    return save(path, nodes, [tensor("latent", FLOAT, "n", channels, side, side)], *constants)
