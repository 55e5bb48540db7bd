"""What every ring shares: a clean environment, what this run stands on, and an honest list of what it did not run."""

import itertools
import os
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

from tests import NOWHERE, deploy_kit, netns_kit, nginx_kit, s3_kit
from tests.postgres_kit import Postgres, installed
from tests.postgres_kit import postgres as private
from tests.s3_kit import S3

# Two people on two cores make any deadline a coin toss; what a property says does not depend on speed.
settings.register_profile("imagen", deadline=None)
settings.load_profile("imagen")

NO_SKIP = os.environ.get("IMAGEN_NO_SKIP", "") not in ("", "0")

# The contract kit skips a claim that a backend does not make; no machine could run it, so it is no gap.
NOT_PROMISED = "this backend "

CLIENTS = Path(__file__).parents[1] / ".venv" / "clients"
OTHERS = ("litellm-1.106.2", "open-webui-0.12.4")  # programs that are run against us, in environments of their own

_homes = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A part of the tests that needs something of the machine."""

    marker: str
    here: Callable[[], bool]
    needs: str
    remedy: str


RINGS = (
    Ring(
        marker="needs_postgres",
        here=installed,
        needs="PostgreSQL's server programs",
        remedy="sudo apt install postgresql",
    ),
    Ring(
        marker="needs_s3",
        here=s3_kit.installed,
        needs="an S3 store, SeaweedFS",
        remedy="make setup, on Linux; brew install seaweedfs",
    ),
    Ring(
        marker="needs_small_disk",
        here=s3_kit.may_mount,
        needs="the right to mount a small disk",
        remedy="run as root on Linux",
    ),
    Ring(
        marker="needs_netns",
        here=netns_kit.may_split,
        needs="the right to make network namespaces",
        remedy="sudo apt install iproute2, and run as root on Linux",
    ),
    Ring(
        marker="needs_nginx",
        here=nginx_kit.installed,
        needs="nginx",
        remedy="sudo apt install nginx-light",
    ),
    Ring(
        marker="needs_deploy_tools",
        here=deploy_kit.installed,
        needs="the tools that read the files of deploy/: promtool, docker-compose, hadolint",
        remedy="sudo apt install prometheus; the others come with make dev, on Linux",
    ),
    Ring(
        marker="needs_browser",
        here=lambda: any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")),
        needs="a Chromium browser",
        remedy="sudo apt install chromium",
    ),
    Ring(
        marker="needs_clients",
        here=lambda: all((CLIENTS / name / "made").exists() for name in OTHERS),
        needs="programs of others to test with",
        remedy="make clients",
    ),
    Ring(
        marker="needs_node",
        here=lambda: all(shutil.which(name) for name in ("node", "npm")),
        needs="Node.js with npm",
        remedy="sudo apt install nodejs npm",
    ),
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the person who runs the tests reaches them, and nothing they write reaches that person's home."""
    for name in [name for name in os.environ if name.startswith("IMAGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("IMAGEN_COMFYUI_URL", NOWHERE)
    monkeypatch.setenv("IMAGEN_PAID_CALLS", "forbidden")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # no test asks a machine for its role
    for name in ("OPENAI_API_KEY", "REPLICATE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.getbasetemp() / f"nobody-{next(_homes)}"
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL of our own for all tests of this process."""
    with private(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """One S3 store of our own for all tests of this process that do not stop it."""
    with s3_kit.s3_store() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'imagen.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


def pytest_report_header() -> str:
    parts = [f"python {platform.python_version()}", f"sqlite {sqlite3.sqlite_version}"]
    parts += [f"{name} {version(name)}" for name in ("imagen-platform", "SQLAlchemy", "pillow")]
    return "imagen: " + ", ".join(parts) + (", skipping forbidden" if NO_SKIP else "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = {ring.marker: ring for ring in RINGS if not ring.here()}
    for item in items:
        for marker in item.iter_markers():
            if ring := missing.get(marker.name):
                item.add_marker(pytest.mark.skip(reason=f"no {ring.needs} here; get it with: {ring.remedy}"))
    if "live" not in str(config.getoption("markexpr", "")):
        live = [item for item in items if item.get_closest_marker("live")]
        if live:
            config.hook.pytest_deselected(items=live)
            items[:] = [item for item in items if item not in live]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With IMAGEN_NO_SKIP=1 a skipped test is a failure, so that a build machine cannot quietly test less."""
    if NO_SKIP and _gaps(_skips(session.config)) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skips = _skips(config)
    rings = sorted({nodeid.split("/")[1] for nodeid in _nodes(terminalreporter) if nodeid.startswith("tests/")})
    terminalreporter.section("what ran")
    terminalreporter.line(f"rings: {', '.join(rings) or 'none'}; live tests run only by hand: pytest -m live")
    gaps = _gaps(skips)
    if not gaps:
        terminalreporter.line("nothing was skipped")
    for reason, names in sorted(skips.items()):
        if reason not in gaps:
            terminalreporter.line(f"does not apply to {len(names)}: {reason}")
            continue
        terminalreporter.line(f"skipped {len(names)}: {reason}", yellow=True)
        for name in sorted(names)[:5]:
            terminalreporter.line(f"    {name}")
        if len(names) > 5:
            terminalreporter.line(f"    and {len(names) - 5} more")
    if gaps and NO_SKIP:
        terminalreporter.line("IMAGEN_NO_SKIP=1 forbids skipping: this run failed", red=True)


def _skips(config: pytest.Config) -> dict[str, list[str]]:
    """Reason -> tests; empty in an xdist worker, which reports to the process that counts."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found: dict[str, list[str]] = {}
    for report in reporter.stats.get("skipped", []) if reporter else []:
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        found.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    return found


def _gaps(skips: dict[str, list[str]]) -> set[str]:
    return {reason for reason in skips if not reason.startswith(NOT_PROMISED)}


def _nodes(reporter: pytest.TerminalReporter) -> Iterator[str]:
    for outcome in ("passed", "failed", "error"):
        yield from (report.nodeid for report in reporter.stats.get(outcome, []))
