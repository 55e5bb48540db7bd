"""From averaged weights to the files that ship: ONNX and a plain .npz, each in fp16 and int8, and the vocabulary.

    python -m training.export .training/run/weights.pt --out .training/export
    python -m training.export --measure .training/export

Weights are stored small and widened once when the file is opened; the arithmetic is always fp32, so an int8 file draws
as fast as any other. The learned part of a word piece is folded into its row of the table.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from training.checkpoint import open_weights
from training.model import Painter, folded
from training.words import LENGTH

BIG = 1000  # elements; what is smaller stays as it is
OPSET = 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=Path(".training/data-64"))
    parser.add_argument("--out", type=Path, default=Path(".training/export"))
    parser.add_argument("--measure", type=Path, help="measure the files of a folder instead")
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    net = open_weights(options.weights, options.data)
    (options.out / "vocab.txt").write_bytes((options.data / "vocab.txt").read_bytes())
    export(net, options.out)


def export(net: Painter, out: Path) -> None:
    """Write every file and say how far its guess is from the network's own."""
    whole = folded(net)
    size = net.shape.size
    words = torch.zeros(2, LENGTH, dtype=torch.long)
    words[0, :3] = torch.tensor([1037, 2417, 6207])  # "a red apple"
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    inputs = (noise, torch.full((2,), 0.3), words, torch.zeros(2, dtype=torch.long))
    with torch.inference_mode():
        right = net(*inputs)
    names = ["noisy", "time", "words", "style"]
    axes = {name: {0: "n"} for name in (*names, "clean")}
    full = out / "full.onnx"
    torch.onnx.export(
        whole, inputs, str(full), input_names=names, output_names=["clean"], dynamic_axes=axes, opset_version=OPSET,
        dynamo=False,
    )  # fmt: skip
    for kind, pack in (("fp16", _half), ("int8", _bytes)):
        path = out / f"tiny-{kind}.onnx"
        onnx.save(packed(onnx.load(full), pack), path)
        print(path.name, f"{path.stat().st_size / 1e6:.1f} MB, off by {_onnx_error(path, inputs, right):.5f}")
        path = out / f"tiny-{kind}.npz"
        np.savez(path, allow_pickle=False, **_arrays(whole, pack))
        print(path.name, f"{path.stat().st_size / 1e6:.1f} MB, off by {_numpy_error(path, inputs, right):.5f}")
    full.unlink()


Pack = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def packed(model: onnx.ModelProto, pack: Pack) -> onnx.ModelProto:
    """Store large weights small: a cast, and a factor per row, bring them back; onnxruntime does both while loading.

    The table is not brought back whole: its rows are looked up first.
    """
    graph = model.graph
    _lift_constants(graph)
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    nodes, kept = [], []
    for weight in graph.initializer:
        value = numpy_helper.to_array(weight)
        if value.dtype != np.float32 or value.size < BIG:
            kept.append(weight)
            continue
        name = weight.name
        table = name in looked_up
        # A matrix is stored input by output; a factor belongs to each output, a convolution has them in front.
        turned = value.T if value.ndim == 2 and not table else value
        small, scale = (_bytes if table else pack)(turned)
        small = small.T if turned is not value else small
        kept.append(numpy_helper.from_array(np.ascontiguousarray(small), name + ":small"))
        if table:
            assert scale is not None
            kept.append(numpy_helper.from_array(scale[:, None].astype(np.float32), name + ":scale"))
            nodes += _lookup(graph, name)
            continue
        wide = name if scale is None else name + ":wide"
        nodes.append(helper.make_node("Cast", [name + ":small"], [wide], to=TensorProto.FLOAT))
        if scale is not None:
            factor = scale if value.ndim == 2 else scale.reshape(-1, *[1] * (value.ndim - 1))
            kept.append(numpy_helper.from_array(factor.astype(np.float32), name + ":scale"))
            nodes.append(helper.make_node("Mul", [wide, name + ":scale"], [name]))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *old])
    return model


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Buffers come out of the exporter as nodes; make weights of them, as all others are."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = numpy_helper.to_array(node.attribute[0].t)
        if value.size >= BIG:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            graph.node.remove(node)


def _lookup(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """In place of rows = table[words]: cast(small[words]) · scale[words]."""
    gather = next(node for node in graph.node if node.op_type == "Gather" and node.input[0] == name)
    words, rows = gather.input[1], gather.output[0]
    graph.node.remove(gather)
    return [
        helper.make_node("Gather", [name + ":small", words], ["looked:small"]),
        helper.make_node("Cast", ["looked:small"], ["looked:wide"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [name + ":scale", words], ["looked:scale"]),
        helper.make_node("Mul", ["looked:wide", "looked:scale"], [rows]),
    ]


def _half(value: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return value.astype(np.float16), None


def _bytes(value: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Signed bytes with one factor per row."""
    scale = np.abs(value.reshape(len(value), -1)).max(1) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8), scale


def _arrays(net: Painter, pack: Pack) -> dict[str, np.ndarray]:
    table, scale = _bytes(net.table.numpy())
    assert scale is not None
    found = {"table": table, "table_scale": scale}
    for name, tensor in net.state_dict().items():
        value = tensor.numpy()
        if value.ndim < 2 or value.size < BIG:
            found[name] = value
            continue
        found[name], factor = pack(value)
        if factor is not None:
            found[name + ":scale"] = factor
    return found


def _onnx_error(path: Path, inputs: tuple[Tensor, ...], right: Tensor) -> float:
    import onnxruntime  # type: ignore[import-untyped] # it has none

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = dict(zip(("noisy", "time", "words", "style"), (value.numpy() for value in inputs), strict=True))
    return float(np.abs(session.run(None, feeds)[0] - right.numpy()).max())


def _numpy_error(path: Path, inputs: tuple[Tensor, ...], right: Tensor) -> float:
    from training.numpy_net import NumpyPainter

    noisy, moment, words, style = inputs
    net = NumpyPainter(path)
    picture = noisy.permute(0, 2, 3, 1).contiguous().numpy()
    guess = net.paint(picture, float(moment[0]), net.read(words.numpy()), int(style[0]))
    return float(np.abs(guess.transpose(0, 3, 1, 2) - right.numpy()).max())


def measure(folder: Path) -> None:
    """Time every file in a process of its own, on one thread: import, open, one picture of 20 guided steps."""
    for path in sorted([*folder.glob("*.onnx"), *folder.glob("*.npz")]):
        kind = "onnx" if path.suffix == ".onnx" else "numpy"
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "training.measure", kind, str(path)], check=True, capture_output=True, text=True
        )
        took = time.perf_counter() - started
        figures = {name: round(value, 3) for name, value in json.loads(done.stdout).items()}
        print(f"{path.name:16} {path.stat().st_size / 1e6:5.1f} MB  process {took:.2f} s  {figures}")


if __name__ == "__main__":
    main()
