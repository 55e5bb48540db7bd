"""What `training.prepare` wrote, ready to be drawn from."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.captions import Concept, spoken
from training.drawings import Picture
from training.edits import TINTABLE, main_hue
from training.words import PAD, UNKNOWN, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """All pictures, their hues, the vocabulary and its table."""

    pictures: list[Picture]
    pixels: torch.Tensor
    hues: torch.Tensor
    words: Words
    table: torch.Tensor
    known: torch.Tensor  # the word pieces that captions hold


def load(folder: Path) -> Data:
    """Read the data of one picture size."""
    pixels = torch.from_numpy(np.load(folder / "pictures.npy")).permute(0, 3, 1, 2).contiguous()
    hues, shares = main_hue(pixels)
    pictures = []
    entries = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
    for entry, hue, share in zip(entries, hues.tolist(), shares.tolist(), strict=True):
        style = entry.pop("style")
        entry["names"], entry["tags"] = tuple(entry["names"]), tuple(entry["tags"])
        pictures.append(Picture(concept=Concept(**entry), style=style, hue=hue, tintable=share > TINTABLE))
    words = Words.load(folder / "vocab.txt")
    texts = spoken([one.concept for one in pictures]) | {
        text + "s" for text in spoken([one.concept for one in pictures])
    }
    known = {piece for text in texts for piece in words.encode(text)} | {
        piece for text in SAID for piece in words.encode(text)
    }
    return Data(
        pictures=pictures,
        pixels=pixels,
        hues=hues,
        words=words,
        table=torch.from_numpy(np.load(folder / "table.npy")).float(),
        known=torch.tensor(sorted(known - {PAD, UNKNOWN})),
    )


# Words of the edits, which no concept needs to hold.
SAID = (
    "a an the one two three and on of picture icon background left right small tiny little",
    "red orange yellow green blue purple pink brown black white gray",
)
