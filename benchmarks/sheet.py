"""The contact sheet of 36 pictures of 2048 x 2048: from files, from the copies kept in the store, and by ImageMagick.

Needs `montage` (Debian: apt install imagemagick) for the comparison; prints the rest without it.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNT, SIDE, ROUNDS = 36, 2048, 3
BUDGET_SHARE, BUDGET_STORE_S, BUDGET_MB = 1 / 5, 1.0, 400


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is run (default: %(default)s)")
    parser.add_argument("--draw", metavar="FOLDER", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.draw:
        return draw(Path(asked.draw))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder)
        times: dict[str, list[float]] = {"from files": [], "from the store": [], "montage": []}
        peak = 0.0
        for _ in range(asked.rounds):  # interleaved: what else the machine does falls on all alike
            for source in ("files", "store"):
                took, memory = measured(folder / source)
                times[f"from {source}" if source == "files" else "from the store"].append(took)
                peak = max(peak, memory)
            if shutil.which("montage"):
                times["montage"].append(montage(folder / "files"))
    print(f"{COUNT} pictures of {SIDE} x {SIDE}, {asked.rounds} rounds, interleaved, medians")
    for what, taken in times.items():
        if taken:
            print(f"  {what:<16} {statistics.median(taken):6.2f} s")
    missed = statistics.median(times["from the store"]) > BUDGET_STORE_S or peak > BUDGET_MB
    print(f"  memory           {peak:6.0f} MB  (budget {BUDGET_MB})")
    print(f"  from the store   budget {BUDGET_STORE_S:.0f} s")
    if times["montage"]:
        pairs = zip(times["from files"], times["montage"], strict=True)
        share = statistics.median(ours / theirs for ours, theirs in pairs)
        print(f"  from files over montage: {share:.2f}  (budget {BUDGET_SHARE:.2f})")
        missed |= share > BUDGET_SHARE
    else:
        print("  montage is not installed: apt install imagemagick")
    return int(missed)


def draw(folder: Path) -> int:
    """In a process of its own: draw the sheet of a folder, print seconds and peak memory."""
    from imagen.engine.comparing.sheet import SheetCell, draw_sheet

    cells = [
        SheetCell(row=0, column=number, label=file.stem, latency_s=1.0, seed=number, size=(SIDE, SIDE), picture=file)
        for number, file in enumerate(sorted(folder.iterdir()))
    ]
    begin = time.perf_counter()
    data = draw_sheet("thirty-six pictures", [""], [cell.label for cell in cells], cells)
    took = time.perf_counter() - begin
    assert len(data) > 100_000
    print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    return 0


def measured(folder: Path) -> tuple[float, float]:
    told = subprocess.run(
        [sys.executable, __file__, "--draw", str(folder)], capture_output=True, text=True, check=True
    ).stdout
    took, memory = told.split()
    return float(took), float(memory)


def montage(folder: Path) -> float:
    files = sorted(map(str, folder.iterdir()))
    # Debian's policy refuses a job of this size; this one lets it use the memory and disk it wants.
    wide = {"memory": "8GiB", "map": "8GiB", "disk": "16GiB", "area": "8GP", "width": "64KP", "height": "64KP"}
    rules = "".join(f'<policy domain="resource" name="{name}" value="{most}"/>' for name, most in wide.items())
    (folder.parent / "policy.xml").write_text(f"<policymap>{rules}</policymap>")
    sheet = folder.parent / "montage.png"
    command = ["montage", "-label", "%t", *files, "-tile", "8x", "-geometry", "480x480+15+15", str(sheet)]
    begin = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "MAGICK_CONFIGURE_PATH": str(folder.parent)}
    )
    return time.perf_counter() - begin


def make_pictures(folder: Path) -> None:
    """Photo-like noise over soft forms: what an image model gives is about as hard to pack."""
    import numpy as np
    from PIL import Image

    from imagen.previews.encode import encode_png, encode_small

    for source in ("files", "store"):
        (folder / source).mkdir()
    dice = np.random.default_rng(1)
    for number in range(COUNT):
        soft = Image.fromarray(dice.integers(0, 256, (24, 24, 3), np.uint8)).resize((SIDE, SIDE))
        grain = dice.integers(-6, 7, (SIDE, SIDE, 1), np.int16)
        pixels = np.clip(np.asarray(soft, np.int16) + grain, 0, 255).astype(np.uint8)
        (folder / "files" / f"{number:02}.png").write_bytes(encode_png(pixels.tobytes(), SIDE, SIDE))
        small = Image.fromarray(pixels).reduce(4)
        (folder / "store" / f"{number:02}.webp").write_bytes(encode_small(small, "webp", 85))


if __name__ == "__main__":
    sys.exit(main())
