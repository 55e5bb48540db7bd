"""Draw one picture with an exported file as a whole process would, and print what took how long, as JSON."""

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # read when numpy is imported

STEPS, GUIDANCE = 20, 3.0


def main() -> None:
    kind, path = sys.argv[1], Path(sys.argv[2])
    marks = [time.perf_counter()]
    import numpy as np

    asked_for = np.zeros((2, 16), np.int64)
    asked_for[0, :3] = 1037, 2417, 6207  # "a red apple"
    guess: Callable[..., np.ndarray]
    if kind == "onnx":
        import onnxruntime  # type: ignore[import-untyped] # it has none

        marks.append(time.perf_counter())
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

        def guess(noisy: np.ndarray, moment: float) -> np.ndarray:
            feeds = {
                "noisy": noisy.transpose(0, 3, 1, 2),
                "time": np.full(2, moment, np.float32),
                "words": asked_for,
                "style": np.zeros(2, np.int64),
            }
            clean: np.ndarray = session.run(None, feeds)[0]
            return clean.transpose(0, 2, 3, 1)
    else:
        from training.numpy_net import NumpyPainter

        marks.append(time.perf_counter())
        net = NumpyPainter(path)
        read = net.read(asked_for)

        def guess(noisy: np.ndarray, moment: float) -> np.ndarray:
            return net.paint(noisy, moment, read, 0)

    marks.append(time.perf_counter())
    x = np.random.default_rng(1).standard_normal((1, 64, 64, 3), np.float32)
    for step in range(STEPS):
        now = step / STEPS
        asked, silent = guess(np.repeat(x, 2, 0), now)
        clean = np.clip(silent + GUIDANCE * (asked - silent), -1.05, 1.05)
        x = x + np.float32(1 / STEPS / (1 - now)) * (clean - x)
    marks.append(time.perf_counter())
    if len(sys.argv) > 3:
        from PIL import Image

        Image.fromarray(((x[0].clip(-1, 1) * 0.5 + 0.5) * 255 + 0.5).astype(np.uint8)).save(sys.argv[3])
    names = ("import_s", "open_s", "picture_s")
    figures = {name: then - now for name, (now, then) in zip(names, pairwise(marks), strict=True)}
    figures["peak_mib"] = _peak_mib()
    print(json.dumps(figures))


def _peak_mib() -> float:
    # Not getrusage: a child starts with its parent's peak there.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
