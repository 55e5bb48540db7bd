"""`imagen skill`: where it goes, what it never overwrites, and that the specification's own tool accepts it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import skills_ref
import yaml
from tests.cli_kit import imagen

import imagen as package

SOURCE = Path(package.__file__).parent / "surfaces" / "skill" / "imagen"
LINES = 200  # the specification asks for less than 500; an agent reads all of it


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "home"


def test_it_goes_where_the_agents_of_this_home_look(home: Path) -> None:
    """Every agent that was used here gets it; where none was, the place that several share."""
    told = json.loads(imagen("skill", "install", "--json").out)
    assert told["folders"] == [str(home / ".agents/skills/imagen")]
    (home / ".claude").mkdir()
    (home / ".cursor").mkdir()
    told = json.loads(imagen("skill", "install", "--json").out)
    wanted = [home / place / "skills/imagen" for place in (".claude", ".cursor", ".agents")]
    assert told["folders"] == [str(place) for place in wanted]
    for place in wanted:
        assert (place / "SKILL.md").read_bytes() == (SOURCE / "SKILL.md").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("--agent", "claude"), "home/.claude/skills/imagen"),
        (("--agent", "codex"), "home/.agents/skills/imagen"),
        (("--agent", "claude", "--project"), "project/.claude/skills/imagen"),
        (("--to", "skills"), "project/skills/imagen"),
    ],
    ids=" ".join,
)
def test_it_goes_where_it_is_told(arguments: tuple[str, ...], place: str, home: Path) -> None:
    """One agent, a project, or any folder of skills; the path is printed."""
    ran = imagen("skill", "install", *arguments)
    assert ran.out.strip() == str(home.parent / place)
    assert (home.parent / place / "SKILL.md").exists()


def test_an_agent_nobody_heard_of(home: Path) -> None:
    """Exit code 2, with the names there are."""
    ran = imagen("skill", "install", "--agent", "hal")
    assert ran.code == 2
    assert "claude, codex" in ran.err


def test_what_somebody_changed_is_theirs(home: Path) -> None:
    """The same text again is no error; another one is replaced only when told."""
    assert imagen("skill", "install", "--to", "skills").code == 0
    assert imagen("skill", "install", "--to", "skills").code == 0
    file = Path("skills/imagen/SKILL.md")
    file.write_text("mine")
    refused = imagen("skill", "install", "--to", "skills")
    assert refused.code == 3
    assert "--force" in refused.err
    assert file.read_text() == "mine"
    assert imagen("skill", "install", "--to", "skills", "--force").code == 0
    assert file.read_bytes() == (SOURCE / "SKILL.md").read_bytes()


def test_show_prints_it() -> None:
    """Byte for byte, for whoever wants it somewhere else."""
    assert imagen("skill", "show").out.encode() == (SOURCE / "SKILL.md").read_bytes()


def test_the_reference_tool_accepts_it(home: Path) -> None:
    """The specification's own validator finds nothing, and reads the name and the description."""
    imagen("skill", "install", "--to", "skills")
    assert skills_ref.validate(Path("skills/imagen")) == []
    assert skills_ref.read_properties(Path("skills/imagen")).name == "imagen"
    program = Path(sys.executable).parent / "agentskills"
    subprocess.run([program, "validate", "skills/imagen"], check=True, capture_output=True)


def test_it_is_short_and_assumes_nothing() -> None:
    """An agent reads little, and no name of a model that may not be there."""
    text = (SOURCE / "SKILL.md").read_text()
    head, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["name"] == SOURCE.name
    assert len(text.splitlines()) < LINES
    models = {path.name for path in (Path(package.__file__).parent / "models").iterdir() if path.is_dir()}
    models.remove("mock")  # which is a backend as well, and the text warns of it
    assert not {word for word in re.findall(r"[\w-]+", body) if word in models}
    for line in re.findall(r"^imagen .*$", body, re.MULTILINE):
        assert "--json" in line
