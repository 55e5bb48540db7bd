"""Text to word pieces: lower case, no accents, greedy longest match. The package ships a copy of this file's idea."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

LENGTH = 16  # word pieces a prompt may have; what is longer is cut
PAD = 0
UNKNOWN = 100

_PART = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


class Words:
    """The vocabulary, and the one way to turn a text into a row of `LENGTH` numbers."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self.numbers: Mapping[str, int] = {piece: number for number, piece in enumerate(pieces)}

    @classmethod
    def load(cls, path: Path) -> "Words":
        """Read a vocabulary of one piece a line."""
        return cls(path.read_text(encoding="utf-8").split("\n"))

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's word pieces, filled up with zeros; an empty text is all zeros."""
        found = [number for part in _PART.findall(plain(text)) for number in self._pieces(part)][:LENGTH]
        return found + [PAD] * (LENGTH - len(found))

    def _pieces(self, word: str) -> Sequence[int]:
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in self.numbers:
                    found.append(self.numbers[piece])
                    start = end
                    break
            else:
                return [UNKNOWN]
        return found


def plain(text: str) -> str:
    """Lower case without accents, as the vocabulary was made."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(sign for sign in decomposed if unicodedata.category(sign) != "Mn")
