"""`imagen skill`: the text that teaches an agent these commands, put where agents look for such texts."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import click

from imagen.core.errors import RequestError, Unwritable
from imagen.surfaces.cli.output import json_option, print_json

NAME = "imagen"  # of the skill; the specification wants its folder to be called the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Where an agent looks: below the home of a person, and below a project."""

    home: str
    project: str
    there: str  # below the home, when the agent is there


# By the documentation of each, on 2026-11-21. `agents` is the place that several of them share.
AGENTS = {
    "claude": Agent(home=".claude/skills", project=".claude/skills", there=".claude"),
    "codex": Agent(home=".agents/skills", project=".agents/skills", there=".codex"),
    "cursor": Agent(home=".cursor/skills", project=".cursor/skills", there=".cursor"),
    "gemini": Agent(home=".gemini/skills", project=".gemini/skills", there=".gemini"),
    "copilot": Agent(home=".copilot/skills", project=".github/skills", there=".copilot"),
    "opencode": Agent(home=".config/opencode/skills", project=".opencode/skills", there=".config/opencode"),
    "agents": Agent(home=".agents/skills", project=".agents/skills", there=".agents"),
}


@click.group()
def skill() -> None:
    """Put the skill that teaches agents these commands where they look."""


@skill.command()
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="NAME",
    help=f"Where this agent looks: {', '.join(AGENTS)}. Several are possible.  [default: every one that is here]",
)
@click.option("--project", is_flag=True, help="Into this folder, for whoever works in it, instead of your home.")
@click.option("--to", "folder", metavar="DIR", help="Into this folder of skills.")
@click.option("--force", is_flag=True, help="Replace a skill of the same name that was changed, or is older.")
@json_option
def install(agents: tuple[str, ...], project: bool, folder: str | None, force: bool, json_output: bool) -> None:
    """Write the skill to where agents look, and print where that is."""
    if folder is not None and (agents or project):
        raise RequestError("--to says where already", hint="leave --agent and --project out", param="to")
    wanted = [Path(folder).expanduser()] if folder is not None else list(_places(agents, project))
    written = [_write(place.absolute() / NAME, force=force) for place in wanted]
    if json_output:
        print_json({"name": NAME, "folders": [str(place) for place in written]})
        return
    for place in written:
        click.echo(os.fsencode(place))
    click.echo("agents find it when they start the next time", err=True)


@skill.command()
@json_option
def show(json_output: bool) -> None:
    """Print the skill's text."""
    texts = _texts()
    if json_output:
        print_json({"name": NAME, "files": texts})
    else:
        click.echo(texts["SKILL.md"], nl=False)


def _places(agents: Sequence[str], project: bool) -> Iterator[Path]:
    """The folders of skills that are meant, each once."""
    if unknown := [name for name in agents if name not in AGENTS]:
        raise RequestError(
            f"where {unknown[0]!r} looks is not known here",
            hint=f"name one of {', '.join(AGENTS)}, or the folder with --to DIR",
            param="agent",
        )
    home = Path.home()
    # Where no agent was used yet there is still the place that several of them share.
    here = [name for name, agent in AGENTS.items() if (home / agent.there).is_dir()] or ["agents"]
    chosen = [AGENTS[name] for name in agents or here]
    places = (Path.cwd() / agent.project if project else home / agent.home for agent in chosen)
    yield from dict.fromkeys(places)


def _write(folder: Path, *, force: bool) -> Path:
    """The whole skill, or nothing: one that somebody changed is theirs."""
    texts = _texts()
    try:
        for name, text in texts.items():
            old = folder / name
            if old.exists() and old.read_text(encoding="utf-8", errors="replace") != text and not force:
                raise Unwritable(
                    f"{old} is there and says something else",
                    hint="it is older or was changed: `imagen skill install --force` replaces it",
                )
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            part = folder / f".{name}.{os.getpid()}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(folder / name)
    except OSError as exc:
        raise Unwritable(
            f"cannot write to {folder}: {(exc.strerror or str(exc)).lower()}",
            hint="name a folder that you may write to with --to DIR",
        ) from exc
    return folder


def _texts() -> dict[str, str]:
    """Each file of the skill."""
    found = files("imagen.surfaces") / "skill" / NAME
    return {file.name: file.read_text(encoding="utf-8") for file in found.iterdir() if file.name.endswith(".md")}
