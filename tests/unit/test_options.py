"""How words of a command line become values."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from imagen.core.errors import RequestError, UnknownModel
from imagen.core.model import Model, Option
from imagen.surfaces.cli import options

MODEL = Model(
    name="mine",
    backend="mock",
    device="cpu@here",
    options={"slow": Option(type="float"), "fail": Option(type="str"), "keen": Option(type="bool")},
)


class Shelf:
    """As much of a catalog as the reading of settings looks at."""

    def get(self, name: str | None) -> Model:
        if name in (None, "mine"):
            return MODEL
        raise UnknownModel(f"there is no model {name!r}", hint="mine")


@pytest.mark.parametrize("typed", ["64x48", "64X48", "64×48", " 64 x 48 ", "64*48"])
def test_a_size_is_width_by_height(typed: str) -> None:
    """However people write the sign between."""
    assert options.size(typed) == (64, 48)


@pytest.mark.parametrize("typed", ["", "64", "x48", "64x", "-64x48", "64x48x2", "big", "6.4x48", "1234567x1", "٣x"])
def test_what_is_no_size_is_refused_with_an_example(typed: str) -> None:
    """The hint shows how one is written."""
    with pytest.raises(RequestError) as refused:
        options.size(typed)
    assert "1024x768" in refused.value.hint


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("slow=0", {"slow": 0}),
        ("slow=1.5", {"slow": 1.5}),
        ("slow=soon", {"slow": "soon"}),
        ("keen=true", {"keen": True}),
        ("fail=1", {"fail": "1"}),
        ("fail=a=b", {"fail": "a=b"}),
        ("fail=", {"fail": ""}),
        ("other=7", {"other": "7"}),
        ("slow=" + "[" * 100_000, {"slow": "[" * 100_000}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_setting_is_read_as_its_option_wants_it(typed: str, told: dict[str, Any]) -> None:
    """Numbers where numbers are meant, text where text is; nothing is refused here but a missing sign."""
    shelf: Any = Shelf()
    assert options.settings([typed], shelf, None) == told
    assert set(options.settings([typed], shelf, "unknown")) == set(told)


@pytest.mark.parametrize("typed", ["slow", "=1", ""])
def test_a_setting_without_a_name_or_a_sign_is_refused(typed: str) -> None:
    """The hint shows how one is written."""
    shelf: Any = Shelf()
    with pytest.raises(RequestError) as refused:
        options.settings([typed], shelf, None)
    assert "KEY=VALUE" in refused.value.hint


def test_a_stride_of_nothing_means_no_previews() -> None:
    """Zero and less switch previews off, as in the library."""
    for stride in (0, -1):
        policy = options.asked_policy(None, False, stride)
        assert policy is not None
        assert policy.off
    assert options.asked_policy(None, False, None) is None
    asked = options.asked_policy("ref", False, 3)
    assert asked is not None
    assert asked.stride == 3


@pytest.mark.parametrize(
    ("typed", "preview", "prompt"),
    [
        (["--preview", "a fox"], "ref", "a fox"),
        (["a fox", "--preview"], "ref", "a fox"),
        (["--preview=inline", "a fox"], "inline", "a fox"),
        (["--", "--preview"], None, "--preview"),
    ],
)
def test_preview_takes_a_value_only_with_an_equals_sign(typed: list[str], preview: str | None, prompt: str) -> None:
    """A prompt behind the bare flag stays a prompt."""
    seen: dict[str, Any] = {}

    @click.command(cls=options.PreviewCommand)
    @click.argument("prompt")
    @options.preview_options
    def command(**values: Any) -> None:
        seen.update(values)

    result = CliRunner().invoke(command, typed)
    assert result.exit_code == 0, result.output
    assert seen == {"prompt": prompt, "preview": preview, "no_preview": False}


def test_a_group_that_is_told_nothing_lists() -> None:
    """Options of the list may stand right behind the group."""
    seen: list[int] = []

    @click.group(cls=options.ListingGroup)
    def things() -> None:
        """Things."""

    @things.command("list")
    @click.option("--limit", type=int, default=20)
    def list_(limit: int) -> None:
        seen.append(limit)

    for arguments in ([], ["--limit", "3"], ["list", "--limit", "4"]):
        assert CliRunner().invoke(things, arguments).exit_code == 0
    assert seen == [20, 3, 4]
    assert "Things." in CliRunner().invoke(things, ["--help"]).output
