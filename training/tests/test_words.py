"""The tokeniser: the same numbers as the vocabulary's own, in thirty lines."""

from training.words import LENGTH, UNKNOWN, Words, plain

PIECES = [
    "[PAD]",
    *(f"[unused{i}]" for i in range(99)),
    "[UNK]",
    "a",
    "red",
    "apple",
    "pine",
    "##apple",
    "##s",
    ",",
    "cafe",
]
WORDS = Words(PIECES)


def numbers(text: str) -> list[str]:
    """The pieces of a text, without the filling."""
    return [PIECES[number] for number in WORDS.encode(text) if number]


def test_a_row_always_has_the_same_length() -> None:
    """Short texts are filled up, long ones cut."""
    assert len(WORDS.encode("")) == len(WORDS.encode("red " * 50)) == LENGTH
    assert WORDS.encode("") == [0] * LENGTH


def test_an_unknown_word_falls_into_its_longest_known_pieces() -> None:
    """Greedy, from the left."""
    assert numbers("a red pineapples") == ["a", "red", "pine", "##apple", "##s"]


def test_a_word_of_which_a_piece_is_missing_is_unknown_as_a_whole() -> None:
    """As the encoder learned it."""
    assert WORDS.encode("applez")[0] == UNKNOWN


def test_case_accents_and_punctuation_do_not_hide_a_word() -> None:
    """People type as they like."""
    assert plain("CAFÉ") == "cafe"
    assert numbers("Red,Café") == ["red", ",", "cafe"]
