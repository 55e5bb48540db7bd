"""Where `-o` puts pictures: free names, whole files, and refusals in time."""

import errno
import os
from pathlib import Path

import pytest

from imagen.core.errors import DiskFull, RequestError, Unwritable
from imagen.surfaces.cli.destination import Destination, destination, other_format, place


def _place(to: Destination, data: bytes = b"picture", number: int | None = None) -> Path:
    return place(to, data, name="a-fox_mock_7", number=number, suffix=to.suffix or ".png", kept="/stored.png")


def test_a_name_that_is_free_is_taken_and_a_taken_one_numbered(tmp_path: Path) -> None:
    """No picture replaces another file, not even one that is no picture."""
    (tmp_path / "fox.png").write_text("mine")
    to = destination(str(tmp_path / "fox.png"))
    assert [_place(to).name for _ in range(2)] == ["fox-2.png", "fox-3.png"]
    assert (tmp_path / "fox.png").read_text() == "mine"


def test_pictures_of_one_job_carry_their_number(tmp_path: Path) -> None:
    """A number of the job, and a number against collisions behind it."""
    to = destination(str(tmp_path / "fox.png"))
    assert [_place(to, number=1).name for _ in range(2)] == ["fox-1.png", "fox-1-2.png"]


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    """A dangling link is a taken name."""
    (tmp_path / "fox.png").symlink_to(tmp_path / "elsewhere.png")
    assert _place(destination(str(tmp_path / "fox.png"))).name == "fox-2.png"
    assert not (tmp_path / "elsewhere.png").exists()


def test_a_folder_is_made_only_when_there_is_something_to_put_in(tmp_path: Path) -> None:
    """A refused request leaves no empty folder behind."""
    to = destination(f"{tmp_path}/new/folder/")
    assert not list(tmp_path.iterdir())
    assert _place(to) == tmp_path / "new/folder/a-fox_mock_7.png"


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    """Others may read it where the umask lets them."""
    (tmp_path / "other").write_text("")
    path = _place(destination(str(tmp_path / "fox.png")))
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_nothing_else_stays_in_the_folder(tmp_path: Path) -> None:
    """Looking and copying leave one file: the picture."""
    _place(destination(str(tmp_path / "fox.png")))
    assert [path.name for path in tmp_path.iterdir()] == ["fox.png"]


@pytest.mark.parametrize("typed", ["", "-"])
def test_what_is_no_file_is_a_wrong_request(typed: str) -> None:
    """Standard output carries paths, not pictures."""
    with pytest.raises(RequestError):
        destination(typed)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    """The message names what is in the way."""
    (tmp_path / "file").write_text("")
    for typed in (f"{tmp_path}/file/", f"{tmp_path}/file/sub/", f"{tmp_path}/file/fox.png"):
        with pytest.raises(Unwritable, match="file"):
            destination(typed)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, Unwritable)]
)
def test_a_disk_that_refuses_the_copy_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    """Whatever the system answers, the stored picture is named and no part stays."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    to = destination(str(tmp_path / "fox.png"))
    monkeypatch.setattr(os, "link", refuse)  # the system's answer, not our code
    with pytest.raises(kind, match=r"/stored\.png"):
        _place(to)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory sticks get whole files under free names too."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)  # the system's answer, not our code
    to = destination(str(tmp_path / "fox.png"))
    assert [_place(to).name for _ in range(2)] == ["fox.png", "fox-2.png"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"picture"}


@pytest.mark.parametrize(
    ("typed", "suffix", "differs"),
    [
        ("fox.png", ".png", False),
        ("fox.PNG", ".png", False),
        ("fox.jpeg", ".jpg", False),
        ("fox.jpg", ".png", True),
        ("fox", ".png", False),
    ],
)
def test_a_suffix_is_another_format_or_the_same_by_another_name(
    tmp_path: Path, typed: str, suffix: str, differs: bool
) -> None:
    """Spelling is no format."""
    assert other_format(destination(str(tmp_path / typed)), suffix) is differs


def test_a_name_that_was_taken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever looks into fox.png would see another picture."""
    to = destination(str(tmp_path / "fox.png"))
    _place(to)
    assert capsys.readouterr().err == ""
    _place(to)
    assert capsys.readouterr().err == "fox.png exists; written to fox-2.png\n"
    _place(destination(str(tmp_path)))
    _place(destination(str(tmp_path)))
    assert capsys.readouterr().err == "", "nobody asked for that name"


@pytest.mark.parametrize("typed", ["file.txt/x.png", "file.txt/folder/x.png"])
def test_no_folder_can_be_made_below_a_file(tmp_path: Path, typed: str) -> None:
    """So the hint is not to make one."""
    (tmp_path / "file.txt").touch()
    with pytest.raises(Unwritable, match=r"file\.txt is a file") as refused:
        destination(str(tmp_path / typed))
    assert "mkdir" not in refused.value.hint
