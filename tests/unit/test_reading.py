"""Every mistake in a YAML file is named by file and line."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen.core.errors import BadConfig
from imagen.reading import MAX_BYTES, read_yaml, some


def written(folder: Path, text: str | bytes) -> Path:
    file = folder / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_document_knows_the_line_of_every_key(tmp_path: Path) -> None:
    """The line of a key, of an item of a list, and of what is nearest to one that is not there."""
    file = written(tmp_path, "a: 1\nb:\n  c:\n  - x\n  - y\n")
    document = read_yaml(file)
    assert document.data == {"a": 1, "b": {"c": ["x", "y"]}}
    assert document.where("b", "c", 1) == f"{file}:5"
    assert document.where("b", "nothing", "there") == f"{file}:2"


@pytest.mark.parametrize("text", ["", "# only words\n", "---\n"])
def test_an_empty_file_is_no_settings(tmp_path: Path, text: str) -> None:
    """Nothing set is not a mistake."""
    assert read_yaml(written(tmp_path, text)).data == {}


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\nb: [1\nc: 2\n", 3, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, "second time, first at line 1"),
        ("m:\n  x: 1\n  x: 2\n", 3, "second time, first at line 2"),
        ("- a\n- b\n", 1, "list"),
        ("just words\n", 1, "str"),
        (b"a: 1\nb: \xff\xfe\n", 2, "UTF-8"),
        (b"a: 1\nb: x\0y\n", 2, "not YAML"),
        ("? [a]\n: 1\n", 1, "not a word"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, ""),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str | bytes, line: int, word: str) -> None:
    """File, line and what is wrong, and what to do."""
    file = written(tmp_path, text)
    with pytest.raises(BadConfig) as wrong:
        read_yaml(file)
    if b"\0" not in file.read_bytes():  # the library names no line for these
        assert wrong.value.message.startswith(f"{file}:{line}:")
    assert str(file) in wrong.value.message
    assert word in wrong.value.message
    assert wrong.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000,
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "a" * (MAX_BYTES + 1),
        "a: &a\n  b: *a\n",
    ],
    ids=["deep", "billion laughs", "large", "itself"],
)
def test_a_hostile_file_is_refused(tmp_path: Path, text: str) -> None:
    """Neither memory nor the stack is filled by what somebody put there."""
    with pytest.raises(BadConfig):
        read_yaml(written(tmp_path, text))


def test_a_folder_in_place_of_the_file_is_said(tmp_path: Path) -> None:
    """What cannot be read is a setting to repair, not a crash."""
    with pytest.raises(BadConfig, match="cannot be read"):
        read_yaml(tmp_path)


def test_an_unknown_key_gets_a_suggestion(tmp_path: Path) -> None:
    """The line, and the word that was probably meant."""
    document = read_yaml(written(tmp_path, "a: 1\nstpes: 4\n"))
    with pytest.raises(BadConfig, match=r"config.yaml:2: 'stpes'.*did you mean 'steps'"):
        document.known(document.data, ["a", "steps"])


@given(text=st.one_of(st.text(max_size=60), st.text(alphabet="ab:-?[]{}&*!|>'\"#% \n\t,", max_size=40)))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """There is no third way."""
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(BadConfig):
        assert isinstance(read_yaml(file).data, dict)


def test_a_long_list_of_names_is_cut() -> None:
    """The line stays a line."""
    assert some(["a", "b"], 6) == "a, b"
    assert some([str(number) for number in range(9)], 6) == "0, 1, 2, 3, 4, 5 and 3 more"
    assert some([], 6) == ""
