"""From a prompt to the numbers of its word pieces: lower case, no accents, the longest piece that fits first."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from imagen.core.errors import BadConfig

PAD, UNKNOWN = "[PAD]", "[UNK]"
MAX_WORD = 100  # what is longer is no word; looking for its pieces would take longer and longer

_PART = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The vocabulary of a network."""

    numbers: Mapping[str, int]  # by word piece; what goes on from another begins with ##
    understood: Set[str]  # words that mean something to the network; empty where that is not known

    def encode(self, text: str, length: int) -> list[int]:
        """Exactly `length` numbers for a text; what is longer is cut, what is shorter filled up."""
        every = (number for part in _PART.finditer(_plain(text)) for number in self._pieces(part.group()))
        numbers = list(islice(every, length))
        return numbers + [self.numbers.get(PAD, 0)] * (length - len(numbers))

    def left_out(self, text: str, length: int) -> str:
        """The end of a text that `encode` cuts off."""
        count, plain = 0, _plain(text)
        for part in _PART.finditer(plain):
            count += len(self._pieces(part.group()))
            if count > length:
                return plain[part.start() :]
        return ""

    def strange(self, text: str) -> Sequence[str]:
        """Words of a text that mean nothing to the network, in their order, each once."""
        if not self.understood:
            return ()
        return list(dict.fromkeys(self._strange(_plain(text))))

    def _strange(self, plain: str) -> Iterator[str]:
        for word in re.findall(r"[^\W\d_]+|[^\w\s]", plain):
            if word.isalpha():
                if not {word, word.removesuffix("s"), word.removesuffix("es")} & self.understood:
                    yield word
            elif unicodedata.category(word) == "So" and word not in self.numbers:
                yield word  # a picture in the text, such as an emoji

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        if len(word) > MAX_WORD:
            return [self.numbers.get(UNKNOWN, 0)]
        while start < len(word):
            for end in range(len(word), start, -1):
                number = self.numbers.get(word[start:end] if start == 0 else "##" + word[start:end])
                if number is not None:
                    found.append(number)
                    start = end
                    break
            else:
                return [self.numbers.get(UNKNOWN, 0)]
        return found


def read_words(path: Path) -> Words:
    """The vocabulary in a file: a words.json, or a text file of one word piece a line."""
    hint = 'give a file of one word piece a line, or {"pieces": […], "understood": […]} in a .json'
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text) if path.suffix == ".json" else {"pieces": text.removesuffix("\n").split("\n")}
        pieces, understood = told["pieces"], told.get("understood", ())
        return Words(
            numbers={piece: number for number, piece in enumerate(pieces)},
            understood=frozenset(understood),
        )
    except OSError as exc:
        raise BadConfig(f"the vocabulary {path} cannot be read: {exc.strerror}", hint=hint, param="words") from exc
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise BadConfig(f"the vocabulary {path} is not understood", hint=hint, param="words") from exc


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(sign for sign in decomposed if unicodedata.category(sign) != "Mn")
