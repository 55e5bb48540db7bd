"""The tools that read the files of deploy/, and what those files say, as tests want it."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from imagen.surfaces.cli import daemon
from imagen.surfaces.cli.main import cli

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PATIENCE_S = 60.0  # for a machine that is busy with other tests; Prometheus starts in a second
RANGE = "5m"  # what Grafana puts in place of $__rate_interval, more or less

_NAME = re.compile(r"\b(imagen_[a-z_]+)(\{[^}]*\})?")
_LABEL = re.compile(r'([a-z_]+)\s*(?:=|!=|=~|!~)\s*"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def installed() -> bool:
    """Are they all here?"""
    return all(shutil.which(name) for name in ("promtool", "prometheus")) and all(
        program is not None and program.exists() for program in (_compose(), HADOLINT)
    )


HADOLINT = Path(sys.executable).parent / "hadolint"


def compose(*arguments: str, folder: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    """`docker compose -f compose.yaml ARGUMENTS`; nothing is asked of a Docker daemon."""
    program = _compose()
    assert program is not None
    command: list[str | Path] = [program, "-f", folder / "compose.yaml", "--profile", "*", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def composed(folder: Path = DEPLOY) -> dict[str, Any]:
    """The compose file as Compose itself understands it, with everything filled in."""
    read = compose("config", "--format", "json", folder=folder)
    assert (read.returncode, read.stderr) == (0, "")
    told: dict[str, Any] = json.loads(read.stdout)
    return told


def promtool(*arguments: str | Path) -> str:
    """What it says; it must be content."""
    ran = subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def resources() -> list[tuple[Path, dict[str, Any]]]:
    """Every resource of kubernetes/, with its file."""
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [(file, one) for file in files for one in yaml.safe_load_all(file.read_text())]


def alerts() -> list[dict[str, Any]]:
    """The rules of prometheus/alerts.yaml."""
    told = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())
    return [rule for group in told["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard."""
    told: list[dict[str, Any]] = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
    return told


def asked() -> list[str]:
    """Every expression of the dashboard, as Grafana sends it."""
    return [target["expr"].replace("$__rate_interval", RANGE) for panel in panels() for target in panel["targets"]]


def names_in(expression: str) -> dict[str, set[str]]:
    """The metrics of ours in an expression, each with the labels that are asked of it or of all."""
    grouped = {label.strip() for found in _GROUPED.findall(expression) for label in found.split(",")}
    return {name: {*_LABEL.findall(labels), *grouped} for name, labels in _NAME.findall(expression)}


def grace_s(words: Sequence[str]) -> float:
    """How long `imagen WORDS` may take to stop: its grace and the leaving after it. The words must parse."""
    command: click.Command = cli
    context = click.Context(command, info_name="imagen")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, name
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.parse_args(context, rest)
    return float(context.params.get("grace_s", 0)) + daemon.LEAVE_S


class Prometheus:
    """A real one, which asks servers for their numbers once a second."""

    def __init__(self, targets: Sequence[str], *, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.folder = Path(tempfile.mkdtemp(prefix="imagen-prometheus-"))
        told = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
        told["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        told["rule_files"] = [str(DEPLOY / "prometheus/alerts.yaml")]
        (job,) = told["scrape_configs"]
        del job["authorization"]
        job["static_configs"] = [{"targets": list(targets)}]
        (self.folder / "prometheus.yaml").write_text(json.dumps(told))
        with (self.folder / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """What it answers, now; nothing while it is not there yet."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=PATIENCE_S) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as wrong:
            if wrong.code == 400:
                raise AssertionError(wrong.read().decode()) from wrong
            return []
        except OSError:
            assert self._server.poll() is None, (self.folder / "log").read_text()
            return []
        found: list[dict[str, Any]] = told["data"]["result"]
        return found

    def close(self) -> None:
        self._server.kill()
        self._server.wait(PATIENCE_S)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def prometheus(targets: Sequence[str], *, port: int) -> Iterator[Prometheus]:
    """It, with the alerts of deploy/, for as long as the block lasts."""
    started = Prometheus(targets, port=port)
    try:
        give_up = time.monotonic() + PATIENCE_S
        while not started.ask("count(up == 1)"):
            assert time.monotonic() < give_up, (started.folder / "log").read_text()
            time.sleep(0.1)
        yield started
    finally:
        started.close()


def _compose() -> Path | None:
    """The program in the package, and not its script, which loses the exit code."""
    found = importlib.util.find_spec("compose")
    return Path(found.origin).parent / "docker-compose" if found is not None and found.origin else None
