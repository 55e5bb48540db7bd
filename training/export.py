"""From averaged weights to the two files that ship: the network as ONNX, and its vocabulary.

    python -m training.export .training/run/finished.pt              # into src/imagen/models/tiny/

Weights are stored as bytes and widened once when the file is opened; the arithmetic is always fp32, so a small file
draws as fast as a large one. The learned part of a word piece is folded into its row of the table.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - everybody writes it so
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from training.captions import spoken
from training.checkpoint import open_weights
from training.data import SAID, Data, load
from training.model import Painter, folded
from training.words import LENGTH

SHIPPED = Path(__file__).parent.parent / "src/imagen/models/tiny"
BIG = 1000  # elements; what is smaller stays as it is
OPSET = 18
NEAR = 0.6  # cosine of two rows of the table: the one word is drawn as the other ("feline" as "cat", .83)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".training/data-64"))
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = load(options.data)
    vocabulary = (options.data / "vocab.txt").read_text(encoding="utf-8").split("\n")
    text = json.dumps(told(vocabulary, data), ensure_ascii=False, separators=(",", ":"))
    (options.out / "words.json").write_text(text, encoding="utf-8")
    net = open_weights(options.weights, options.data)
    export(net, options.out / "paint.onnx", example(net.shape.size))


def told(vocabulary: list[str], data: Data) -> dict[str, list[str]]:
    """The vocabulary, and what is needed to say truthfully which words of a prompt mean nothing to the network."""
    captions = spoken([one.concept for one in data.pictures]) | {word for text in SAID for word in text.split()}
    return {"pieces": vocabulary, "understood": sorted(captions | near(vocabulary, captions, data.table))}


def near(vocabulary: list[str], captions: set[str], table: Tensor) -> set[str]:
    """Words of no caption whose row of the table lies near that of one."""
    rows = F.normalize(table, dim=1)
    shown = [number for number, piece in enumerate(vocabulary) if piece in captions]
    asked = [number for number, piece in enumerate(vocabulary) if piece.isalpha() and piece.isascii()]
    likeness = (rows[asked] @ rows[shown].T).amax(1)
    return {vocabulary[number] for number, like in zip(asked, likeness.tolist(), strict=True) if like >= NEAR}


def example(size: int) -> tuple[Tensor, ...]:
    """What the network is given once, to be written down and to be compared."""
    words = torch.zeros(2, LENGTH, dtype=torch.long)
    words[0, :3] = torch.tensor([1037, 2417, 6207])  # "a red apple"
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return noise, torch.full((2,), 0.3), words, torch.zeros(2, dtype=torch.long)


def export(net: Painter, path: Path, inputs: tuple[Tensor, ...]) -> None:
    """Write the network and say how far its guess is from the original's."""
    whole = folded(net)
    with torch.inference_mode():
        right = net(*inputs)
    names = ["noisy", "time", "words", "style"]
    full = path.with_suffix(".full")
    torch.onnx.export(
        whole, inputs, str(full), input_names=names, output_names=["clean"],
        dynamic_axes={name: {0: "n"} for name in (*names, "clean")}, opset_version=OPSET, dynamo=False,
    )  # fmt: skip
    onnx.save(packed(onnx.load(full)), path)
    full.unlink()
    print(
        path,
        f"{path.stat().st_size / 1e6:.1f} MB, off by {_error(path, dict(zip(names, inputs, strict=True)), right):.5f}",
    )


def packed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store large weights as bytes: a cast, and a factor per row, bring them back; onnxruntime does both while loading.

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
        small, scale = _bytes(turned)
        small = small.T if turned is not value else small
        kept.append(numpy_helper.from_array(np.ascontiguousarray(small), name + ":small"))
        if table:
            kept.append(numpy_helper.from_array(scale[:, None].astype(np.float32), name + ":scale"))
            nodes += _lookup(graph, name)
            continue
        factor = scale if value.ndim == 2 else scale.reshape(-1, *[1] * (value.ndim - 1))
        kept.append(numpy_helper.from_array(factor.astype(np.float32), name + ":scale"))
        nodes.append(helper.make_node("Cast", [name + ":small"], [name + ":wide"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [name + ":wide", name + ":scale"], [name]))
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


def _bytes(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed bytes with one factor per row."""
    scale = np.abs(value.reshape(len(value), -1)).max(1) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8), scale


def _error(path: Path, inputs: dict[str, Tensor], right: Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    guess = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    return float(np.abs(guess - right.numpy()).max())


if __name__ == "__main__":
    main()
